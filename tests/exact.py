"""The arithmetic of the reference kernels once more, exactly, in Python's integers and fractions.

What the package computes over NumPy, Relax or TIR is compared with these.  Equation numbers refer to
docs/quantization.md.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt


def away(value: Fraction) -> int:
    """Nearest integer, ties away from zero (eq. 3)."""
    return int(math.copysign(math.floor(abs(value) + Fraction(1, 2)), value))


def up(value: Fraction) -> int:
    """Nearest integer, ties toward plus infinity."""
    return math.floor(value + Fraction(1, 2))


def wrapped(value: int) -> int:
    """The int32 with the low 32 bits of `value`."""
    return int.from_bytes((value & 0xFFFFFFFF).to_bytes(4, "little"), "little", signed=True)


def high_multiply(a: int, b: int) -> int:
    """eq. 6: saturates in the one case whose result has 33 bits."""
    return min(up(Fraction(a * b, 2**31)), 2**31 - 1)


def multiplier(real: float) -> tuple[int, int]:
    """(m, shift) of eq. 5: the nearest 31-bit multiplier, ties away from zero; (0, 0) for what is too small."""
    if real == 0:
        return 0, 0
    shift = math.frexp(real)[1]
    m = away(Fraction(real) * Fraction(2) ** (31 - shift))
    if m == 2**31:
        m, shift = m // 2, shift + 1
    return (m, shift) if shift >= -31 else (0, 0)


def fixed(x: int, m: int, shift: int) -> int:
    """eq. 8: x * m * 2**(shift - 31) with two roundings; x86's meaning of shifts of 32 and more included."""
    shifted = wrapped(x << (max(shift, 0) % 32))
    return away(Fraction(high_multiply(shifted, m), 2 ** max(-shift, 0)))


def fixed16(acc: int, m: int, shift: int) -> int:
    """eq. 20: one product with the upper 16 bits of the multiplier, saturated at 40 bits."""
    product = acc * min((m + 2**15) >> 16, 2**15 - 1)
    right = 15 - shift
    scaled = (product + (1 << right >> 1)) >> right if right > 0 else product << -right
    return max(-(2**40), min(scaled, 2**40))


def fixed_array(x: npt.ArrayLike, m: npt.ArrayLike, shift: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """`fixed` of arrays that broadcast, in 64-bit integers.  Positive multipliers only."""
    x, m, shift = (np.asarray(a, np.int64) for a in (x, m, shift))
    left, right = np.maximum(shift, 0) % 32, np.maximum(-shift, 0)
    shifted = ((x << left) + 2**31) % 2**32 - 2**31
    high = (shifted * m + 2**30) // 2**31
    magnitude = (np.abs(high) + (1 << right) // 2) // (1 << right)
    return np.sign(high) * magnitude
