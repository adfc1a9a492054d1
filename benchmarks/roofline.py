"""How near each layer comes to what one core could do: its products or its bytes, whichever take longer.

Products take as long as in a loop of nothing else (`benchmarks.peak`).  Those of depthwise convolutions are the vector
unit's, for their weights meet one channel each; all others are the matrix unit's where the processor has it.

Bytes take as long as in loops that only read, only store or only copy (`benchmarks.memory`): what is read, at the speed
of reading; what is stored, by how much longer a copy takes than reading; what is stored beyond what is read, at the
speed of storing.  The speeds are those of the memory that the bytes lie in:

- Constants lie in the nearest memory that holds all constants of the model, for each run reads them once.
- An activation lies in the nearest memory that holds what the run writes from its first byte on until it is read; an
  input of the model, in one that holds it and all that a run writes.
- Results are stored in the nearest memory that holds them.

Each byte of operands and results counts once.  Where an op does not need all of an operand (slices, look-ups, windows
with gaps), what it needs counts, and where kernels leave out an op whose result is its operand, that one is read.  What
a layer computes beside products is not limited: no code can be faster than its limit, and most is slower.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tflite2q
from benchmarks import environment, memory, peak
from benchmarks.calls import converted
from benchmarks.memory import Memory
from benchmarks.models import Model
from benchmarks.peak import Peaks
from tflite2q.dialect.fold import folded
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.needs import bytes_of, of_constants
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.conv import Convolution
from tflite2q.dialect.ops.embedding import EmbeddingLookup
from tflite2q.dialect.ops.pool import Pool
from tflite2q.dialect.ops.shape import Movement
from tflite2q.dialect.types import Value
from tflite2q.dialect.window import Window
from tflite2q.execution.times import OpTime
from tflite2q.lower.graph import NOTHING
from tflite2q.lower.target import resolve, tvm_target

Report = Callable[[str], None]

VECTOR, MATRIX = "vector products", "matrix products"


@dataclass(frozen=True)
class Row:
    """Layers of one kind in one model: milliseconds measured and at the limit, and what sets most of the limit."""

    model: str
    kind: str
    layers: int
    ms: float
    limit_ms: float
    bound: str


@dataclass(frozen=True)
class Work:
    """What an op has to do: multiply-accumulates, and whether a matrix unit can do them; bytes to read, each time with
    the size of what lies in one memory with them; bytes to store."""

    macs: int
    matrix: bool
    reads: tuple[tuple[int, int], ...]
    stored: int


@dataclass(frozen=True)
class Limits:
    """The limits of one core; memories from the nearest to one that holds anything."""

    peaks: Peaks
    memories: tuple[Memory, ...]

    def of(self, work: Work) -> tuple[float, str]:
        """Milliseconds that so much work takes at least, and what sets them: products, or a memory by name."""
        by_products = work.macs / self.peaks.of(work.matrix) / 1e6
        by_bytes = self.by_bytes(work)
        if by_products >= sum(by_bytes.values()):
            return by_products, MATRIX if work.matrix and self.peaks.matrix is not None else VECTOR
        return sum(by_bytes.values()), max(by_bytes, key=lambda name: by_bytes[name])

    def by_bytes(self, work: Work) -> dict[str, float]:
        """Milliseconds of reading and storing, by the name of the memory."""
        found: dict[str, float] = {}
        for size, together in work.reads:
            place = self._holding(together)
            found[place.name] = found.get(place.name, 0.0) + size / place.read / 1e6
        place = self._holding(work.stored)
        copied = min(work.stored, sum(size for size, _ in work.reads))
        beside = max(0.0, 1 / place.copy - 1 / place.read)
        found[place.name] = found.get(place.name, 0.0) + copied * beside / 1e6
        found[place.name] += (work.stored - copied) / place.store / 1e6
        return found

    def _holding(self, size: int) -> Memory:
        return next(place for place in self.memories if place.holds(size))

    def or_faster(self, other: Limits) -> Limits:
        """The faster of each: other programs and a slower clock only ever add time."""
        matrix = None if self.peaks.matrix is None else max(self.peaks.matrix, other.peaks.matrix or 0.0)
        places = tuple(
            Memory(a.name, a.size, max(a.read, b.read), max(a.store, b.store), max(a.copy, b.copy))
            for a, b in zip(self.memories, other.memories, strict=True)
        )
        return Limits(Peaks(max(self.peaks.vector, other.peaks.vector), matrix), places)


def measure(models: Sequence[Model], folder: Path, quick: bool, report: Report) -> dict[str, Any] | None:
    """All rows, ready for JSON; None on processors whose peak nobody measures."""
    where, limits = environment.here(), limits_here()
    if limits is None:
        report("roofline is not measured: this is no x86 processor with AVX2 or later")
        return None
    profiles: list[tuple[str, Graph, list[OpTime]]] = []
    with tempfile.TemporaryDirectory(prefix="tflite2q-bench-") as temporary:
        for model in models:
            graph = tflite2q.load(converted(model.path(folder), Path(temporary)))
            profiles.append((model.name, graph, tflite2q.compile(graph).profile(repeat=20 if quick else 200)))
            report(f"{model.name}: measured")
    # Once more, for the clock may have been slower when all began than while models ran.
    limits = limits.or_faster(limits_here() or limits)
    return {
        "schema_version": 2,
        "environment": asdict(where),
        **asdict(limits),
        "rows": [asdict(row) for name, graph, times in profiles for row in rows(name, graph, times, limits)],
    }


def limits_here() -> Limits | None:
    """Measured on this processor."""
    target = tvm_target(resolve("native"))
    level = peak.level(target)
    return None if level is None else Limits(peak.peaks(level, target), memory.measured(target, level.lanes))


def rows(name: str, graph: Graph, times: Sequence[OpTime], limits: Limits) -> list[Row]:
    """The rows of one model, which `times` profile."""
    graph = folded(graph)
    needed = work(graph, {time.op for time in times if time.kernel == NOTHING})
    ops = {op.name: op for op in graph.ops}
    found: dict[str, list[tuple[float, float, str]]] = {}
    for time in times:
        if time.op in needed and time.ms:
            found.setdefault(kind(graph, ops[time.op]), []).append((time.ms, *limits.of(needed[time.op])))
    made = []
    for each, parts in found.items():
        by_bound: dict[str, float] = {}
        for _, limit, bound in parts:
            by_bound[bound] = by_bound.get(bound, 0.0) + limit
        most = max(by_bound, key=lambda bound: by_bound[bound])
        made.append(Row(name, each, len(parts), sum(part[0] for part in parts), sum(by_bound.values()), most))
    return sorted(made, key=lambda row: -row.ms)


def work(graph: Graph, free: Collection[str] = ()) -> Mapping[str, Work]:
    """By name, what each op has to do, but for those that cost nothing (`free`), whose result is their operand."""
    found: dict[str, Work] = {}
    same: dict[str, str] = {}  # results that are another value
    begun: dict[str, int] = {}  # of a value: what the run wrote before its first byte
    written, constants = 0, of_constants(graph)
    stored = {op.name: sum(map(bytes_of, graph.outs(op))) for op in graph.ops if op.name not in free}
    for op in graph.ops:
        if op.name in free:
            if op.source is not None:
                same.update(dict.fromkeys(op.outputs, same.get(op.source, op.source)))
            continue
        reads = []
        for name in dict.fromkeys(name for name in op.inputs if name is not None):
            value = graph[same.get(name, name)]
            size = min(bytes_of(value), needed_bytes(graph, op, graph[name]))
            if value.constant is not None:
                together = constants
            elif value.name in begun:
                together = written - begun[value.name]
            else:
                together = bytes_of(value) + sum(stored.values())
            reads.append((size, together))
        begun.update(dict.fromkeys(op.outputs, written))
        written += stored[op.name]
        found[op.name] = Work(
            op.macs(graph.ins(op), graph.outs(op)), by_matrix(graph, op), tuple(reads), stored[op.name]
        )
    return found


def by_matrix(graph: Graph, op: Op) -> bool:
    """Whether a matrix unit can do an op's products: not where sums are over one of several channels."""
    if not isinstance(op, Convolution):
        return True
    x, weights = graph[op.reads("x")].type, graph[op.reads("weights")].type
    return op.groups(x, weights) < x.shape[3] or x.shape[3] == 1


