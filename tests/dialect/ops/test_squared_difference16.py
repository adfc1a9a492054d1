"""Squared differences of 16-bit codes, which TensorFlow writes and LiteRT has no kernel for: by rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from draw import Draw

from tflite2q.dialect import ops
from tflite2q.execution import reference

SCALES = [(1e-4, 1e-4, 2e-4), (1e-4, 4e-5, 1e-5), (0.02, 0.01, 0.9), (3e-5, 2e-4, 1.3e-3)]


@pytest.mark.parametrize("scales", SCALES)
def test_within_the_rounding_of_the_operands(scales: tuple[float, float, float]) -> None:
    d = Draw(np.random.default_rng(0))
    a, b, y = (d.kind((1, 400), "int16", float(np.float32(scale)), 0) for scale in scales)
    case = d.case(ops.SquaredDifference, (d.input(a), d.input(b)), y)
    (found,) = reference.run(case.graph, *case.inputs)
    common = 2 * max(a.scale, b.scale)
    for one, other, code in zip(*(array[0].tolist() for array in case.inputs), found[0].tolist(), strict=True):
        real = abs(one * Fraction(a.scale) - other * Fraction(b.scale))
        exact = min(real**2 / Fraction(y.scale), 32767)
        moved = Fraction(3, 2) * Fraction(common)  # each operand is rounded twice, by less than 3/4 of a common step
        assert abs(code - exact) <= (2 * real * moved + moved**2) / Fraction(y.scale) + 1
