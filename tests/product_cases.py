"""Cases of the ops that multiply and accumulate; part of `cases`."""

from __future__ import annotations

import numpy as np
from draw import ACTIVATIONS, Case, Draw

from tflite2q.dialect import ops
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import Quantization, TensorType

SPREAD = 0.3  # standard deviation of real inputs and weights


def _weights(d: Draw, dtype: str, shape: tuple[int, ...], axis: int) -> tuple[str, tuple[float, ...]]:
    """A weight constant for activations of `dtype`, and its scales."""
    if dtype == "uint8":
        kind = d.kind(shape, "uint8", d.scale(1e-3, 0.1))
        return d.constant(d.data(kind), kind), kind.parameters.scale
    per_channel = d.chance(0.7)
    scales = tuple(d.scale(1e-3, 0.1) for _ in range(shape[axis] if per_channel else 1))
    if len(scales) == 1:
        quantization = Quantization.per_tensor(scales[0], 0)
    else:
        quantization = Quantization(scales, (0,) * len(scales), axis)
    kind = TensorType(shape, "int8", quantization)
    return d.constant(np.maximum(d.data(kind), -127), kind), scales


def _bias(d: Draw, wide: str, s_x: float, scales: tuple[float, ...], channels: int, reach: int = 5000) -> str:
    """A bias of dtype `wide` in the accumulator's scale."""
    products = tuple(float(np.float32(s_x * s)) for s in scales)
    quantization = Quantization(products, (0,) * len(products), 0 if len(products) > 1 else None)
    kind = TensorType((channels,), wide, quantization)
    return d.constant(d.rng.integers(-reach, reach + 1, channels), kind)


def _wide(d: Draw, cls: type[Op], dtype: str) -> tuple[str, dict[str, str]]:
    """Dtype of the bias, and the option that has to say so where 16-bit activations come with 32-bit biases."""
    if dtype != "int16":
        return "int32", {}
    if cls is ops.DepthwiseConv2D or d.chance(0.6):
        return "int64", {}
    return "int32", {"bias_type": "INT32"}


def _result_scale(d: Draw, s_x: float, scales: tuple[float, ...], terms: int, dtype: str) -> float:
    """A scale at which most results are neither all clamped nor all zero."""
    typical = s_x * max(scales) * 48 * np.sqrt(terms)
    return float(np.float32(typical * np.exp(d.rng.uniform(-1.5, 1.5))))


