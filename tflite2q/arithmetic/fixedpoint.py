"""gemmlowp's fixed-point functions over the core vocabulary.

Raw values are int64 tensors that hold int32 numbers; Qa.b has a integer and b fraction bits.
"""

from __future__ import annotations

from typing import TypeVar

from tflite2q.arithmetic import rounding
from tflite2q.arithmetic.core import Core
from tflite2q.arithmetic.rescale import high_multiply, int_const, rounding_shift_right

T = TypeVar("T")


def saturating_left_shift(core: Core[T], x: T, bits: int) -> T:
    low, high = rounding.RANGES["int32"]
    return core.clip(core.left_shift(x, int_const(core, bits)), low, high)


def reciprocal(core: Core[T], a: T) -> T:
    """1 / (1 + a) for a in [0, 1), both Q0.31 in int64: three Newton steps (eq. 18)."""
    half = core.right_shift(core.add(a, int_const(core, 1 << 31)), int_const(core, 1))
    x = core.add(int_const(core, 1515870810), high_multiply(core, half, int_const(core, -1010580540)))
    for _ in range(3):
        rest = core.subtract(int_const(core, 1 << 29), high_multiply(core, half, x))
        x = core.add(x, saturating_left_shift(core, high_multiply(core, x, rest), 2))
    return saturating_left_shift(core, x, 1)


def exp_on_negative(core: Core[T], t: T, integer_bits: int) -> T:
    """exp(t) for t <= 0 in fixed point with `integer_bits` integer bits; the result is Q0.31 (eq. 17).

    gemmlowp's exp_on_negative_values: a fourth-order polynomial on [-1/4, 0), then one multiplication for each set bit
    of the multiple of 1/4 that was taken off.
    """
    fraction_bits = 31 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    rest = core.bitwise_and(t, int_const(core, quarter - 1))
    remainder = core.subtract(rest, int_const(core, quarter))
    z = core.add(core.left_shift(remainder, int_const(core, integer_bits)), int_const(core, 1 << 28))
    z2 = high_multiply(core, z, z)
    z3, z4 = high_multiply(core, z2, z), high_multiply(core, z2, z2)
    third = core.add(rounding_shift_right(core, z4, 2), z3)
    third = core.add(high_multiply(core, third, int_const(core, THIRD)), z2)
    exp_of_eighth = int_const(core, EXP_OF_MINUS_EIGHTH)
    polynomial = core.add(z, rounding_shift_right(core, third, 1))
    result = core.add(exp_of_eighth, high_multiply(core, exp_of_eighth, polynomial))
    taken = core.subtract(remainder, t)
    for exponent, factor in EXP_OF_MINUS_POWERS:
        place = fraction_bits + exponent
        if place < 31:
            bit = core.bitwise_and(core.right_shift(taken, int_const(core, place)), int_const(core, 1))
            product = high_multiply(core, result, int_const(core, factor))
            result = core.where(core.equal(bit, int_const(core, 1)), product, result)
    return core.where(core.equal(t, int_const(core, 0)), int_const(core, 2**31 - 1), result)


THIRD = 715827883  # 1/3 in Q0.31
EXP_OF_MINUS_EIGHTH = 1895147668  # exp(-1/8) in Q0.31, about which the polynomial is expanded

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


def leading_zeros(core: Core[T], x: T) -> T:
    """Leading zero bits of int32 values that are not negative: binary search; 32 for 0."""
    zero = int_const(core, 0)
    count = core.where(core.equal(x, zero), int_const(core, 1), zero)
    for bits in (16, 8, 4, 2, 1):
        step = core.where(core.less(x, int_const(core, 1 << (32 - bits))), int_const(core, bits), zero)
        count, x = core.add(count, step), core.left_shift(x, step)
    return count


def reciprocal_of(core: Core[T], v: T, integer_bits: int) -> tuple[T, T]:
    """(r, n) with 1 / v ~ r * 2**-n, r in Q0.31, for positive v with `integer_bits` integer bits (eq. 19)."""
    zeros = leading_zeros(core, v)
    fraction = core.subtract(core.left_shift(v, zeros), int_const(core, 1 << 31))
    return reciprocal(core, fraction), core.subtract(int_const(core, integer_bits), zeros)


