"""Padding done by the convolutions that read it.

    before: y = pad(x) of a and b; z = conv2d(y) padded by c and d
    after:  y = x;                 z = conv2d(x) padded by a + c and b + d

A convolution pads with its input's zero point, or with zeros where it is of real numbers, and on most targets without
writing the padded image anywhere.  Zeros change no range of activations that are quantized in every run: 0 is in it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tflite2q.arithmetic.rounding import code_range
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.shape import Pad
from tflite2q.dialect.types import TensorType
from tflite2q.kernels.contracts import (
    Contract,
    ConvolutionContract,
    CopyContract,
    FloatConv2DContract,
    LookupContract,
    Tensor,
)

EIGHT_BITS = ("int8", "uint8")
REAL = "float32"
CONVOLUTIONS = (ConvolutionContract, FloatConv2DContract)


def merged(graph: Graph, found: Mapping[int, Contract]) -> dict[int, Contract]:
    """Contracts by index of op, with every PAD of images that only convolutions read left to them.

    Of the PAD, nothing is left to compute.
    """
    merged = dict(found)
    for index, op in enumerate(graph.ops):
        amounts = _amounts(graph, op)
        if amounts is None or op.outputs[0] in graph.outputs:
            continue
        readers = [i for i, other in enumerate(graph.ops) if op.outputs[0] in other.inputs]
        image = graph[op.outputs[0]].type.shape  # which dense layers, convolutions of single pixels, do not read as one
        padded = {
            i: contract.padded_by(amounts)
            for i in readers
            if isinstance(contract := found.get(i), CONVOLUTIONS) and contract.inputs[0].shape == image
        }
        if not readers or len(padded) < len(readers):
            continue
        merged |= padded
        x = graph[str(op.inputs[0])].type
        merged[index] = CopyContract(Tensor(x.shape, x.dtype)) if x.dtype == REAL else _same_codes(x)
    return merged


def _same_codes(x: TensorType) -> LookupContract:
    """A look-up of the codes themselves, which may be stored either way."""
    low, high = code_range(x.dtype)
    return LookupContract(x.shape, x.dtype, np.arange(low, high + 1).astype(x.dtype))


def _amounts(graph: Graph, op: Op) -> tuple[int, int, int, int] | None:
    """(top, left, bottom, right) of a PAD of images with their zero point; None for all else."""
    if not isinstance(op, Pad):
        return None
    ins, y = graph.ins(op), graph.outs(op)[0]
    x, others = ins["x"], ins[1:]
    if x.type.dtype not in (*EIGHT_BITS, REAL) or len(x.type.shape) != 4 or x.type.size == 0:
        return None
    if x.constant is not None or x.variable or any(value is not None and value.constant is None for value in others):
        return None
    real = x.type.dtype == REAL
    if not real and (x.type.quantization is None or x.type.quantization != y.type.quantization):
        return None
    before, after = op.amounts(ins)
    if (before[0], before[3], after[0], after[3]) != (0, 0, 0, 0) or op.fill(ins, y.type) != (
        0 if real else x.type.zero_point
    ):
        return None
    return before[1], before[2], after[1], after[2]
