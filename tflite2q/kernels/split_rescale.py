"""The fixed point of 64-bit accumulators (eq. 20) in 32-bit arithmetic, where the weights prove that 32 bits suffice.

int16 activations sum into 64 bits in the reference kernels, (v * m + 2**(n - 1)) >> n with a multiplier m of 15 bits.
A channel's sum of products is at most reach * sum |w|, which a compiler knows; nearly always it fits 32 bits.  Then v
is cut into halves, v = high * 2**16 + low with low signed, whose products with m fit 32 bits as well:

    (v * m + d) >> n  =  (high * m + ((low * m + d) >> 16)) >> (n - 16)            for n >= 16,

because a floor of a floor is one floor.  Two multiplications of 16-bit numbers, which every vector unit has, take the
place of 64-bit ones.

Accumulators start at the bias B, and d is 2**(n - 1).  Where n >= 17 that is a whole multiple of 2**16, so that the
upper half of low * m, low unsigned, is all that is needed of it (`SplitRescale.even`).  A bias beyond 32 bits, as
channels with nearly no weights have, is taken apart:

    B * m + 2**(n - 1)  =  lift * 2**n + start * m + rest,  0 <= rest < m:

accumulators start at `start`, `rest` is the d above, and the result is raised by `lift` codes.  Multipliers above a
half (n < 16) are halved until they are not, and the weights, which have 16 bits to grow in, doubled as often.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tflite2q.arithmetic.rescale import Rescale
from tflite2q.kernels.contracts import Array
from tflite2q.kernels.layout import MOST
from tflite2q.kernels.tir import Buffers, Expr, T, broadcast, load

LIMIT = 2**31 - 2**15  # what v must stay below in magnitude, so that rounding it to its upper half cannot overflow
_FARTHEST_LIFT = 2**30
_LEAST, _MOST = 17, 31  # n of channels whose rounding is half a unit: 2**(n - 1) and low * m sum into 32 bits


@dataclass(frozen=True, eq=False)
class SplitRescale:
    """Constants of the rescale, one entry per channel (int64): weights times 2**`double` are summed onto `start`, then
    ((high * m + ((low * m + rest) >> 16)) >> shift) + lift is the code before the clamp.

    `even`: each `rest` is half a unit of the last shift: 2**(shift + 15), and `shift` is at least 1."""

    double: Array
    start: Array
    m: Array
    rest: Array
    shift: Array
    lift: Array
    even: bool


def prove(rescale: Rescale, sums: Array, largest: Array, bias: Array) -> SplitRescale | None:
    """The rescale in 32 bits, or None where 32 bits might not do.

    `sums`: largest magnitude of each channel's sum of products (float64); `largest`: its largest weight in magnitude;
    `bias`: int64, input zero point folded in, below `layout.MOST` in magnitude.
    """
    if rescale.arithmetic != "fixed16":
        return None
    m, n = (np.broadcast_to(a, bias.shape) for a in rescale.fixed16())
    n = np.where(m > 0, n, _LEAST)
    double = np.maximum(16 - n, 0)
    grown = np.abs(bias) * 2.0**double
    if (double > 15).any() or (largest * 2.0**double > 2**15 - 1).any() or (grown >= MOST).any():
        return None
    n, sums = np.maximum(n, 16), sums * 2.0**double
    total = (bias << double) * m + (np.int64(1) << (n - 1))
    keeps = (grown + np.ldexp(1.0 / np.maximum(m, 1), n) + sums < LIMIT) | (m == 0)
    lift = np.where(keeps, 0, (total + (np.int64(1) << (n - 1))) >> n)
    left = total - (lift << n)
    start = np.where(m > 0, left // np.maximum(m, 1), 0)
    rest = np.where(m > 0, left - start * m, 0)
    half = np.int64(1) << (n - 1)
    even = bool(((n >= _LEAST) & (n <= _MOST) & (grown + sums < LIMIT)).all())
    if even:
        start, rest, lift = bias << double, half, np.zeros_like(lift)
    reach = sums + np.abs(start)
    if (reach >= LIMIT).any() or ((lift != 0) & (np.ldexp(reach * m, -n) > _FARTHEST_LIFT / 2)).any():
        return None
    lift = lift + rescale.zero_point
    if (np.abs(lift) > _FARTHEST_LIFT).any():  # the result may outgrow 32 bits and wrap
        return None
    return SplitRescale(double, start, m, rest, n - 16, lift, even)


@dataclass(frozen=True)
class SplitEpilogue:
    """What the portable text of the rescale in 32 bits depends on; `even` is what kernels may do otherwise."""

    low: int
    high: int
    lifted: bool
    even: bool

    @staticmethod
    def of(rescale: Rescale, split: SplitRescale) -> SplitEpilogue:
        return SplitEpilogue(rescale.low, rescale.high, bool(split.lift.any()), split.even)

    @property
    def constants(self) -> Mapping[str, str]:
        """Dtype of each constant, of which every output channel has one."""
        return dict.fromkeys(("multiplier", "rest", "right", *(("lift",) if self.lifted else ())), "int32")

    def pack(self, split: SplitRescale, channels: Array) -> dict[str, Array]:
        """The constants, arranged as the index array `channels` says."""
        values = {"multiplier": split.m, "rest": split.rest, "right": split.shift, "lift": split.lift}
        return {name: np.ascontiguousarray(values[name][channels], np.int32) for name in self.constants}

    def codes(self, v: Expr, constants: Buffers, index: tuple[Expr, ...], lanes: int) -> Expr:
        """Codes, as int32, of accumulators `v` (int32 of `lanes`), whose constants start at `index`."""
        m, rest, shift, *lift = [T.Bind(load(constants[name], *index, lanes=lanes)) for name in self.constants]
        v, sixteen = T.Bind(v), broadcast(T.int32(16), lanes)
        low = T.shift_right(T.shift_left(v, sixteen), sixteen)
        high = T.shift_right(v + broadcast(T.int32(1 << 15), lanes), sixteen)
        scaled = T.shift_right(high * m + T.shift_right(low * m + rest, sixteen), shift)
        scaled = scaled + lift[0] if lift else scaled
        return T.min(T.max(scaled, broadcast(T.int32(self.low), lanes)), broadcast(T.int32(self.high), lanes))
