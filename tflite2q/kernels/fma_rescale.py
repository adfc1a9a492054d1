"""The fixed-point rescale as one fused multiply-add in float32, where that can be proven equal.

The reference's two-step rounding (eq. 8) is a monotone step function of the accumulator, and so is
`rint(fma(float32(v), slope, offset))`.  Two monotone step functions are equal if each step is taken at the same v.  For
8-bit outputs there are at most 255 steps a channel, and where the first function takes them has a closed form, so both
sides of every step, and both ends of what accumulators can be, are checked when a model is compiled: what passes is
exact for all accumulators, by proof.

Where negative numbers matter, rounding ties away from zero moves the steps of negative v, so the offset takes the sign
of v.  Where they do not (everything below the zero point is clamped) the middle of the output range is subtracted
beforehand, which gives float32 one more bit where it needs it.

A line that fails at single accumulators may be mended at one of them per channel (`FmaRescale.mend`).  Channels of one
layer with equal multipliers pass or fail together: layers quantized by tensor nearly always pass, of layers quantized
by channel about half do.

Accumulators need no conversion to float32 if they start at 0x4B400000 besides their bias (`floating`): read as a
float32 that is 1.5 * 2**23, and each 1 added to the bits adds 1.  The line's offset then takes off 1.5 * 2**23 times
the slope, a number too coarse for the line to stay where it was - but not if the start is moved by just so many
accumulators that what is to be taken off lies next to a float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tflite2q.arithmetic.rescale import Rescale
from tflite2q.kernels.contracts import Array

_NEVER = -(2**31)  # an accumulator that no channel reaches
_ONE_AND_A_HALF = 1.5 * 2.0**23
_ROOM = 2**22  # accumulators beyond would change the float's exponent
_MOVES = 2**11  # by which the start is moved, at most
_CANDIDATES = 8  # moves that are tried, best first


@dataclass(frozen=True, eq=False)
class FmaRescale:
    """code - zero_point - middle = rint(fma(v, slope, offset)), one entry per channel.

    `signed`: the offset takes the sign of v.  `mend`: (v, correction) int32 arrays of the one accumulator per channel
    whose result is off, or None if there is none anywhere.  `start`: if given (int32), accumulators begin with it
    beside the bias, and their bits are the float32 that stands for v.
    """

    slope: Array
    offset: Array
    signed: bool
    middle: int
    mend: tuple[Array, Array] | None
    start: Array | None = None


def prove(rescale: Rescale, bound: Array) -> FmaRescale | None:
    """A line equal to `rescale` for accumulators up to `bound` (one per channel) in magnitude, or None."""
    m, shift = (np.broadcast_to(a, bound.shape) for a in rescale.fixed_point())
    if rescale.arithmetic != "fixed" or (shift < -24).any() or (shift > 30).any() or (m == 0).any():
        return None
    low, high = rescale.low - rescale.zero_point, rescale.high - rescale.zero_point
    if high - low > 255 or (np.ldexp(bound, np.maximum(shift, 0)) >= 2.0**31).any():
        return None
    signed = low < 0
    middle = 0 if signed else (low + high + 1) // 2
    levels = np.arange(low + 1, high + 1)
    steps = _Steps(levels - middle, _first_accumulators(m, shift, levels), bound, signed)
    real = np.ldexp(m.astype(np.float64), shift - 31)
    best = steps.fit(real.astype(np.float32))
    for ulps in (1, -1, 2, -2, 3, -3):
        poor = best.wrong > 0
        if not poor.any():
            break
        nudged = (real[poor].astype(np.float32).view(np.int32) + np.int32(ulps)).view(np.float32)
        best = best.better(steps.only(poor).fit(nudged), poor)
    if best.wrong.max(initial=0) > 1:
        return None
    mend = steps.mend(best) if best.wrong.any() else None
    return FmaRescale(best.slope, best.offset, signed, middle, mend)


def floating(line: FmaRescale, rescale: Rescale, bound: Array) -> FmaRescale | None:
    """`line` for accumulators that are the bits of a float32, proven once more, or None.

    If it can be, the zero point is part of the offset, and nothing is left to add to the rounded result.
    """
    if line.signed or line.mend is not None or (bound >= _ROOM - _MOVES).any():
        return None
    m, shift = (np.broadcast_to(a, bound.shape) for a in rescale.fixed_point())
    levels = np.arange(rescale.low - rescale.zero_point + 1, rescale.high - rescale.zero_point + 1)
    first = _first_accumulators(m, shift, levels)
    for middle in (-rescale.zero_point, line.middle):
        steps = _Steps(levels - middle, first, bound, False)
        found = steps.floating(line.slope, line.offset.astype(np.float64) + (line.middle - middle))
        if found is not None:
            return FmaRescale(line.slope, found[0], False, middle, None, found[1])
    return None


def _first_accumulators(m: Array, shift: Array, levels: Array) -> Array:
    """[channels, levels]: the smallest v whose rescaled value reaches the level (eq. 8).

    With n = -shift >= 1, the second rounding, (H + half - (H < 0)) >> n, reaches k from H = k * 2**n - half on, one
    later for k <= 0; without a right shift H is k.  The first, (v * M + 2**30) >> 31 where M is m shifted left,
    reaches H from v = ceil((H * 2**31 - 2**30) / M) on.
    """
    left, n, k = np.maximum(shift, 0)[:, None], np.maximum(-shift, 0)[:, None], levels[None, :]
    high = np.where(n > 0, (k << n) - (np.int64(1) << np.maximum(n - 1, 0)) + (k <= 0), k)
    return np.asarray(-((-((high << 31) - (1 << 30))) // (m[:, None] << left)))


@dataclass(frozen=True, eq=False)
class _Fit:
    """A line for each channel and the number of accumulators at which it is wrong."""

    slope: Array
    offset: Array
    wrong: Array

    def better(self, other: _Fit, where: Array) -> _Fit:
        """`other` holds the channels `where` only: of each, the line with fewer errors."""
        merged = []
        pick = other.wrong < self.wrong[where]
        for ours, theirs in ((self.slope, other.slope), (self.offset, other.offset), (self.wrong, other.wrong)):
            fresh = ours.copy()
            fresh[where] = np.where(pick, theirs, ours[where])
            merged.append(fresh)
        return _Fit(*merged)


@dataclass(frozen=True, eq=False)
class _Steps:
    """Where each channel's exact function steps up: to `levels[k]` at v = `first[channel, k]`."""

    levels: Array
    first: Array
    bound: Array
    signed: bool

    def only(self, where: Array) -> _Steps:
        """These channels alone."""
        return _Steps(self.levels, self.first[where], self.bound[where], self.signed)

    @property
    def _most(self) -> Array:
        """int64 [channels, 1]: the largest accumulator; its negative is the least."""
        return np.asarray(np.floor(self.bound)[:, None], np.int64)

    def _sides(self) -> tuple[Array, Array]:
        """Accumulators [channels, levels] that can occur nearest to each step: below it, and from it on."""
        most = self._most
        return np.clip(self.first - 1, -most, most), np.clip(self.first, -most, most)

    def fit(self, slope: Array) -> _Fit:
        """The offset in the middle of those that real arithmetic allows."""
        products = slope.astype(np.float64)[:, None] * self.first
        # At `first` the line must lie at or above level - 1/2, one accumulator earlier below it.
        least = self.levels - 0.5 - products
        most = least + slope.astype(np.float64)[:, None]
        if self.signed:  # for negative v the offset is subtracted
            flip = self.first <= 0
            least, most = np.where(flip, -most, least), np.where(flip, -least, most)
        used = self.first == np.clip(self.first, -self._most, self._most)
        if self.levels.size:  # a channel that reaches no step keeps to the nearest one's side
            nearest = np.argmin(np.abs(self.first), axis=1)
            used[np.arange(len(used)), nearest] |= ~used.any(axis=1)
        least = np.where(used, least, -np.inf).max(axis=1, initial=-np.inf)
        most = np.where(used, most, np.inf).min(axis=1, initial=np.inf)
        found = np.isfinite(least) & np.isfinite(most)
        middle = (np.where(found, least, 0.5 * self.signed) + np.where(found, most, 0.5 * self.signed)) / 2
        offset = middle.astype(np.float32)
        if self.signed:
            offset = np.abs(offset)
        early, late = self.errors(slope, offset)
        return _Fit(slope, offset, early.sum(axis=1) + late.sum(axis=1))

    def errors(self, slope: Array, offset: Array) -> tuple[Array, Array]:
        """The booleans of `_misses`."""
        return self._misses(functools.partial(evaluate, slope=slope, offset=offset, signed=self.signed))

    def floating(self, slope: Array, wanted: Array) -> tuple[Array, Array] | None:
        """(float32 offset, int32 start) of a line that steps where it should, with `wanted` as its offset nearly."""
        different, each = np.unique(np.stack([slope.astype(np.float64), wanted]), axis=1, return_inverse=True)
        each = each.reshape(-1)
        moves = np.arange(-_MOVES, _MOVES)
        exact = different[1][:, None] - different[0][:, None] * (_ONE_AND_A_HALF + moves)
        nearest = exact.astype(np.float32)
        best = np.argsort(np.abs(nearest - exact), axis=1)[:, :_CANDIDATES]
        offset, move = np.zeros(len(slope), np.float32), np.zeros(len(slope), np.int64)
        wrong: Array = np.ones(len(slope), bool)
        for candidate in best.T:
            offset[wrong] = nearest[np.arange(len(best)), candidate][each][wrong]
            move[wrong] = moves[candidate][each][wrong]
            early, late = self._misses(functools.partial(evaluate_floating, slope=slope, offset=offset, move=move))
            wrong = np.asarray((early | late).any(axis=1))
            if not wrong.any():
                return offset, (np.float32(_ONE_AND_A_HALF).view(np.int32) + move).astype(np.int32)
        return None

    def _misses(self, line: Callable[[Array], Array]) -> tuple[Array, Array]:
        """Booleans [channels, levels]: `line` steps too early (is up below the step), too late (not up from it on)."""
        below, above = self._sides()
        early = (line(below) >= self.levels) & (below < self.first)
        late = (line(above) < self.levels) & (above >= self.first)
        return early, late

    def mend(self, fit: _Fit) -> tuple[Array, Array]:
        early, late = self.errors(fit.slope, fit.offset)
        where = np.argmax(early | late, axis=1)
        pick = np.arange(len(where)), where
        below, above = self._sides()
        accumulator = np.where(early[pick], below[pick], above[pick])
        accumulator = np.where(fit.wrong > 0, accumulator, _NEVER)
        return accumulator.astype(np.int32), np.where(early[pick], -1, 1).astype(np.int32)


