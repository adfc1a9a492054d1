"""The kernels' arithmetic once more, in plain int64 NumPy loops over taps: slow, obvious, and independent of TVM."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from exact import fixed16, fixed_array

from tflite2q.arithmetic import rounding
from tflite2q.arithmetic.rescale import Rescale
from tflite2q.kernels.contracts import Conv2DContract, DenseContract, DepthwiseConv2DContract, PoolContract

Array = npt.NDArray[Any]


def rescale(r: Rescale, acc: Array) -> Array:
    """Output codes of int64 accumulators [..., channels]."""
    real = np.array(r.real)
    if r.arithmetic == "fixed":
        m, shift = rounding.quantize_multiplier(real)
        y = fixed_array(acc, m, shift)
    elif r.arithmetic == "fixed16":
        m, shift = rounding.quantize_multiplier(real)
        y = fixed16_array(acc, m, shift)
    elif r.arithmetic == "shift":
        n = np.round(-np.log2(real)).astype(np.int64)
        y = np.where(n > 0, (acc + (np.int64(1) << np.maximum(n - 1, 0))) >> np.maximum(n, 0), acc << np.maximum(-n, 0))
    elif r.arithmetic == "float64":
        y = rounding.round_half_away(acc.astype(np.float64) * real).astype(np.int64)
    else:
        product = acc.astype(np.float32) * real.astype(np.float32)
        y = np.rint(np.clip(product, r.low - r.zero_point, r.high - r.zero_point)).astype(np.int64)
    return np.clip(y + r.zero_point, r.low, r.high).astype(r.dtype)


fixed16_array = np.vectorize(lambda acc, m, shift: fixed16(int(acc), int(m), int(shift)), otypes=[np.int64])


def accumulators(c: Conv2DContract | DepthwiseConv2DContract, x: Array) -> Array:
    """int64 accumulators of a convolution on codes x, wrapped if the contract's have 32 bits."""
    top, left, bottom, right = c.padding
    centered = x.astype(np.int64) - c.x_zero_point
    image = np.pad(centered, ((0, 0), (top, bottom), (left, right), (0, 0)))
    zero = np.asarray(c.weight_zero_points, np.int64)
    kh, kw = c.kernel
    acc = np.zeros(c.output.shape, np.int64)
    for i in range(kh):
        for j in range(kw):
            y0, x0 = i * c.dilation[0], j * c.dilation[1]
            taps = image[
                :, y0 : y0 + (c.out_h - 1) * c.strides[0] + 1 : c.strides[0],
                x0 : x0 + (c.out_w - 1) * c.strides[1] + 1 : c.strides[1],
            ]  # fmt: skip
            if isinstance(c, DepthwiseConv2DContract):
                acc += np.repeat(taps, c.depth_multiplier, axis=3) * (c.weights[0, i, j].astype(np.int64) - zero)
                continue
            w = c.weights[:, i, j].astype(np.int64) - zero.reshape(-1, 1)
            depth, outs = c.in_c // c.groups, c.out_c // c.groups
            for g in range(c.groups):
                rows = slice(g * outs, (g + 1) * outs)
                acc[..., rows] += taps[..., g * depth : (g + 1) * depth] @ w[rows].T
    acc += 0 if c.bias is None else c.bias.astype(np.int64)
    return rounding.wrap32(acc) if c.accumulator == "int32" else acc


def conv(c: Conv2DContract | DepthwiseConv2DContract, x: Array) -> Array:
    return rescale(c.rescale, accumulators(c, x))


def dense(c: DenseContract, x: Array) -> Array:
    return conv(c.conv2d(), x[None, None])[0, 0]


def pool(c: PoolContract, x: Array) -> Array:
    y = np.zeros(c.output.shape, np.int64)
    top, left = c.padding[:2]
    for i in range(c.out_h):
        for j in range(c.out_w):
            y0, x0 = i * c.strides[0] - top, j * c.strides[1] - left
            window = x[:, max(y0, 0) : y0 + c.window[0], max(x0, 0) : x0 + c.window[1]].astype(np.int64)
            if c.kind == "max":
                y[:, i, j] = window.max(axis=(1, 2))
            else:
                y[:, i, j] = rounding.round_half_away(window.mean(axis=(1, 2))).astype(np.int64)
    return np.clip(y, c.low, c.high).astype(c.dtype)
