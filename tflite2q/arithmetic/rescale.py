"""Rescaling: how an int32 accumulator becomes an output code.

A `Rescale` is a plain value (real multipliers, output zero point, clamp, and which arithmetic); its meaning is written
over the core vocabulary once and used by every op that rescales.  Kernels implement the same contract by hand and are
compared with it bit for bit.  Equation numbers refer to docs/quantization.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic import rounding
from tflite2q.arithmetic.core import Core, by_rows

T = TypeVar("T")

ARITHMETICS = ("fixed", "fixed16", "float64", "float32", "shift")

# Adding 1.5 * 2**23 to a float32 below 2**22 in magnitude leaves its nearest integer (ties to even) in the low bits.
MAGIC = np.float32(12582912.0)


@dataclass(frozen=True)
class Rescale:
    """code = clamp(round(accumulator * real) + zero_point, low, high).

    `real` has one multiplier, or one for each channel of the accumulator's last axis.  `arithmetic` says how the
    product is rounded:

    fixed     the reference kernels' two-step fixed point (eq. 8); wraps and rounds exactly as they do
    fixed16   one product with the multiplier's upper 16 bits, for 64-bit accumulators (eq. 20)
    float64   one float64 product, ties away from zero (eq. 10): the reference FULLY_CONNECTED
    float32   one float32 product, clamped, ties to even (eq. 11)
    shift     `real` is a power of two: add half, shift right (eq. 12)
    """

    real: tuple[float, ...]
    zero_point: int
    low: int
    high: int
    dtype: str
    arithmetic: str = "fixed"

    def __post_init__(self) -> None:
        if self.arithmetic not in ARITHMETICS:
            raise ValueError(f"rescaling arithmetic {self.arithmetic!r} is not one of {', '.join(ARITHMETICS)}")
        if self.arithmetic == "shift" and any(np.frexp(r)[0] != 0.5 for r in self.real):
            raise ValueError("shift arithmetic needs every multiplier to be a power of two")

    @cached_property
    def _fixed_point(self) -> tuple[rounding.Ints, rounding.Ints]:
        return rounding.quantize_multiplier(np.array(self.real))

    def fixed_point(self) -> tuple[rounding.Ints, rounding.Ints]:
        """(m, shift) of eq. 5, one each per multiplier."""
        return self._fixed_point

    def fixed16(self) -> tuple[rounding.Ints, rounding.Ints]:
        """(m', n) of eq. 20, one each per multiplier: 15-bit multipliers and right-shift counts (negative: left)."""
        m, shift = self.fixed_point()
        return reduced_multiplier(m), 15 - shift

    def shifts(self) -> rounding.Ints:
        """Right-shift counts of the `shift` arithmetic (negative: left)."""
        return np.array([1 - int(np.frexp(r)[1]) for r in self.real], np.int64)

    def meaning(self, core: Core[T], acc: T) -> T:
        """`acc`: int32 (or int64) accumulators, channels last.  Returns codes of `dtype`, same shape."""
        return by_rows(core, lambda rows: self._codes(core, rows), acc)

    def _codes(self, core: Core[T], acc: T) -> T:
        if self.arithmetic in ("fixed", "fixed16", "shift"):
            if self.arithmetic == "fixed":
                scaled = multiply_fixed(core, acc, *self.fixed_point())
            elif self.arithmetic == "fixed16":
                scaled = multiply_fixed16(core, acc, *self.fixed_point())
            else:
                scaled = shift_rounding(core, acc, self.shifts())
            code = core.add(scaled, int_const(core, self.zero_point)) if self.zero_point else scaled
            return core.astype(core.clip(code, self.low, self.high), self.dtype)
        real = np.array(self.real, dtype=self.arithmetic)
        return self.code(core, core.multiply(core.astype(acc, self.arithmetic), core.const(real)))

    def code(self, core: Core[T], product: T) -> T:
        """Codes of real numbers in steps, in the floating-point type of the arithmetic."""
        product = core.clip(product, self.low - self.zero_point, self.high - self.zero_point)
        if self.arithmetic == "float32":
            rounded = core.subtract(core.add(product, core.const(MAGIC[None])), core.const(MAGIC[None]))
        else:
            rounded = round_half_away(core, product, "float64")
        code = core.astype(rounded, "int32")
        if self.zero_point:
            code = core.add(code, core.const(np.array([self.zero_point], np.int32)))
        return core.astype(code, self.dtype)


def int_const(core: Core[T], values: npt.ArrayLike) -> T:
    """An int64 constant with at least one axis, so that it broadcasts against any accumulator."""
    return core.const(np.atleast_1d(np.asarray(values, dtype=np.int64)))


def multiply_fixed(core: Core[T], x: T, m: npt.ArrayLike, shift: npt.ArrayLike) -> T:
    """eq. 8 over core: x (int32, or int64 holding int32 values) to int64.  `m`, `shift`: one, or one per channel."""
    m, shift = np.atleast_1d(np.asarray(m, np.int64)), np.atleast_1d(np.asarray(shift, np.int64))
    wide = core.astype(x, "int64")
    left, right = np.maximum(shift, 0) & 31, np.maximum(-shift, 0)
    if left.any():
        # The C code shifts an int32; what it drops at the top is dropped here by the two casts.
        wide = core.astype(core.astype(core.left_shift(wide, core.const(left)), "int32"), "int64")
    product = core.add(core.multiply(wide, core.const(m)), int_const(core, 1 << 30))
    return rounding_shift_right(core, core.right_shift(product, int_const(core, 31)), right)


def multiply_fixed16(core: Core[T], x: T, m: npt.ArrayLike, shift: npt.ArrayLike) -> T:
    """eq. 20 over core: int64 x times m (its upper 16 bits, rounded), then shifted right, ties toward plus infinity.

    The reference kernels keep the low 32 bits of the result, which sums far beyond the result's range outgrow.
    """
    m, shift = np.atleast_1d(np.asarray(m, np.int64)), np.atleast_1d(np.asarray(shift, np.int64))
    product = core.multiply(core.astype(x, "int64"), core.const(reduced_multiplier(m)))
    return wrapped32(core, shift_rounding(core, product, 15 - shift))


def reduced_multiplier(m: rounding.Ints) -> rounding.Ints:
    """The upper 16 bits of a 32-bit multiplier, rounded (eq. 20)."""
    return np.asarray(np.minimum((m + (1 << 15)) >> 16, 0x7FFF))


def wrapped32(core: Core[T], x: T) -> T:
    """int64 x as the int32 with the same low bits, still int64."""
    return core.astype(core.astype(x, "int32"), "int64")


def high_multiply(core: Core[T], a: T, b: T) -> T:
    """eq. 6 over core, int64 operands holding int32 values; a = b = -2**31 does not occur here."""
    product = core.add(core.multiply(a, b), int_const(core, 1 << 30))
    return core.right_shift(product, int_const(core, 31))


def rounding_shift_right(core: Core[T], x: T, n: npt.ArrayLike) -> T:
    """eq. 7 over core: int64 x / 2**n, ties away from zero.  `n`: constant counts, broadcast against x."""
    n = np.atleast_1d(np.asarray(n, np.int64))
    if not n.any():
        return x
    half = np.where(n > 0, np.left_shift(np.int64(1), np.maximum(n - 1, 0)), 0)
    minus_if_negative = core.right_shift(x, int_const(core, 63))
    if (n == 0).any():
        minus_if_negative = core.bitwise_and(minus_if_negative, core.const(-(n > 0).astype(np.int64)))
    return core.right_shift(core.add(core.add(x, core.const(half)), minus_if_negative), core.const(n))


def rounding_shift_by(core: Core[T], x: T, n: T) -> T:
    """eq. 7 over core with counts known only at run time (int64, 0 to 63)."""
    one = int_const(core, 1)
    some = core.astype(core.less(int_const(core, 0), n), "int64")
    half = core.multiply(some, core.left_shift(one, core.maximum(core.subtract(n, one), int_const(core, 0))))
    minus_if_negative = core.multiply(some, core.right_shift(x, int_const(core, 63)))
    return core.right_shift(core.add(core.add(x, half), minus_if_negative), n)


def shift_rounding(core: Core[T], x: T, n: npt.ArrayLike) -> T:
    """eq. 12 over core: x / 2**n, ties toward plus infinity; negative n shifts left.  int64 out."""
    n = np.atleast_1d(np.asarray(n, np.int64))
    wide = core.astype(x, "int64")
    left, right = np.maximum(-n, 0), np.maximum(n, 0)
    if left.any():
        wide = core.left_shift(wide, core.const(left))
    if not right.any():
        return wide
    half = np.where(right > 0, np.left_shift(np.int64(1), np.maximum(right - 1, 0)), 0)
    return core.right_shift(core.add(wide, core.const(half)), core.const(right))


def round_half_away(core: Core[T], x: T, dtype: str) -> T:
    """eq. 3 over core: C's `round()` of floating point x of `dtype`, still floating point."""
    whole = core.trunc(x)
    half = core.const(np.full(1, 0.5, dtype))
    one = core.const(np.ones(1, dtype))
    zero = core.const(np.zeros(1, dtype))
    away = core.where(core.less_equal(half, core.abs(core.subtract(x, whole))), one, zero)
    signed = core.where(core.less(x, zero), core.negative(away), away)
    return core.add(whole, signed)
