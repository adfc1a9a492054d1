"""Fixed-point arithmetic against exact rational arithmetic, and against values known from the reference kernels."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tflite2q.arithmetic import rounding

INT32 = st.integers(-(2**31), 2**31 - 1)
CODES = st.integers(-(2**31), 2**31 - 1)
SHIFTS = st.integers(0, 31)


def away(value: Fraction) -> int:
    """Nearest integer, ties away from zero."""
    return int(math.copysign(math.floor(abs(value) + Fraction(1, 2)), value))


def up(value: Fraction) -> int:
    """Nearest integer, ties toward plus infinity."""
    return math.floor(value + Fraction(1, 2))


def wrapped(value: int) -> int:
    """The int32 with the low 32 bits of `value`."""
    return int.from_bytes((value & 0xFFFFFFFF).to_bytes(4, "little"), "little", signed=True)


def mbqm(x: int, m: int, shift: int) -> int:
    """eq. 8 in Python's integers and fractions, x86's meaning of large shifts included."""
    shifted = wrapped(x << (max(shift, 0) % 32))
    return away(Fraction(up(Fraction(shifted * m, 2**31)), 2 ** max(-shift, 0)))


@given(st.floats(-(2.0**52), 2.0**52))
@example(0.5)
@example(-0.5)
@example(2.5)
@example(-2.5)
@example(0.49999999999999994)  # 0.5 more than this is 1.0 in float64
@example(4503599627370495.5)
def test_round_half_away(x: float) -> None:
    assert int(rounding.round_half_away(x)) == away(Fraction(x))


@pytest.mark.parametrize(
    ("real", "m", "shift"),
    [
        (0.0, 0, 0),
        (0.5, 1073741824, 0),
        (1.0, 1073741824, 1),
        (0.75, 1610612736, 0),
        (0.001, 1099511628, -9),
        (2.0**-32, 1073741824, -31),
        (2.0**-33, 0, 0),
        (1 - 2.0**-33, 1073741824, 1),
    ],
)
def test_known_multipliers(real: float, m: int, shift: int) -> None:
    assert tuple(int(v) for v in rounding.quantize_multiplier(real)) == (m, shift)


@given(st.floats(2.0**-31, 2.0**31))
def test_multiplier_is_the_nearest_of_31_bits(real: float) -> None:
    m, shift = (int(v) for v in rounding.quantize_multiplier(real))
    assert 2**30 <= m < 2**31
    error = abs(Fraction(m) * Fraction(2) ** (shift - 31) - Fraction(real))
    assert error <= Fraction(2) ** (shift - 32)


def test_multipliers_of_arrays() -> None:
    m, shift = rounding.quantize_multiplier(np.array([0.5, 0.001, 0.0, 1 - 2.0**-33]))
    assert m.tolist() == [1073741824, 1099511628, 0, 1073741824]
    assert shift.tolist() == [0, -9, 0, 1]


@given(INT32, INT32)
@example(-(2**31), -(2**31))
@example(1 << 30, 1)  # a tie
@example(-(1 << 30), 1)
def test_high_multiply(a: int, b: int) -> None:
    assert int(rounding.high_multiply(a, b)) == min(up(Fraction(a * b, 2**31)), 2**31 - 1)


@given(INT32, SHIFTS)
@example(5, 1)
@example(-5, 1)
@example(-(2**31), 31)
def test_rounding_shift_right(x: int, n: int) -> None:
    assert int(rounding.rounding_shift_right(x, n)) == away(Fraction(x, 2**n))


def test_rounding_shift_right_of_arrays() -> None:
    assert rounding.rounding_shift_right([5, -5, 6, 7], [1, 1, 2, 0]).tolist() == [3, -3, 2, 7]


@given(st.integers(-(2**40), 2**40))
def test_wrap32(x: int) -> None:
    assert int(rounding.wrap32(x)) == wrapped(x)


@pytest.mark.parametrize(
    ("x", "real", "expected"),
    [
        (1, 0.4, 1),
        (-1, 0.4, -1),
        (3, 0.4, 1),
        (5, 0.5, 3),
        (-5, 0.5, -2),
        (6, 0.25, 2),
        (-6, 0.25, -2),
        (100, 0.0049, 0),
        (-103, 0.0049, -1),
        (3, 1.5, 5),
        (-3, 1.5, -4),
    ],
)
def test_known_products(x: int, real: float, expected: int) -> None:
    """Two roundings, the first visible: 0.4 times 1 is 1."""
    m, shift = rounding.quantize_multiplier(real)
    assert int(rounding.multiply_by_quantized_multiplier(x, m, shift)) == expected


@given(INT32, st.integers(2**30, 2**31 - 1), st.integers(-31, 40))
def test_multiply_by_quantized_multiplier(x: int, m: int, shift: int) -> None:
    assert int(rounding.multiply_by_quantized_multiplier(x, m, shift)) == mbqm(x, m, shift)


@given(st.integers(-(2**24), 2**24), st.floats(2.0**-20, 1.0))
def test_product_is_within_one_of_the_real_one(x: int, real: float) -> None:
    product = int(rounding.multiply_by_quantized_multiplier(x, *rounding.quantize_multiplier(real)))
    assert abs(Fraction(x) * Fraction(real) - product) <= 1


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
@given(real=st.floats(-1e6, 1e6, width=32), scale=st.floats(2.0**-10, 2.0**10, width=32), offset=st.integers(0, 127))
def test_quantize(dtype: str, real: float, scale: float, offset: int) -> None:
    low, high = rounding.code_range(dtype)
    ratio = Fraction(float(np.float32(real) / np.float32(scale)))
    assert int(rounding.quantize(real, scale, offset, dtype)) == min(max(away(ratio) + offset, low), high)


@given(st.integers(-128, 127), st.floats(2.0**-10, 2.0**10, width=32), st.integers(-128, 127))
def test_quantize_inverts_dequantize(code: int, scale: float, zero_point: int) -> None:
    real = rounding.dequantize(code, scale, zero_point)
    assert real.dtype == np.float32
    assert abs(Fraction(float(real)) - Fraction(scale) * (code - zero_point)) <= Fraction(float(np.spacing(abs(real))))
    assert int(rounding.quantize(real, scale, zero_point, "int8")) == code


@pytest.mark.parametrize(
    ("activation", "scale", "zero_point", "dtype", "expected"),
    [
        ("NONE", 0.1, 3, "uint8", (0, 255)),
        ("TANH", 0.1, 3, "int8", (-128, 127)),
        ("RELU", 0.1, 3, "uint8", (3, 255)),
        ("RELU", 0.1, -128, "int8", (-128, 127)),
        ("RELU6", 0.1, 3, "uint8", (3, 63)),
        ("RELU6", 6 / 255, 0, "uint8", (0, 255)),
        ("RELU6", 0.01, 0, "uint8", (0, 255)),
        ("RELU_N1_TO_1", 0.1, 0, "int8", (-10, 10)),
        ("RELU_0_TO_1", 0.3, 0, "int8", (0, 3)),  # 3.33
        ("RELU6", 1e-45, 0, "int8", (0, 127)),  # 6 / 1e-45 is no float32
        ("RELU_0_TO_1", 0.4, 0, "int8", (0, 3)),  # 2.5, away from zero
    ],
)
def test_activation_range(
    activation: str, scale: float, zero_point: int, dtype: str, expected: tuple[int, int]
) -> None:
    assert rounding.activation_range(activation, scale, zero_point, dtype) == expected


@pytest.mark.parametrize(
    ("t", "expected"),
    [(-(2**24), 1672462419), (-(2**26), 790015308), (-3 * 2**26, 106916946), (-(2**30), 242), (0, 2**31 - 1)],
)
def test_known_exponentials(t: int, expected: int) -> None:
    assert int(rounding.exp_on_negative(t, 5)) == expected


@given(st.integers(-(2**31), 0), st.integers(0, 6))
def test_exponential_is_close_to_the_real_one(t: int, integer_bits: int) -> None:
    exact = math.exp(t / 2.0 ** (31 - integer_bits))
    assert abs(int(rounding.exp_on_negative(t, integer_bits)) / 2.0**31 - exact) < 1e-6
