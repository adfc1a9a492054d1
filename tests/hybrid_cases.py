"""Cases of float32 activations with integer weights, and of weights that are stored as integers; part of `cases`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from draw import ACTIVATIONS, Array, Case, Draw, Family

from tflite2q.dialect import ops
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import Quantization, TensorType

LIMITS = {"int8": 127, "int4": 7, "uint8": 255}


def real_input(d: Draw, shape: tuple[int, ...]) -> str:
    """Real numbers whose rows are of different size, on one side of zero, on a grid with ties, or all zero."""
    array = d.rng.normal(size=shape) * np.exp(d.rng.uniform(-3, 3, (*shape[:1], *(1,) * (len(shape) - 1))))
    if d.chance(0.2):
        array = np.abs(array) * d.pick((1, -1))
    if d.chance(0.2):
        array = np.round(array * 8) / 8
    if d.chance(0.2):
        array[d.number(0, shape[0] - 1)] = 0
    return d.input(TensorType(shape, "float32"), array.astype(np.float32))


def integer_weights(d: Draw, dtype: str, shape: tuple[int, ...], axis: int, scales: int | None = None) -> str:
    """A weight constant without zero points, with one scale or one for each slice along `axis`."""
    count = shape[axis] if scales is None else scales
    found = tuple(d.scale(1e-3, 0.1) for _ in range(count))
    q = Quantization(found, (0,) * count, axis if count > 1 else None)
    limit = LIMITS[dtype]
    return d.constant(d.rng.integers(-limit, limit + 1, shape), TensorType(shape, dtype, q))


def real_bias(d: Draw, channels: int) -> str:
    return d.constant(d.rng.normal(size=channels).astype(np.float32))


def convolution(d: Draw, cls: type[Op], dtype: str, channelwise: bool) -> Case:
    depthwise = cls is ops.DepthwiseConv2D
    c, kernel = d.number(1, 8), (d.number(1, 4), d.number(1, 4))
    image = (d.number(1, 3), d.number(7, 12), d.number(7, 12))
    channels = c * d.number(1, 3) if depthwise else d.number(2, 6)
    channels = max(channels, 2 * c if depthwise else 2)
    groups = d.pick((1, 1, 1, 2)) if channelwise and not depthwise else 1
    c, channels = c * groups, channels * groups
    shape = (1, *kernel, channels) if depthwise else (channels, *kernel, c // groups)
    attributes: dict[str, Any] = {
        "padding": d.pick(("SAME", "VALID")),
        "stride_h": d.number(1, 3),
        "activation": d.pick(ACTIVATIONS),
    }
    attributes["stride_w"] = attributes["stride_h"] if depthwise else d.number(1, 3)
    if d.chance(0.3):
        attributes |= {"dilation_h": 2, "dilation_w": 2, "stride_h": 1, "stride_w": 1, "padding": "SAME"}
    if depthwise:
        attributes["depth_multiplier"] = channels // c
    weights = integer_weights(d, dtype, shape, cls.channel_axis, None if channelwise else 1)
    operands = (real_input(d, (*image, c)), weights, real_bias(d, channels))
    return d.case(cls, operands, TensorType((), "float32"), **attributes)


def dense(d: Draw, dtype: str, asymmetric: bool) -> Case:
    k, units, rows = d.number(1, 70), d.number(1, 12), d.number(1, 4)
    keep = d.chance(0.4)
    x = real_input(d, (rows, 2, k) if keep else (rows, k))
    weights = integer_weights(d, dtype, (units, k), 0, d.pick((None, 1)))
    operands = (x, weights, real_bias(d, units) if d.chance(0.7) else None)
    attributes = {"keep_num_dims": keep, "activation": d.pick(ACTIVATIONS), "asymmetric_inputs": asymmetric}
    return d.case(ops.Dense, operands, TensorType((), "float32"), **attributes)


def block_dense(d: Draw) -> Case:
    """As LiteRT's optimized kernel takes it: at least 4 units and 32 columns, no fused activation."""
    block, blocks, units, rows = 32, d.number(1, 4), d.number(4, 12), d.number(1, 4)
    scales = d.rng.uniform(1e-3, 0.1, units * blocks).astype(np.float16).astype(float)
    q = Quantization(tuple(scales), (0,) * len(scales), 0, block)
    kind = TensorType((units, block * blocks), "int4", q)
    weights = d.constant(d.rng.integers(-7, 8, kind.shape), kind)
    operands = (real_input(d, (rows, block * blocks)), weights, real_bias(d, units) if d.chance(0.7) else None)
    return d.case(ops.Dense, operands, TensorType((), "float32"))


def batch_matmul(d: Draw, asymmetric: bool) -> Case:
    n, k, m, batch = d.number(1, 5), d.number(1, 40), d.number(2, 6), d.shape(d.number(0, 1), 3)
    flip_a, flip_b = d.chance(0.3), d.chance(0.5)
    shape = (*batch, m, k) if flip_b else (*batch, k, m)
    columns = len(batch) + (0 if flip_b else 1)
    b = integer_weights(d, "int8", shape, columns, d.pick((None, 1)))
    a = real_input(d, (*batch, k, n) if flip_a else (*batch, n, k))
    attributes = {"transpose_a": flip_a, "transpose_b": flip_b, "asymmetric_inputs": asymmetric}
    return d.case(ops.BatchMatmul, (a, b), TensorType((), "float32"), version=4, **attributes)


