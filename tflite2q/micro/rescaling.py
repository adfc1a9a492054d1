"""Rescaling in integers: for each arithmetic of `arithmetic.rescale`, a form that a microcontroller computes, proven.

With M and n of a channel and the accumulator a, |a| <= bound:

    fixed   h = (a M + 2^30) >> 31;  code = ((((h + (h >> 31)) >> n) + 2 z + 1) >> 1        (eq. 8)
    linear  code = ((a M + 2^(n-1) + (a < 0 ? negative : positive)) >> n) + z
    double  code = ((a H + ((a L) >> 26) + 2^(n-1) + (a < 0 ? negative : positive)) >> n) + z,  M = 2^26 H + L
    exact   eq. 8 as it is written, in 64 bits
    float32 eq. 11 as it is written; M has the bits of the factor

`>>` rounds toward minus infinity.  The first is eq. 8 for right shifts n + 1: a floor of a floor is a floor, and
subtracting the sign before the shift is what rounds ties away from zero.  `a` is below 2^30, so that 2 a fits 32 bits
and h is one instruction (SMMULR, VQRDMULH).  Shifts and 15-bit multipliers (eq. 12, 20) are linear as they are.
Products in float64 are linear for a suitable M, or double, whose M has all 53 bits: a code is a step function of
a with at most 255 (or 65,535) steps in its range, so agreement next to every step, of two functions that never fall, is
agreement everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.numpy_core import NUMPY
from tflite2q.arithmetic.rescale import Rescale
from tflite2q.errors import UnsupportedError

Ints = npt.NDArray[np.int64]

NUDGES = tuple(sorted(range(-16, 17), key=abs))  # of a multiplier, nearest first
LOW_BITS = 26  # of the lower part of a double multiplier
MOST_DOUBLE = 2**35  # magnitude of sums in the double form; larger ones are clamped to it first
OFFSETS = ((0, -1), (0, 0), (-1, -1), (1 << 16, -(1 << 16)), (1 << 20, -(1 << 20)))  # positive, negative


@dataclass(frozen=True)
class Form:
    """How accumulators become codes: `m` and `n`, one for each channel, the rest for all of them."""

    kind: str
    m: Ints
    n: Ints
    zero: int
    low: int
    high: int
    positive: int = 0
    negative: int = 0
    lower: Ints | None = None  # L of the double form


def form_of(rescale: Rescale, channels: int, bound: npt.ArrayLike) -> Form:
    """The cheapest form that equals `rescale` for accumulators of magnitude up to `bound` (one, or one a channel).

    Raises UnsupportedError where none is found.
    """
    most = np.broadcast_to(np.asarray(bound, np.float64), (channels,))
    real = np.broadcast_to(np.asarray(rescale.real, np.float64), (channels,))
    whole = Form("", np.zeros(0, np.int64), np.zeros(0, np.int64), rescale.zero_point, rescale.low, rescale.high)
    if rescale.arithmetic == "fixed":
        return _fixed(rescale, whole, channels, most)
    if rescale.arithmetic == "shift":
        shifts = np.broadcast_to(rescale.shifts(), (channels,))
        return _checked(replace(whole, kind="linear", m=np.left_shift(1, np.maximum(1 - shifts, 0)),
                                n=np.maximum(shifts, 1)), most)  # fmt: skip
    if rescale.arithmetic == "fixed16":
        m, shift = (np.broadcast_to(part, (channels,)) for part in rescale.fixed16())
        if np.any(most * real >= 2.0**30):
            raise UnsupportedError("sums too large for 32 bits in their 16-bit rescaling")
        return _checked(replace(whole, kind="linear", m=m, n=shift), most)
    if rescale.arithmetic == "float32":  # as it is: processors without floating point have a library for 32 bits
        return replace(
            whole,
            kind="float32",
            m=real.astype(np.float32).view(np.int32).astype(np.int64),
            n=np.zeros(channels, np.int64),
        )
    return _stepwise(rescale, whole, real, most)


def _fixed(rescale: Rescale, form: Form, channels: int, most: Any) -> Form:
    m, shift = (np.broadcast_to(part, (channels,)).astype(np.int64) for part in rescale.fixed_point())
    zero = m == 0  # a multiplier too small to matter: any shift will do
    n = np.where(zero, 0, -shift - 1)
    if (n >= 0).all() and (most < 2.0**30).all():
        return replace(form, kind="fixed", m=m, n=n)
    if np.any(most * 2.0 ** np.maximum(shift, 0) >= 2.0**31):
        raise UnsupportedError("sums too large for 32 bits in their fixed-point rescaling")
    return replace(form, kind="exact", m=m, n=within(shift))


def within(shift: npt.ArrayLike) -> Ints:
    """Shifts of eq. 8 as C may have them: to the left by less than 32, as which x86 takes larger ones."""
    found = np.asarray(shift, np.int64)
    return np.where(found > 0, found & 31, found)


def _checked(form: Form, most: Any) -> Form:
    if (form.n < 1).any() or (form.n > 62).any() or np.any(most * form.m >= 2.0**62) or (form.m >= 2**31).any():
        raise UnsupportedError("a scale of the result far from those of the operands")
    return form


def _stepwise(rescale: Rescale, form: Form, real: Any, most: Any) -> Form:
    """The form of a product in float64, proven next to every step of the codes, for each different factor."""
    kinds, place = np.unique(real, return_inverse=True)
    limit = np.full(len(kinds), most.max(initial=0))
    single = replace(rescale, real=tuple(kinds.tolist()))
    steps, codes = thresholds(single, kinds, limit)
    for attempt in _attempts(form, kinds, limit, rescale.high - rescale.low):
        missing, chosen = np.ones(len(kinds), bool), attempt.m.copy()
        for nudge in NUDGES if attempt.kind == "linear" else (0,):
            fits = missing & (attempt.m + nudge < 2**31)
            fits &= _agrees(replace(attempt, m=attempt.m + nudge), steps, codes, limit)
            chosen[fits], missing = attempt.m[fits] + nudge, missing & ~fits
            if not missing.any():
                lower = None if attempt.lower is None else attempt.lower[place]
                return replace(attempt, m=chosen[place], n=attempt.n[place], lower=lower)
    raise UnsupportedError("no integer product rounds like the float64 product")


def _attempts(form: Form, real: Any, most: Any, codes: int) -> Iterator[Form]:
    """Forms to try for factors `real`: one multiplier where sums have 32 bits, then two."""
    exponent = np.floor(np.log2(real)).astype(np.int64)
    n = np.clip(30 - exponent, 1, 62)
    if (most * 2.0**31 < 2.0**62).all():
        for positive, negative in OFFSETS:
            m = np.rint(real * 2.0**n).astype(np.int64)
            yield replace(form, kind="linear", m=m, n=n, positive=positive, negative=negative)
    n = np.clip(52 - exponent, LOW_BITS + 1, LOW_BITS + 62)
    if ((most < MOST_DOUBLE) | (real * MOST_DOUBLE > codes + 2)).all():
        whole = np.rint(real * 2.0**n).astype(np.int64)
        high, low = whole >> LOW_BITS, whole & ((1 << LOW_BITS) - 1)
        for positive, negative in OFFSETS:
            yield replace(form, kind="double", m=high, lower=low, n=n - LOW_BITS, positive=positive, negative=negative)


def _agrees(form: Form, steps: Ints, codes: Ints, most: Any) -> Any:
    """For each factor, whether the form gives at least each code at its step, and less just before it."""

    def code(a: Ints) -> Ints:
        offset = np.where(a < 0, form.negative, form.positive) + (np.int64(1) << (form.n - 1))
        if form.lower is not None:
            a = a.clip(-MOST_DOUBLE, MOST_DOUBLE)
            offset = offset + (a * form.lower >> LOW_BITS)
        return np.asarray((a * form.m + offset >> form.n) + form.zero)

    reached = (code(steps) >= codes) | (np.abs(steps) > most)
    below = (code(steps - 1) < codes) | (np.abs(steps - 1) > most)
    return (reached & below).all(axis=0)


def thresholds(rescale: Rescale, real: Any, most: Any) -> tuple[Ints, Ints]:
    """(steps [codes, factors], codes [codes, 1]): the least accumulator that gives each code or more, by bisection of
    the rescaling itself around where real numbers have it; steps beyond `most` are not looked for."""
    codes = np.arange(rescale.low + 1, rescale.high + 1, dtype=np.int64)[:, None]
    centre = (codes - rescale.zero_point - 0.5) / real
    slack = np.abs(centre) * 2.0**-48 + 3  # float64 has 53 bits
    limit = most + 2
    low = np.clip(np.floor(centre - slack), -limit, limit).astype(np.int64)
    high = np.clip(np.ceil(centre + slack), -limit, limit).astype(np.int64)
    while (high - low).max(initial=0) > 1:
        middle = (low + high) // 2
        reached = rescale.meaning(NUMPY, middle).astype(np.int64) >= codes
        high, low = np.where(reached, middle, high), np.where(reached, low, middle)
    return high, codes
