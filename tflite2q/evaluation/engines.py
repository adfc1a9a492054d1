"""The engines that run the two models of a comparison, and what their outputs and times show.

Both models run in every engine, so that a difference between kernels is never taken for one between schemes: LiteRT
with its default kernels and with its reference kernels, the NumPy reference, and tflite2q's compiled code.  Slow
engines run the first samples only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import Value
from tflite2q.errors import DataError, Tflite2qError
from tflite2q.evaluation import coding
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.figures import Pair
from tflite2q.evaluation.results import Progress, Timing, quiet
from tflite2q.execution import litert

if TYPE_CHECKING:
    from tflite2q.execution.times import OpTime
    from tflite2q.micro.emulator import Session  # which loads TVM

Array = npt.NDArray[Any]
Runner = Callable[..., list[Array]]

LITERT, LITERT_REFERENCE, REFERENCE, COMPILED = "litert", "litert-reference", "reference", "compiled"
EMULATED = "emulated"
LABELS = {
    LITERT: "LiteRT",
    LITERT_REFERENCE: "LiteRT, reference kernels",
    REFERENCE: "tflite2q, reference",
    COMPILED: "tflite2q, compiled",
    EMULATED: "tflite2q, emulated microcontroller",
}
ORIGINAL, CONVERTED = "original", "converted"

TIMING_ROUNDS = 12
ROUND_MS = 60.0


class Engine(ABC):
    """Something that runs one model: `start` begins a run and may return at once, `finish` gives its outputs.

    Both raise Tflite2qError if the engine cannot run the model.
    """

    @abstractmethod
    def start(self, arrays: Sequence[Array]) -> None: ...

    @abstractmethod
    def finish(self) -> list[Array]: ...

    @property
    def overlaps(self) -> bool:
        """Whether it works in a process of its own, while this one does."""
        return False

    @property
    def instructions(self) -> int | None:
        """Instructions of the longest run so far; None where nothing counts them."""
        return None


@dataclass
class Called(Engine):
    """An engine in this process: a function of the inputs."""

    runner: Runner
    arrays: Sequence[Array] = ()

    def start(self, arrays: Sequence[Array]) -> None:
        self.arrays = arrays

    def finish(self) -> list[Array]:
        return self.runner(*self.arrays)


class InLitert(Engine):
    """LiteRT in a child process, which works while this one does."""

    def __init__(self, child: litert.Child) -> None:
        self.child = child

    @property
    def overlaps(self) -> bool:
        return True

    def start(self, arrays: Sequence[Array]) -> None:
        self.child.start(arrays)

    def finish(self) -> list[Array]:
        return self.child.finish()


class Emulated(Engine):
    """A model's code for a microcontroller, in an emulator."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def overlaps(self) -> bool:
        return True

    @property
    def instructions(self) -> int | None:
        return self.session.instructions

    def start(self, arrays: Sequence[Array]) -> None:
        self.session.start(arrays)

    def finish(self) -> list[Array]:
        return self.session.finish()


@dataclass
class Contender:
    """One model in one engine, on the first `limit` samples (None: on all)."""

    engine: str
    model: str
    graph: Graph
    run: Engine
    limit: int | None = None
    time: Callable[[int], list[float]] | None = None
    profile: Callable[..., list[OpTime]] | None = None
    failed: str | None = None
    timing: Timing | None = None
    outputs: list[Array] | None = field(default=None, repr=False)  # of the present sample

    @property
    def label(self) -> str:
        return LABELS[self.engine]

    @property
    def values(self) -> list[Value]:
        return [self.graph[name] for name in self.graph.outputs]


