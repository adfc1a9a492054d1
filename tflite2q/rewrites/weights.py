"""rewrite: weights to the scheme's dtype and granularity, exactly wherever the integers fit (eq. S2, S3).

    before: %w: u8[16,3,3,8] (scale 0.02, zero point 131)
    after:  %w: s8[16,3,3,8] (16 scales on axis 0, each 0.02 unless its channel had to be rescaled)

Weights are handled as rows: one row per output channel, in units of that row's scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic import rounding
from tflite2q.dialect.spans import blocks_of_rows
from tflite2q.dialect.types import Constant, Quantization, Value
from tflite2q.rewrites.fitting import Rows, are_whole, ends, fit, fit_symmetric, round_preserving_sums
from tflite2q.rewrites.parameters import power_of_two_at_least
from tflite2q.rewrites.scheme import Weights

SMALLEST_HALF = 2.0**-14  # the smallest float16 with all its digits: scales below it would be coarse
LARGEST_HALF = float(np.finfo(np.float16).max)

Gains = tuple[rounding.Floats, rounding.Floats]


@dataclass(frozen=True)
class NewWeights:
    """Converted weights, and what they were converted from; `rescaled` marks the channels that lost precision,
    `largest` is the greatest sum of a channel's errors, in real numbers and without signs."""

    value: Value
    rescaled: npt.NDArray[np.bool_]
    largest: float
    old: Value
    axis: int
    gains: Gains | None = None

    @property
    def error(self) -> npt.NDArray[np.float64]:
        """New minus old in real numbers, in the shape of the weights; computed when asked for."""
        found = np.zeros(self.value.type.shape)
        if self.largest:
            for part in blocks_of_rows(self.old, self.axis):
                rows = _error(self, part)
                np.moveaxis(found, self.axis, 0)[part] = np.moveaxis(
                    _from_rows(rows, _part_of(self.value.type.shape, self.axis, len(rows)), self.axis), self.axis, 0
                )
        return found


def convert_weights(value: Value, axis: int, settings: Weights, gains: Gains | None = None) -> NewWeights:
    """`value` under `settings`; `axis` is the output channel's.  Weights that conform are returned as they are.

    `gains` are factors for the last axis and for the output channels that the weights are multiplied by first.
    Where channels do not depend on each other, a part of them is converted at a time.
    """
    channels = value.type.shape[axis]
    if gains is None and conforms(value, settings):
        return NewWeights(value, np.zeros(channels, bool), 0.0, value, axis)
    if in_blocks(value, settings):
        return _blockwise(value, axis, settings, gains)
    storage = "int8" if settings.dtype == "int4" else settings.dtype
    array = np.empty(value.type.shape, storage)
    scales, zero_point, sums = np.ones(channels, np.float32), 0, np.zeros(channels)
    parts = blocks_of_rows(value, axis)
    unlike = settings.granularity != "per-tensor" and (_is_real(value) or gains is not None)
    integers = not unlike or all(are_whole(_gained(value, axis, gains, part)[0]) for part in parts)
    if settings.dtype != "float32" and (settings.granularity == "per-tensor" or not settings.symmetric):
        parts = [slice(0, channels)]
    for part in parts:
        units, base = _gained(value, axis, gains, part)
        if settings.dtype == "float32":
            with np.errstate(over="ignore"):  # beyond the range of float32
                codes = (units * base[:, None]).astype(np.float32)
            sums[part] = np.abs(codes - units * base[:, None]).sum(axis=1)
        else:
            rows = fit(units, base, settings, _is_real(value), integers)
            codes = (rows.codes + rows.zero_point).astype(storage)
            scales[part], zero_point = rows.scales, rows.zero_point
            sums[part] = _lost(rows, units, base)
        np.moveaxis(array, axis, 0)[part] = np.moveaxis(
            _from_rows(codes, _part_of(value.type.shape, axis, len(codes)), axis), axis, 0
        )
    quantization = _quantization(settings, scales, zero_point, axis)
    kind = value.type.with_(dtype=settings.dtype, quantization=quantization)
    new = value.with_(type=kind, constant=Constant(array))
    rescaled = sums != 0 if settings.dtype != "float32" else np.zeros(channels, bool)
    return NewWeights(new, rescaled, float(sums.max(initial=0.0)), value, axis, gains)


def one_scale(new: NewWeights) -> NewWeights:
    """New int8 weights of which no channel was rescaled and all have the same scale, with that scale for the tensor.

    Integer kernels compute the same codes from it, no slower, and a file holds it once instead of for each channel.
    """
    q = new.value.type.quantization
    if new.value is new.old or new.value.type.dtype != "int8" or q is None or q.axis is None or q.block:
        return new
    if new.rescaled.any() or len(set(q.scale)) > 1:
        return new
    kind = new.value.type.with_(quantization=Quantization.per_tensor(q.scale[0], 0))
    return replace(new, value=new.value.with_(type=kind))


def scale_each(new: NewWeights) -> NewWeights:
    """New weights whose one scale is said for each channel: LiteRT's hybrid depthwise kernel reads as many."""
    q = new.value.type.quantization
    if q is None or q.axis is not None:
        return new
    scales = Quantization.per_channel(q.scale * new.value.type.shape[new.axis], new.axis)
    return replace(new, value=new.value.with_(type=new.value.type.with_(quantization=scales)))


def _lost(rows: Rows, units: rounding.Floats, base: rounding.Floats) -> rounding.Floats:
    """The sum of the errors of each row, without signs; 0 for rows that keep integers and scale."""
    scales = rows.scales.astype(np.float64)
    changed = (scales != base) | (rows.codes != units).any(axis=1)
    found = np.zeros(len(base))
    error = rows.codes[changed] * scales[changed, None] - units[changed] * base[changed, None]
    found[changed] = np.abs(error).sum(axis=1)
    return found


