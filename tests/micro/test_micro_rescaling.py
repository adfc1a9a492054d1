"""Integer forms of rescaling are the rescaling itself, on every accumulator of small ranges and on random ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from tflite2q.arithmetic.numpy_core import NUMPY
from tflite2q.arithmetic.rescale import ARITHMETICS, Rescale
from tflite2q.micro.lookup16 import between, pieces
from tflite2q.micro.rescaling import LOW_BITS, MOST_DOUBLE, Form, form_of

Ints = npt.NDArray[np.int64]


def codes_of(form: Form, a: Ints) -> Ints:
    """The equations of the module, channel by channel, in Python's integers."""
    found = []
    for channel in range(a.shape[1]):
        m, n = int(form.m[channel]), int(form.n[channel])
        for value in a[:, channel].tolist():
            offset = form.negative if value < 0 else form.positive
            if form.kind == "fixed":
                h = (value * m + (1 << 30)) >> 31
                code = (((h + (h >> 31)) >> n) + 2 * form.zero + 1) >> 1
            elif form.kind == "linear":
                code = ((value * m + (1 << n - 1) + offset) >> n) + form.zero
            else:
                assert form.kind == "double" and form.lower is not None
                value = max(-MOST_DOUBLE, min(MOST_DOUBLE, value))
                low = (value * int(form.lower[channel])) >> LOW_BITS
                code = ((value * m + low + (1 << n - 1) + offset) >> n) + form.zero
            found.append(min(max(code, form.low), form.high))
    return np.array(found).reshape(a.shape[1], -1).T


@pytest.mark.parametrize("arithmetic", sorted({*ARITHMETICS} - {"float32"}))  # which C computes as it is
@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_forms_are_exact(arithmetic: str, dtype: str) -> None:
    rng = np.random.default_rng(7)
    low, high = (-128, 127) if dtype == "int8" else (-32768, 32767)
    for _ in range(2):
        real = 2.0 ** rng.uniform(-14, -3, 3) if arithmetic != "shift" else 2.0 ** rng.integers(-12, -2, 3)
        zero = int(rng.integers(low, high)) if dtype == "int8" else 0
        rescale = Rescale(tuple(real.tolist()), zero, low, high, dtype, arithmetic)
        form = form_of(rescale, 3, 2.0**24)
        a = np.concatenate([np.arange(-600, 600), rng.integers(-(2**24), 2**24, 600)])[:, None].repeat(3, 1)
        np.testing.assert_array_equal(codes_of(form, a), rescale.meaning(NUMPY, a).astype(np.int64))


def test_ties_of_products_in_float64_go_away_from_zero() -> None:
    rescale = Rescale((0.125,), 3, -128, 127, "int8", "float64")
    form = form_of(rescale, 1, 2.0**20)
    a = np.arange(-2000, 2000)[:, None]
    np.testing.assert_array_equal(codes_of(form, a), rescale.meaning(NUMPY, a).astype(np.int64))


def test_pieces_are_the_table_or_none() -> None:
    rng = np.random.default_rng(0)
    for steepest in (3, 100, 4000):
        ends = np.clip(np.cumsum(rng.integers(-steepest, steepest + 1, 513)), -32768, 32767)
        table = between(ends)
        found = pieces(table)
        assert found is not None
        np.testing.assert_array_equal(between(found.astype(np.int64)), table)
        table[int(rng.integers(1, 65535))] += 1
        again = pieces(table)
        assert again is None or np.array_equal(between(again.astype(np.int64)), table)
