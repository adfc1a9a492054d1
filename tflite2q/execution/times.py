"""What timing a compiled model gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stats:
    """Times of runs, in milliseconds, in the order in which they were made."""

    times_ms: tuple[float, ...]

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.times_ms, share))

    @property
    def median_ms(self) -> float:
        return self.percentile(50)

    @property
    def p10_ms(self) -> float:
        return self.percentile(10)

    @property
    def p90_ms(self) -> float:
        return self.percentile(90)


@dataclass(frozen=True)
class OpTime:
    """One op in a profile: median time, 10^9 multiply-accumulates a second (None: it has none), share of the sum."""

    op: str
    mnemonic: str
    kernel: str
    ms: float
    gmacs: float | None
    share: float
