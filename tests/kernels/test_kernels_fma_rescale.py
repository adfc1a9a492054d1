"""The multiply-add in float32 against the fixed point it stands for: at every step, at random, and where it fails."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from exact import fixed_array

from tflite2q.arithmetic import rounding
from tflite2q.arithmetic.rescale import Rescale
from tflite2q.arithmetic.rounding import code_range
from tflite2q.kernels import fma_rescale


def codes(rescale: Rescale, v: np.ndarray) -> np.ndarray:
    m, shift = rounding.quantize_multiplier(np.array(rescale.real))
    scaled = fixed_array(v, m[:, None], shift[:, None])
    return np.clip(scaled + rescale.zero_point, rescale.low, rescale.high)


def fma_codes(rescale: Rescale, made: fma_rescale.FmaRescale, v: np.ndarray) -> np.ndarray:
    rounded = fma_rescale.evaluate(v, made.slope, made.offset, made.signed).astype(np.int64)
    if made.mend is not None:
        rounded += np.where(v == made.mend[0][:, None], made.mend[1][:, None], 0)
    return np.clip(rounded + made.middle + rescale.zero_point, rescale.low, rescale.high)


@pytest.mark.parametrize("zero_point", [-128, 0, 3, 127])
@pytest.mark.parametrize("largest", [80.0, 6.9, 0.9, 0.4, 0.01, 0.001])
def test_equal_for_every_accumulator(zero_point: int, largest: float) -> None:
    """All accumulators between the saturated ends, not only the steps that the proof looks at."""
    rng = np.random.default_rng(zero_point + 200)
    proven = 0
    for _ in range(40):
        real = float(rng.uniform(0.2, 1.0) * largest)
        rescale = Rescale((real,), zero_point, -128, 127, "int8")
        bound = np.array([400.0 / real])
        made = fma_rescale.prove(rescale, bound)
        if made is None:
            continue
        proven += 1
        v = np.arange(-int(bound[0]), int(bound[0]) + 1)[None, :]
        np.testing.assert_array_equal(fma_codes(rescale, made, v), codes(rescale, v))
    assert proven >= 10


@pytest.mark.parametrize("low", [-128, 0, 20])
def test_channels_that_reach_few_steps_or_none(low: int) -> None:
    """As channels of zero weights do: the multiply-add must keep to the one code that there is."""
    rng = np.random.default_rng(low + 128)
    proven = 0
    for _ in range(200):
        real = rng.uniform(0.2, 1.0, 6) * 10.0 ** rng.uniform(-4, 1.0, 6)
        zero_point = int(rng.integers(-128, 128)) if low < 20 else int(rng.integers(-128, 20))
        rescale = Rescale(tuple(map(float, real)), zero_point, low, int(rng.integers(max(low, 21), 128)), "int8")
        bound = np.floor(rng.uniform(0, 2.5, 6) / real)
        made = fma_rescale.prove(rescale, bound)
        if made is None:
            continue
        proven += 1
        most = int(bound.max())
        v = np.clip(np.arange(-most, most + 1)[None, :], -bound[:, None], bound[:, None]).astype(np.int64)
        np.testing.assert_array_equal(fma_codes(rescale, made, v), codes(rescale, v))
        floats = fma_rescale.floating(made, rescale, bound)
        if floats is not None:
            assert floats.start is not None
            move = floats.start.astype(np.int64) - int(np.float32(1.5 * 2**23).view(np.int32))
            rounded = fma_rescale.evaluate_floating(v, floats.slope, floats.offset, move).astype(np.int64)
            found = np.clip(rounded + floats.middle + zero_point, rescale.low, rescale.high)
            np.testing.assert_array_equal(found, codes(rescale, v))
    assert proven >= 50


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_floats_from_the_start_are_equal_for_every_accumulator(dtype: str) -> None:
    """As the instructions do it: an integer added to a float's bits, a fused multiply-add, a rounding."""
    rng = np.random.default_rng(4)
    proven = folded = 0
    for _ in range(40):
        real = float(rng.uniform(0.2, 1.0) * 10.0 ** rng.uniform(-3.3, 1.0))
        low, high = code_range(dtype)
        zero_point = int(rng.integers(low, low + 20))
        rescale = Rescale((real,), zero_point, zero_point, high, dtype)
        bound = np.array([400.0 / real])
        made = fma_rescale.prove(rescale, bound)
        made = made and fma_rescale.floating(made, rescale, bound)
        if made is None:
            continue
        proven += 1
        assert made.start is not None
        folded += made.middle == -zero_point
        v = np.arange(-int(bound[0]), int(bound[0]) + 1)
        floats = (v + made.start[0]).astype(np.int32).view(np.float32)
        total = floats.astype(np.float64) * made.slope.astype(np.float64) + made.offset
        found = np.rint(total.astype(np.float32)) + made.middle + zero_point
        np.testing.assert_array_equal(np.clip(found, rescale.low, rescale.high)[None], codes(rescale, v[None]))
    assert proven >= 20 and folded >= 10


