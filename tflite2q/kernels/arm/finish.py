"""The epilogue on Arm: the same numbers as `tflite2q.kernels.epilogue`, by the instructions made for them.

fixed    sqrdmulh is the first rounding of eq. 8; srshl by a negative count is the second, except that it rounds ties
         toward plus infinity: one is taken from negative numbers first, where the count is not zero (the count's sign
         bit decides, in one `and`), with saturation.  Where the clamp cuts off all negative numbers, that is left out.
float32  fcvtns rounds to nearest even; what does not fit saturates and is clamped.
shift    sqrshl adds half, shifts right or left, and saturates.

Codes of eight or sixteen channels are narrowed to 16 bits, where the zero point is added, and to 8, with saturation;
this does most of the clamping, and is exact because all of it is monotone and no bound lies outside 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tflite2q.arithmetic.rescale import Rescale
from tflite2q.arithmetic.rounding import code_range
from tflite2q.kernels.arm.isa import LANES, intrinsic
from tflite2q.kernels.base import Array, Tensor
from tflite2q.kernels.epilogue import Epilogue, spread
from tflite2q.kernels.tir import Buffer, Expr, T, load, shuffle, store, vector

PACKED = (2 * LANES, 4 * LANES)  # numbers of channels that are stored at once


@dataclass(frozen=True)
class Finish:
    """An `Epilogue` on Arm; float64 keeps the portable text."""

    epilogue: Epilogue

    @staticmethod
    def of(rescale: Rescale, bound: Array) -> Finish:
        """`bound`: the largest magnitude each output channel's accumulator can have."""
        return Finish(Epilogue.of(rescale, bound))

    def pack(self, rescale: Rescale, channels: Array) -> tuple[Array, ...]:
        """Constants for accumulators whose lanes hold `channels` [vectors, 4]."""
        if self.epilogue.arithmetic == "fixed":
            m, shift = rescale.fixed_point()
            arrays = [m, np.minimum(shift, 0)] + [np.maximum(shift, 0) & 31] * self.epilogue.left
            return tuple(spread(a.astype(np.int32), channels) for a in arrays)
        if self.epilogue.arithmetic == "shift":
            # srshl takes its count from eight bits; at 62 places nothing is left either way.
            return (spread(np.clip(-rescale.shifts(), -62, 62).astype(np.int32), channels),)
        return self.epilogue.pack(rescale, channels)

    def tensors(self, vectors: int) -> tuple[Tensor, ...]:
        """Shapes and dtypes of what `pack` returns."""
        one = Tensor((vectors, LANES), "int32")
        if self.epilogue.arithmetic == "fixed":
            return (one,) * (2 + self.epilogue.left)
        return (one,) if self.epilogue.arithmetic == "shift" else self.epilogue.tensors((vectors, LANES))

    def rounded(self, v: Expr, constants: tuple[Buffer, ...], index: Expr) -> Expr:
        """Rescaled accumulators of vector `index` as int32, before zero point and clamp."""
        arithmetic = self.epilogue.arithmetic
        if arithmetic == "float64":
            return self.epilogue.rounded(v, constants, (index, 0), LANES)
        first, *rest = [load(c, index, 0, lanes=LANES) for c in constants]
        if arithmetic == "float32":
            real = T.cast(v, vector("float32", LANES)) * first
            return T.Bind(intrinsic("fcvtns", real))
        if arithmetic == "shift":
            return T.Bind(intrinsic("sqrshl", v, first))
        count = rest[0]
        if self.epilogue.left:
            v = T.shift_left(v, rest[1])
        high = T.Bind(intrinsic("sqrdmulh", v, first))
        if not self.epilogue.right:
            return high
        if self.epilogue.corrects_negatives:
            minus_one = T.shift_right(T.bitwise_and(high, count), T.Broadcast(T.int32(31), LANES))
            high = intrinsic("sqadd", high, minus_one)
        return T.Bind(intrinsic("srshl", high, count))

    @property
    def packable(self) -> bool:
        """Whether `packed` can make the codes."""
        return self.epilogue.dtype in ("int8", "uint8")

    def packed(self, rounded: list[Expr]) -> Expr:
        """Codes of two or four vectors, as one vector of the output's dtype."""
        e, count = self.epilogue, len(rounded) * LANES
        halves = [intrinsic("sqxtn", r, dtype="int16x4") for r in rounded]
        shorts = [T.Bind(shuffle(pair, list(range(8)))) for pair in zip(halves[0::2], halves[1::2], strict=True)]
        if e.zero_point:
            zero = T.Broadcast(T.int16(e.zero_point), 8)
            shorts = [T.Bind(intrinsic("sqadd", s, zero, dtype="int16x8")) for s in shorts]
        narrow = "sqxtun" if e.dtype == "uint8" else "sqxtn"
        eights = [intrinsic(narrow, s, dtype="int8x8") for s in shorts]
        joined = eights[0] if len(eights) == 1 else shuffle(eights, list(range(16)))
        codes = T.Bind(T.reinterpret(vector(e.dtype, count), joined))
        low, high = code_range(e.dtype)
        if e.low > low:
            codes = T.max(codes, T.Broadcast(T.IntImm(e.dtype, e.low), count))
        if e.high < high:
            codes = T.min(codes, T.Broadcast(T.IntImm(e.dtype, e.high), count))
        return codes

    def store_plain(self, rounded: Expr, count: int, y: Buffer, *index: Expr) -> None:
        """Codes of the first `count` lanes to consecutive elements of y."""
        e = self.epilogue
        low, high = (T.Broadcast(T.int32(b - e.zero_point), LANES) for b in (e.low, e.high))
        codes = T.min(T.max(rounded, low), high) + T.Broadcast(T.int32(e.zero_point), LANES)
        codes = T.Bind(T.cast(codes, vector(e.dtype, LANES)))
        *outer, last = index
        if count == LANES:
            store(y, codes, *outer, last, lanes=LANES)
            return
        for lane in range(count):
            store(y, shuffle([codes], [lane]), *outer, last + lane)
