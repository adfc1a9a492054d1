"""gemmlowp's fixed-point functions over the core vocabulary, on values known only at run time.

Raw values are int64 tensors that hold int32 numbers; Qa.b has a integer and b fraction bits.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from tflite2q import numerics
from tflite2q.core import Core
from tflite2q.rescale import high_multiply, int_const

T = TypeVar("T")


def saturating_left_shift(core: Core[T], x: T, bits: int) -> T:
    low, high = numerics.RANGES["int32"]
    return core.clip(core.left_shift(x, int_const(core, bits)), low, high)


def reciprocal(core: Core[T], a: T) -> T:
    """1 / (1 + a) for a in [0, 1), both Q0.31 in int64: three Newton steps (eq. 18)."""
    half = core.right_shift(core.add(a, int_const(core, 1 << 31)), int_const(core, 1))
    x = core.add(int_const(core, 1515870810), high_multiply(core, half, int_const(core, -1010580540)))
    for _ in range(3):
        rest = core.subtract(int_const(core, 1 << 29), high_multiply(core, half, x))
        x = core.add(x, saturating_left_shift(core, high_multiply(core, x, rest), 2))
    return saturating_left_shift(core, x, 1)


def leading_zeros(core: Core[T], x: T) -> T:
    """Leading zero bits of int32 values that are not negative: binary search; 32 for 0."""
    count = core.astype(core.equal(x, int_const(core, 0)), "int64")
    for bits in (16, 8, 4, 2, 1):
        step = core.multiply(core.astype(core.less(x, int_const(core, 1 << (32 - bits))), "int64"), int_const(core, bits))
        count, x = core.add(count, step), core.left_shift(x, step)
    return count


def reciprocal_of(core: Core[T], v: T, integer_bits: int) -> tuple[T, T]:
    """(r, n) with 1 / v ~ r * 2**-n, r in Q0.31, for positive v with `integer_bits` integer bits (eq. 19)."""
    zeros = leading_zeros(core, v)
    fraction = core.subtract(core.left_shift(v, zeros), int_const(core, 1 << 31))
    return reciprocal(core, fraction), core.subtract(int_const(core, integer_bits), zeros)


def leading_sign_bits(core: Core[T], x: T) -> T:
    """Bits behind the sign bit of an int32 that equal it: how far it can be shifted left."""
    magnitude = core.where(core.less(x, int_const(core, 0)), core.subtract(core.negative(x), int_const(core, 1)), x)
    return core.subtract(leading_zeros(core, magnitude), int_const(core, 1))
