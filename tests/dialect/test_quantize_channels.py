"""QUANTIZE of real numbers to codes with a scale for each channel, against rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tflite2q.arithmetic.numpy_core import NUMPY
from tflite2q.dialect.ops.eltwise import quantize_channels
from tflite2q.dialect.types import Quantization, TensorType

REALS = (3e9, -5e9, 1e30, -1e30, 1.25, -1.25, 2.5, 0.0)
SCALES, ZEROS = (0.5, 2.0), (0, 3)


def code(real: float, channel: int, kind: TensorType) -> int:
    """The nearest code, halves away from zero, in the range of the type."""
    ratio = Fraction(float(np.float32(real))) / Fraction(SCALES[channel])
    nearest = int(abs(ratio) + Fraction(1, 2)) * (1 if ratio > 0 else -1)
    return min(max(nearest + ZEROS[channel], kind.range[0]), kind.range[1])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32"])
def test_codes_beyond_the_range_are_its_ends(dtype: str) -> None:
    kind = TensorType((len(REALS), 2), dtype, Quantization(SCALES, ZEROS, 1))
    x = np.repeat(np.array(REALS, np.float32)[:, None], 2, 1)
    wanted = [[code(real, channel, kind) for channel in range(2)] for real in REALS]
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(quantize_channels(NUMPY, x, kind), wanted)