def transpose_conv(d: Draw) -> Case:
    c, channels, k = d.number(1, 5), d.number(2, 5), (d.number(1, 4), d.number(1, 4))
    strides, image = (d.number(1, 3), d.number(1, 3)), (d.number(1, 2), d.number(1, 6), d.number(1, 6))
    out = [n * s - d.number(0, s - 1) for n, s in zip(image[1:], strides, strict=True)]
    operands = [
        d.ints(image[0], *out, channels),
        integer_weights(d, "int8", (channels, *k, c), 0),
        real_input(d, (*image, c)),
    ]
    operands += [real_bias(d, channels)] if d.chance(0.6) else []
    attributes = {"padding": "SAME", "stride_h": strides[0], "stride_w": strides[1]}
    return d.case(ops.TransposeConv, operands, TensorType((), "float32"), version=3, **attributes)


def embedding(d: Draw, dtype: str, granularity: str) -> Case:
    """As LiteRT's kernel takes it: rows of 4-bit elements start at whole bytes."""
    block = 8 if granularity == "blocks" else 0
    count, width = d.number(2, 9), block * d.number(1, 3) if block else 2 * d.number(1, 5)
    if block:
        scales = d.rng.uniform(1e-3, 0.1, count * (width // block)).astype(np.float16).astype(float)
        kind = TensorType((count, width), dtype, Quantization(tuple(scales), (0,) * len(scales), 0, block))
        table = d.constant(d.rng.integers(-7, 8, kind.shape), kind)
    else:
        table = integer_weights(d, dtype, (count, width), 0, None if granularity == "channels" else 1)
    lookups = d.number(1, 5)
    indices = d.input(TensorType((lookups,), "int32"), d.rng.integers(0, count, lookups).astype(np.int32))
    return d.case(ops.EmbeddingLookup, (indices, table), TensorType((), "float32"), version=4)


def plain_embedding(d: Draw) -> Case:
    table = d.constant(d.rng.normal(size=(4, 3, 2)).astype(np.float32))
    indices = d.input(TensorType((3,), "int32"), d.rng.integers(0, 4, 3).astype(np.int32))
    return d.case(ops.EmbeddingLookup, (indices, table), TensorType((), "float32"))


def stored(d: Draw, dtype: str, channelwise: bool) -> Case:
    """DEQUANTIZE of a constant, added to an input so that the model has one."""
    shape = (d.number(2, 5), d.number(2, 5), d.number(1, 5))
    axis = d.number(0, 1)
    name = integer_weights(d, dtype, shape, axis, None if channelwise else 1)
    return d.case(ops.Dequantize, (name,), TensorType((), "float32"))


def stored_halves(d: Draw) -> Case:
    array: Array = (d.rng.normal(size=(9, d.number(8, 12))) * np.exp(d.rng.uniform(-12, 4))).astype(np.float16)
    return d.case(ops.Dequantize, (d.constant(array),), TensorType((), "float32"))


def _convolutions(name: str, cls: type[Op], dtypes: tuple[str, ...]) -> dict[str, Family]:
    return {
        f"{name}-float32-{dtype}-{'channels' if channelwise else 'tensor'}": partial(
            convolution, cls=cls, dtype=dtype, channelwise=channelwise
        )
        for dtype in dtypes
        for channelwise in (False, True)
        # LiteRT's depthwise kernel reads a scale for each channel even where there is only one.
        if channelwise or cls is not ops.DepthwiseConv2D
    }


# Forms whose integers, scales and results LiteRT's reference kernels compute to the last bit.
EXACT: dict[str, Family] = {
    **_convolutions("CONV_2D", ops.Conv2D, ("int8", "int4")),
    **_convolutions("DEPTHWISE_CONV_2D", ops.DepthwiseConv2D, ("int8",)),
    **{
        f"FULLY_CONNECTED-float32-{dtype}-{'asymmetric' if asymmetric else 'symmetric'}": partial(
            dense, dtype=dtype, asymmetric=asymmetric
        )
        for dtype in ("int8", "int4")
        for asymmetric in (False, True)
    },
    "BATCH_MATMUL-float32-int8-symmetric": partial(batch_matmul, asymmetric=False),
    "BATCH_MATMUL-float32-int8-asymmetric": partial(batch_matmul, asymmetric=True),
    **{f"DEQUANTIZE-constant-{t}": partial(stored, dtype=t, channelwise=False) for t in ("uint8", "int8", "int4")},
    **{f"DEQUANTIZE-channels-{t}": partial(stored, dtype=t, channelwise=True) for t in ("int8", "int4")},
    "DEQUANTIZE-constant-float16": stored_halves,
    **{
        f"EMBEDDING_LOOKUP-{dtype}-{granularity}": partial(embedding, dtype=dtype, granularity=granularity)
        for dtype, granularity in (
            ("int8", "tensor"),
            ("int8", "channels"),
            ("int4", "tensor"),
            ("int4", "channels"),
            ("int4", "blocks"),
        )
    },
    "EMBEDDING_LOOKUP-float32": plain_embedding,
}
# Sums in another order than LiteRT's.
SUMMED: dict[str, Family] = {"TRANSPOSE_CONV-float32-int8": transpose_conv}
FAMILIES: dict[str, Family] = {**EXACT, **SUMMED}
