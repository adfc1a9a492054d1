"""Weights to int8: exact wherever integers fit, within half a step elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from networks import everything

import tflite2q
from tflite2q.dialect import spans
from tflite2q.dialect.types import Constant, Quantization, TensorType, Value
from tflite2q.rewrites import scheme
from tflite2q.rewrites.scheme import Weights
from tflite2q.rewrites.weights import convert_weights, one_scale

PER_CHANNEL = Weights("int8", symmetric=True, granularity="per-channel")
PER_TENSOR = Weights("int8", symmetric=True, granularity="per-tensor")
LEGACY = Weights("uint8", symmetric=False, granularity="per-tensor")

# A scale is rounded to float32, which moves the largest weight of 127 steps by a little.
ROUNDED = 127 * 2.0**-24

SCALES = st.floats(2.0**-20, 16, width=32).map(float)
SHAPES = arrays.array_shapes(min_dims=4, max_dims=4, max_side=5)


def weights(codes: np.ndarray, q: Quantization) -> Value:
    return Value("w", TensorType(codes.shape, codes.dtype.name, q), Constant(codes))


def real(value: Value, axis: int) -> np.ndarray:
    """scale * (code - zero point) in float64."""
    shape = [1] * len(value.type.shape)
    shape[axis] = -1
    channels = value.type.shape[axis]
    q = value.type.parameters
    scales = q.scales(channels).astype(np.float64).reshape(shape)
    return scales * (value.data.astype(np.int64) - q.zero_points(channels).reshape(shape))


def channels(array: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


@given(SHAPES.flatmap(lambda s: arrays.arrays(np.uint8, s)), SCALES, st.integers(0, 255), st.sampled_from([0, 3]))
def test_a_channel_that_fits_keeps_its_integers_and_its_scale(
    codes: np.ndarray, scale: float, zero_point: int, axis: int
) -> None:
    old = weights(codes, Quantization.per_tensor(scale, zero_point))
    new = convert_weights(old, axis, PER_CHANNEL)
    centred = codes.astype(np.int64) - zero_point
    fits = np.abs(channels(centred, axis)).max(1) <= 127
    scales = new.value.type.parameters.scales(codes.shape[axis])
    assert new.value.type.dtype == "int8"
    assert new.value.type.parameters.symmetric
    assert new.value.type.parameters.axis == (axis if codes.shape[axis] > 1 else None)
    np.testing.assert_array_equal(channels(new.value.data, axis)[fits], channels(centred, axis)[fits])
    assert (scales[fits] == np.float32(scale)).all()
    assert not new.rescaled[fits].any()


@given(SHAPES.flatmap(lambda s: arrays.arrays(np.uint8, s)), SCALES, st.integers(0, 255), st.sampled_from([0, 3]))
def test_a_rescaled_channel_is_within_a_step_keeps_its_sum_and_uses_the_whole_range(
    codes: np.ndarray, scale: float, zero_point: int, axis: int
) -> None:
    old = weights(codes, Quantization.per_tensor(scale, zero_point))
    new = convert_weights(old, axis, PER_CHANNEL)
    wide = np.abs(channels(codes.astype(np.int64) - zero_point, axis)).max(1) > 127
    scales = new.value.type.parameters.scales(codes.shape[axis]).astype(np.float64)
    error = channels(real(new.value, axis) - real(old, axis), axis)
    # An entry may be rounded the other way, for the sum's sake; no scale is further off than float32 rounding takes it.
    assert (np.abs(error).max(1) < scales * (1 + ROUNDED)).all()
    largest = np.abs(channels(new.value.data.astype(np.int64), axis)).max(1)
    assert (largest[wide] >= 126).all()
    assert new.value.data.min() >= -127
    np.testing.assert_allclose(new.error, real(new.value, axis) - real(old, axis), atol=1e-12 * scale)
    np.testing.assert_array_equal(new.rescaled, np.abs(error).max(1) > 0)


@given(arrays.arrays(np.uint8, (3, 4, 1, 5)), SCALES, st.integers(0, 255))
def test_the_sum_of_a_rescaled_channel_is_within_half_a_step(codes: np.ndarray, scale: float, zero_point: int) -> None:
    codes[:, 0, 0, 0] = zero_point  # an entry of 0 in each channel, so that not all are at the ends
    old = weights(codes, Quantization.per_tensor(scale, zero_point))
    new = convert_weights(old, 0, PER_CHANNEL)
    scales = new.value.type.parameters.scales(3).astype(np.float64)
    sums = channels(real(new.value, 0) - real(old, 0), 0).sum(1)
    centred = channels(codes.astype(np.int64) - zero_point, 0)
    inside = (np.abs(centred) < np.abs(centred).max(1, keepdims=True)).sum(1)  # entries free to move either way
    assert (np.abs(sums)[inside >= 19] <= scales[inside >= 19] * (0.5 + 20 * ROUNDED)).all()


@given(SHAPES.flatmap(lambda s: arrays.arrays(np.uint8, s)), SCALES, st.integers(0, 255))
def test_one_scale_for_the_tensor_is_exact_only_if_every_channel_fits(
    codes: np.ndarray, scale: float, zero_point: int
) -> None:
    old = weights(codes, Quantization.per_tensor(scale, zero_point))
    new = convert_weights(old, 0, PER_TENSOR)
    (step,) = new.value.type.parameters.scale
    assert new.value.type.parameters.axis is None
    centred = codes.astype(np.int64) - zero_point
    if np.abs(centred).max() <= 127:
        assert step == scale
        np.testing.assert_array_equal(new.value.data, centred)
    else:
        assert step > scale
    assert np.abs(real(new.value, 0) - real(old, 0)).max() < step * (1 + ROUNDED)


@given(arrays.arrays(np.int8, (4, 2, 2, 3)), st.lists(SCALES, min_size=4, max_size=4))
def test_channels_of_different_scales_merge_into_one_that_just_covers_them(
    codes: np.ndarray, scales: list[float]
) -> None:
    old = weights(codes, Quantization.per_channel(scales, 0))
    new = convert_weights(old, 0, PER_TENSOR)
    (step,) = new.value.type.parameters.scale
    assert np.abs(real(new.value, 0) - real(old, 0)).max() < step * (1 + ROUNDED)
    if len(set(scales)) > 1 and new.rescaled.any():
        assert step == pytest.approx(np.abs(real(old, 0)).max() / 127)


@given(arrays.arrays(np.int8, (3, 2, 2, 3)), SCALES)
def test_power_of_two_scales_are_powers_of_two_and_zeros_keep_theirs(codes: np.ndarray, scale: float) -> None:
    codes[1] = 0
    old = weights(codes, Quantization.per_tensor(scale, 0))
    new = convert_weights(old, 0, Weights("int8", scale="power-of-two"))
    steps = new.value.type.parameters.scales(3)
    assert (np.frexp(steps)[0] == 0.5).all()
    assert scale <= steps[1] < 2 * scale
    error = channels(real(new.value, 0) - real(old, 0), 0)
    assert (np.abs(error).max(1) < steps * (1 + ROUNDED)).all()


@given(arrays.arrays(np.int8, (3, 1, 1, 4)), SCALES)
def test_int8_to_legacy_uint8_moves_the_zero_point_only(codes: np.ndarray, scale: float) -> None:
    new = convert_weights(weights(codes, Quantization.per_tensor(scale, 0)), 0, LEGACY)
    assert new.value.type.parameters == Quantization.per_tensor(scale, 128)
    np.testing.assert_array_equal(new.value.data, codes.astype(np.int64) + 128)
    assert not new.rescaled.any()


@given(arrays.arrays(np.int8, (3, 1, 1, 4)), st.lists(SCALES, min_size=3, max_size=3))
def test_per_channel_to_legacy_uint8_is_within_a_step(codes: np.ndarray, scales: list[float]) -> None:
    old = weights(codes, Quantization.per_channel(scales, 0))
    new = convert_weights(old, 0, LEGACY)
    (step,), (zero_point,) = new.value.type.parameters.scale, new.value.type.parameters.zero_point
    assert 0 <= zero_point <= 255
    # Half a step for the code, half a step more at the ends, where the rounded zero point cuts off.
    assert np.abs(real(new.value, 0) - real(old, 0)).max() <= step * (1 + 256 * 2.0**-24)


@pytest.mark.parametrize("settings", [PER_CHANNEL, PER_TENSOR])
def test_weights_that_conform_are_returned_as_they_are(settings: Weights) -> None:
    old = weights(np.full((2, 1, 1, 2), -128, np.int8), Quantization.per_tensor(0.25, 0))
    assert convert_weights(old, 0, settings).value is old


def test_by_hand() -> None:
    codes = np.array([[3, 130], [3, 131]], np.uint8).reshape(2, 1, 1, 2)
    new = convert_weights(weights(codes, Quantization.per_tensor(0.5, 3)), 0, PER_CHANNEL)
    # Channel 0: 0 and 127 fit.  Channel 1: 128 does not; its scale grows to 0.5 * 128 / 127.
    assert new.value.data.reshape(2, 2).tolist() == [[0, 127], [0, 127]]
    assert new.value.type.parameters.scale == (0.5, float(np.float32(0.5 * 128 / 127)))
    assert new.rescaled.tolist() == [False, 127 * np.float64(np.float32(64 / 127)) != 64]


UNLIKE = arrays.arrays(np.int8, (4, 2, 2, 3))


def unlike(codes: np.ndarray) -> tuple[Value, tuple[np.ndarray, np.ndarray]]:
    """Weights with a scale for each channel, and gains that take the large channels down to the small ones."""
    scales = np.array([0.001, 0.01, 0.1, 1.0])
    old = weights(np.maximum(codes, -127), Quantization.per_channel(scales, 0))
    return old, (np.ones(1), 0.001 / scales)


@given(UNLIKE)
def test_one_asymmetric_scale_for_channels_that_were_evened_out_is_no_larger_than_it_need_be(codes: np.ndarray) -> None:
    old, gains = unlike(codes)
    wanted = real(old, 0) * gains[1].reshape(4, 1, 1, 1)
    new = convert_weights(old, 0, replace(LEGACY, range="max", rounding="nearest"), gains)
    step = (max(wanted.max(), 0.0) - min(wanted.min(), 0.0)) / 255
    assert new.value.type.scale <= step * (1 + 1e-6) or not new.rescaled.any()  # integers that fit are kept
    # The zero point is rounded, too, which may take half a step off one end.
    assert np.abs(real(new.value, 0) - wanted).max() <= step * 1.001


@given(UNLIKE)
def test_asymmetric_weights_follow_the_settings_of_range_and_rounding(codes: np.ndarray) -> None:
    old, gains = unlike(codes)
    wanted = real(old, 0) * gains[1].reshape(4, 1, 1, 1)

    def errors(**settings: Any) -> np.ndarray:
        new = convert_weights(old, 0, replace(LEGACY, **settings), gains)
        return channels(real(new.value, 0) - wanted, 0) / max(new.value.type.scale, 1e-30)

    nearest, squares = (errors(range=name, rounding="nearest") for name in ("max", "least-squares"))
    steps = [convert_weights(old, 0, replace(LEGACY, range=name), gains).value.type.scale
             for name in ("max", "least-squares")]  # fmt: skip
    # The search compares in float32, which cannot tell errors of a thousandth of a step.
    assert (squares**2).sum() * steps[1] ** 2 <= ((nearest**2).sum() + 1e-6 * nearest.size) * steps[0] ** 2
    # Entries at the ends of the range cannot be moved beyond them.
    kept = np.abs(errors(range="max", rounding="sum-preserving").sum(axis=1))
    assert (kept <= np.maximum(np.abs(nearest.sum(axis=1)), 0.501)).all()
    assert (kept[np.abs(channels(old.data, 0)).max(axis=1) < 60] < 0.501).all()


@pytest.mark.parametrize("name", ["max", "least-squares", "percentile"])
def test_channels_of_zeros_have_no_say_in_a_common_scale(name: str) -> None:
    """Their own scale may be any: that of a channel that is lifted far is large."""
    codes = np.random.default_rng(0).integers(-127, 128, (4, 1, 1, 9)).astype(np.int8)
    codes[0] = 0
    old = weights(codes, Quantization.per_channel(np.array([1.0, 0.01, 0.02, 0.03]), 0))
    new = convert_weights(old, 0, replace(PER_TENSOR, range=name))
    assert new.value.type.scale <= np.abs(real(old, 0)).max() / 127 * 1.05  # least squares may choose a little more


# A network of uint8 already is what these ask for.
UNCHANGED = ("asymmetric-uint8", "symmetric-uint8")


@pytest.mark.parametrize("name", [name for name in scheme.shipped() if name not in UNCHANGED])
def test_large_weights_are_converted_in_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of one channel each, in every layer, give what the whole gives; layers are equalized and reconstructed."""
    graph = everything(11)
    whole = tflite2q.convert(graph, name)
    monkeypatch.setattr(spans, "AT_ONCE", 1)
    parts = tflite2q.convert(graph, name)
    assert parts.graph == whole.graph
    assert parts.layers == whole.layers


