"""What is known of the original model's activations, and the ranges and means a scheme takes from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.types import TensorType
from tflite2q.rewrites.scheme import Activations


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
        """Of a value of type `kind` before anything was seen."""
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


def real_ranges(observations: Mapping[str, Observation], settings: Activations) -> dict[str, tuple[float, float]]:
    """The real range of each value that `settings.range` asks to cover."""
    return {name: _range(seen, settings) for name, seen in observations.items() if seen.counts.any()}


def _range(seen: Observation, settings: Activations) -> tuple[float, float]:
    low = seen.kind.range[0]
    occurring = np.flatnonzero(seen.counts) + low
    first, last = int(occurring[0]), int(occurring[-1])
    if settings.range == "percentile":
        share = np.cumsum(seen.counts) / seen.counts.sum()
        tail = (1 - settings.percentile / 100) / 2
        first, last = (int(np.searchsorted(share, part)) + low for part in (tail, 1 - tail))
    elif settings.range == "least-squares":
        first, last = _least_squares(seen, first, last)
    return tuple(seen.kind.scale * (code - seen.kind.zero_point) for code in (first, last))  # type: ignore[return-value]


def _least_squares(seen: Observation, first: int, last: int) -> tuple[int, int]:
    """Codes to clip at so that the squared error of 255 even steps between them, and of clipping, is least."""
    codes = np.arange(len(seen.counts)) + seen.kind.range[0]
    best, least = (first, last), np.inf
    zero = seen.kind.zero_point
    for part in np.linspace(1.0, 0.3, 36):
        low, high = (zero + round((end - zero) * part) for end in (first, last))
        clipped = np.clip(codes, low, high)
        error = float((seen.counts * (clipped - codes) ** 2).sum())
        error += float(seen.counts.sum()) * (max(high - low, 1) / 255) ** 2 / 12
        if error < least:
            best, least = (low, high), error
    return best
