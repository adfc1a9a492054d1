"""Clamps done by the kernels before them.

    before: y = conv2d(x); z = maximum(y, c)
    after:  y = conv2d(x) clamped at c; z = y

Every kernel of 8-bit codes clamps what it stores anyway.  A clamp whose operand others read too, or whose maker has no
kernel, becomes a look-up.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tflite2q.arithmetic.rounding import code_range
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.binary import Extremum
from tflite2q.kernels.contracts import Contract, LookupContract

EIGHT_BITS = ("int8", "uint8")


def merged(graph: Graph, found: Mapping[int, Contract]) -> dict[int, Contract]:
    """Contracts by index of op, with every MAXIMUM or MINIMUM of codes and a constant left to what makes the codes."""
    contracts = dict(found)
    makers = {name: index for index, op in enumerate(graph.ops) for name in op.outputs[:1]}
    for index, op in enumerate(graph.ops):
        bounds = _bounds(graph, op)
        if bounds is None:
            continue
        source = str(op.inputs[0])
        kind = graph[source].type
        codes = np.arange(kind.range[0], kind.range[1] + 1).astype(kind.dtype)
        alone = source not in graph.outputs and graph.consumers[source] == (op,)
        maker = contracts.get(makers.get(source, -1)) if alone else None
        tighter = None if maker is None else maker.clamped(*bounds)
        if tighter is None:
            codes = codes.clip(*bounds)
        else:
            contracts[makers[source]] = tighter
            makers[op.outputs[0]] = makers[source]
        contracts[index] = LookupContract(kind.shape, kind.dtype, codes)
    return contracts


def _bounds(graph: Graph, op: Op) -> tuple[int, int] | None:
    """Lowest and highest code that a clamp to one constant leaves; None for all other ops."""
    if not isinstance(op, Extremum):
        return None
    x, bound, y = *graph.ins(op), graph.outs(op)[0]
    if x is None or bound is None or bound.constant is None or bound.type.size != 1:
        return None
    if x.constant is not None or x.variable or x.type.dtype not in EIGHT_BITS or x.type.shape != y.type.shape:
        return None
    code, (low, high) = int(bound.data.reshape(-1)[0]), code_range(x.type.dtype)
    return (low, code) if op.smallest else (code, high)