ONE_SCALE = Quantization.per_tensor(0.5, 3)


@pytest.mark.parametrize(
    ("codes", "settings", "axis"),
    [
        ([[3, 130], [3, 0]], PER_CHANNEL, None),  # all channels keep 0.5
        ([[3, 130], [3, 131]], PER_CHANNEL, 0),  # the second one is rescaled
        ([[4, 10], [3, 5]], Weights("int4"), 0),  # kernels of int4 take a scale for each channel
    ],
)
def test_channels_that_share_a_scale_need_it_once(codes: list[list[int]], settings: Weights, axis: int | None) -> None:
    old = weights(np.array(codes, np.uint8).reshape(2, 1, 1, 2), ONE_SCALE)
    several = convert_weights(old, 0, settings)
    found = one_scale(several)
    assert found.value.type.parameters.axis == axis
    assert found.value.constant == several.value.constant
    np.testing.assert_array_equal(real(found.value, 0), real(several.value, 0))
    assert not found.rescaled.any() or found is several


def test_weights_that_stay_keep_their_scales_as_the_file_has_them() -> None:
    old = weights(np.ones((2, 1, 1, 2), np.int8), Quantization.per_channel([0.5, 0.5], 0))
    kept = convert_weights(old, 0, PER_CHANNEL)
    assert one_scale(kept) is kept


