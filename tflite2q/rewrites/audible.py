"""How far below the largest score numbers count that only softmax makes something of.

    scores + (1 - mask) * -1e9

Softmax tells -1e9 from -20 no better than codes do.  A range that reaches to -1e9 would leave all scores one code, so
what the samples show of the scores decides how far codes, and the constants of a mask, go.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.binary import Div, Extremum
from tflite2q.dialect.ops.eltwise import Add, Eltwise, Mul
from tflite2q.dialect.ops.logic import Select
from tflite2q.dialect.ops.resize import Resize
from tflite2q.dialect.ops.shape import Movement
from tflite2q.dialect.ops.softmax import Softmax
from tflite2q.dialect.ops.state import AssignVariable, ReadVariable
from tflite2q.dialect.types import Constant
from tflite2q.rewrites.endless import FAINT, loudest
from tflite2q.rewrites.statistics import HEADROOM

Array = npt.NDArray[np.floating]
Interval = tuple[float, float]

EVERYTHING: Interval = (-math.inf, math.inf)
BLENDING = (Resize, AssignVariable, ReadVariable)  # of the ops that move numbers: results are not one operand's now


def masks(graph: Graph) -> bool:
    """Whether a graph adds something to scores, or multiplies it, before softmax: a mask, as far as one can see."""
    return any(isinstance(op, Add) for op in _chain(graph))


@dataclass
class Listener:
    """What samples show of the scores of `graph`, and of all that is added to them."""

    graph: Graph
    _seen: dict[str, Interval] = field(default_factory=dict)
    _least: dict[str, float] = field(default_factory=dict)  # of numbers, zeros left out, the smallest magnitude
    _floors: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ops = _chain(self.graph)
        made = {op.outputs[0] for op in self._ops if not isinstance(op, Softmax)}
        self._heads = {op.inputs[0]: op for op in self._ops if isinstance(op, Softmax) and op.inputs[0] in made}
        self._watched = {name for op in self._ops for name in op.inputs if name is not None}

    def listen(self, step: Iterable[tuple[str, Array]]) -> None:
        """Takes the values of one sample, in the order of computation."""
        now: dict[str, Interval] = {}
        for name, array in step:
            if name not in self._watched or array.dtype.kind != "f":
                continue
            known = array[np.isfinite(array)].astype(np.float64)
            if known.size:
                now[name] = float(known.min()), float(known.max())
                self._seen[name] = _hull(now[name], self._seen.get(name, now[name]))
            if known.any():
                self._least[name] = min(float(np.abs(known[known != 0]).min()), self._least.get(name, math.inf))
            if name in self._heads:
                self._row_by_row(name, array, _lowest_seen(name, self.graph, now))

    def _row_by_row(self, name: str, array: Array, lowest: float | None) -> None:
        """Notes what is audible in the rows of what softmax reads.  A row of which all is masked counts for nothing."""
        loud = loudest(array)
        if lowest is not None:
            loud = loud[loud >= lowest - FAINT]
        if loud.size:
            beta = getattr(self._heads[name], "beta", 1.0)
            floor = float(loud.min()) - FAINT / beta if beta > 0 else -math.inf
            self._floors[name] = min(floor, self._floors.get(name, math.inf))

    def result(self) -> tuple[Graph, dict[str, Interval]]:
        """The graph with no more in its constants than counts, and by value between what ends its numbers count."""
        wanted: dict[str, Interval] = {name: (floor, math.inf) for name, floor in self._floors.items()}
        shared: dict[str, list[Interval]] = {}
        constants: dict[str, Array] = {}
        for op in reversed([op for op in self._ops if not isinstance(op, Softmax)]):
            ends = wanted.get(op.outputs[0])
            if ends is None:
                continue
            # A mask's constant first: the less there is of it, the more of its other operand counts.
            for index in sorted(range(len(op.inputs)), key=lambda i: self._is_variable(op.inputs[i])):
                name = op.inputs[index]
                if name is None or op.operand(index).role != "activation":
                    continue
                shared.setdefault(name, []).append(self._operand(op, index, ends))
                if self._complete(name, shared[name]):
                    self._settle(name, shared[name], wanted, constants)
        values = [
            value.with_(constant=Constant(constants[value.name].astype(value.data.dtype)))
            if value.name in constants
            else value
            for value in self.graph.values
        ]
        found = {name: ends for name, ends in wanted.items() if ends != EVERYTHING and name not in constants}
        return self.graph.with_(values=tuple(values)), found

    def _is_variable(self, name: str | None) -> bool:
        return name is not None and self.graph[name].constant is None

    def _complete(self, name: str, intervals: list[Interval]) -> bool:
        """Whether each reader of a value has said what it makes of it."""
        uses = sum(each.inputs.count(name) for each in self.graph.consumers.get(name, ()))
        return uses == len(intervals) and name not in self.graph.outputs

    def _settle(
        self, name: str, intervals: list[Interval], wanted: dict[str, Interval], constants: dict[str, Array]
    ) -> None:
        low, high = intervals[0]
        for other in intervals[1:]:
            low, high = _hull((low, high), other)
        value = self.graph[name]
        if value.constant is None:
            wanted[name] = low, high
        elif value.type.dtype == "float32" and not np.isnan(value.data).any():
            clipped = np.clip(value.data, low, high)
            if (clipped != value.data).any():
                constants[name] = clipped
                self._seen[name] = float(clipped.min()), float(clipped.max())
                self._least[name] = float(np.abs(clipped[clipped != 0]).min(initial=np.inf))

    def _operand(self, op: Op, index: int, ends: Interval) -> Interval:
        """Between what ends an operand's numbers count, if the result's do between `ends`."""
        low, high = ends
        if not isinstance(op, (Add, Mul, Div)):
            return ends
        other = op.inputs[1 - index]
        if other is None or other not in self._seen:
            return EVERYTHING
        least, most = self._seen[other]
        if isinstance(op, Add) and not op.subtract:
            return _beyond(low - most, high - least)
        if isinstance(op, Add):
            return _beyond(low + least, high + most) if index == 0 else _beyond(least - high, most - low)
        constant = self.graph[other].constant is not None
        if constant == (self.graph[str(op.inputs[index])].constant is not None) or (least < 0 < most):
            return EVERYTHING
        if isinstance(op, Div):
            return _beyond(low * least, high * least) if index == 0 and least == most > 0 else EVERYTHING
        size = self._least.get(other, 0.0)
        if size == 0 or ((low > 0 or high < 0) and max(-least, most) != size):
            return EVERYTHING
        return _beyond(low / size, high / size) if most > 0 else _beyond(-high / size, -low / size)


def _chain(graph: Graph) -> list[Op]:
    """The ops between which and softmax nothing else reads numbers, softmax with them."""
    found: list[Op] = []
    only: set[str] = set()
    for op in reversed(graph.ops):
        if isinstance(op, Softmax) or (len(op.outputs) == 1 and op.outputs[0] in only and _passes(op, graph)):
            found.append(op)
        else:
            continue
        for name in op.inputs:
            readers = graph.consumers.get(name or "", ())
            if name is not None and name not in graph.outputs and all(reader in found for reader in readers):
                only.add(name)
    return found[::-1]


def _passes(op: Op, graph: Graph) -> bool:
    """Whether a smaller operand (or a larger one) makes a smaller result, of the real numbers of `op`."""
    if not all(value.type.dtype == "float32" for value in graph.outs(op)):
        return False
    if isinstance(op, Eltwise):
        return isinstance(op, (Add, Mul, Div)) and op.activation == "NONE"
    return isinstance(op, (Extremum, Select)) or (isinstance(op, Movement) and not isinstance(op, BLENDING))


def _lowest_seen(name: str, graph: Graph, now: Mapping[str, Interval]) -> float | None:
    """Below what no row's largest number lies unless all of the row is masked; None if nothing was added.

    The lowest score is not masked where what is added is largest.
    """
    op = graph.producers.get(name)
    if isinstance(op, Movement) and op.inputs[0] is not None:
        return _lowest_seen(op.inputs[0], graph, now)
    if not isinstance(op, Add) or op.subtract:
        return None
    a, b = (str(each) for each in op.inputs)
    if a not in now or b not in now:
        return None
    inner = [(_lowest_seen(x, graph, now), y) for x, y in ((a, b), (b, a))]
    compound = [low + now[y][1] for low, y in inner if low is not None]
    return max(compound or (now[a][0] + now[b][1], now[b][0] + now[a][1]))


def _hull(one: Interval, other: Interval) -> Interval:
    return min(one[0], other[0]), max(one[1], other[1])


def _beyond(low: float, high: float) -> Interval:
    """An interval with room for scores beyond those of the samples."""
    return min(low, HEADROOM * low), max(high, HEADROOM * high)
