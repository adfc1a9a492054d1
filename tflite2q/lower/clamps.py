"""Clamps done by the kernels before them.

    before: y = conv2d(x); z = maximum(y, c)
    after:  y = conv2d(x) clamped at c; z = y

Kernels of codes clamp what they store anyway, and those of float32 products can.  A clamp of 8-bit codes whose operand
others read too, or whose maker has no kernel, becomes a look-up; one of wider numbers stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from tflite2q.arithmetic.rounding import code_range
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.binary import Extremum
from tflite2q.dialect.types import TensorType
from tflite2q.kernels.contracts import Contract, CopyContract, LookupContract, Tensor
from tflite2q.lower.contracts import CODES, EIGHT_BITS

REAL = "float32"

Bounds = tuple[float, float]


def merged(graph: Graph, found: Mapping[int, Contract]) -> dict[int, Contract]:
    """Contracts by index of op, with every MAXIMUM or MINIMUM with a constant left to what makes the other operand."""
    contracts = dict(found)
    makers = {name: index for index, op in enumerate(graph.ops) for name in op.outputs[:1]}
    for index, op in enumerate(graph.ops):
        bounds = _bounds(graph, op)
        if bounds is None:
            continue
        source = str(op.inputs[0])
        alone = source not in graph.outputs and graph.consumers[source] == (op,)
        maker = contracts.get(makers.get(source, -1)) if alone else None
        tighter = None if maker is None else maker.clamped(*bounds)
        if tighter is not None:
            contracts[makers[source]] = tighter
            makers[op.outputs[0]] = makers[source]
        clamp = _clamp(graph[source].type, bounds, tighter is not None)
        if clamp is not None:
            contracts[index] = clamp
    return contracts


def _clamp(kind: TensorType, bounds: Bounds, done: bool) -> Contract | None:
    """What is left of a clamp of a value of type `kind`, which may be `done` already; None: all of it."""
    if kind.dtype not in EIGHT_BITS:
        return CopyContract(Tensor(kind.shape, kind.dtype)) if done else None
    codes = np.arange(kind.range[0], kind.range[1] + 1).astype(kind.dtype)
    return LookupContract(kind.shape, kind.dtype, codes if done else codes.clip(*bounds))


def _bounds(graph: Graph, op: Op) -> Bounds | None:
    """Lowest and highest code or number that a clamp to one constant leaves; None for all other ops."""
    if not isinstance(op, Extremum):
        return None
    x, bound, y = *graph.ins(op), graph.outs(op)[0]
    if x is None or bound is None or bound.constant is None or bound.type.size != 1:
        return None
    if x.constant is not None or x.variable or x.type.shape != y.type.shape:
        return None
    if x.type.dtype == REAL:
        limit = float(bound.data.reshape(-1)[0])
        low, high = -math.inf, math.inf
    elif x.type.dtype in CODES:
        limit = int(bound.data.reshape(-1)[0])
        low, high = code_range(x.type.dtype)
    else:
        return None
    if math.isnan(limit):
        return None
    return (low, limit) if op.smallest else (limit, high)