def run_all(
    contenders: Sequence[Contender],
    samples: Dataset,
    inputs: Sequence[Value],
    seen: Callable[[int], None],
    progress: Progress = quiet,
) -> None:
    """Run every contender on its samples, which are made for `inputs`; `seen` is called after each sample, when
    `outputs` are set.

    Runs in other processes overlap with those in this one.  A contender that fails is left out from then on; one that
    refuses the data raises DataError.
    """
    for index, arrays in enumerate(samples):
        progress("comparing outputs", index, len(samples))
        for contender in contenders:
            contender.outputs = None
        ready = [c for c in contenders if c.failed is None and (c.limit is None or index < c.limit)]
        # Children first, so that they work while this process does.
        ready.sort(key=lambda c: not c.run.overlaps)
        for contender in ready:
            moved = coding.transfer(arrays, inputs, [contender.graph[name] for name in contender.graph.inputs])
            _guarded(contender, lambda c=contender, x=moved: c.run.start(x))  # type: ignore[misc]
        for contender in reversed(ready):
            if contender.failed is None:
                contender.outputs = _guarded(contender, contender.run.finish)
        seen(index)
    progress("comparing outputs", len(samples), len(samples))


def _guarded(contender: Contender, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except DataError:
        raise
    except Tflite2qError as error:
        contender.failed = str(error)
        return None


def time_all(contenders: Sequence[Contender], progress: Progress = quiet) -> None:
    """Set the times of the contenders that can be timed, measured in turns, in blocks of about ROUND_MS, so that clock
    changes affect all of them equally."""
    timed = [c for c in contenders if c.time is not None and c.failed is None]
    for contender, timing in zip(timed, interleaved([c.time for c in timed], progress), strict=True):
        contender.timing = timing


def time_ops(
    contenders: Sequence[Contender], arrays: Sequence[Array], inputs: Sequence[Value], progress: Progress = quiet
) -> dict[str, Pair]:
    """Median milliseconds of each op of the original, by name, in both models' compiled code, each function timed by
    itself on one sample; empty if they cannot be timed.

    An op that only the converted model has counts with the next one that both have.
    """
    models = {c.model: (c.graph, c.profile) for c in contenders if c.profile is not None and c.failed is None}
    if len(models) < 2:
        return {}
    found: dict[str, dict[str, float]] = {}
    names = set.intersection(*({op.name for op in graph.ops} for graph, _ in models.values()))
    for done, (model, (graph, profile)) in enumerate(models.items()):
        progress("timing layers", done, len(models))
        moved = coding.transfer(arrays, inputs, [graph[name] for name in graph.inputs])
        found[model] = _by_name(profile(*moved), names)
    progress("timing layers", len(models), len(models))
    return {name: Pair(found[ORIGINAL][name], found[CONVERTED][name]) for name in found[ORIGINAL]}


def _by_name(ops: Sequence[OpTime], names: Collection[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    carried = 0.0
    for op in ops:
        carried += op.ms
        if op.op in names:
            found[op.op], carried = carried, 0.0
    return found


def interleaved(
    timers: Sequence[Callable[[int], list[float]] | None], progress: Progress = quiet
) -> list[Timing | None]:
    """Times of each timer (None: absent or failing) over rounds in turns.

    A timer runs something the given number of times and returns the milliseconds of each.
    """
    runs = []
    for timer in timers:
        warm = timer(3) if timer else []
        runs.append(max(2, min(200, int(ROUND_MS / max(min(warm), 1e-3)))) if warm else 0)
    times: list[list[float]] = [[] for _ in timers]
    for turn in range(TIMING_ROUNDS):
        progress("measuring speed", turn, TIMING_ROUNDS)
        for timer, count, found in zip(timers, runs, times, strict=True):
            if timer is not None and count:
                found.extend(timer(count))
    progress("measuring speed", TIMING_ROUNDS, TIMING_ROUNDS)
    return [timing(found) for found in times]


def timing(milliseconds: Sequence[float]) -> Timing | None:
    """The percentiles of times; None if there are none."""
    if not len(milliseconds):
        return None
    low, median, high = (float(np.percentile(milliseconds, share)) for share in (10, 50, 90))
    return Timing(median, low, high, len(milliseconds))
