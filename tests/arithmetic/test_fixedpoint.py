"""Fixed-point functions of values known only at run time, against known values and exact arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite2q.arithmetic.fixedpoint import (
    inverse_square_root,
    leading_sign_bits,
    leading_zeros,
    reciprocal,
    reciprocal_of,
)
from tflite2q.arithmetic.numpy_core import NumpyCore

CORE = NumpyCore()
POSITIVE = st.lists(st.integers(1, 2**31 - 1), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("x", "expected", "shift"), [(524288, 2147483647, 0), (786432, 1431655762, 0), (123456789, 1167333038, 7)]
)
def test_known_reciprocals(x: int, expected: int, shift: int) -> None:
    """1/x of Q12.19 numbers, as the reference kernels find it."""
    inverse, bits = reciprocal_of(CORE, np.array([x], np.int64), 12)
    assert (int(inverse[0]), int(bits[0])) == (expected, shift)


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20))
def test_reciprocal_is_close_to_the_real_one(fractions: list[int]) -> None:
    a = np.array(fractions, np.int64)
    exact = 2.0**31 / (1 + a / 2.0**31)
    assert np.abs(reciprocal(CORE, a) - exact).max() < 40


@given(POSITIVE)
def test_leading_zeros(values: list[int]) -> None:
    counted = leading_zeros(CORE, np.array([*values, 0], np.int64))
    assert counted.tolist() == [32 - v.bit_length() for v in (*values, 0)]


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=20))
def test_leading_sign_bits(values: list[int]) -> None:
    counted = leading_sign_bits(CORE, np.array(values, np.int64))
    assert counted.tolist() == [31 - max(v, -v - 1).bit_length() for v in values]


@pytest.mark.parametrize(
    ("x", "expected", "shift"),
    [(0, 2**31 - 1, 0), (1, 2**31 - 1, 0), (2, 1518498372, 0), (100, 214748363, 0), (65025, 269488147, 5)],
)
def test_known_inverse_square_roots(x: int, expected: int, shift: int) -> None:
    m, n = inverse_square_root(CORE, np.array([x], np.int64))
    assert (int(m[0]), int(n[0])) == (expected, shift)


@given(st.lists(st.integers(1, 2**31 - 1), min_size=1, max_size=20))
def test_inverse_square_root_is_close_to_the_real_one(values: list[int]) -> None:
    m, n = inverse_square_root(CORE, np.array(values, np.int64))
    ratio = m / 2.0 ** (31 + n) * np.sqrt(np.array(values, np.float64))
    assert np.abs(ratio - 1).max() < 1e-5
