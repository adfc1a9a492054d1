"""rewrite: clamps that only the range of codes implied are made explicit where a new type has a wider range.

    before: %y: u8 (scale 6/255, zero point 0) = q.conv2d(%x, ...)
    after:  %y: s16 (scale 6/32767) = q.conv2d(%x, ...) {activation = RELU}         the new range ends at 6 by itself

Saturating codes clamps a result to their range, and networks are trained with that clamp: early converters write no
activation and let uint8 codes cut at 0 and 6.  A cut becomes the fused activation if there is one for it; else RELU,
RELU6, or MAXIMUM and MINIMUM with a constant, which every interpreter has.  It is not written if no value can reach it,
nor on a value that is only read by a cast at the model's output, which cuts at the same limits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tflite2q.arithmetic import rounding
from tflite2q.dialect import spans
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Named, Op
from tflite2q.dialect.ops.binary import Extremum
from tflite2q.dialect.ops.eltwise import Requantize
from tflite2q.dialect.ops.lookup import Lookup
from tflite2q.dialect.spans import EVERYTHING, Span
from tflite2q.dialect.types import STORAGE, Constant, TensorType, Value
from tflite2q.rewrites.edit import Editor
from tflite2q.rewrites.plan import is_activation

# Two cuts are one if they differ by less than this part of a step of the old codes, which were rounded by half a step:
# 255 steps of the 0.0235285 that converters state are 5.99976.
SAME = 1 / 32


@dataclass(frozen=True)
class Cut:
    """The limits at which the codes of a value cut off its results (infinite: none on that side), and the range of the
    value after the cut."""

    low: float
    high: float
    span: Span


@dataclass(frozen=True)
class Clamp:
    """A cut to be made explicit: the fused activation that does it, if any, and the limits left for ops after it."""

    activation: str | None
    low: float
    high: float

    def __str__(self) -> str:
        parts = [self.activation] if self.activation else []
        parts += [f">= {self.low:.6g}"] if math.isfinite(self.low) else []
        parts += [f"<= {self.high:.6g}"] if math.isfinite(self.high) else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Limits:
    """`spans` are the real numbers that each value can be, and `cuts` says which of those its op may compute the range
    of codes cuts off."""

    spans: Mapping[str, Span]
    cuts: Mapping[str, Cut]


def limits(graph: Graph) -> Limits:
    """The spans of the values of `graph`, by their names."""
    found: dict[str, Cut] = {}
    known = {name: _given(graph[name]) for name in graph.by_name if name not in graph.producers}
    for op in (op for op in graph.ops if op.outputs):
        reach = _reach(op, graph, known)
        for y in graph.outs(op):
            known[y.name] = reach if y.type.dtype == graph[op.name].type.dtype else EVERYTHING
            if not is_activation(y):
                continue
            codes, slack = spans.of_codes(y.type), y.type.scale * SAME
            known[y.name] = _rounded(spans.clipped(reach, codes), y.type)
            low = codes[0] if reach[0] < codes[0] - slack else -math.inf
            high = codes[1] if reach[1] > codes[1] + slack else math.inf
            if (low, high) != EVERYTHING and op.fixed_result(y.type.dtype) != y.type.quantization:
                found[y.name] = Cut(low, high, known[y.name])
    return Limits(known, found)


def _given(value: Value) -> Span:
    """The range of a constant, an input or a variable."""
    if value.constant is not None:
        return spans.of_constant(value)
    return spans.of_codes(value.type) if is_activation(value) else EVERYTHING


def _reach(op: Op, graph: Graph, known: Mapping[str, Span]) -> Span:
    """The range of the results of `op` before codes cut them off; ops that only move codes never leave it."""
    y = graph.outs(op)[0].type
    if is_activation(graph.outs(op)[0]):
        tied = {graph[name].type.quantization for group in op.ties(y.dtype) for name in group}
        if len(tied) > 1:
            return spans.of_codes(y)
    operands = Named(op, (EVERYTHING if name is None else known[name] for name in op.inputs))
    reach = op.reach(graph.ins(op), operands, graph.outs(op))
    return spans.clipped(reach, op.fused(graph.ins(op)))


def _rounded(span: Span, kind: TensorType) -> Span:
    """`span` up to the codes that its ends are rounded to, or beyond."""
    low, high = (end / kind.scale for end in span)
    return kind.scale * math.floor(low + SAME), kind.scale * math.ceil(high - SAME)


def lost(
    graph: Graph, types: Mapping[str, TensorType], found: Mapping[str, Cut], inner: Collection[str]
) -> dict[str, Clamp]:
    """The clamps to write when values of `graph` get `types`: the cuts in `found` that the new codes do not make.

    `inner` values are not visible outside: if all their readers cut at the same limits, nothing is written.
    """
    needed: dict[str, Clamp] = {}
    for op in graph.ops:
        for y in op.outputs:
            bounds = _lost_bounds(graph[y].type, types.get(y, graph[y].type), found[y]) if y in found else EVERYTHING
            if bounds != EVERYTHING and not (y in inner and _cut_again(y, graph, types, bounds)):
                needed[y] = _clamp(op, graph[y].type, found[y].span, bounds)
    return needed


def _lost_bounds(old: TensorType, new: TensorType, cut: Cut) -> Span:
    """The ends of `cut` that codes of type `new` exceed by more than their rounding."""
    low, high = _wider(old, new, cut.low, cut.high)
    return (cut.low if low else -math.inf), (cut.high if high else math.inf)


def _wider(old: TensorType, new: TensorType, low: float, high: float) -> tuple[bool, bool]:
    """The sides on which codes of `new` exceed finite bounds that codes of `old` kept."""
    if not new.quantized:
        return math.isfinite(low), math.isfinite(high)
    slack = max(old.scale * SAME, new.scale / 2)
    first, last = spans.of_codes(new)
    return math.isfinite(low) and first < low - slack, math.isfinite(high) and last > high + slack


def _cut_again(name: str, graph: Graph, types: Mapping[str, TensorType], bounds: Span) -> bool:
    """Whether all readers of a value round it to codes within `bounds`."""
    readers = graph.consumers[name]
    if name in graph.outputs or not readers or not all(isinstance(reader, Requantize) for reader in readers):
        return False
    kinds = [types.get(reader.name, graph[reader.name].type) for reader in readers]
    return not any(any(_wider(kind, kind, *bounds)) for kind in kinds)


def _clamp(op: Op, old: TensorType, span: Span, bounds: Span) -> Clamp:
    """The clamp by the fused activation that makes most of the cut and cuts nothing else."""
    slack = old.scale * SAME
    present = getattr(op, "activation", "NONE")
    best, left = None, bounds
    for name in op.fuses:
        low, high = spans.of_activation(name)
        stated = spans.of_activation(present)
        if low > span[0] + slack or high < span[1] - slack or low < stated[0] or high > stated[1]:
            continue
        rest = (
            -math.inf if abs(low - bounds[0]) <= slack else bounds[0],
            math.inf if abs(high - bounds[1]) <= slack else bounds[1],
        )
        if _sides(rest) < _sides(left):
            best, left = name, rest
    return Clamp(best, *left)


def note(clamps: Sequence[Clamp]) -> str:
    """A sentence that counts the clamps by how they are written; empty if there are none."""
    if not clamps:
        return ""
    fused = Counter(clamp.activation for clamp in clamps if clamp.activation and not _sides((clamp.low, clamp.high)))
    ways = [f"{count} as a fused {name}" for name, count in sorted(fused.items())]
    explicit = len(clamps) - sum(fused.values())
    ways += [f"{explicit} as separate ops"] if explicit else []
    plural = "s were" if len(clamps) > 1 else " was"
    return f"{len(clamps)} layer{plural} clamped only by their range of codes; now explicit: {', '.join(ways)}"


def _sides(bounds: Span) -> int:
    return sum(math.isfinite(end) for end in bounds)


def keep(graph: Graph, clamps: Mapping[str, Clamp]) -> Graph:
    """`graph`, whose values have their new types, with `clamps` written."""
    editor = Editor(graph)
    editor.ops = []
    for op in graph.ops:
        renamed: dict[str, str] = {}
        behind: list[Op] = []
        for name in op.outputs:
            clamp = clamps.get(name)
            if clamp is None:
                continue
            if clamp.activation is not None:
                op = op.with_(activation=clamp.activation)
            if _sides((clamp.low, clamp.high)):
                value = editor.values[name]
                renamed[name] = editor.add(value.with_(name=f"{name}_unclamped"), near=name)
                behind += _explicit(editor, value, renamed[name], clamp)
        editor.ops += [op.with_(outputs=tuple(renamed.get(n, n) for n in op.outputs)), *behind]
    return editor.graph()


def _explicit(editor: Editor, value: Value, source: str, clamp: Clamp) -> Iterator[Op]:
    """The ops that clamp `source` into `value`."""
    whole = {(0.0, math.inf): "RELU", (0.0, 6.0): "RELU6"}.get((clamp.low, clamp.high))
    if whole is not None:
        yield _versioned(Lookup(inputs=(source,), outputs=(value.name,), function=whole), value.type)
        return
    ends = [(end, smallest) for end, smallest in ((clamp.low, False), (clamp.high, True)) if math.isfinite(end)]
    for index, (end, smallest) in enumerate(ends):
        word = "ceiling" if smallest else "floor"
        bound = editor.add(_bound(f"{value.name}_{word}", end, value.type), near=source)
        last = index == len(ends) - 1
        target = value.name if last else editor.add(value.with_(name=f"{value.name}_above_floor"), near=source)
        yield _versioned(Extremum(inputs=(source, bound), outputs=(target,), smallest=smallest), value.type)
        source = target


def _bound(name: str, real: float, kind: TensorType) -> Value:
    """A constant of one element that broadcasts against values of type `kind`."""
    shape = (1,) * min(len(kind.shape), 1)
    if not kind.quantized:
        return Value(name, TensorType(shape, kind.dtype), Constant(np.full(shape, real, np.float32)))
    code = min(max(rounding.nearest_code(real, kind.scale, kind.zero_point), kind.range[0]), kind.range[1])
    return Value(name, kind.with_(shape=shape), Constant(np.full(shape, code, STORAGE[kind.dtype])))


def _versioned(op: Op, kind: TensorType) -> Op:
    return op.with_(version=op.builtin.versions.get(kind.dtype, 1))
