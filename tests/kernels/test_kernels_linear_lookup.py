"""Look-ups that are straight lines: every code of every table that passes, and tables that must not."""

from __future__ import annotations

import made
import numpy as np
import pytest
from plans import built, refusal

from tflite2q.arithmetic.rounding import code_range, round_half_away
from tflite2q.kernels.contracts import LookupContract
from tflite2q.kernels.generic.linear_lookup import GenericLinearLookup

KERNEL = GenericLinearLookup()


def table(rng: np.random.Generator, y_dtype: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A change of scale, to nearest, saturated where it leaves the range."""
    low, high = code_range(y_dtype)
    real = rng.uniform(0.2, 1.5) * (high - low) / 255 * (np.arange(256) - rng.integers(0, 256))
    return np.clip(round_half_away(real) + rng.integers(low // 2, high // 2), low, high).astype(np.int64)


@pytest.mark.parametrize("x_dtype", ["int8", "uint8"])
@pytest.mark.parametrize("y_dtype", ["int8", "uint8", "int16"])
def test_changes_of_scale(x_dtype: str, y_dtype: str) -> None:
    rng = np.random.default_rng(3)
    low, target, taken = code_range(x_dtype)[0], made.target(), 0
    for size in (1, 40, 256, 5000, 256, 300, 256, 1000):
        contract = LookupContract((size,), x_dtype, table(rng, y_dtype).astype(y_dtype))
        if refusal(KERNEL, contract, target) is not None:
            continue
        taken += 1
        x = np.resize(rng.permutation(256) + low, size).astype(x_dtype)
        y = made.run(built(KERNEL, contract, target), target, x)
        np.testing.assert_array_equal(y, contract.table[x.astype(int) - low])
    assert taken >= 6  # float32 misses an entry of about one table of 16 bits in fourteen


def test_refusals() -> None:
    target = made.target()
    curve = np.round(100 / (1 + np.exp(-np.arange(-128, 128) / 20))).astype("int8")
    bent = np.arange(-128, 128).astype("int8")
    bent[77] += 1
    for other in (curve, bent, np.zeros(256, "int8")):
        assert refusal(KERNEL, LookupContract((9,), "int8", other), target) == "the table is no straight line"
    assert refusal(KERNEL, LookupContract((9,), "int8", np.zeros(256, "float32")), target) == "entries are float32"
