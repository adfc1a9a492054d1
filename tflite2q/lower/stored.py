"""Contracts for a whole graph, with the layout of values in memory chosen across ops.

Where the target multiplies unsigned inputs, int8 values between ops that kernels compute are stored as uint8, code plus
128 (`Contract.stored`); the shift then happens nowhere at run time, and a requantize that only shifts disappears.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.shape import Pad, Reshape
from tflite2q.kernels.contracts import Contract
from tflite2q.kernels.registry import prefers_unsigned
from tflite2q.lower import clamps, pads, resized
from tflite2q.lower.contracts import activations, contract_of


def contracts(graph: Graph, target: Any) -> dict[int, Contract]:
    """By index of op, the contract it gives to a kernel; ops without one are not in it."""
    every = enumerate(graph.ops)
    found = {i: c for i, op in every if (c := contract_of(op, graph.ins(op), graph.outs(op))) is not None}
    found = resized.merged(graph, clamps.merged(graph, pads.merged(graph, found)))
    if not prefers_unsigned(target):
        return found
    shifted = _shifted_values(graph, found)

    def stored(op: Op, contract: Contract) -> Contract:
        marks = [name in shifted for name in activations(op, contract)]
        return contract.stored(marks, op.outputs[0] in shifted)

    return {i: stored(graph.ops[i], contract) for i, contract in found.items()}


def _shifted_values(graph: Graph, found: Mapping[int, Contract]) -> frozenset[str]:
    """Names of the int8 values that all ops around them can take as uint8."""
    fixed = {*graph.inputs, *graph.outputs}
    alike: list[tuple[str, str]] = []
    for i, op in enumerate(graph.ops):
        contract = found.get(i)
        free = set(_free_values(op, contract))
        fixed |= {name for name in (*op.inputs, *op.outputs) if name is not None} - free
        if contract is not None and contract.stored_alike:
            alike += [(name, op.outputs[0]) for name in activations(op, contract)]
        elif isinstance(op, Pad | Reshape) and free:
            alike.append((str(op.inputs[0]), op.outputs[0]))
    before = -1
    while before != len(fixed):
        before = len(fixed)
        for pair in alike:
            if fixed & set(pair):
                fixed |= set(pair)
    candidates = (v.name for v in graph.values if v.type.dtype == "int8" and v.constant is None and not v.variable)
    return frozenset(name for name in candidates if name not in fixed)


def _free_values(op: Op, contract: Contract | None) -> Iterator[str]:
    """Operands and results of `op` that may be stored either way."""
    if contract is not None and contract.storable:
        names = activations(op, contract)
        others = list(op.inputs)
        for name in names:
            others.remove(name)
        yield from (name for name in (*names, *op.outputs) if name not in others)
    elif contract is None and isinstance(op, Reshape):
        yield from (str(op.inputs[0]), op.outputs[0])
