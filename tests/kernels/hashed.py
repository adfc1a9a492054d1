"""Layers with numbers from a hash function: every machine and every version of NumPy makes the same ones."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.rescale import Rescale
from tflite2q.arithmetic.rounding import code_range
from tflite2q.kernels.contracts import Conv2DContract, DenseContract, DepthwiseConv2DContract

Array = npt.NDArray[Any]
Facts = dict[str, Any]


def numbers(seed: str, shape: tuple[int, ...], low: int, high: int) -> Array:
    """int64 from `low` to `high`, spread evenly by SHAKE-256 of `seed`."""
    raw = hashlib.shake_256(seed.encode()).digest(4 * max(1, math.prod(shape)))
    words = np.frombuffer(raw, "<u4")[: math.prod(shape)].astype(np.int64)
    return (low + words % (high - low + 1)).reshape(shape)


def multipliers(seed: str, count: int, exponent: int, spread: int = 2) -> tuple[float, ...]:
    """Positive numbers of 16 bits times powers of two, about 2**exponent."""
    mantissa = numbers(seed + "m", (count,), 1 << 15, (1 << 16) - 1)
    powers = numbers(seed + "e", (count,), exponent - spread, exponent + spread) - 16
    return tuple(float(np.ldexp(float(m), int(p))) for m, p in zip(mantissa, powers, strict=True))


def rescaling(seed: str, channels: int, dtype: str, facts: Facts) -> Rescale:
    arithmetic, relu = facts.get("arithmetic", "fixed"), facts.get("relu", False)
    low, high = code_range(dtype)
    zero = facts.get("y_zero_point", 0 if dtype == "int16" else int(numbers(seed + "z", (), low // 2, high // 2)))
    exponent = facts.get("exponent", -13 if dtype == "int16" else -10)
    real = multipliers(seed, channels if facts.get("per_channel", True) else 1, exponent)
    if arithmetic == "shift":
        real = tuple(2.0 ** int(np.frexp(r)[1]) for r in real)
    return Rescale(real, zero, zero if relu else low, high, dtype, arithmetic)


def weight_codes(seed: str, shape: tuple[int, ...], channels: int, kind: str) -> tuple[Array, tuple[int, ...]]:
    """Codes and zero points.  "legacy" and "by channel" need nine bits; "exact" suits products of bytes on AVX2, "few"
    nearly so."""
    if kind in ("legacy", "by channel"):
        zeros = numbers(seed + "wz", (channels if kind == "by channel" else 1,), 100, 150)
        return numbers(seed + "w", shape, 0, 255).astype(np.uint8), tuple(zeros.tolist())
    reach = {"int8": 127, "exact": 60, "few": 60, "int4": 7}[kind]
    codes = numbers(seed + "w", shape, -reach, reach)
    if kind == "few":
        codes.reshape(-1)[:: max(97, codes.size // 8)] = 127
    return codes.astype(np.int8), (0,)


def biases(seed: str, channels: int, kind: str, dtype: str) -> Array | None:
    reach = {"none": 0, "small": 3000, "large": 2**31 - 2, "wide": 2**31 - 1}[kind]
    if kind == "none":
        return None
    values = numbers(seed + "b", (channels,), -reach, reach)
    return (values * 2**12 if kind == "wide" else values).astype(dtype)


def conv(seed: str, size: tuple[int, int, int], out_c: int, **facts: Any) -> Conv2DContract | DepthwiseConv2DContract:
    """A convolution of an image of `size` (height, width, channels); what else there is stands below."""
    h, w, c = size
    depthwise, groups = facts.get("depthwise", False), facts.get("groups", 1)
    (kh, kw), (sh, sw) = facts.get("kernel", (1, 1)), facts.get("strides", (1, 1))
    (dh, dw), padding = facts.get("dilation", (1, 1)), facts.get("padding", (0, 0, 0, 0))
    x, y = facts.get("types", ("int8", "int8"))
    low, high = code_range(x)
    accumulator = facts.get("accumulator", "int64" if x == "int16" else "int32")
    shape = (1, kh, kw, out_c) if depthwise else (out_c, kh, kw, c // groups)
    weights, zeros = weight_codes(seed, shape, out_c, facts.get("weights", "int8"))
    if x == "int16":
        facts = {"arithmetic": "fixed16" if accumulator == "int64" else "fixed", "exponent": -16, **facts}
    common: Facts = {
        "batch": facts.get("batch", 1), "in_h": h, "in_w": w, "in_c": c,
        "out_h": (h + padding[0] + padding[2] - (kh - 1) * dh - 1) // sh + 1,
        "out_w": (w + padding[1] + padding[3] - (kw - 1) * dw - 1) // sw + 1,
        "out_c": out_c, "strides": (sh, sw), "dilation": (dh, dw), "padding": padding, "x_dtype": x,
        "x_zero_point": facts.get("zero_point", 0 if x == "int16" else int(numbers(seed + "x", (), low, high))),
        "weights": weights, "weight_zero_points": zeros,
        "bias": biases(seed, out_c, facts.get("bias", "small"), "int64" if accumulator == "int64" else "int32"),
        "rescale": rescaling(seed, out_c, y, facts), "accumulator": accumulator,
    }  # fmt: skip
    return DepthwiseConv2DContract(**common) if depthwise else Conv2DContract(groups=groups, **common)


def dense(seed: str, rows: int, depth: int, units: int, **facts: Any) -> DenseContract:
    c = conv(seed, (1, rows, depth), units, **facts)
    return DenseContract(
        rows=rows, depth=depth, units=units, x_dtype=c.x_dtype, x_zero_point=c.x_zero_point,
        weights=c.weights.reshape(units, depth), weight_zero_points=c.weight_zero_points, bias=c.bias,
        rescale=c.rescale, accumulator=c.accumulator,
    )  # fmt: skip
