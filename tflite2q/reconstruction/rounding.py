"""Rounding the weights of a layer so that its results change least (docs/reconstruction.md).

With inputs X and weights W, rounded ones V change the results by X (V - W).  The squared error of a channel is then
e H e^T with e = V - W and H = X^T X, whatever the single errors are: errors of correlated inputs may cancel.
Sources: Frantar and Alistarh, "Optimal Brain Compression", 2022; Frantar et al., "GPTQ", 2022 (rounding one input after
the other, each error spread over those that follow); Behdin et al., "QuantEase", 2023 (descent by coordinates).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tflite2q.reconstruction.grid import Floats, Grid, Reals
from tflite2q.reconstruction.moments import steadied

BLOCK = 32  # inputs that are rounded before the rest hears of their errors
ROUNDS = 3  # of descent, each with the scales refitted
SWEEPS = 2  # over the inputs in a round


@dataclass(frozen=True)
class Rounded:
    """`codes` [groups, inputs, channels], `scales` [groups, parts, channels]; each channel's error e H e^T."""

    codes: Reals
    scales: Reals
    error: Floats

    @property
    def steps(self) -> Reals:
        """The scale of each code."""
        return steps(self.scales, self.codes.shape[1])

    @property
    def weights(self) -> Floats:
        return np.asarray(self.codes.astype(np.float64) * self.steps)


def steps(scales: Reals, inputs: int) -> Reals:
    """`scales` [groups, parts, channels] for each of so many inputs."""
    return np.repeat(scales, inputs // scales.shape[1], axis=1)


def rounded(weights: Floats, hessian: Floats, grid: Grid, start: Rounded) -> Rounded:
    """`weights` [groups, inputs, channels] on `grid`, the error under `hessian` [groups, inputs, inputs] being small.

    It is nowhere larger than that of `start`: for any channel, or for all together where they share a scale.
    """
    best = with_error(start, weights, hessian)
    path = Path.of(hessian)
    for scales in grid.candidates(weights, start.scales):
        best = better(best, with_error(spread(weights, path, scales, grid), weights, hessian), grid)
    found = best
    for _ in range(ROUNDS):
        found = with_error(descended(found, weights, hessian, grid), weights, hessian)
        best = better(best, found, grid)
        found = with_error(refitted(best, weights, hessian, grid), weights, hessian)
        best = better(best, found, grid)
    return best


def with_error(found: Rounded, weights: Floats, hessian: Floats) -> Rounded:
    """`found` with its error: e H e^T of each channel."""
    e = found.weights - weights
    return Rounded(found.codes, found.scales, np.asarray((e * (hessian @ e)).sum(axis=1)))


def better(first: Rounded, second: Rounded, grid: Grid) -> Rounded:
    """The rounding with the smaller error, channel by channel; for all channels at once where they share a scale."""
    if not grid.per_channel:
        return second if second.error.sum() < first.error.sum() else first
    wins = second.error < first.error
    return Rounded(
        np.where(wins[:, None, :], second.codes, first.codes),
        np.where(wins[:, None, :], second.scales, first.scales),
        np.where(wins, second.error, first.error),
    )


@dataclass(frozen=True)
class Path:
    """The order in which inputs are rounded, [groups, inputs], and how the error of each is spread over those that
    follow: the upper Cholesky factor of the inverse Hessian, in that order."""

    order: npt.NDArray[np.intp]
    factor: Reals

    @staticmethod
    def of(hessian: Floats) -> Path:
        order = np.argsort(-np.diagonal(hessian, axis1=1, axis2=2), axis=1, kind="stable")
        ordered = np.take_along_axis(np.take_along_axis(hessian, order[:, :, None], 1), order[:, None, :], 2)
        return Path(order, steadied(ordered, _factor).swapaxes(1, 2).astype(np.float32))


def _factor(hessian: Floats) -> Floats:
    """The lower Cholesky factor of the inverse.  Raises LinAlgError."""
    inverse = np.linalg.inv(hessian)
    return np.asarray(np.linalg.cholesky((inverse + inverse.swapaxes(1, 2)) / 2))


def spread(weights: Floats, path: Path, scales: Reals, grid: Grid) -> Rounded:
    """Codes found one input after the other, those of the largest Hessian first (eq. R4)."""
    order, factor = path.order, path.factor
    rest = np.take_along_axis(weights, order[:, :, None], 1).astype(np.float32)
    codes = np.zeros_like(rest)
    inputs = rest.shape[1]
    step = np.take_along_axis(steps(scales, inputs), order[:, :, None], 1)
    for first in range(0, inputs, BLOCK):
        last = min(first + BLOCK, inputs)
        errors = np.zeros((len(rest), last - first, rest.shape[2]), np.float32)
        for i in range(first, last):
            codes[:, i] = grid.codes(rest[:, i], step[:, i])
            error = (rest[:, i] - codes[:, i] * step[:, i]) / factor[:, i, i, None]
            rest[:, i + 1 : last] -= factor[:, i, i + 1 : last, None] * error[:, None, :]
            errors[:, i - first] = error
        rest[:, last:] -= factor[:, first:last, last:].swapaxes(1, 2) @ errors
    back = np.argsort(order, axis=1)
    return Rounded(np.take_along_axis(codes, back[:, :, None], 1), scales, np.empty(0))


def descended(found: Rounded, weights: Floats, hessian: Floats, grid: Grid) -> Rounded:
    """Codes moved one input after the other to where the error is least, the others being what they are (eq. R5)."""
    codes, steps = found.codes.copy(), found.steps
    narrow = hessian.astype(np.float32)
    diagonal = np.diagonal(narrow, axis1=1, axis2=2)
    pull = (hessian @ (found.weights - weights)).astype(np.float32)  # H e^T
    for _ in range(SWEEPS):
        moved = False
        for i in range(codes.shape[1]):
            wish = codes[:, i] * steps[:, i] - pull[:, i] / diagonal[:, i, None]
            now = grid.codes(wish, steps[:, i])
            step = (now - codes[:, i]) * steps[:, i]
            if not step.any():
                continue
            moved = True
            codes[:, i] = now
            if len(codes) == 1:  # most channels stay
                at = np.flatnonzero(step[0])
                pull[0][:, at] += narrow[0, :, i, None] * step[0, at]
            else:
                pull += narrow[:, :, i, None] * step[:, None, :]
        if not moved:
            break
    return Rounded(codes, found.scales, np.empty(0))


def refitted(found: Rounded, weights: Floats, hessian: Floats, grid: Grid) -> Rounded:
    """The scales with which the codes give the least error, one part after the other (eq. R6)."""
    scales, inputs = found.scales.copy(), found.codes.shape[1]
    size = inputs // scales.shape[1]
    for part in range(scales.shape[1]):
        rows = slice(part * size, (part + 1) * size)
        codes = found.codes[:, rows].astype(np.float64)
        seen = hessian[:, :, rows] @ codes
        others = found.codes * steps(scales, inputs)
        others[:, rows] = 0
        above, below = (seen * (weights - others)).sum(axis=1), (seen[:, rows] * codes).sum(axis=1)
        if not grid.per_channel:
            above, below = np.full_like(above, above.sum()), np.full_like(below, below.sum())
        scales[:, part] = grid.fitted(above / np.where(below > 0, below, np.inf), scales[:, part])
    return Rounded(found.codes, scales, np.empty(0))
