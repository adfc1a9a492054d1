"""Rows of weights as codes: the steps that fit them, and how they are rounded (eq. S2, S3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic import rounding
from tflite2q.rewrites.parameters import power_of_two_at_least
from tflite2q.rewrites.scheme import Weights

# Steps that are tried for a least-squares fit, as parts of the step that just covers the largest weight.
COARSE = np.linspace(1.0, 0.4, 13)
FINE = np.linspace(-0.04, 0.04, 9)


@dataclass(frozen=True)
class Rows:
    """Weights [channels, n] = codes * scales[:, None] after fitting, zero_point still to be added."""

    codes: rounding.Floats
    scales: npt.NDArray[np.float32]
    zero_point: int = 0


def are_whole(units: rounding.Floats) -> bool:
    return not (units != np.rint(units)).any()


def ends(settings: Weights) -> tuple[int, int]:
    """The lowest and the highest code of weights: so many levels around 0, or all of the dtype.

    Symmetric ones of 8 bits leave out the lowest, as the format demands; of 16 codes that would be a waste.
    """
    low, high = rounding.code_range(settings.dtype)
    if settings.levels:
        return -(settings.levels // 2), settings.levels - 1 - settings.levels // 2
    return (-high, high) if settings.symmetric and settings.dtype != "int4" else (low, high)


def fit(units: rounding.Floats, base: rounding.Floats, settings: Weights, real: bool, integers: bool) -> Rows:
    """`real`: the weights are real numbers, of which no step is kept; `integers`: those of all channels are whole."""
    if settings.granularity == "per-tensor":  # units of one common scale; still whole numbers if all were equal
        common = base.max(initial=0.0)
        units, base = units * (base / common)[:, None], np.full_like(base, common)
    if settings.symmetric:
        return fit_symmetric(units, base, settings, integers)
    return _fit_asymmetric(units, base, settings, real)


def fit_symmetric(units: rounding.Floats, base: rounding.Floats, settings: Weights, integers: bool) -> Rows:
    """Zero point 0.  A channel that fits keeps its integers and its scale (eq. S2), others are rescaled (eq. S3), as
    are real numbers, of which no step is kept."""
    low, limit = ends(settings)
    codes, scales = units.copy(), base.astype(np.float32)
    largest = np.abs(units).max(axis=1, initial=0.0)
    rows = outgrown(largest, base, settings)
    if not (integers and are_whole(units)):  # channels of unlike scales share one now
        rows[:] = True
    if not rows.any():
        return Rows(codes, scales)
    ratios = _covering(units[rows], (low, limit), settings)
    if settings.granularity == "per-tensor":
        ratios[:] = ratios.max()
    new = base[rows] * np.where(ratios > 0, ratios, 1.0)  # rows of zeros say nothing: their biases keep their units
    if settings.scale == "power-of-two":
        new = _powers_of_two(units[rows] * base[rows, None], new, (low, limit), settings)
    scales[rows] = new.astype(np.float32)
    exact: rounding.Floats = units[rows] * (base[rows] / scales[rows].astype(np.float64))[:, None]
    if settings.rounding == "nearest":
        codes[rows] = np.clip(rounding.round_half_away(exact), low, limit)
    else:
        codes[rows] = round_preserving_sums(exact, (low, limit))
    return Rows(codes, scales)


def _powers_of_two(
    real: rounding.Floats, steps: rounding.Floats, limits: tuple[int, int], settings: Weights
) -> rounding.Floats:
    """The powers of two that are not below `steps`, or half of them where that has the least squared error."""
    whole = np.array([power_of_two_at_least(step) for step in steps])
    if settings.range != "least-squares":
        return whole
    errors = [
        ((np.clip(rounding.round_half_away(real / step[:, None]), *limits) * step[:, None] - real) ** 2).sum(axis=1)
        for step in (whole, whole / 2)
    ]
    halve = errors[1] < errors[0]
    if settings.granularity == "per-tensor":
        halve = np.full_like(halve, errors[1].sum() < errors[0].sum())
    return np.where(halve, whole / 2, whole)


def outgrown(largest: rounding.Floats, base: rounding.Floats, settings: Weights) -> npt.NDArray[np.bool_]:
    """The rows, of `largest` magnitude in units of scale `base`, that cannot keep their integers under symmetric
    codes."""
    rows = largest > ends(settings)[1]
    if settings.scale == "power-of-two":
        rows = rows | np.array([power_of_two_at_least(s) != s for s in base], bool)
    return np.full_like(rows, rows.any()) if settings.granularity == "per-tensor" else rows


def _covering(units: rounding.Floats, limits: tuple[int, int], settings: Weights) -> rounding.Floats:
    """Old units a new step should span, for each row; 0 for rows of zeros."""
    limit = max(limits[1], 1)
    magnitudes = np.abs(units)
    whole = magnitudes.max(axis=1) / limit
    if settings.range == "percentile":
        tail: rounding.Floats = np.percentile(magnitudes, settings.percentile, axis=1)
        return np.where(tail > 0, tail / limit, whole)
    if settings.range == "max":
        return np.asarray(whole)
    return np.where(whole > 0, _least_squares(units, np.where(whole > 0, whole, 1.0), limits), 0.0)


def _least_squares(units: rounding.Floats, whole: rounding.Floats, ends: tuple[int, int]) -> rounding.Floats:
    """Step of least squared error for each row, whose integers lie between `ends`, searched on a coarse grid of parts
    of `whole`, then a fine one."""
    narrow = units.astype(np.float32)  # enough to compare errors with, and half the memory traffic
    best, least = whole.copy(), np.full(len(units), np.inf)
    for centre, offsets in ((0.0, COARSE), (1.0, FINE)):
        around = best / whole * centre
        for offset in offsets:
            step = ((around + offset) * whole).astype(np.float32)[:, None]
            rounded = narrow / step
            np.rint(rounded, out=rounded)
            np.clip(rounded, *ends, out=rounded)
            rounded *= step
            rounded -= narrow
            error = np.einsum("ij,ij->i", rounded, rounded)
            better = error < least
            best[better], least[better] = step[better, 0], error[better]
    return np.asarray(best)


def round_preserving_sums(exact: rounding.Floats, ends: tuple[int, int]) -> rounding.Floats:
    """Rows rounded to integers between `ends` whose sum is as close as possible to the row's sum (eq. S3).

    Neighbouring inputs of a convolution are similar and mostly positive, so an error in a filter's sum matters more
    than errors of single weights.  Where rounding to nearest shifts the sum, the entries nearest a tie are rounded the
    other way.
    """
    lowest, highest = ends
    nearest = np.clip(rounding.round_half_away(exact), lowest, highest)
    rest = exact - nearest
    for row in np.flatnonzero(np.abs(np.rint(rest.sum(axis=1))) > 0):
        missing = int(np.rint(rest[row].sum()))
        direction = 1 if missing > 0 else -1
        moved = nearest[row] + direction
        movable = np.flatnonzero((rest[row] * direction > 0) & (lowest <= moved) & (moved <= highest))
        chosen = movable[np.argsort(-rest[row, movable] * direction, kind="stable")[: abs(missing)]]
        nearest[row, chosen] += direction
    return np.asarray(nearest)


def fits_around_middle(bottom: float, top: float, dtype: str) -> bool:
    """Whether integers from `bottom` to `top` are codes of `dtype` with a zero point in its middle."""
    low, high = rounding.code_range(dtype)
    middle = (low + high + 1) // 2
    return low - middle <= bottom and top <= high - middle


def _fit_asymmetric(units: rounding.Floats, base: rounding.Floats, settings: Weights, real: bool) -> Rows:
    """One scale and one zero point for the tensor: the middle of the dtype if that fits, because it is the cheapest."""
    low, high = rounding.code_range(settings.dtype)
    integers = not real and bool((units == np.rint(units)).all())  # which are kept if they fit
    bottom, top = _ends(units, settings, integers)
    if integers and fits_around_middle(bottom, top, settings.dtype):
        scale, zero_point = float(base[0]), (low + high + 1) // 2
    else:
        stretch = (top - bottom) / (high - low) or 1.0
        stretch = max(1.0, stretch) if integers else stretch
        # The same for any part of the range, so that the step can still be chosen.
        zero_point = low - int(rounding.round_half_away(bottom / stretch))
        if settings.range == "least-squares" and stretch != 1.0:
            ends = (low - zero_point, high - zero_point)
            stretch = float(_least_squares(units.reshape(1, -1), np.array([stretch]), ends)[0])
        scale = float(np.float32(base[0] * stretch))
    exact: rounding.Floats = units * (base[0] / scale)
    ends = (low - zero_point, high - zero_point)
    if settings.rounding == "nearest":
        codes = np.clip(rounding.round_half_away(exact), *ends)
    else:
        codes = round_preserving_sums(exact, ends)
    return Rows(codes, np.full(len(base), scale, np.float32), zero_point)


def _ends(units: rounding.Floats, settings: Weights, integers: bool) -> tuple[float, float]:
    """The range that codes have to cover, 0 in it; of integers all of it, so that they can be kept."""
    share = settings.percentile if settings.range == "percentile" and not integers else 100.0
    if not units.size:
        return 0.0, 0.0
    bottom, top = np.percentile(units, [100.0 - share, share])
    return min(float(bottom), 0.0), max(float(top), 0.0)
