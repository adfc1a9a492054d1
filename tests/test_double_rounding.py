"""Fixed point rounds twice (eq. 8): accumulators at which rounding once gives another code, which are rare."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest

from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.arithmetic.rescale import multiply_fixed


def away(x: Fraction) -> int:
    return floor(x + Fraction(1, 2)) if x >= 0 else -floor(-x + Fraction(1, 2))


def twice(acc: int, m: int, right: int) -> int:
    """The high product rounded, ties up; then its shift, ties away from zero."""
    return away(Fraction(floor(Fraction(acc * m, 2**31) + Fraction(1, 2)), 2**right))


def once(acc: int, m: int, right: int) -> int:
    return away(Fraction(acc * m, 2 ** (31 + right)))


@pytest.mark.parametrize("right", [1, 2, 5, 9])
@pytest.mark.parametrize("m", [2**30, 2**30 + 12345, 1717986918, 2**31 - 1])
def test_two_roundings(m: int, right: int) -> None:
    """Around ties of the shift, where the first rounding decides to which side the second goes."""
    ties = np.arange(-200, 200) * 2**right + 2 ** (right - 1)
    nearest = np.round(ties * (2.0**31 / m)).astype(np.int64)
    accumulators = np.unique(np.concatenate([nearest + step for step in (-2, -1, 0, 1, 2)]))
    expected = [twice(int(acc), m, right) for acc in accumulators]
    differ = [acc for acc, code in zip(accumulators, expected, strict=True) if code != once(int(acc), m, right)]
    assert len(differ) > 20
    assert multiply_fixed(NumpyCore(), accumulators.astype(np.int32), m, -right).tolist() == expected