def convolution(d: Draw, cls: type[Op], dtype: str) -> Case:
    depthwise = cls is ops.DepthwiseConv2D
    c, groups = d.number(1, 8), 1
    kernel = (d.number(1, 4), d.number(1, 4))
    image = (d.number(1, 2), d.number(7, 12), d.number(7, 12))
    if depthwise:
        channels = c * d.number(1, 3)
        shape = (1, *kernel, channels)
    else:
        groups = d.pick((1, 1, 1, 2)) if dtype == "int8" else 1
        c, channels = c * groups, d.number(1, 6) * groups
        shape = (channels, *kernel, c // groups)
    x = d.kind((*image, c), dtype)
    # Real terms stay small: a fused clamp of large sums would leave nothing to measure their rounding by.
    name = d.input(x, d.data(x, SPREAD))
    attributes = {
        "padding": d.pick(("SAME", "VALID")),
        "stride_h": d.number(1, 3),
        "stride_w": d.number(1, 3),
        "activation": d.pick(ACTIVATIONS),
    }
    if d.chance(0.3):
        attributes |= {"dilation_h": 2, "dilation_w": 2, "stride_h": 1, "stride_w": 1, "padding": "SAME"}
    if depthwise:
        attributes["depth_multiplier"] = channels // c
        attributes["stride_w"] = attributes["stride_h"]
    if dtype == "float32":
        kind = TensorType(shape, dtype)
        bias = d.constant(d.data(TensorType((channels,), dtype), SPREAD))
        weights = d.constant(d.data(kind, SPREAD), kind)
        return d.case(cls, (name, weights, bias), TensorType((), dtype), **attributes)
    weights, scales = _weights(d, dtype, shape, 3 if depthwise else 0)
    terms = shape[1] * shape[2] * (1 if depthwise else shape[3])
    y = d.kind((), dtype, _result_scale(d, x.scale, scales, terms, dtype))
    wide, said = _wide(d, cls, dtype)
    bias = _bias(d, wide, x.scale, scales, channels)
    return d.case(cls, (name, weights, bias), y, **attributes, **said)


def transpose_conv(d: Draw, dtype: str) -> Case:
    c, channels = d.number(1, 5), d.number(1, 5)
    k = (d.number(1, 4), d.number(1, 4))
    strides, padding = (d.number(1, 3), d.number(1, 3)), d.pick(("SAME", "VALID"))
    image = (d.number(1, 2), d.number(1, 6), d.number(1, 6))
    if padding == "SAME":
        out = [n * s - d.number(0, s - 1) for n, s in zip(image[1:], strides, strict=True)]
    else:
        out = [(n - 1) * s + kk + d.number(0, s - 1) for n, s, kk in zip(image[1:], strides, k, strict=True)]
    x = d.kind((*image, c), dtype)
    size = d.ints(image[0], *out, channels)
    attributes = {"padding": padding, "stride_h": strides[0], "stride_w": strides[1]}
    if dtype == "float32":
        kind = TensorType((channels, *k, c), dtype)
        operands = (size, d.constant(d.data(kind), kind), d.input(x))
        return d.case(ops.TransposeConv, operands, TensorType((), dtype), **attributes)
    weights, scales = _weights(d, dtype, (channels, *k, c), 0)
    y = d.kind((), dtype, _result_scale(d, x.scale, scales, k[0] * k[1] * c, dtype))
    name = d.input(x)
    if d.chance(0.4):
        return d.case(ops.TransposeConv, (size, weights, name), y, **attributes)
    wide, said = _wide(d, ops.TransposeConv, dtype)
    operands = (size, weights, name, _bias(d, wide, x.scale, scales, channels))
    return d.case(ops.TransposeConv, operands, y, version=3, **attributes, **said)


def dense(d: Draw, dtype: str) -> Case:
    k, units, rows = d.number(1, 40), d.number(1, 12), d.number(1, 4)
    keep = d.chance(0.4)
    x = d.kind((2, rows, k) if keep else (rows, k), dtype)
    name = d.input(x)
    attributes = {"keep_num_dims": keep, "activation": d.pick(ACTIVATIONS)}
    if dtype == "float32":
        weights = d.constant(d.data(TensorType((units, k), dtype)))
        return d.case(ops.Dense, (name, weights, None), TensorType((), dtype), **attributes)
    weights, scales = _weights(d, dtype, (units, k), 0)
    y = d.kind((), dtype, _result_scale(d, x.scale, scales, k, dtype))
    wide, said = _wide(d, ops.Dense, dtype)
    bias = _bias(d, wide, x.scale, scales, units) if d.chance(0.8) else None
    return d.case(ops.Dense, (name, weights, bias), y, **attributes, **(said if bias else {}))


def batch_matmul(d: Draw, dtype: str) -> Case:
    n, k, m, batch = d.number(1, 5), d.number(1, 9), d.number(1, 5), d.shape(d.number(0, 2), 3)
    flip_a, flip_b = d.chance(0.4), d.chance(0.4)
    a = d.kind((*batch, k, n) if flip_a else (*batch, n, k), dtype)
    b = d.kind((*batch, m, k) if flip_b else (*batch, k, m), dtype)
    attributes = {"transpose_a": flip_a, "transpose_b": flip_b}
    operands = (d.input(a), d.input(b))
    if dtype == "float32":
        return d.case(ops.BatchMatmul, operands, TensorType((), dtype), **attributes)
    y = d.kind((), dtype, _result_scale(d, a.scale, (b.scale,), k, dtype))
    return d.case(ops.BatchMatmul, operands, y, **attributes)
