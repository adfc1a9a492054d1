"""Costs of mixes: a goal is a number for a graph, and the share of each layer in it."""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tflite2q.dialect.graph import Graph
from tflite2q.evaluation.results import Progress
from tflite2q.execution import remote, runtime
from tflite2q.flatbuffer import writer
from tflite2q.micro import peak
from tflite2q.mixing.context import maker
from tflite2q.mixing.crew import Budget
from tflite2q.mixing.mix import Mix, key
from tflite2q.mixing.state import State

T = TypeVar("T")

ROUNDS, RUNS = 9, 6  # of timing whole models
SECONDS = "seconds to time a mix"  # where a search keeps them
LEVEL = 9  # of zlib, whose format zip and gzip have


@dataclass(frozen=True)
class Goal:
    """`cost` of a whole graph, in `unit`, and a `layer`'s part of it; both are None where only a clock tells them.

    `adds`: the parts add up to the whole, or differ from it by what does not change.
    """

    name: str
    unit: str
    label: str
    cost: Callable[[Graph], float] | None
    layer: Callable[[Graph, str], float] | None
    adds: bool = True


def constants(graph: Graph, op: str) -> list[bytes]:
    """The constants of the layer `op` of the original, as a file stores them."""
    found = maker(graph, op)
    names = [name for name in found.inputs if name is not None and graph[name].constant is not None]
    return [stored(graph, name) for name in names]


def stored(graph: Graph, name: str) -> bytes:
    """The bytes of a constant in a file: two codes of int4 share one."""
    value = graph[name]
    if value.type.dtype != "int4":
        return value.data.tobytes()
    codes = value.data.reshape(-1).astype("uint8") & 15
    if len(codes) % 2:
        codes = codes.copy()
        codes.resize(len(codes) + 1, refcheck=False)
    return bytes((codes[::2] | codes[1::2] << 4).tobytes())


def flash(graph: Graph) -> float:
    """Bytes of all constants, each once; a microcontroller's code comes on top."""
    return float(sum(len(stored(graph, value.name)) for value in graph.values if value.constant is not None))


def compressed(graph: Graph) -> float:
    return float(len(zlib.compress(writer.write(graph), LEVEL)))


def _squeezed(graph: Graph, op: str) -> float:
    return float(sum(len(zlib.compress(each, LEVEL)) for each in constants(graph, op)))


def _plain(graph: Graph, op: str) -> float:
    return float(sum(map(len, constants(graph, op))))


GOALS = {
    goal.name: goal
    for goal in (
        Goal("size", "bytes", "size of the file", lambda graph: float(len(writer.write(graph))), _plain),
        Goal("compressed", "bytes", "size of the file, compressed", compressed, _squeezed),
        Goal("flash", "bytes", "constants in flash", flash, _plain),
        Goal(
            "ram",
            "bytes",
            "RAM during a run",
            lambda graph: float(peak.peak(graph).bytes),
            lambda graph, op: float(peak.held(graph, op)),
            adds=False,
        ),
        Goal("speed", "ms", "time of a run", None, None),
    )
}


class Clock:
    """Times of models on one target: on this machine, or in a session on a device.

    All are run in turns with the first one and given as multiples of its time, so that changes of the processor's clock
    affect all equally.
    """

    def __init__(self, target: str, threads: int, device: remote.Device | None = None) -> None:
        self.target, self.threads = target, threads
        self.name = f"{target} {threads}" + ("" if device is None else f" {device.name}")
        self.session = None if device is None else remote.Session(device)
        self._first: runtime.Executable | None = None
        self.base_ms = 0.0
        self.seconds = 0.0  # that timing the last model took

    def within(self, budget: Budget, timing: Callable[[Clock], T]) -> T:
        """What `timing` gives.  Raises UsageError if the budget would end before it does, as the last one tells."""
        if budget.left < self.seconds:
            raise budget.ended("the models were timed")
        began = budget.now()
        found = timing(self)
        self.seconds = budget.now() - began
        return found

    def ready(self, graph: Graph) -> runtime.Executable:
        exe = runtime.compile(graph, self.target, self.threads)
        return exe if self.session is None else self.session.upload(exe)

    def start(self, graph: Graph) -> float:
        """Milliseconds of the first model."""
        self._first = self.ready(graph)
        self.base_ms = _in_turns([self._first])[0]
        return self.base_ms

    def time(self, graph: Graph) -> float:
        """Milliseconds of another one."""
        assert self._first is not None  # a search starts with the model that all others are multiples of
        first, other = _in_turns([self._first, self.ready(graph)])
        return self.base_ms * other / first

    def ops(self, graph: Graph) -> dict[str, float]:
        """Milliseconds of each op, by name.  A device gives the time of a whole model only, which is then shared out by
        multiply-accumulates and elements."""
        if self.session is None:
            exe = runtime.compile(graph, self.target, self.threads)
            return {time.op: time.ms for time in exe.profile()}
        work = {op.name: op.macs(graph.ins(op), graph.outs(op)) + 4 * graph[op.name].type.size for op in graph.ops}
        whole = _in_turns([self.ready(graph)])[0]
        return {name: whole * each / (sum(work.values()) or 1) for name, each in work.items()}

    def close(self) -> None:
        if self.session is not None:
            self.session.close()


class Meter:
    """The cost of whole mixes under a goal: counted, or timed once and kept.

    The first mix that is timed must be the first scheme (an empty one): all others are multiples of its time.
    """

    def __init__(self, goal: Goal, clock: Clock | None, budget: Budget, state: State, progress: Progress) -> None:
        self.goal, self.clock, self.budget, self.state, self.progress = goal, clock, budget, state, progress

    @property
    def seconds(self) -> float:
        """Seconds that one more cost takes, as the last one tells."""
        return 0.0 if self.clock is None else self.clock.seconds

    def cost(self, mix: Mix, graph: Graph) -> float:
        """Bytes or milliseconds of a mix, whose graph is `graph`.  Raises UsageError if the budget would end."""
        return self._timed(mix, graph) if self.goal.cost is None else self.goal.cost(graph)

    def _timed(self, mix: Mix, graph: Graph) -> float:
        assert self.clock is not None  # as for every goal that counts nothing
        name = f"time {self.clock.name} {key(mix)}"
        known = self.state.get(name)
        if known is not None and mix:
            return float(known)
        self.progress("timing a mix", 0, 0)
        cost = self.clock.within(self.budget, lambda clock: clock.time(graph) if mix else clock.start(graph))
        if known is not None:
            cost = self.clock.base_ms = float(known)
        self.state.put(name, cost)
        self.state.put(SECONDS, self.clock.seconds)
        return cost


def _in_turns(ready: Sequence[runtime.Executable]) -> list[float]:
    found: list[list[float]] = [[] for _ in ready]
    for _ in range(ROUNDS):
        for exe, times in zip(ready, found, strict=True):
            times += exe.times(RUNS)[1:]  # the first one fills the caches
    return [statistics.median(times) for times in found]


def layer_time(times: Mapping[str, float], graph: Graph, op: str) -> float:
    """The time of the layer `op` of the original, with the clamps behind it."""
    total, name = 0.0, op
    computed = maker(graph, op).name
    while True:
        total += times.get(name, 0.0)
        source = graph.producers[name].inputs[0]
        if name == computed or source is None:
            return total
        name = source
