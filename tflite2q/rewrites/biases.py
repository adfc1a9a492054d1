"""rewrite: biases to the new accumulator's scale, in exact arithmetic (eq. 23).

before: %b: s32[16], in units of s_x * s_w          after: %b: s32[16], in units of s_x' * s_w'[c]
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from tflite2q import numerics
from tflite2q.dialect.types import Constant, Quantization, Value


def accumulator_units(x: Quantization, weights: Quantization, channels: int) -> list[Fraction]:
    """Real size of one accumulator step, for each channel; kernels never look at the bias tensor's own scale."""
    (s_x,) = x.scale
    return [Fraction(s_x) * Fraction(float(s_w)) for s_w in weights.scales(channels)]


def convert_bias(value: Value, old: list[Fraction], new: list[Fraction], scales: Quantization) -> Value:
    """`value` [channels] from `old` accumulator units to `new` ones, its type's parameters set to `scales`.

    Rounded to nearest, ties away from zero; saturates at the dtype's range.
    """
    low, high = numerics.code_range(value.type.dtype)
    codes = [
        min(max(_nearest(Fraction(int(code)) * before / after), low), high)
        for code, before, after in zip(value.data.reshape(-1), old, new, strict=True)
    ]
    array = np.array(codes, value.data.dtype).reshape(value.type.shape)
    return value.with_(type=value.type.with_(quantization=scales), constant=Constant(array))


def _nearest(x: Fraction) -> int:
    """Nearest integer, ties away from zero."""
    whole = int(abs(x) + Fraction(1, 2))
    return whole if x >= 0 else -whole
