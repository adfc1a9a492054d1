"""rewrite: every activation gets the type that the scheme's rules, the ties between values and the format demand.

    before: %y: u8[1,8,8,16] (scale 0.0235, zero point 0)     after int8: s8[1,8,8,16] (scale 0.0235, zero point -128)

Values that must share parameters form a class and are solved together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tflite2q.arithmetic import rounding
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.spans import Span, union
from tflite2q.dialect.types import Quantization, TensorType
from tflite2q.rewrites.plan import Plan, activation_operands, is_activation
from tflite2q.rewrites.scheme import Activations, Layer
from tflite2q.rewrites.statistics import Observation, RealRange, covered


@dataclass(frozen=True)
class Boundaries:
    """Boundaries between old and new types: `pinned` values keep their type, `asked` ones follow settings other than
    their maker's, and `inner` names the free value before a model output that is pinned."""

    pinned: frozenset[str]
    asked: Mapping[str, Activations]
    inner: Mapping[str, str]


@dataclass(frozen=True)
class Wish:
    """The wanted type of a value: settings of the layer that makes it, or the `fixed` parameters of the format."""

    activations: Activations
    fixed: Quantization | None = None


def assign(
    graph: Graph,
    plan: Plan,
    boundaries: Boundaries,
    spans: Mapping[str, Span],
    observed: Mapping[str, Observation],
    provisional: bool = False,
) -> dict[str, TensorType]:
    """The new type of every activation that is computed or given, by name.

    A new scale covers what values can be (`spans`), which observations of real data, if any, narrow.  The scales of a
    `provisional` graph cover all that was observed, and are kept only where that is wanted.
    """
    wishes = _wishes(graph, plan, boundaries)
    types: dict[str, TensorType] = {}
    spans = _with_constants(graph, plan, spans)
    for members in _classes(graph, plan):
        types.update(_solve(graph, members, wishes, spans, observed, provisional))
    return types


def _wishes(graph: Graph, plan: Plan, boundaries: Boundaries) -> dict[str, Wish]:
    """The wish of the op that makes each activation; inputs follow their first reader; pinned values have none."""
    wishes: dict[str, Wish] = {}
    for op in graph.ops:
        activations = plan.wanted(op, graph)
        if activations is None:
            continue
        for value in activation_operands(op, graph):
            if value.name not in graph.producers:
                wishes.setdefault(value.name, Wish(activations))
        fixed = None if activations.dtype == "float32" else op.fixed_result(activations.dtype)
        for value in graph.outs(op):
            if is_activation(value):
                wishes[value.name] = Wish(boundaries.asked.get(value.name, activations), fixed)
    return {name: wish for name, wish in wishes.items() if name not in boundaries.pinned}


def _classes(graph: Graph, plan: Plan) -> list[list[str]]:
    """Non-constant activations, grouped by the ties of the ops that read and make them."""
    leader = {v.name: v.name for v in graph.values if is_activation(v) and v.constant is None}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for op in graph.ops:
        activations = plan.wanted(op, graph)
        for group in op.ties(activations.dtype) if activations else ():
            tied = [name for name in group if name in leader]
            # Values that differ in the file are not one class, whatever the op says: their codes are copied as is.
            same = [name for name in tied if graph[name].type.quantization == graph[tied[0]].type.quantization]
            for name in same[1:]:
                leader[find(name)] = find(same[0])
    groups: dict[str, list[str]] = {}
    for name in leader:
        groups.setdefault(find(name), []).append(name)
    return list(groups.values())


def _with_constants(graph: Graph, plan: Plan, spans: Mapping[str, Span]) -> dict[str, Span]:
    """`spans`, in which operands also cover the constants that they are compared with.

    Elsewhere a constant that shares parameters with a result needs no room for what the result cannot be.
    """
    wider = dict(spans)
    for op in graph.ops:
        activations = plan.wanted(op, graph)
        for group in op.ties(activations.dtype) if activations else ():
            constants = [spans[name] for name in group if graph[name].constant is not None]
            if constants and not {*group} & {*op.outputs}:
                wider.update((name, union(wider[name], *constants)) for name in group)
    return wider


