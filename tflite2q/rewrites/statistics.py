"""Statistics of the original model's activations, and the ranges and means that a scheme uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic import rounding
from tflite2q.dialect.types import TensorType
from tflite2q.rewrites.scheme import Activations

RealRange = tuple[float, float]

# Samples show not all that a value can be.  One bit of 16 is cheap, and clipping what new data bring is not.
HEADROOM = 2.0


@dataclass
class Observation:
    """One activation: how often each code occurred, lowest first, and of each element the mean in real numbers and the
    lowest and the highest code."""

    kind: TensorType
    counts: npt.NDArray[np.int64]
    mean: npt.NDArray[np.float64]
    lowest: npt.NDArray[np.int64]
    highest: npt.NDArray[np.int64]

    @staticmethod
    def nothing(kind: TensorType) -> Observation:
        """An empty observation of a value of type `kind`."""
        low, high = kind.range
        counts = np.zeros(high - low + 1, np.int64)
        ends = (np.full(kind.shape, end, np.int64) for end in (high, low))
        return Observation(kind, counts, np.zeros(kind.shape), *ends)

    def add(self, codes: npt.NDArray[Any], weight: float) -> None:
        low = self.kind.range[0]
        self.counts += np.bincount(codes.reshape(-1).astype(np.int64) - low, minlength=len(self.counts))
        self.mean += (codes.astype(np.float64) - self.kind.zero_point) * (self.kind.scale * weight)
        self.lowest = np.minimum(self.lowest, codes)
        self.highest = np.maximum(self.highest, codes)


def covered(seen: Observation, settings: Activations) -> RealRange:
    """The real range that a new scale must cover under `settings`, for an activation observed at least once."""
    low = seen.kind.range[0]
    occurring = np.flatnonzero(seen.counts) + low
    first, last = int(occurring[0]), int(occurring[-1])
    if settings.range == "percentile":
        share = np.cumsum(seen.counts) / seen.counts.sum()
        tail = (1 - settings.percentile / 100) / 2
        first, last = (max(int(np.searchsorted(share, part)) + low, first) for part in (tail, 1 - tail))
    elif settings.range == "least-squares":
        first, last = _least_squares(seen, settings, first, last)
    bottom, top = (seen.kind.scale * (code - seen.kind.zero_point) for code in (first, last))
    return roomy((bottom, top)) if has_room(settings) else (bottom, top)


def has_room(settings: Activations) -> bool:
    """Whether ranges go beyond observed ones."""
    return settings.dtype == "int16" and settings.range == "min-max"


def roomy(seen: RealRange) -> RealRange:
    """The range that new data may need, from 0 on, where samples needed `seen`."""
    return min(seen[0], HEADROOM * min(seen[0], 0.0)), max(seen[1], HEADROOM * max(seen[1], 0.0))


def _least_squares(seen: Observation, settings: Activations, first: int, last: int) -> tuple[int, int]:
    """Codes to clip at so that the squared error of the new grid's even steps, and of clipping, is least."""
    codes = np.arange(len(seen.counts)) + seen.kind.range[0]
    best, least = (first, last), np.inf
    zero = seen.kind.zero_point
    for part in np.linspace(1.0, 0.3, 36):
        low, high = (zero + round((end - zero) * part) for end in (first, last))
        clipped = np.clip(codes, low, high)
        error = float((seen.counts * (clipped - codes) ** 2).sum())
        error += float(seen.counts.sum()) * _step(low - zero, high - zero, settings) ** 2 / 12
        if error < least:
            best, least = (low, high), error
    return best


def _step(bottom: float, top: float, settings: Activations) -> float:
    """The step of the grid over [bottom, top] and 0 under `settings`; with zero point 0 it is symmetric (eq. S5)."""
    low, high = rounding.code_range(settings.dtype)
    bottom, top = min(bottom, 0.0), max(top, 0.0)
    if settings.symmetric and low < 0:
        return max(top / high, bottom / low)
    return (top - bottom) / (high - low)
