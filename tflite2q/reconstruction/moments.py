"""Means and covariances of a layer's inputs and wanted results over the samples, and the weights that follow from them.

The samples are kept in two halves, so that what is learnt from one half is tested on the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from tflite2q.errors import UnsupportedError
from tflite2q.reconstruction.grid import Floats, Reals

T = TypeVar("T")

# How much the weights may be moved to mend what came before: parts of the mean input's energy that speak against it.
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
# The part of the mean input's energy that is added to each input's own, so that no direction is free (0.01 in GPTQ).
# With so little, errors go where these samples have nothing and others have something (docs/reconstruction.md).
DAMPING = 0.1
TINY = float(np.finfo(np.float32).tiny)


@dataclass
class Sums:
    """Sums over rows x [groups, rows, inputs] and wanted results t [groups, rows, channels]."""

    rows: int = 0
    x: Floats = field(default_factory=lambda: np.zeros(1))
    t: Floats = field(default_factory=lambda: np.zeros(1))
    xx: Floats = field(default_factory=lambda: np.zeros(1))
    xt: Floats = field(default_factory=lambda: np.zeros(1))
    tt: Floats = field(default_factory=lambda: np.zeros(1))

    def add(self, x: Reals, t: Reals) -> None:
        columns = x.swapaxes(1, 2)
        self.rows += x.shape[1]
        self.x = self.x + x.sum(axis=1, dtype=np.float64)
        self.t = self.t + t.sum(axis=1, dtype=np.float64)
        self.xx = self.xx + columns @ x
        self.xt = self.xt + columns @ t
        self.tt = self.tt + (t * t).sum(axis=1, dtype=np.float64)

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.rows + other.rows,
            self.x + other.x,
            self.t + other.t,
            self.xx + other.xx,
            self.xt + other.xt,
            self.tt + other.tt,
        )


@dataclass(frozen=True)
class Moments:
    """Means of inputs and results, `h` [groups, inputs, inputs] the covariance of the inputs, `xt` that with results.

    Without a bias, which takes up means, these are the second moments themselves.
    """

    mean: Floats
    wanted: Floats
    h: Floats
    xt: Floats
    tt: Floats

    @staticmethod
    def of(sums: Sums, biased: bool) -> Moments:
        n = max(sums.rows, 1)
        mean, wanted = sums.x / n, sums.t / n
        h, xt, tt = sums.xx / n, sums.xt / n, sums.tt / n
        if biased:
            h = h - mean[:, :, None] * mean[:, None, :]
            xt = xt - mean[:, :, None] * wanted[:, None, :]
            tt = tt - wanted**2
        return Moments(mean, wanted, h, xt, tt)

    def loss(self, weights: Floats) -> Floats:
        """The mean squared error of each channel's results, the bias being the best."""
        seen = self.h @ weights - 2 * self.xt
        return np.asarray((weights * seen).sum(axis=1) + self.tt)

    def damped(self, part: float) -> Floats:
        """The covariance with `part` of the mean input's variance added to each."""
        inputs = self.h.shape[1]
        energy = np.trace(self.h, axis1=1, axis2=2)[:, None, None] / inputs
        return np.asarray(self.h + np.maximum(energy * part, TINY) * np.eye(inputs))

    def ideal(self, weights: Floats, ridge: float) -> Floats:
        """The weights near `weights` [groups, inputs, channels] whose results are nearest to those wanted (eq. R3)."""
        wanted = self.xt - self.h @ weights
        return np.asarray(weights + steadied(self.damped(ridge), lambda h: np.linalg.solve(h, wanted)))


def steadied(matrix: Floats, use: Callable[[Floats], T]) -> T:
    """What `use` makes of a covariance [groups, inputs, inputs]; where it is singular, or has negative directions, of
    one with as little more on its diagonal as helps.

    The covariance of inputs that hardly change is what rounding errors leave of a difference of equal numbers.
    Raises UnsupportedError for numbers that are not finite.
    """
    largest, inputs = float(np.abs(matrix).max(initial=0.0)), matrix.shape[1]
    more = 0.0
    while np.isfinite(largest) and more <= 16 * max(inputs * largest, TINY):  # then no direction is negative
        try:
            return use(matrix if more == 0 else matrix + more * np.eye(inputs))
        except np.linalg.LinAlgError:
            more = max(4 * more, float(np.finfo(np.float64).eps) * largest, TINY)
    raise UnsupportedError("the inputs of a layer are too large to reconstruct its weights")


def compensated(halves: tuple[Sums, Sums], biased: bool, weights: Floats) -> Floats:
    """The real weights to round: those moved so that they mend errors of the inputs, as far as that holds for samples
    that were not looked at.  With one sample there are none of these."""
    if not all(half.rows for half in halves):
        return weights
    one, two = (Moments.of(half, biased) for half in halves)
    best, least = None, one.loss(weights).sum() + two.loss(weights).sum()
    for ridge in RIDGES:
        loss = two.loss(one.ideal(weights, ridge)).sum() + one.loss(two.ideal(weights, ridge)).sum()
        if loss < least:
            best, least = ridge, loss
    if best is None:
        return weights
    return Moments.of(halves[0] + halves[1], biased).ideal(weights, best)