@pytest.mark.parametrize(("size", "block"), [(1e-6, 0), (2e-4, 0), (1e-3, 32), (1.0, 32), (1e5, 32), (1e7, 0)])
@pytest.mark.parametrize("stored", [False, True], ids=["real", "int8"])
def test_blocks_need_weights_in_reach_of_a_scale_of_float16(size: float, block: int, stored: bool) -> None:
    """Others would be rounded to a step that float16 has, all of them to 0 or to the largest code."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (6, 64)).astype(np.int8)
    codes[1] //= 64  # rows that are small beside the others have no say
    exact = codes * np.float32(size / 127)
    if stored:
        old = weights(codes, Quantization.per_tensor(float(np.float32(size / 127)), 0))
    else:
        old = Value("w", TensorType(exact.shape, "float32"), Constant(exact))
    new = convert_weights(old, 0, Weights("int4", block=32, compute="integer")).value
    q = new.type.parameters
    assert q.block == block
    steps = np.repeat(np.array(q.scale).reshape(6, -1), 64 * 6 // len(q.scale), axis=1)
    largest = np.abs(exact).max()
    assert np.abs(new.data * steps - exact).max() <= 1.001 * largest / 7


def test_four_bits_use_all_sixteen_codes() -> None:
    """A filter whose largest weights are negative gets the code -8, and so smaller steps than with 15 codes."""
    random = np.random.default_rng(0)
    codes = (128 - np.abs(random.normal(0, 40, (8, 3, 3, 16)))).clip(0, 255).astype(np.uint8)
    old = weights(codes, Quantization.per_tensor(0.02, 128))
    found = {}
    for levels in (0, 15):
        settings = Weights("int4", range="least-squares", rounding="nearest", levels=levels)
        new = convert_weights(old, 0, settings).value
        found[levels] = ((real(new, 0) - real(old, 0)) ** 2).sum(), int(new.data.min())
    assert (found[0][1], found[15][1]) == (-8, -7)
    assert found[0][0] < 0.95 * found[15][0]