def needed_bytes(graph: Graph, op: Op, value: Value) -> int:
    """Bytes of an operand that an op reads, each once."""
    size = bytes_of(value)
    if isinstance(op, (Movement, EmbeddingLookup)):
        return min(size, sum(map(bytes_of, graph.outs(op))))
    if not isinstance(op, (Convolution, Pool)) or value.name != op.reads("x"):
        return size
    window = op.window(value, graph[op.reads("weights")]) if isinstance(op, Convolution) else op.window(value)
    height, width = (_reached(window, axis, value.type.shape[1 + axis]) for axis in range(2))
    return size * height * width // (value.type.shape[1] * value.type.shape[2])


def _reached(window: Window, axis: int, extent: int) -> int:
    """Rows (axis 0) or columns (axis 1) of an image that some window reaches."""
    firsts = range(0, window.out[axis] * window.strides[axis], window.strides[axis])
    taps = range(0, window.size[axis] * window.dilation[axis], window.dilation[axis])
    return len({first + tap - window.before[axis] for first in firsts for tap in taps} & set(range(extent)))


def kind(graph: Graph, op: Op) -> str:
    """Convolutions by their window, other ops by their name."""
    words = op.mnemonic.removeprefix("q.").replace("_", " ")
    if op.mnemonic not in ("q.conv2d", "q.depthwise_conv2d"):
        return words
    _, height, width, depth = graph[op.reads("weights")].type.shape
    shallow = ", few channels" if op.mnemonic == "q.conv2d" and height * width > 1 and depth <= 4 else ""
    return f"{words} {height}x{width}{shallow}"
