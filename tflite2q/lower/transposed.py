"""TRANSPOSE_CONV as a kernel contract: all output pixels between two input pixels as channels of one convolution.

With strides s and a k x k kernel, output pixel q * s + p (before cropping) reads input pixels q, q - 1, ..., by the
weights p, p + s, ...: a convolution of stride 1 whose kernel has ceil(k / s) taps a side and whose channels are those
of all p.  Weights that the kernel does not have are zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tflite2q.dialect.op import Op, Values
from tflite2q.dialect.ops.common import FLOAT_BOUNDS
from tflite2q.dialect.ops.conv import wide_accumulator
from tflite2q.dialect.ops.hybrid import is_hybrid
from tflite2q.dialect.ops.transpose_conv import TransposeConv
from tflite2q.dialect.types import STORAGE, Value
from tflite2q.kernels import layout
from tflite2q.kernels.contracts import (
    Array,
    Contract,
    Conv2DContract,
    FloatConv2DContract,
    Tensor,
    TransposeConv2DContract,
)
from tflite2q.lower import real
from tflite2q.lower.real import FLOAT

CODES = ("int8", "uint8", "int16")
MOST_PHASES = 1024  # output pixels between two input pixels
MOST_WASTE = 4  # times as many weights as the kernel has


def transposed(op: Op, ins: Values, outs: Sequence[Value]) -> Contract | None:
    """None where weights are computed, or where most of them would be zeros."""
    x, weights, bias = ins["x"], ins["weights"], ins.get("bias")
    if not isinstance(op, TransposeConv) or any(v is not None and v.constant is None for v in (weights, bias)):
        return None
    shape = _Shape.of(op, x, weights, outs[0])
    if math.prod(shape.strides) > MOST_PHASES or shape.waste > MOST_WASTE:
        return None
    conv = _real(op, ins, shape) if x.type.dtype == FLOAT else _codes(op, ins, outs[0], shape)
    if conv is None:
        return None
    return TransposeConv2DContract(conv, shape.strides, shape.first, shape.out_size)


@dataclass(frozen=True)
class _Shape:
    """`kernel` is the one of the convolution, `size` its output's; `first` output pixels are dropped."""

    strides: tuple[int, int]
    kernel: tuple[int, int]
    size: tuple[int, int]
    padding: tuple[int, int, int, int]
    first: tuple[int, int]
    out_size: tuple[int, int]
    waste: float

    @staticmethod
    def of(op: TransposeConv, x: Value, weights: Value, y: Value) -> _Shape:
        strides = op.stride_h, op.stride_w
        extents, out, taps = x.type.shape[1:3], y.type.shape[1:3], weights.type.shape[1:3]
        first = op.cropped((taps[0], taps[1]), y.type.shape)
        kernel = [-(-k // s) for k, s in zip(taps, strides, strict=True)]
        reached = [-(-(o + f) // s) for o, f, s in zip(out, first, strides, strict=True)]
        size = [max(n, r) for n, r in zip(extents, reached, strict=True)]
        after = [s - n for s, n in zip(size, extents, strict=True)]
        padding = (kernel[0] - 1, kernel[1] - 1, after[0], after[1])
        waste = math.prod(kernel) * math.prod(strides) / math.prod(taps)
        return _Shape(
            strides, (kernel[0], kernel[1]), (size[0], size[1]), padding, first, (out[0], out[1]), waste
        )  # fmt: skip

    def weights(self, filters: Array, fill: int) -> Array:
        """OHWI filters as those of the convolution, OHWI."""
        channels, kh, kw, depth = filters.shape
        (down, right), (rows, columns) = self.strides, self.kernel
        missing = ((0, 0), (0, rows * down - kh), (0, columns * right - kw), (0, 0))
        whole = np.pad(filters, missing, constant_values=fill).reshape(channels, rows, down, columns, right, depth)
        phases = whole[:, ::-1, :, ::-1].transpose(2, 4, 0, 1, 3, 5)
        return np.ascontiguousarray(phases.reshape(down * right * channels, rows, columns, depth))

    def tiled(self, values: Array) -> Array:
        """A vector by channel, for the convolution's channels."""
        return np.tile(values, math.prod(self.strides))


def _codes(op: TransposeConv, ins: Values, y: Value, shape: _Shape) -> Conv2DContract | None:
    x, weights, bias = ins["x"], ins["weights"], ins.get("bias")
    if x.type.dtype not in CODES or STORAGE[weights.type.dtype] not in ("int8", "uint8"):
        return None
    rescale, zero_points = op.rescaling(ins, y), weights.type.parameters.zero_point
    factors = tuple(shape.tiled(np.array(rescale.real)).tolist()) if len(rescale.real) > 1 else rescale.real
    phases = shape.weights(weights.data, zero_points[0])
    batch, in_h, in_w, in_c = x.type.shape
    contract = Conv2DContract(
        batch=batch, in_h=in_h, in_w=in_w, in_c=in_c, out_h=shape.size[0], out_w=shape.size[1],
        out_c=phases.shape[0], strides=(1, 1), dilation=(1, 1), padding=shape.padding, groups=1,
        x_dtype=x.type.dtype, x_zero_point=x.type.zero_point, weights=phases, weight_zero_points=zero_points[:1],
        bias=None if bias is None else shape.tiled(bias.data.reshape(-1)),
        rescale=replace(rescale, real=factors),
        accumulator=wide_accumulator(x.type, None if bias is None else bias.type),
    )  # fmt: skip
    return contract if layout.accumulator_bound(contract).max(initial=0) < layout.MOST else None


def _real(op: TransposeConv, ins: Values, shape: _Shape) -> FloatConv2DContract | None:
    x, weights, bias = ins["x"], ins["weights"], ins.get("bias")
    if op.activation not in ("NONE", *FLOAT_BOUNDS):
        return None
    low, high = FLOAT_BOUNDS.get(op.activation, (None, None))
    hwio = np.ascontiguousarray(shape.weights(weights.data, 0).transpose(1, 2, 3, 0))
    facts: dict[str, Any] = {
        "x": Tensor(x.type.shape, FLOAT), "out_size": shape.size, "strides": (1, 1), "dilation": (1, 1),
        "padding": shape.padding, "groups": 1, "weights": hwio,
        "bias": None if bias is None else shape.tiled(bias.data.reshape(-1)), "low": low, "high": high,
    }  # fmt: skip
    if not is_hybrid(x.type, weights.type):
        return FloatConv2DContract(**facts)
    scale = np.array(weights.type.parameters.scale)
    return real.dynamic(facts, scale if len(scale) == 1 else shape.tiled(scale), asymmetric=True)
