"""rewrite: weights to the scheme's dtype and granularity, exactly wherever the integers fit (eq. 21, 22).

before: %w: u8[16,3,3,8] (scale 0.02, zero point 131)
after:  %w: s8[16,3,3,8] (16 scales on axis 0, each 0.02 unless its channel had to be rescaled)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q import numerics
from tflite2q.dialect.types import Constant, Quantization, Value
from tflite2q.scheme import Weights


@dataclass(frozen=True)
class NewWeights:
    """Converted weights; `rescaled` marks the channels that lost precision, `error` is new minus old in real numbers
    (same shape as the weights)."""

    value: Value
    rescaled: npt.NDArray[np.bool_]
    error: npt.NDArray[np.float64]


def convert_weights(value: Value, axis: int, settings: Weights) -> NewWeights:
    """`value` under `settings`; `axis` is the output channel's.  Weights that conform are returned as they are."""
    channels = value.type.shape[axis]
    if conforms(value, settings):
        return NewWeights(value, np.zeros(channels, bool), np.zeros(value.type.shape))
    q = value.type.parameters
    shape = [1] * len(value.type.shape)
    shape[axis] = channels
    zero_points = q.zero_points(channels).reshape(shape)
    old_scales = q.scales(channels).astype(np.float64)
    centred = value.data.astype(np.int64) - zero_points
    if settings.granularity == "per-tensor":
        centred_units, base = _common_units(centred, old_scales, shape)
    else:
        centred_units, base = centred.astype(np.float64), old_scales
    if settings.symmetric:
        codes, scales, zero_point = _fit_symmetric(centred_units, base, axis, settings)
    else:
        codes, scales, zero_point = _fit_asymmetric(centred_units, base, settings.dtype)
    wide = codes.astype(np.int64) - zero_point
    error = wide * scales.astype(np.float64).reshape(shape) - centred * old_scales.reshape(shape)
    others = tuple(i for i in range(centred.ndim) if i != axis)
    rescaled = (error != 0).any(axis=others) if value.type.size else np.zeros(channels, bool)
    if settings.granularity == "per-channel":
        new = Quantization.per_channel(scales, axis)
    else:
        new = Quantization.per_tensor(float(scales[0]), zero_point)
    kind = value.type.with_(dtype=settings.dtype, quantization=new)
    return NewWeights(value.with_(type=kind, constant=Constant(codes)), rescaled, error)


def conforms(value: Value, settings: Weights) -> bool:
    """Whether nothing would be gained: right dtype and symmetry, and no finer granularity than allowed."""
    q = value.type.parameters
    fine_enough = q.axis is None or settings.granularity == "per-channel"
    symmetric_enough = q.symmetric or not settings.symmetric
    return value.type.dtype == settings.dtype and symmetric_enough and fine_enough


def _common_units(
    centred: numerics.Ints, scales: numerics.Floats, shape: list[int]
) -> tuple[numerics.Floats, numerics.Floats]:
    """Weights in units of the largest scale, so that one scale serves all channels; whole numbers if all are equal."""
    base = np.full_like(scales, scales.max(initial=0.0))
    return centred * (scales / base).reshape(shape), base


def _fit_symmetric(
    units: numerics.Floats, base: numerics.Floats, axis: int, settings: Weights
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32], int]:
    """Codes, one scale a channel, and zero point 0; a channel that fits keeps its integers and its scale (eq. 21)."""
    limit = numerics.code_range(settings.dtype)[1]
    others = tuple(i for i in range(units.ndim) if i != axis)
    largest = np.abs(units).max(axis=others, initial=0.0)
    if settings.granularity == "per-tensor":
        largest = np.full_like(largest, largest.max(initial=0.0))
    scales = (base * np.maximum(largest / limit, 1.0)).astype(np.float32)
    shape = [1] * units.ndim
    shape[axis] = -1
    ratio = np.where(largest <= limit, 1.0, base / scales.astype(np.float64)).reshape(shape)
    codes = np.clip(numerics.round_half_away(units * ratio), -limit, limit)
    return codes.astype(settings.dtype), scales, 0


def _fit_asymmetric(
    units: numerics.Floats, base: numerics.Floats, dtype: str
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32], int]:
    """Codes, one scale and one zero point for the tensor: the middle of the dtype if that fits, as it costs least."""
    low, high = numerics.code_range(dtype)
    middle = (low + high + 1) // 2
    bottom, top = min(float(units.min(initial=0.0)), 0.0), max(float(units.max(initial=0.0)), 0.0)
    if low - middle <= bottom and top <= high - middle:
        scale, zero_point = float(base[0]), middle
    else:
        scale = float(np.float32(base[0] * max(1.0, (top - bottom) / (high - low))))
        zero_point = low - int(numerics.round_half_away(bottom * base[0] / scale))
    codes = np.clip(numerics.round_half_away(units * (base[0] / scale)) + zero_point, low, high)
    return codes.astype(dtype), np.full(len(base), scale, np.float32), zero_point
