"""Scales, zero points, fixed-point multipliers and rounding, in plain NumPy.

Equation numbers refer to docs/quantization.md.  All functions work on whole arrays; integers are computed in int64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
IntLike = npt.ArrayLike

RANGES: dict[str, tuple[int, int]] = {
    "int4": (-8, 7),
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
}


def code_range(dtype: str) -> tuple[int, int]:
    """Lowest and highest integer of `dtype`."""
    return RANGES[dtype]


def round_half_away(x: npt.ArrayLike) -> Floats:
    """Nearest integer, ties away from zero: C's `round()` (eq. 3).  float64 in, integral float64 out.

    `floor(|x| + 0.5)` would be wrong just below a tie, where the addition itself rounds up; the fraction of a float64
    is exact, so it is compared instead.
    """
    value = np.asarray(x, dtype=np.float64)
    whole = np.trunc(value)
    return whole + np.where(np.abs(value - whole) >= 0.5, np.sign(value), 0.0)


def quantize_multiplier(real: npt.ArrayLike) -> tuple[Ints, Ints]:
    """Split positive `real` multipliers into (m, shift) with real ~ m * 2**(shift - 31), m in [2**30, 2**31) (eq. 5).

    The decomposition TFLite's reference kernels use (`QuantizeMultiplier`): zero gives (0, 0), and so does anything
    whose shift would fall below -31.
    """
    fraction, exponent = np.frexp(np.asarray(real, dtype=np.float64))
    m = round_half_away(fraction * 2.0**31).astype(np.int64)
    shift = exponent.astype(np.int64)
    overflow = m == 2**31
    m, shift = np.where(overflow, m // 2, m), np.where(overflow, shift + 1, shift)
    vanishes = (shift < -31) | (m == 0)
    return np.where(vanishes, 0, m), np.where(vanishes, 0, shift)


def wrap32(x: IntLike) -> Ints:
    """The int32 with the same low 32 bits: what a C int32 overflow gives on two's complement machines."""
    value = np.asarray(x, dtype=np.int64)
    return ((value + 2**31) & 0xFFFFFFFF) - 2**31


def high_multiply(a: IntLike, b: IntLike) -> Ints:
    """(a * b + 2**30) >> 31: gemmlowp's SaturatingRoundingDoublingHighMul (eq. 6); saturates for a = b = -2**31."""
    product = np.asarray(a, dtype=np.int64) * np.asarray(b, dtype=np.int64)
    return np.asarray(np.minimum((product + 2**30) >> 31, 2**31 - 1))


def rounding_shift_right(x: IntLike, n: IntLike) -> Ints:
    """x / 2**n, nearest, ties away from zero: gemmlowp's RoundingDivideByPOT (eq. 7); n = 0 returns x."""
    value, count = np.asarray(x, dtype=np.int64), np.asarray(n, dtype=np.int64)
    half = np.where(count > 0, np.left_shift(1, np.maximum(count - 1, 0)), 0)
    return np.where(count > 0, (value + half - (value < 0)) >> count, value)


def multiply_by_quantized_multiplier(x: IntLike, m: IntLike, shift: IntLike) -> Ints:
    """x * m * 2**(shift - 31) with the reference kernels' two roundings (eq. 8).

    Left shifts wrap at 32 bits, as compiled C does; a shift of 32 or more acts as its low five bits (what x86 does with
    a case that the C standard leaves undefined).
    """
    shift = np.asarray(shift, dtype=np.int64)
    left = np.maximum(shift, 0) & 31
    shifted = wrap32(np.left_shift(np.asarray(x, dtype=np.int64), left))
    return rounding_shift_right(high_multiply(shifted, m), np.maximum(-shift, 0))


def quantize(real: npt.ArrayLike, scale: float, zero_point: int, dtype: str) -> npt.NDArray[Any]:
    """Codes of real numbers: clamp(round_half_away(real / scale) + zero_point) with a float32 division (eq. 2)."""
    low, high = code_range(dtype)
    ratio = np.asarray(real, dtype=np.float32) / np.float32(scale)
    return np.clip(round_half_away(ratio) + zero_point, low, high).astype(dtype)


def dequantize(codes: npt.ArrayLike, scale: float, zero_point: int) -> npt.NDArray[np.float32]:
    """scale * (code - zero_point), the product in float64, the result in float32 (eq. 1)."""
    real = np.float64(np.float32(scale)) * (np.asarray(codes, dtype=np.int64) - zero_point)
    return np.asarray(real, np.float32)


def activation_range(activation: str, scale: float, zero_point: int, dtype: str) -> tuple[int, int]:
    """Codes to which a fused activation clamps (eq. 9).

    `activation` is TFLite's name; NONE and those the integer kernels ignore (TANH, SIGN_BIT) give the whole dtype.
    """
    low, high = code_range(dtype)
    bounds = {"RELU": (0.0, None), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0), "RELU_0_TO_1": (0.0, 1.0)}
    floor, ceiling = bounds.get(activation, (None, None))
    if floor is not None:
        low = max(low, nearest_code(floor, scale, zero_point))
    if ceiling is not None:
        high = min(high, nearest_code(ceiling, scale, zero_point))
    return low, high


def nearest_code(real: float, scale: float, zero_point: int) -> int:
    """zero_point + round(real / scale), the division in float32, saturated at int32: scales may be tiny."""
    low, high = code_range("int32")
    with np.errstate(over="ignore"):
        ratio = float(np.float32(real) / np.float32(scale))
    return zero_point + int(round_half_away(min(max(ratio, low), high)))


def exp_on_negative(t: IntLike, integer_bits: int) -> Ints:
    """exp(t) for t <= 0 in fixed point with `integer_bits` integer bits; the result is Q0.31 (eq. 17).

    gemmlowp's exp_on_negative_values: a fourth-order polynomial on [-1/4, 0), then one multiplication for each set bit
    of the multiple of 1/4 that was taken off.
    """
    value = np.asarray(t, dtype=np.int64)
    fraction_bits = 31 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    remainder = (value & (quarter - 1)) - quarter
    z = np.left_shift(remainder, integer_bits) + (1 << 28)
    z2 = high_multiply(z, z)
    z3, z4 = high_multiply(z2, z), high_multiply(z2, z2)
    third = high_multiply(rounding_shift_right(z4, 2) + z3, 715827883) + z2  # 715827883 = 1/3 in Q0.31
    # exp(-1/8) in Q0.31, about which the polynomial is expanded.
    result = 1895147668 + high_multiply(1895147668, z + rounding_shift_right(third, 1))
    taken = remainder - value
    for exponent, factor in EXP_OF_MINUS_POWERS:
        bit = fraction_bits + exponent
        if bit < 31:
            result = np.where((taken >> bit) & 1 == 1, high_multiply(result, factor), result)
    return np.where(value == 0, 2**31 - 1, result)


# (k, exp(-2**k) in Q0.31), the factors gemmlowp uses.
EXP_OF_MINUS_POWERS = (
    (-2, 1672461947),
    (-1, 1302514674),
    (0, 790015084),
    (1, 290630308),
    (2, 39332535),
    (3, 720401),
    (4, 242),
)
