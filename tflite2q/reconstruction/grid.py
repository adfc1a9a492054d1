"""The grid of a layer's weights: integer codes between two limits, times scales of one kind.

Arrays of weights have the axes [groups, inputs, channels]: the channels of a group share the inputs that they read.
Arrays of scales have the axes [groups, parts, channels]: each part of a channel's inputs has a
scale.  There is one part, except in dense layers with a scale for each block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tflite2q.rewrites.weights import halves

Floats = npt.NDArray[np.float64]
Reals = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """Codes from `low` to `high` (the zero point taken off), times one scale for each channel or one for all.

    `powers` allows powers of two only, `halves` what a float16 holds with all its digits.
    """

    low: int
    high: int
    per_channel: bool = True
    powers: bool = False
    halves: bool = False

    def codes(self, weights: Reals, scales: Reals) -> Reals:
        """The nearest codes, as float32; `scales` broadcast against `weights`."""
        codes = np.rint(weights / scales)
        return np.asarray(np.clip(codes, self.low, self.high, out=codes))

    def candidates(self, weights: Floats, present: Reals) -> Reals:
        """Scales [candidates, groups, parts, channels] to try for `weights`, the `present` ones first."""
        if self.powers:
            return np.stack([present * np.float32(2.0**step) for step in (0, -1, -2, 1)]).astype(np.float32)
        reach = max(self.high, -self.low)
        groups, parts, channels = present.shape
        largest = np.abs(weights).reshape(groups, parts, -1, channels).max(axis=2) / max(self.high, 1)
        if not self.per_channel:
            largest = np.full_like(largest, largest.max())
        whole = np.where(largest > 0, largest, present)
        # Few levels clip more: the best step of 4 levels is about a third of the one that covers all.
        least = 0.3 if reach < 4 else 0.45 if reach < 32 else 0.7
        fractions = np.linspace(1.0, least, 10)
        tried = fractions[:, None, None, None] * whole
        return np.concatenate([present[None], [self.fitted(each, present) for each in tried]]).astype(np.float32)

    def fitted(self, scales: Floats, present: Reals) -> Reals:
        """Scales that are allowed, nearest to `scales`; the `present` ones where `scales` cannot be used."""
        if self.powers:
            return present
        usable = np.isfinite(scales) & (scales > 1e-30)
        found = np.where(usable, scales, present)
        return (halves(found) if self.halves else found).astype(np.float32)
