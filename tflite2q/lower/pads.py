"""Padding done by the convolutions that read it.

    before: y = pad(x) of a and b; z = conv2d(y) padded by c and d
    after:  y = x;                 z = conv2d(x) padded by a + c and b + d

A convolution pads with its input's zero point, and on most targets without writing the padded image anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tflite2q.arithmetic.rounding import code_range
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.shape import Pad
from tflite2q.kernels import base

EIGHT_BITS = ("int8", "uint8")


def merged(graph: Graph, found: Mapping[int, base.Contract]) -> dict[int, base.Contract]:
    """Contracts by index of op, with every PAD of images that only convolutions read left to them.

    The PAD becomes a look-up of the codes themselves: nothing to compute.
    """
    contracts = dict(found)
    for index, op in enumerate(graph.ops):
        amounts = _amounts(graph, op)
        if amounts is None or op.outputs[0] in graph.outputs:
            continue
        readers = [i for i, other in enumerate(graph.ops) if op.outputs[0] in other.inputs]
        if not readers or not all(isinstance(found.get(i), base.Conv2D | base.DepthwiseConv2D) for i in readers):
            continue
        for i in readers:
            contracts[i] = _padded(contracts[i], amounts)
        x = graph[str(op.inputs[0])].type
        low, high = code_range(x.dtype)
        contracts[index] = base.Lookup(x.shape, x.dtype, np.arange(low, high + 1).astype(x.dtype))
    return contracts


def _amounts(graph: Graph, op: Op) -> tuple[int, int, int, int] | None:
    """(top, left, bottom, right) of a PAD of images with their zero point; None for all else."""
    if not isinstance(op, Pad):
        return None
    ins, y = graph.ins(op), graph.outs(op)[0]
    x, others = ins[0], ins[1:]
    if x is None or x.type.dtype not in EIGHT_BITS or len(x.type.shape) != 4 or x.type.size == 0:
        return None
    if x.constant is not None or any(value is not None and value.constant is None for value in others):
        return None
    if x.type.quantization is None or x.type.quantization != y.type.quantization:
        return None
    before, after = op.amounts(ins)
    if (before[0], before[3], after[0], after[3]) != (0, 0, 0, 0) or op.fill(ins, y.type) != x.type.zero_point:
        return None
    return before[1], before[2], after[1], after[2]


def _padded(contract: base.Contract, amounts: tuple[int, int, int, int]) -> base.Contract:
    """A convolution of the image without its borders, which it adds itself."""
    assert isinstance(contract, base.Conv2D | base.DepthwiseConv2D)
    top, left, bottom, right = (p + more for p, more in zip(contract.padding, amounts, strict=True))
    in_h, in_w = contract.in_h - amounts[0] - amounts[2], contract.in_w - amounts[1] - amounts[3]
    return replace(contract, in_h=in_h, in_w=in_w, padding=(top, left, bottom, right))
