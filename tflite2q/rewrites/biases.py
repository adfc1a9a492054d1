"""rewrite: biases to the new accumulator's scale, in exact arithmetic (eq. S4).

before: %b: s32[16], in units of s_x * s_w          after: %b: s32[16], in units of s_x' * s_w'[c]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tflite2q.arithmetic import rounding
from tflite2q.dialect.types import Constant, Quantization, Value

# dtype of the activations -> dtype of the bias that TFLite's kernels take with it
BIAS_DTYPES = {"uint8": "int32", "int8": "int32", "int16": "int64", "float32": "float32"}


def accumulator_units(x: Quantization, weights: Quantization, channels: int) -> list[float]:
    """Real size of one accumulator step, for each channel; kernels never look at the bias tensor's own scale.

    Exact: the product of two float32 values has at most 48 significant bits, and a float64 holds 53.
    """
    (s_x,) = x.scale
    return [s_x * s_w for s_w in weights.scales(channels).tolist()]


def convert_bias(
    value: Value,
    old: Sequence[float],
    new: Sequence[float],
    scales: Quantization,
    dtype: str = "int32",
    correction: Sequence[float] | None = None,
) -> Value:
    """`value` [channels], integers or reals, from `old` accumulator units to `new` ones as `dtype` with `scales`.

    `correction`, in real numbers, is added to each channel.  Rounded to nearest, ties away from zero; saturates at the
    dtype's range.
    """
    low, high = rounding.code_range(dtype)
    extra = [0.0] * len(old) if correction is None else correction
    codes = [
        code
        if before == after and not plus and isinstance(code, int)
        else min(max(_rescaled(code, before, plus, after), low), high)
        for code, before, after, plus in zip(value.data.reshape(-1).tolist(), old, new, extra, strict=True)
    ]
    array = np.array(codes, dtype).reshape(value.type.shape)
    return value.with_(type=value.type.with_(dtype=dtype, quantization=scales), constant=Constant(array))


def real_bias(value: Value, old: Sequence[float]) -> Value:
    """`value` as float32 real numbers; those beyond their range are infinite."""
    with np.errstate(over="ignore"):
        array = (value.data.reshape(-1) * np.array(old)).astype(np.float32).reshape(value.type.shape)
    return value.with_(type=value.type.with_(dtype="float32", quantization=None), constant=Constant(array))


def _rescaled(code: float, before: float, plus: float, after: float) -> int:
    """The integer that is nearest to (code * before + plus) / after, ties away from zero.

    Exact, as numbers of Python's are ratios of integers; Fraction, which reduces each result, takes ten times as long.
    """
    (c, of_c), (b, of_b), (p, of_p), (a, of_a) = (each.as_integer_ratio() for each in (code, before, plus, after))
    over = (c * b * of_p + p * of_c * of_b) * of_a
    under = of_c * of_b * of_p * a  # positive, as scales are
    whole = (2 * abs(over) + under) // (2 * under)
    return whole if over >= 0 else -whole