def _quantization(
    settings: Weights, scales: npt.NDArray[np.float32], zero_point: int, axis: int
) -> Quantization | None:
    if settings.dtype == "float32":
        return None
    if settings.granularity == "per-channel":
        return Quantization.per_channel(scales, axis)
    return Quantization.per_tensor(float(scales[0]), zero_point)


def _gained(value: Value, axis: int, gains: Gains | None, part: slice) -> tuple[rounding.Floats, rounding.Floats]:
    """As `integer_rows`, of some output channels and times the gains."""
    units, base = integer_rows(value, axis, part)
    if gains is None:
        return units, base
    last, outer = gains
    spread = np.moveaxis(np.broadcast_to(last, value.type.shape), axis, 0)[part]
    return units * spread.reshape(len(base), -1), base * np.broadcast_to(outer, value.type.shape[axis])[part]


def _error(weights: NewWeights, part: slice) -> rounding.Floats:
    """New minus old in real numbers, of some output channels, one row a channel."""
    units, base = _gained(weights.old, weights.axis, weights.gains, part)
    codes, scales = integer_rows(weights.value, weights.axis, part)
    return np.asarray(codes * scales[:, None] - units * base[:, None])


def _part_of(shape: tuple[int, ...], axis: int, channels: int) -> tuple[int, ...]:
    return (*shape[:axis], channels, *shape[axis + 1 :])


def in_blocks(value: Value, settings: Weights) -> bool:
    """Whether weights get a scale for each block of a row: those that can be divided, and are in reach of float16.

    Blocks of weights that are small beside the largest lose no more by a scale that is too coarse than it does.
    """
    if not settings.block or len(value.type.shape) != 2 or value.type.shape[1] % settings.block:
        return False
    rows = (integer_rows(value, 0, part) for part in blocks_of_rows(value, 0))
    largest = max(
        (float((np.abs(units).max(axis=1, initial=0.0) * base).max(initial=0.0)) for units, base in rows), default=0.0
    )
    return largest == 0 or SMALLEST_HALF <= largest / ends(settings)[1] <= LARGEST_HALF


def halves(scales: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    """The nearest scales that a float16 holds with all its digits."""
    return np.asarray(np.clip(scales, SMALLEST_HALF, LARGEST_HALF), np.float16)


def _blockwise(value: Value, axis: int, settings: Weights, gains: Gains | None) -> NewWeights:
    """Weights [units, k] with a float16 scale for each block of a row, as files hold them."""
    low, high = ends(settings)
    units, base = _gained(value, axis, gains, slice(None))
    blocks = (units * base[:, None]).reshape(-1, settings.block)
    fitted = fit_symmetric(blocks, np.ones(len(blocks)), settings, integers=False)
    narrow = halves(fitted.scales).astype(np.float64)
    exact: rounding.Floats = blocks / narrow[:, None]
    nearest = settings.rounding == "nearest"
    codes = rounding.round_half_away(exact) if nearest else round_preserving_sums(exact, (low, high))
    codes = np.clip(codes, low, high)
    sums = np.abs(codes * narrow[:, None] - blocks).reshape(value.type.shape[0], -1).sum(axis=1)
    q = Quantization(tuple(narrow.tolist()), (0,) * len(narrow), 0, settings.block)
    kind = value.type.with_(dtype=settings.dtype, quantization=q)
    constant = Constant(codes.reshape(value.type.shape).astype(np.int8))
    new = value.with_(type=kind, constant=constant)
    return NewWeights(new, sums != 0, float(sums.max(initial=0.0)), value, axis, gains)


def conforms(value: Value, settings: Weights) -> bool:
    """Whether weights already conform: dtype, symmetry, kind of scale, and no finer granularity than allowed."""
    q = value.type.quantization
    if q is None:
        return value.type.dtype == settings.dtype == "float32"
    if q.block or in_blocks(value, settings):
        return value.type.dtype == settings.dtype and q.block == settings.block and q.symmetric
    fine_enough = q.axis is None or settings.granularity == "per-channel"
    symmetric_enough = q.symmetric or not settings.symmetric
    scales_allowed = settings.scale == "any" or all(power_of_two_at_least(s) == s for s in q.scale)
    if value.type.dtype != settings.dtype or not (symmetric_enough and fine_enough and scales_allowed):
        return False
    if not settings.levels:
        return True
    low, high = ends(settings)
    return bool(((low <= value.data) & (value.data <= high)).all())


def integer_rows(value: Value, axis: int, part: slice = slice(None)) -> tuple[rounding.Floats, rounding.Floats]:
    """The weights as whole numbers [channels, n], zero point taken off, and the scale of each row; of some channels.

    Real numbers, and those with a scale for each block of a row, stay real: the scales are 1.
    """
    channels = value.type.shape[axis]
    q = value.type.quantization
    if q is not None and q.block:
        real = np.moveaxis(q.real(value.data), axis, 0)[part]
        return real.reshape(len(real), -1), np.ones(len(real))
    data = np.moveaxis(value.data, axis, 0)[part]
    rows = data.reshape(len(data), -1).astype(np.float64)
    if q is None:
        return rows, np.ones(len(rows))
    return rows - q.zero_points(channels)[part, None], q.scales(channels)[part].astype(np.float64)


def _is_real(value: Value) -> bool:
    q = value.type.quantization
    return q is None or q.block > 0


def _from_rows(rows: npt.NDArray[Any], shape: tuple[int, ...], axis: int) -> npt.NDArray[Any]:
    rest = tuple(size for index, size in enumerate(shape) if index != axis)
    return np.moveaxis(rows.reshape(shape[axis], *rest), 0, axis)
