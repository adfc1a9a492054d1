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
    with np.errstate(invalid="ignore"):  # infinite numbers have no fraction, and stay what they are
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


def nearest_log2(scale: float) -> int | None:
    """log2 of a power of two, or of what TFLite takes for one (`CheckedLog2`); else None.

    Logarithms within 0.001 of a whole number count: 1/32767, the scale of 16-bit codes from -1 to 1, does.
    """
    # C's logf is nearly always the nearest float32.  NumPy's is often the next, and not the same on all processors.
    logarithm = np.float32(np.log(float(np.float32(scale))))
    power = logarithm * (np.float32(1) / np.float32(np.log(2.0)))
    nearest = round_half_away(power)
    return int(nearest) if abs(power - np.float32(nearest)) < np.float32(1e-3) else None


def wrap32(x: IntLike) -> Ints:
    """The int32 with the same low 32 bits: what a C int32 overflow gives on two's complement machines."""
    value = np.asarray(x, dtype=np.int64)
    return ((value + 2**31) & 0xFFFFFFFF) - 2**31


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
