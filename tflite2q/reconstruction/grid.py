"""The numbers that weights of a layer can be: whole codes between two ends, times scales of a kind.

Arrays of weights have the axes [groups, inputs, channels]: the channels of a group share the inputs that they read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Reals = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """Codes from `low` to `high` (the zero point taken off), times one scale for each channel or one for all.

    `powers` allows powers of two only.
    """

    low: int
    high: int
    per_channel: bool = True
    powers: bool = False

    def codes(self, weights: Reals, scales: Reals) -> Reals:
        """The nearest codes, as float32; `scales` broadcast against `weights`."""
        codes = np.rint(weights / scales)
        return np.asarray(np.clip(codes, self.low, self.high, out=codes))

    def candidates(self, weights: Floats, present: Reals) -> Reals:
        """Scales [candidates, groups, channels] to try for `weights`, the `present` ones [groups, channels] first."""
        if self.powers:
            tried = [present * np.float32(2.0**step) for step in (0, -1, -2, 1)]
            return np.stack(tried).astype(np.float32)
        reach = max(self.high, -self.low)
        largest = np.abs(weights).max(axis=1) / max(self.high, 1)
        if not self.per_channel:
            largest = np.full_like(largest, largest.max())
        whole = np.where(largest > 0, largest, present)
        # Few levels clip more: the best step of 4 levels is about a third of the one that covers all.
        least = 0.3 if reach < 4 else 0.45 if reach < 32 else 0.7
        parts = np.linspace(1.0, least, 10)
        return np.concatenate([present[None], parts[:, None, None] * whole]).astype(np.float32)

    def fitted(self, scales: Floats, present: Reals) -> Reals:
        """Scales that are allowed, nearest to `scales`; `present` ones where those are none."""
        if self.powers:
            return present
        usable = np.isfinite(scales) & (scales > 1e-30)
        return np.where(usable, scales, present).astype(np.float32)
