"""Ops that a scheme leaves as they are, besides those without a form of its types.

Kernels do not take all scales, codes that are copied to other parameters stand for other numbers, a variable has one
type for all that use it, and QUANTIZE makes int16 codes only with a zero point of 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op, Values
from tflite2q.dialect.ops.opaque import shared_variables
from tflite2q.dialect.spans import Span
from tflite2q.dialect.types import Quantization, TensorType, Value
from tflite2q.rewrites.fitting import ends
from tflite2q.rewrites.parameters import only_shifts, parameters
from tflite2q.rewrites.plan import Plan, activations_of, is_activation
from tflite2q.rewrites.scheme import Activations, Layer, Weights

SAME = 1 / 32  # of a step: parameters that differ by less are one set that was rounded twice


def planned(plan: Plan, graph: Graph, spans: Mapping[str, Span], provisional: bool = False) -> Plan:
    """`plan` for `graph`, which knows the ops that stay: kernels do not take their new scales, no cast makes their
    codes, or another op that uses the same variable stays.

    `spans` are what values can be.  Scales of a `provisional` graph are no real model's."""
    plan = replace(plan, layers={**plan.layers, **_state_layers(graph, plan)})
    settings = {plan.scheme.layer.activations, *(layer.activations for layer in plan.layers.values())}
    scaled = () if provisional else graph.ops
    kept = {
        op.name: f"the kernels of {op.builtin.name} do not take the scales that it would get"
        for op in scaled
        if _outgrows(op, graph, spans, settings, plan.layer(op).weights)
    }
    kept |= {
        op.name: f"{op.builtin.name} copies codes to other parameters, which changes the numbers that they stand for"
        for op in scaled
        if _recodes(op, graph, plan.layer(op).activations)
    }
    plan = replace(plan, kept=kept)
    plan = replace(plan, kept={**_held(graph, plan), **kept})
    return replace(plan, kept={**_without_casts(graph, plan), **plan.kept})


def _users(graph: Graph) -> dict[str, list[Op]]:
    """The ops that read or update each variable of the graph."""
    found: dict[str, list[Op]] = {value.name: [] for value in graph.values if value.resource is not None}
    for op in graph.ops:
        for name in found.keys() & set(op.inputs):
            found[str(name)].append(op)
    return found


def _state_layers(graph: Graph, plan: Plan) -> dict[str, Layer]:
    """One setting for all that read or assign a variable, which has one type: that of the first of them."""
    return {
        op.name: replace(plan.layer(op), activations=plan.layer(users[0]).activations)
        for users in _users(graph).values()
        for op in users
    }


def _held(graph: Graph, plan: Plan) -> dict[str, str]:
    """The ops that keep the type of a variable because one of them cannot follow the scheme, their types differ, or
    further subgraphs use it."""
    held: dict[str, str] = {}
    shared = shared_variables(graph)
    for name, users in _users(graph).items():
        kinds = {(v.type.dtype, v.type.quantization) for op in users for v in activations_of(op, graph)}
        kinds.add((graph[name].type.dtype, graph[name].type.quantization))
        if name in shared or len(kinds) > 1 or any(plan.wanted(op, graph) is None for op in users):
            held.update((op.name, f"not all that use the variable {name!r} can follow") for op in users)
    return held


def _without_casts(graph: Graph, plan: Plan) -> dict[str, str]:
    """The ops between which there must be no cast, because of codes that none makes; as many as follow each other."""
    odd = {v.name for v in graph.values if is_activation(v) and v.type.dtype == "int16" and v.type.zero_point}
    pinned = odd & {*graph.inputs, *graph.outputs} if plan.scheme.interface == "keep" else set()
    kept: dict[str, str] = {}
    while odd:
        free = [op for op in graph.ops if op.name not in kept and plan.wanted(op, graph) is not None]
        stay = {op.name for op in graph.ops} - {op.name for op in free}
        pinned |= odd & {str(name) for op in graph.ops if op.name in stay for name in (*op.inputs, *op.outputs)}
        more = [op for op in free if pinned & {*op.inputs, *op.outputs}]
        if not more:
            break
        reason = "no cast makes the int16 codes of {}, whose zero point is not 0"
        kept.update((op.name, reason.format(op.builtin.name)) for op in more)
    return kept


def _recodes(op: Op, graph: Graph, wish: Activations) -> bool:
    """Whether `op` copies codes between values of other parameters, as LiteRT's kernels let it, and that would not
    remain: only a shift of all codes by the same number leaves what they come to stand for.

    A constant is coded anew, with the parameters of what it is compared with.
    """
    dtypes = {value.type.dtype for value in activations_of(op, graph)}
    for group in (group for dtype in sorted(dtypes) for group in op.ties(dtype)):
        values = [graph[name] for name in group if is_activation(graph[name])]
        if all(_same_numbers(value.type, values[0].type) for value in values):
            continue
        return any(value.constant is not None or not only_shifts(value.type, wish) for value in values)
    return False


def _same_numbers(a: TensorType, b: TensorType) -> bool:
    """Whether every code stands for the same number in both types, to a small part of a step."""
    return a.dtype == b.dtype and all(
        abs(a.scale * (code - a.zero_point) - b.scale * (code - b.zero_point)) <= SAME * min(a.scale, b.scale)
        for code in a.range
    )


def _outgrows(
    op: Op, graph: Graph, spans: Mapping[str, Span], settings: Iterable[Activations], weights: Weights
) -> bool:
    """Whether the kernels of `op` take its scales, and may not take those that a scheme gives it."""
    ins, outs = graph.ins(op), graph.outs(op)
    return any(
        op.outgrown(
            (ins, outs), (_expected(op, ins, spans, wish, weights), [_rescaled(y, spans, wish, op) for y in outs])
        )
        for wish in settings
        if wish.dtype != "float32" and op.computes_in(wish.dtype) == wish.dtype
    )


def _expected(op: Op, ins: Values, spans: Mapping[str, Span], wish: Activations, weights: Weights) -> Values:
    """The operands with the scales that they would get if they shared them with no other value."""

    def entries() -> Iterator[Value | None]:
        for index, value in enumerate(ins.entries):
            role = op.operand(index).role
            if value is not None and role == "weights" and value.type.quantized and weights.dtype != "float32":
                yield _grown(value, weights)
            else:
                yield value if value is None or role != "activation" else _rescaled(value, spans, wish)

    return Values(op, entries())


def _rescaled(value: Value, spans: Mapping[str, Span], wish: Activations, maker: Op | None = None) -> Value:
    """An activation with the parameters that `wish` gives it."""
    if not is_activation(value):
        return value
    fixed = None if maker is None else maker.fixed_result(wish.dtype)
    new = fixed or parameters(value.type, wish, spans[value.name])
    return value.with_(type=value.type.with_(dtype=wish.dtype, quantization=new))


def _grown(value: Value, settings: Weights) -> Value:
    """Weights with one scale, as large as a scheme can make any of theirs."""
    q, (low, high) = value.type.parameters, value.type.range
    largest = max(max(high - zero, zero - low) for zero in {*q.zero_point})
    growth = max(1.0, largest / max(ends(settings)[1], 1)) * (2 if settings.scale == "power-of-two" else 1)
    scale = float(np.float32(min(max(q.scale) * growth, np.finfo(np.float32).max)))
    return value.with_(type=value.type.with_(quantization=Quantization.per_tensor(scale, 0)))
