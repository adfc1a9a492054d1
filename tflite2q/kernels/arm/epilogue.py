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

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tflite2q.arithmetic.rescale import Rescale
from tflite2q.arithmetic.rounding import code_range
from tflite2q.kernels.arm.isa import LANES, intrinsic
from tflite2q.kernels.contracts import Array, Tensor
from tflite2q.kernels.epilogue import Epilogue, Fixed, Float32, Shift, spread
from tflite2q.kernels.frame import Tensors
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, load, shuffle, store, vector

PACKED = (2 * LANES, 4 * LANES)  # numbers of channels that are stored at once


@dataclass(frozen=True)
class Portable:
    """From accumulators to int32, before zero point and clamp: the text for every processor."""

    epilogue: Epilogue

    @property
    def constants(self) -> Mapping[str, str]:
        """Dtype of each constant, of which every lane has one."""
        return self.epilogue.constants

    def pack(self, rescale: Rescale, channels: Array) -> dict[str, Array]:
        """Constants for accumulators whose lanes hold `channels` [vectors, 4]; counts of right shifts are negative."""
        return self.epilogue.pack(rescale, channels)

    def rounded(self, v: Expr, constants: Buffers, index: Expr) -> Expr:
        """Rescaled accumulators of vector `index`."""
        return self.epilogue.rounded(v, constants, (index, 0), LANES)


@dataclass(frozen=True)
class Converted(Portable):
    """float32"""

    def rounded(self, v: Expr, constants: Buffers, index: Expr) -> Expr:
        product = T.cast(v, vector("float32", LANES)) * load(constants["multiplier"], index, 0, lanes=LANES)
        return T.Bind(intrinsic("fcvtns", product))


@dataclass(frozen=True)
class Shifted(Portable):
    """shift"""

    @property
    def constants(self) -> Mapping[str, str]:
        return {"left": "int32"}

    def pack(self, rescale: Rescale, channels: Array) -> dict[str, Array]:
        # srshl takes its count from eight bits; at 62 places nothing is left either way.
        return {"left": spread(np.clip(-rescale.shifts(), -62, 62).astype(np.int32), channels)}

    def rounded(self, v: Expr, constants: Buffers, index: Expr) -> Expr:
        return T.Bind(intrinsic("sqrshl", v, load(constants["left"], index, 0, lanes=LANES)))


@dataclass(frozen=True)
class Doubling(Portable):
    """fixed"""

    epilogue: Fixed

    @property
    def constants(self) -> Mapping[str, str]:
        return dict.fromkeys(("multiplier", "right", *(("left",) if self.epilogue.left else ())), "int32")

    def pack(self, rescale: Rescale, channels: Array) -> dict[str, Array]:
        m, shift = rescale.fixed_point()
        values = {"multiplier": m, "right": np.minimum(shift, 0), "left": np.maximum(shift, 0) & 31}
        return {name: spread(values[name].astype(np.int32), channels) for name in self.constants}

    def rounded(self, v: Expr, constants: Buffers, index: Expr) -> Expr:
        loads = {name: load(constants[name], index, 0, lanes=LANES) for name in self.constants}
        if self.epilogue.left:
            v = T.shift_left(v, loads["left"])
        high = T.Bind(intrinsic("sqrdmulh", v, loads["multiplier"]))
        if not self.epilogue.right:
            return high
        if self.epilogue.corrects_negatives:
            minus_one = T.shift_right(T.bitwise_and(high, loads["right"]), T.Broadcast(T.int32(31), LANES))
            high = intrinsic("sqadd", high, minus_one)
        return T.Bind(intrinsic("srshl", high, loads["right"]))


@dataclass(frozen=True)
class ArmEpilogue:
    """An `Epilogue` on Arm."""

    epilogue: Epilogue

    @staticmethod
    def of(rescale: Rescale, bound: Array) -> ArmEpilogue:
        """`bound`: the largest magnitude each output channel's accumulator can have."""
        return ArmEpilogue(Epilogue.of(rescale, bound))

    @property
    def rounding(self) -> Portable:
        """How it rescales."""
        if isinstance(self.epilogue, Fixed):
            return Doubling(self.epilogue)
        return {Float32: Converted, Shift: Shifted}.get(type(self.epilogue), Portable)(self.epilogue)

    def constants(self, vectors: int) -> Tensors:
        """The constants of so many vectors of accumulators."""
        return {name: Tensor((vectors, LANES), dtype) for name, dtype in self.rounding.constants.items()}

    def rounded(self, v: Expr, constants: Buffers, index: Expr) -> Expr:
        """Rescaled accumulators of vector `index` as int32, before zero point and clamp."""
        return self.rounding.rounded(v, constants, index)

    def store(self, rounded: list[list[Expr]], stored: int, y: Buffer, rows: list[Expr], channel: Expr) -> None:
        """The first `stored` codes of each row's vectors, from `channel` on."""
        for row, values in zip(rows, rounded, strict=True):
            if stored in PACKED and self.packable:
                store(y, self.packed(values), row, channel, lanes=LANES * len(values))
                continue
            for v, value in enumerate(values):
                self.store_plain(value, min(LANES, stored - v * LANES), y, row, channel + v * LANES)

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
