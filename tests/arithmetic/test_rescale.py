"""Each way of rescaling against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from exact import away, fixed, fixed_array, high_multiply, up
from hypothesis import example, given
from hypothesis import strategies as st

from tflite2q.arithmetic import rescale, rounding
from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.arithmetic.rescale import Rescale, multiply_fixed, round_half_away, rounding_shift_right, shift_rounding

CORE = NumpyCore()
DTYPES = st.sampled_from(["uint8", "int8", "int16"])
ACCUMULATORS = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=40)
INT32 = st.integers(-(2**31), 2**31 - 1)
REAL = st.floats(2.0**-20, 0.999)


def clamp(code: int, low: int, high: int) -> int:
    return min(max(code, low), high)


@st.composite
def targets(draw: st.DrawFn) -> tuple[int, int, int, str]:
    """zero point, low, high, dtype"""
    dtype = draw(DTYPES)
    least, most = rounding.code_range(dtype)
    low, high = sorted((draw(st.integers(least, most)), draw(st.integers(least, most))))
    return draw(st.integers(least, most)), low, high, dtype


@given(ACCUMULATORS, st.lists(REAL, min_size=1, max_size=4), targets())
def test_fixed_is_the_kernels_arithmetic(accumulators, reals, target) -> None:
    acc = np.resize(np.array(accumulators, np.int32), (len(accumulators), len(reals)))
    codes = Rescale(tuple(reals), *target).meaning(CORE, acc)
    zero_point, low, high, dtype = target
    m, shift = rounding.quantize_multiplier(reals)
    expected = fixed_array(acc, m, shift) + zero_point
    assert codes.dtype == dtype
    assert codes.tolist() == np.clip(expected, low, high).tolist()


@given(ACCUMULATORS, st.floats(1.0, 100.0), targets())
def test_fixed_with_multipliers_above_one_wraps_as_c_does(accumulators, real, target) -> None:
    acc = np.array(accumulators, np.int32)
    zero_point, low, high, _ = target
    expected = fixed_array(acc, *rounding.quantize_multiplier(real)) + zero_point
    codes = Rescale((real,), *target).meaning(CORE, acc)
    assert codes.tolist() == np.clip(expected, low, high).tolist()


@given(ACCUMULATORS, REAL, targets())
def test_float64_rounds_one_product(accumulators, real, target) -> None:
    zero_point, low, high, _ = target
    codes = Rescale((real,), *target, "float64").meaning(CORE, np.array(accumulators, np.int32))
    expected = [clamp(away(Fraction(a * real)) + zero_point, low, high) for a in accumulators]  # a * real in float64
    assert codes.tolist() == expected


@given(ACCUMULATORS, REAL, targets())
def test_float32_rounds_one_product_to_even(accumulators, real, target) -> None:
    zero_point, low, high, _ = target
    codes = Rescale((real,), *target, "float32").meaning(CORE, np.array(accumulators, np.int32))
    products = [float(np.float32(a) * np.float32(real)) for a in accumulators]
    # Python's round() takes ties to even; clamping before or after it is the same, the bounds being integers.
    assert codes.tolist() == [clamp(round(Fraction(p)) + zero_point, low, high) for p in products]


@pytest.mark.parametrize(("value", "expected"), [(5, 2), (-5, -2), (7, 4), (-7, -4), (1, 0), (3, 2)])
def test_float32_ties(value: int, expected: int) -> None:
    rescale = Rescale((0.5,), 0, -128, 127, "int8", "float32")
    assert rescale.meaning(CORE, np.array([value], np.int32)).tolist() == [expected]


@given(ACCUMULATORS, st.integers(-3, 25), targets())
def test_shift_adds_half_and_shifts(accumulators, n, target) -> None:
    zero_point, low, high, _ = target
    codes = Rescale((2.0**-n,), *target, "shift").meaning(CORE, np.array(accumulators, np.int32))
    halves_up = [up(Fraction(a) / Fraction(2) ** n) for a in accumulators]
    assert codes.tolist() == [clamp(v + zero_point, low, high) for v in halves_up]


def test_arithmetics_differ_where_they_should() -> None:
    """Ties of one half: the composite of the kernels, away from zero, to even, and up."""
    acc = np.array([-5, -3, -1, 1, 3, 5], np.int32)

    def codes(arithmetic: str) -> list[int]:
        return [int(c) for c in Rescale((0.5,), 0, -128, 127, "int8", arithmetic).meaning(CORE, acc)]

    assert codes("fixed") == [-2, -1, 0, 1, 2, 3]
    assert codes("float64") == [-3, -2, -1, 1, 2, 3]
    assert codes("float32") == [-2, -2, 0, 0, 2, 2]
    assert codes("shift") == [-2, -1, 0, 1, 2, 3]


def test_channels_have_their_own_multipliers_and_shifts() -> None:
    acc = np.array([[100, 100, 100], [-100, -100, -100]], np.int32)
    for arithmetic in ("fixed", "float64", "float32", "shift"):
        codes = Rescale((0.5, 0.25, 1.0), 3, -128, 127, "int8", arithmetic).meaning(CORE, acc)
        assert codes.tolist() == [[53, 28, 103], [-47, -22, -97]]


def test_what_is_no_rescaling_is_refused() -> None:
    with pytest.raises(ValueError, match="'double' is not one of fixed"):
        Rescale((0.5,), 0, 0, 255, "uint8", "double")
    with pytest.raises(ValueError, match="power of two"):
        Rescale((0.5, 0.3), 0, 0, 255, "uint8", "shift")


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1), st.integers(2**30, 2**31 - 1), st.integers(-31, 40))
def test_multiply_fixed_over_core(values, m, shift) -> None:
    for dtype in ("int32", "int64"):
        product = multiply_fixed(CORE, np.array(values, dtype), m, shift)
        assert product.dtype == np.int64
        # H(-2**31, -2**31) is the one case that saturates; a multiplier is positive, so it cannot occur.
        assert product.tolist() == [fixed(x, m, shift) for x in values]


@given(
    st.lists(st.integers(-(2**40), 2**40), min_size=3, max_size=3), st.lists(st.integers(0, 31), min_size=3, max_size=3)
)
def test_rounding_shift_right_over_core(values, counts) -> None:
    shifted = rounding_shift_right(CORE, np.array(values, np.int64), counts)
    assert shifted.tolist() == [away(Fraction(x, 2**n)) for x, n in zip(values, counts, strict=True)]


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=3, max_size=3),
    st.lists(st.integers(-9, 31), min_size=3, max_size=3),
)
def test_shift_rounding_over_core(values, counts) -> None:
    shifted = shift_rounding(CORE, np.array(values, np.int32), counts)
    expected = [up(Fraction(v) / Fraction(2) ** n) for v, n in zip(values, counts, strict=True)]
    assert shifted.tolist() == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(data=st.data())
def test_round_half_away_over_core(dtype, data) -> None:
    width = 32 if dtype == "float32" else 64
    x = data.draw(st.one_of(st.floats(-1e6, 1e6, width=width), st.integers(-1000, 1000).map(lambda n: n + 0.5)))
    rounded = round_half_away(CORE, np.array([x], dtype), dtype)
    assert rounded.dtype == dtype
    assert int(rounded[0]) == away(Fraction(float(np.dtype(dtype).type(x))))


@given(INT32, INT32)
@example(1 << 30, 1)  # a tie
@example(-(1 << 30), 1)
def test_high_multiply_over_core(a, b) -> None:
    """But for -2**31 times itself, which no caller has: multipliers are positive."""
    product = rescale.high_multiply(CORE, np.array([a], np.int64), np.array([b], np.int64))
    assert int(product[0]) == (high_multiply(a, b) if min(a, b) > -(2**31) else up(Fraction(a * b, 2**31)))


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
    assert int(multiply_fixed(CORE, np.array([x], np.int64), m, shift)[0]) == expected


@given(st.integers(-(2**24), 2**24), st.floats(2.0**-20, 1.0))
def test_product_is_within_one_of_the_real_one(x: int, real: float) -> None:
    product = int(multiply_fixed(CORE, np.array([x], np.int64), *rounding.quantize_multiplier(real))[0])
    assert abs(Fraction(x) * Fraction(real) - product) <= 1