def test_no_floats_from_the_start_where_they_would_overflow() -> None:
    rescale = Rescale((0.00005,), 0, 0, 255, "uint8")
    made = fma_rescale.prove(rescale, np.array([5e6]))
    assert made is not None and fma_rescale.floating(made, rescale, np.array([5e6])) is None


def test_channels_are_proven_together_or_not_at_all() -> None:
    rng = np.random.default_rng(1)
    rescale = Rescale(tuple(float(r) for r in rng.uniform(0.003, 0.02, 24)), -128, -128, 127, "int8")
    bound = np.full(24, 1e5)
    made = fma_rescale.prove(rescale, bound)
    assert made is not None and made.slope.shape == (24,)
    v = np.broadcast_to(np.arange(-100000, 100001, 7), (24, 28572)) + np.arange(24)[:, None]
    np.testing.assert_array_equal(fma_codes(rescale, made, v), codes(rescale, v))


def test_first_accumulators_by_exact_search() -> None:
    """The closed form of where steps lie, against the function itself just before and at the step."""
    rng = np.random.default_rng(2)
    m, shift = rounding.quantize_multiplier(np.concatenate([rng.uniform(1e-4, 0.49, 50), rng.uniform(0.5, 40, 50)]))
    levels = np.arange(-140, 300)
    first = fma_rescale._first_accumulators(m, shift, levels)
    m, shift = m[:, None], shift[:, None]
    assert (fixed_array(first, m, shift) >= levels).all()
    assert (fixed_array(first - 1, m, shift) < levels).all()


@pytest.mark.parametrize("largest", [300.0, 0.5, 1e-7])
def test_evaluate_rounds_once(largest: float) -> None:
    """The emulated fused multiply-add against exact fractions."""
    rng = np.random.default_rng(3)
    v = rng.integers(-(2**20), 2**20, 300)
    slope = (largest * rng.uniform(0.1, 1, 1)).astype(np.float32)
    offset = rng.uniform(-128, 0.6, 1).astype(np.float32)
    ours = fma_rescale.evaluate(v[None], slope, offset, signed=False)[0]
    for x, y in zip(v, ours, strict=True):
        exact = Fraction(int(x)) * Fraction(float(slope[0])) + Fraction(float(offset[0]))
        assert y == np.rint(nearest_float32(exact))


def test_a_sum_that_float64_cannot_hold_rounds_once() -> None:
    """2**24 + 1 and 2**24 + 3 lie halfway between two float32 numbers: what float64 drops decides."""
    x, one = np.array([2.0**24 + 1, 2.0**24 + 1, 2.0**24 + 3, 2.0**24 + 3]), np.ones(4, np.float32)
    little = np.array([2.0**-40, -(2.0**-40)] * 2, np.float32)
    exact = [nearest_float32(Fraction(int(v)) + Fraction(float(o))) for v, o in zip(x, little, strict=True)]
    np.testing.assert_array_equal(fma_rescale._fused(x, one, little), exact)
    assert (exact[0], exact[1]) == (2.0**24 + 2, 2.0**24)


def nearest_float32(exact: Fraction) -> np.float32:
    guess = np.float32(float(exact))
    near = [np.nextafter(guess, np.float32(side)) for side in (-np.inf, np.inf)] + [guess]
    return min(near, key=lambda f: (abs(Fraction(float(f)) - exact), int(f.view(np.int32)) & 1))


def test_refuses_what_it_cannot_prove() -> None:
    bound = np.array([1e6])
    # A left shift by 3 drops the top bits of such accumulators, as the reference's does.
    assert fma_rescale.prove(Rescale((4.5,), 0, -128, 127, "int8"), np.array([2.0**28])) is None
    assert fma_rescale.prove(Rescale((0.01,), 0, -128, 127, "int8", "float32"), bound) is None
    assert fma_rescale.prove(Rescale((0.01,), 0, -32768, 32767, "int16"), bound) is None
    assert fma_rescale.prove(Rescale((2.0**80,), 0, -128, 127, "int8"), np.array([0.0])) is None
    # Steps every 2**22 accumulators: beyond what float32 counts exactly.
    assert fma_rescale.prove(Rescale((2.0**-23,), 0, -128, 127, "int8"), np.array([2.0**31])) is None
