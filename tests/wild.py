"""Draws from the corners: extreme scales and zero points, axes of one element, codes at the ends of their range.

Every family of `cases` grows from such draws as from the usual ones.  LiteRT refuses part of what comes out, and some
of it kills its process; what it computes must be computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from cases import FAMILIES
from draw import CODES, Array, Case, Draw

from tflite2q.arithmetic.rounding import RANGES
from tflite2q.dialect.types import STORAGE, TensorType
from tflite2q.errors import InvalidGraph


class Wild(Draw):
    """Each choice is extreme more often than not."""

    def shape(self, rank: int, most: int = 6) -> tuple[int, ...]:
        if self.chance(0.1):
            return tuple(1 for _ in range(rank))
        return tuple(1 if self.chance(0.3) else self.number(1, most) for _ in range(rank))

    def scale(self, low: float = 1e-3, high: float = 0.5) -> float:
        choice = self.number(0, 9)
        if choice < 5:
            return super().scale(low, high)
        if choice < 7:
            return super().scale(low / 1000, low)
        if choice < 9:
            return super().scale(high, high * 50)
        return self.pick((1.0, 2.0, float(np.float32(1 / 3)), 1e-6, 0.5, 1 / 256, 1 / 128, 1 / 32768))

    def zero_point(self, dtype: str) -> int:
        if dtype == "int16":
            return 0
        low, high = RANGES[dtype]
        return self.pick((low, high, 0, low + 1, high - 1, (low + high + 1) // 2, self.number(low, high)))

    def data(self, kind: TensorType, spread: float = 4.0) -> Array:
        if kind.dtype not in CODES or self.chance(0.4):
            return super().data(kind, spread)
        low, high = RANGES[kind.dtype]
        if self.chance(0.3):
            return np.full(kind.shape, self.pick((low, high, min(max(kind.zero_point, low), high)))).astype(kind.dtype)
        return np.where(self.rng.random(kind.shape) < 0.5, low, high).astype(STORAGE[kind.dtype])


class Halves(Draw):
    """Scales are powers of two, so that results lie exactly between two codes wherever they can."""

    def scale(self, low: float = 1e-3, high: float = 0.5) -> float:
        return float(2.0 ** round(math.log2(super().scale(low, high))))


def wild_cases(family: str, count: int, seed: int = 0) -> Iterator[Case]:
    """About `count` cases of a family; draws that are no valid graph are left out."""
    for index in range(count):
        try:
            yield FAMILIES[family](Wild(np.random.default_rng([seed, index, *family.encode(), 7])))
        except InvalidGraph:
            continue
