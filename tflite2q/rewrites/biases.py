"""rewrite: biases to the new accumulator's scale, in exact arithmetic (eq. 23).

before: %b: s32[16], in units of s_x * s_w          after: %b: s32[16], in units of s_x' * s_w'[c]
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from tflite2q import numerics
from tflite2q.dialect.types import Constant, Quantization, Value


def accumulator_units(x: Quantization, weights: Quantization, channels: int) -> list[float]:
    """Real size of one accumulator step, for each channel; kernels never look at the bias tensor's own scale.

    Exact: the product of two float32 values has at most 48 significant bits, and a float64 holds 53.
    """
    (s_x,) = x.scale
    return [s_x * s_w for s_w in weights.scales(channels).tolist()]


def convert_bias(value: Value, old: list[float], new: list[float], scales: Quantization) -> Value:
    """`value` [channels] from `old` accumulator units to `new` ones, its type's parameters set to `scales`.

    Rounded to nearest, ties away from zero; saturates at the dtype's range.
    """
    low, high = numerics.code_range(value.type.dtype)
    codes = [
        code if before == after else min(max(_nearest(Fraction(code) * Fraction(before) / Fraction(after)), low), high)
        for code, before, after in zip(value.data.reshape(-1).tolist(), old, new, strict=True)
    ]
    array = np.array(codes, value.data.dtype).reshape(value.type.shape)
    return value.with_(type=value.type.with_(quantization=scales), constant=Constant(array))


def _nearest(x: Fraction) -> int:
    """Nearest integer, ties away from zero."""
    whole = int(abs(x) + Fraction(1, 2))
    return whole if x >= 0 else -whole
