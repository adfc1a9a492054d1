"""rewrite: every activation gets the type that the scheme's rules, the ties between values and the format demand.

    before: %y: u8[1,8,8,16] (scale 0.0235, zero point 0)     after int8: s8[1,8,8,16] (scale 0.0235, zero point -128)

Values that must share parameters form a class and are solved together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tflite2q import numerics
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import Quantization, TensorType, Value
from tflite2q.scheme import Activations, Scheme

# dtypes that hold activations; int32 tensors with a scale are accumulators and biases.
ACTIVATION_DTYPES = ("uint8", "int8", "int16")


@dataclass(frozen=True)
class Boundaries:
    """Where old and new meet: `pinned` values keep their type, `asked` ones follow settings other than their maker's,
    and `inner` names the free value behind a model output that is pinned."""

    pinned: frozenset[str]
    asked: Mapping[str, Activations]
    inner: Mapping[str, str]


@dataclass(frozen=True)
class Wish:
    """What a value should become: settings of the layer that makes it, or the `fixed` parameters of the format."""

    activations: Activations
    fixed: Quantization | None = None


def is_activation(value: Value) -> bool:
    return value.type.dtype in ACTIVATION_DTYPES and value.type.quantization is not None


def wanted(op: Op, graph: Graph, scheme: Scheme) -> Activations | None:
    """The activations that `op` is to compute with; None if it must stay as it is."""
    layer = scheme.layer(op)
    if not op.convertible or layer.activations.dtype not in op.dtypes:
        return None
    touched = [v for v in (*activation_operands(op, graph), *graph.outs(op)) if is_activation(v)]
    return layer.activations if touched else None


def activation_operands(op: Op, graph: Graph) -> list[Value]:
    """Quantized operands in an activation's role."""
    named = [(op.operand(i).role, name) for i, name in enumerate(op.inputs) if name is not None]
    return [graph[name] for role, name in named if role == "activation" and is_activation(graph[name])]


def assign(graph: Graph, scheme: Scheme, boundaries: Boundaries) -> dict[str, TensorType]:
    """The new type of every activation that is computed or given, by name."""
    wishes = _wishes(graph, scheme, boundaries)
    types: dict[str, TensorType] = {}
    for members in _classes(graph, scheme):
        types.update(_solve(graph, members, wishes))
    return types


def _wishes(graph: Graph, scheme: Scheme, boundaries: Boundaries) -> dict[str, Wish]:
    """What each activation's maker wants of it; inputs follow their first reader; pinned values have no wish."""
    wishes: dict[str, Wish] = {}
    for op in graph.ops:
        activations = wanted(op, graph, scheme)
        if activations is None:
            continue
        for value in activation_operands(op, graph):
            if value.name not in graph.producers:
                wishes.setdefault(value.name, Wish(activations))
        fixed = op.fixed_result(activations.dtype)
        for value in graph.outs(op):
            if is_activation(value):
                wishes[value.name] = Wish(boundaries.asked.get(value.name, activations), fixed)
    return {name: wish for name, wish in wishes.items() if name not in boundaries.pinned}


def _classes(graph: Graph, scheme: Scheme) -> list[list[str]]:
    """Activations that are not constant, grouped by the ties of the ops that read and make them."""
    leader = {v.name: v.name for v in graph.values if is_activation(v) and v.constant is None}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for op in graph.ops:
        activations = wanted(op, graph, scheme)
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


def _solve(graph: Graph, members: Sequence[str], wishes: Mapping[str, Wish]) -> dict[str, TensorType]:
    """One set of parameters for a class."""
    if any(name not in wishes for name in members):
        return {name: graph[name].type for name in members}
    settings = wishes[members[0]].activations
    fixed = [wish.fixed for wish in (wishes[name] for name in members) if wish.fixed is not None]
    old = graph[members[0]].type
    new = fixed[0] if fixed else parameters(old, settings, _real_range(graph, members))
    return {name: graph[name].type.with_(dtype=settings.dtype, quantization=new) for name in members}


def _real_range(graph: Graph, members: Sequence[str]) -> tuple[float, float]:
    """Real numbers that the class can hold: its codes' range, less what fused activations cut off."""
    low, high = np.inf, -np.inf
    for name in members:
        kind = graph[name].type
        producer = graph.producers.get(name)
        activation = getattr(producer, "activation", "NONE")
        first, last = numerics.activation_range(activation, kind.scale, kind.zero_point, kind.dtype)
        low = min(low, kind.scale * (first - kind.zero_point))
        high = max(high, kind.scale * (last - kind.zero_point))
    return low, high


def parameters(old: TensorType, settings: Activations, real_range: tuple[float, float]) -> Quantization:
    """Parameters of `settings` for a value of type `old` that spans `real_range`.

    A dtype of the same width keeps the scale and shifts the zero point (eq. 20), which loses nothing; where the zero
    point must be 0 and is not, the scale is chosen anew so that the range fits (eq. 24).
    """
    low, high = numerics.code_range(settings.dtype)
    old_low, old_high = old.range
    if high - low == old_high - old_low:
        shifted = old.zero_point + low - old_low
        if shifted == 0 or not settings.symmetric:
            return Quantization.per_tensor(old.scale, shifted)
    bottom, top = min(real_range[0], 0.0), max(real_range[1], 0.0)
    if settings.symmetric:
        scale = max(top / high, bottom / low if low < 0 else 0.0)
        return Quantization.per_tensor(scale, 0)
    scale = (top - bottom) / (high - low)
    zero_point = low - int(numerics.round_half_away(bottom / scale))
    return Quantization.per_tensor(scale, zero_point)