def _solve(
    graph: Graph,
    members: Sequence[str],
    wishes: Mapping[str, Wish],
    spans: Mapping[str, Span],
    observed: Mapping[str, Observation],
    provisional: bool,
) -> dict[str, TensorType]:
    """One set of parameters for a class."""
    if any(name not in wishes for name in members):
        return {name: graph[name].type for name in members}
    settings = wishes[members[0]].activations
    if settings.dtype == "float32":
        return {name: graph[name].type.with_(dtype="float32", quantization=None) for name in members}
    fixed = [wish.fixed for wish in (wishes[name] for name in members) if wish.fixed is not None]
    old = graph[members[0]].type
    kept = not provisional or settings.range == "min-max"
    new = fixed[0] if fixed else parameters(old, settings, _real_range(members, settings, spans, observed), kept)
    return {name: graph[name].type.with_(dtype=settings.dtype, quantization=new) for name in members}


def _real_range(
    members: Sequence[str], settings: Activations, spans: Mapping[str, Span], observed: Mapping[str, Observation]
) -> RealRange:
    """Real numbers that the class can hold, without what data never reached."""
    low, high = np.inf, -np.inf
    for name in members:
        first, last = spans[name]
        if name in observed and observed[name].counts.any():
            seen = covered(observed[name], settings)
            first, last = max(first, seen[0]), min(last, seen[1])
        low, high = min(low, first), max(high, last)
    return low, high


def parameters(old: TensorType, settings: Activations, real_range: RealRange, kept: bool = True) -> Quantization:
    """Parameters of `settings` for a value of type `old` that spans `real_range`.

    A dtype of the same width keeps the scale, unless it is not to be `kept`, and shifts the zero point (eq. S1), which
    loses nothing.  Where the zero point must be 0 and is not, or the scale a power of two and is not, they are chosen
    again so that the range fits (eq. S5).  A range that has both signs cannot have zero point 0 unsigned and gets the
    zero point it needs.
    """
    low, high = rounding.code_range(settings.dtype)
    old_low, old_high = old.range
    bottom, top = min(real_range[0], 0.0), max(real_range[1], 0.0)
    symmetric = settings.symmetric and (low < 0 or bottom == 0.0)
    if kept and _shifts(old, settings):
        shifted = old.zero_point + low - old_low
        if shifted == 0 or not symmetric:
            return Quantization.per_tensor(old.scale, shifted)
    below_zero = bottom / low if low < 0 else 0.0
    scale = max(top / high, below_zero) if symmetric else (top - bottom) / (high - low)
    scale = scale or old.scale * (old_high - old_low) / (high - low)  # a value that is always 0: as far as before
    if settings.scale == "power-of-two":
        scale = power_of_two_at_least(scale)
    zero_point = 0 if symmetric else low - int(rounding.round_half_away(bottom / scale))
    return Quantization.per_tensor(scale, zero_point)


def _shifts(old: TensorType, settings: Activations) -> bool:
    """Whether codes of `old` may become those of `settings` by a shift of all of them, zero points aside."""
    low, high = rounding.code_range(settings.dtype)
    allowed = settings.scale == "any" or power_of_two_at_least(old.scale) == old.scale
    return high - low == old.range[1] - old.range[0] and allowed


def only_shifts(old: TensorType, settings: Activations) -> bool:
    """Whether codes of `old` become those of `settings` by the shift that all codes of its dtype get (eq. S1),
    whatever real numbers they stand for."""
    if settings.dtype == "float32" or not _shifts(old, settings):
        return False
    shifted = old.zero_point + rounding.code_range(settings.dtype)[0] - old.range[0]
    return shifted == 0 or not settings.symmetric


def arithmetic(layer: Layer, kinds: Iterable[TensorType]) -> str:
    """The rescaling of an op whose operands and results are of `kinds`: the scheme's, but shifts only where every scale
    is a power of two (the interface's may not be)."""
    wanted = layer.rescale.arithmetic
    scales = (scale for kind in kinds if kind.quantized for scale in kind.parameters.scale)
    return wanted if wanted != "shift" or all(power_of_two_at_least(scale) == scale for scale in scales) else "tflite"


def rescaling(op: Op, layer: Layer, kinds: Iterable[TensorType]) -> Op:
    """`op`, whose operands and results are of `kinds`, with the arithmetic of its layer, if it rescales."""
    return op.with_(rescale=arithmetic(layer, kinds)) if hasattr(op, "rescale") else op


def quantizing(op: Op, layer: Layer) -> Op:
    """`op`, which quantizes real numbers in every run, with the codes of its layer, if it says which it makes."""
    if not hasattr(op, "asymmetric_inputs"):
        return op
    return op.with_(asymmetric_inputs=not layer.activations.symmetric)


def power_of_two_at_least(scale: float) -> float:
    """The smallest power of two that is not below `scale` (eq. S6)."""
    fraction, exponent = np.frexp(scale)
    return float(np.ldexp(1.0, int(exponent) - (1 if fraction == 0.5 else 0)))