def log_of_sum(core: Core[T], x: T) -> T:
    """Natural logarithm in Q5.26 of x >= 1 in Q12.19 (eq. 36).

    A rational approximation on [sqrt(1/2), 1] of x divided by a power of two, with the power times log 2 added.
    """
    alpha_n, alpha_d, alpha_i, alpha_f = 117049297, 127690142, 1057819769, 638450708
    log_2, root_half, root_root_half = 1488522236, 1518500250, 1805811301
    quarter = (1 << 25) // 4  # 1/4 with six integer bits

    def times(a: T, b: T | int) -> T:
        return high_multiply(core, a, int_const(core, b) if isinstance(b, int) else b)

    zeros_a = leading_zeros(core, x)
    one = int_const(core, 1)
    raised_a = core.left_shift(x, core.subtract(zeros_a, one))
    r_a = saturating_left_shift(core, times(raised_a, root_half), 1)
    power_a = core.left_shift(core.subtract(int_const(core, 12), zeros_a), int_const(core, 25))
    power_a = core.add(power_a, int_const(core, quarter))
    headroom_b = core.subtract(leading_zeros(core, times(x, root_half)), one)
    low, high = rounding.RANGES["int32"]
    r_b = core.clip(core.left_shift(x, headroom_b), low, high)
    power_b = core.left_shift(core.subtract(int_const(core, 12), headroom_b), int_const(core, 25))
    power = core.maximum(power_a, core.subtract(power_b, int_const(core, quarter)))
    r = core.minimum(r_a, r_b)
    total = core.add(r, int_const(core, root_root_half))
    p = core.right_shift(core.add(total, one), one)  # half the sum, rounded
    difference = core.subtract(r, int_const(core, root_root_half))
    q = core.add(difference, difference)
    square = times(q, q)
    numerator = core.add(times(q, r), times(times(q, square), alpha_n))
    inner = core.add(core.add(int_const(core, alpha_i), q), times(square, alpha_d))
    denominator = core.add(times(p, inner), times(q, alpha_f))
    scaled = rounding_shift_right(core, numerator, 6)  # six integer bits
    result = core.add(times(power, log_2), times(scaled, reciprocal(core, denominator)))
    return saturating_left_shift(core, result, 1)


def leading_sign_bits(core: Core[T], x: T) -> T:
    """The number of bits after the sign bit of an int32 that equal it: how far it can be shifted left."""
    magnitude = core.where(core.less(x, int_const(core, 0)), core.subtract(core.negative(x), int_const(core, 1)), x)
    return core.subtract(leading_zeros(core, magnitude), int_const(core, 1))


def inverse_square_root(core: Core[T], v: T) -> tuple[T, T]:
    """(m, n) with 1 / sqrt(v) ~ m * 2**(-31 - n) for integers v >= 0 (0 counts as 1): eq. 23, n >= 0."""
    one, zero = int_const(core, 1), int_const(core, 0)
    small = core.less(v, int_const(core, 2))
    v = core.maximum(v, int_const(core, 2))
    # Powers of four that bring v into [2**27, 2**29).
    pairs = core.right_shift(core.subtract(int_const(core, 30), _floor_log2(core, v)), one)
    pairs = core.subtract(pairs, one)
    up, down = core.maximum(pairs, zero), core.maximum(core.negative(pairs), zero)
    v = core.right_shift(core.left_shift(v, core.add(up, up)), core.add(down, down))
    half = core.right_shift(core.add(core.right_shift(v, one), one), one)
    root = int_const(core, 1 << 28)
    for _ in range(5):
        cube = saturating_left_shift(core, high_multiply(core, high_multiply(core, root, root), root), 6)
        step = core.subtract(high_multiply(core, int_const(core, 3 << 27), root), high_multiply(core, half, cube))
        root = saturating_left_shift(core, step, 3)
    m = high_multiply(core, root, int_const(core, 1518500250))  # sqrt(1/2) in Q0.31
    shift = core.subtract(int_const(core, 11), pairs)
    m = core.left_shift(m, core.maximum(core.negative(shift), zero))
    return core.where(small, int_const(core, 2**31 - 1), m), core.where(small, zero, core.maximum(shift, zero))


def _floor_log2(core: Core[T], v: T) -> T:
    """floor(log2(v)) of positive int32 numbers."""
    return core.subtract(int_const(core, 31), leading_zeros(core, v))