def evaluate(v: Array, slope: Array, offset: Array, signed: bool) -> Array:
    """The line at integers v [channels, n], exactly as the fused instruction computes it."""
    x = v.astype(np.float32)
    moved = np.broadcast_to(offset[:, None], x.shape)
    return np.rint(_fused(x, slope[:, None], np.copysign(moved, x) if signed else moved))


def evaluate_floating(v: Array, slope: Array, offset: Array, move: Array) -> Array:
    """The line at integers v [channels, n] whose accumulators are floats, exactly as the fused instruction computes
    it."""
    x = v.astype(np.float64) + (_ONE_AND_A_HALF + move[:, None])
    return np.rint(_fused(x, slope[:, None], offset[:, None]))


def _fused(x: Array, slope: Array, offset: Array) -> Array:
    """x * slope + offset of float32 numbers, rounded once.

    float64 holds the product exactly.  A sum that it cannot hold is rounded to odd, so that rounding it once more, to
    float32, does what rounding the exact sum does (Boldo and Melquiond, 2008); its error is Knuth's two-sum.
    """
    product, addend = x.astype(np.float64) * slope.astype(np.float64), offset.astype(np.float64)
    total = np.asarray(product + addend)
    part = total - product
    error = (product - (total - part)) + (addend - part)
    inexact = (error != 0) & (total.view(np.int64) & 1 == 0)
    if inexact.any():
        total[inexact] = np.nextafter(total[inexact], np.copysign(np.inf, error[inexact]))
    return total.astype(np.float32)
