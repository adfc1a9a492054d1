"""The epilogue on x86: accumulators are rescaled (`tflite2q.kernels.x86.roundings`), packed, clamped and stored.

Codes of four vectors are packed into one with three saturating packs, which do most of the clamping.  Packs interleave
128-bit lanes; the order of output channels in the accumulators (`channel_order`) makes the packed bytes come out in
order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tflite2q.arithmetic.rescale import Rescale
from tflite2q.arithmetic.rounding import code_range
from tflite2q.kernels.contracts import Array
from tflite2q.kernels.epilogue import Epilogue, Fixed
from tflite2q.kernels.fma_rescale import floating, prove
from tflite2q.kernels.frame import Tensors
from tflite2q.kernels.gemm import Section
from tflite2q.kernels.tir import (
    Buffer,
    Buffers,
    Expr,
    T,
    broadcast,
    load,
    part,
    shuffle,
    store,
    store_first,
    vector,
    view,
    wrapping_add,
)
from tflite2q.kernels.x86.isa import Level
from tflite2q.kernels.x86.roundings import Converted, EvenOdd, Fma, Portable, Rounding

PACKED = 4  # vectors whose codes are packed into one


@dataclass(frozen=True)
class X86Epilogue:
    """An `Epilogue` on one level of instructions, which rescales as `rounding` does."""

    epilogue: Epilogue
    level: Level
    rounding: Rounding

    def constants(self, vectors: int) -> Tensors:
        """The constants of so many vectors of accumulators."""
        return self.rounding.constants(vectors)

    def rounded(self, v: Expr, constants: Buffers, index: Expr) -> Expr:
        """Rescaled accumulators of vector `index` as int32, before zero point, middle and clamp."""
        return T.Bind(self.rounding.rounded(v, constants, index))

    def store(self, rounded: list[list[Expr]], stored: int, y: Buffer, rows: list[Expr], channel: Expr) -> None:
        """The first `stored` codes of each row's vectors, from `channel` on: those that exist.

        `rows` are consecutive, so that several with all channels of y are one vector.
        """
        lanes, vectors = self.level.lanes, len(rounded[0])
        block = vectors * lanes
        if PACKED % vectors:
            codes = iter(self.pieces([value for values in rounded for value in values]))
            for row in rows:
                for v in range(vectors):
                    store_first(next(codes), lanes, stored - v * lanes, y, row, channel + v * lanes)
            return
        group, order = PACKED // vectors, _unpacked(lanes, vectors)
        for first in range(0, len(rows), group):
            values = [value for n in range(first, min(first + group, len(rows))) for value in rounded[n]]
            whole = stored == block and len(values) == PACKED and (group == 1 or y.shape[1] == block)
            codes = self.packed((values * PACKED)[:PACKED], whole)
            codes = codes if group == 1 else T.Bind(shuffle([codes], order))
            if whole:
                store(
                    view(y, (y.shape[0] * y.shape[1],)), codes, rows[first] * y.shape[1] + channel, lanes=PACKED * lanes
                )
                continue
            for n in range(len(values) // vectors):
                each = codes if group == 1 else part(codes, n * block, block)
                store_first(each, block, stored, y, rows[first + n], channel)

    def packed(self, rounded: list[Expr], whole: bool = True) -> Expr:
        """Codes of four vectors in `channel_order`, as one vector of 4 * lanes bytes in order.

        `whole`: no parts of it will be taken.
        """
        e, level = self.epilogue, self.level
        if not whole:
            rounded = self._clamped(rounded)
        shorts = [level.pack32(rounded[0], rounded[1]), level.pack32(rounded[2], rounded[3])]
        if e.zero_point + self.rounding.middle:
            lanes = 2 * level.lanes
            add = T.llvm_lookup_intrinsic_id("llvm.sadd.sat")
            zero = broadcast(T.int16(e.zero_point + self.rounding.middle), lanes)
            shorts = [T.Bind(T.call_llvm_pure_intrin(vector("int16", lanes), add, s, zero)) for s in shorts]
        codes = level.pack16(shorts[0], shorts[1], e.dtype)
        low, high = code_range(e.dtype)
        if e.low > low and whole:
            codes = T.max(codes, broadcast(T.IntImm(e.dtype, e.low), 4 * level.lanes))
        if e.high < high and whole:
            codes = T.min(codes, broadcast(T.IntImm(e.dtype, e.high), 4 * level.lanes))
        return T.Bind(codes)

    def pieces(self, rounded: list[Expr]) -> list[Expr]:
        """Codes of any number of plainly ordered vectors, each as one vector of `lanes` bytes."""
        lanes, e = self.level.lanes, self.epilogue
        if (e.low, e.high) != code_range(e.dtype):
            shift = broadcast(T.int32(e.zero_point + self.rounding.middle), lanes)
            return [T.Bind(T.cast(v + shift, vector(e.dtype, lanes))) for v in self._clamped(rounded)]
        # Packing moves lanes as `channel_order` says; reading the bytes in that order undoes it.
        order = [int(i) for i in channel_order(lanes, 4).reshape(-1)]
        codes: list[Expr] = []
        for first in range(0, len(rounded), 4):
            four = (rounded[first : first + 4] * 4)[:4]
            together = T.Bind(shuffle([self.packed(four)], order))
            codes += [T.Bind(part(together, i * lanes, lanes)) for i in range(min(4, len(rounded) - first))]
        return codes

    def _clamped(self, rounded: list[Expr]) -> list[Expr]:
        """Vectors clamped one by one: LLVM 22 simplifies some clamps of packed vectors, of which parts are read, for
        ever."""
        e = self.epilogue
        if (e.low, e.high) == code_range(e.dtype):
            return rounded
        return [T.Bind(T.min(T.max(v, self._bound(e.low)), self._bound(e.high))) for v in rounded]

    def _bound(self, code: int) -> Expr:
        """A bound of the codes as `rounded` counts: before zero point and middle are added."""
        return broadcast(T.int32(code - self.epilogue.zero_point - self.rounding.middle), self.level.lanes)


@dataclass(frozen=True, eq=False)
class Rescaling:
    """A layer's rescale: how it is computed, and its numbers.

    `pack`: the constants for accumulators whose lanes hold channels [vectors, lanes]; `start`: what accumulators begin
    with beside the bias, by channel.
    """

    epilogue: X86Epilogue
    pack: Callable[[Array], dict[str, Array]]
    start: Array | int = 0

    @staticmethod
    def of(rescale: Rescale, bound: Array, level: Level, floats: bool = False) -> Rescaling:
        """`bound`: largest accumulator of each channel; `floats`: accumulators may begin as bits of a float32."""
        epilogue, line = Epilogue.of(rescale, bound), prove(rescale, bound)
        if line is not None:
            line = (floating(line, rescale, bound) if floats else None) or line
            start = 0 if line.start is None else line.start.astype(np.int64)
            fma = Fma.of(line, level)
            return Rescaling(X86Epilogue(epilogue, level, fma), functools.partial(fma.pack, line), start)
        rounding = Portable(epilogue, level)
        if isinstance(epilogue, Fixed) and EvenOdd.takes(epilogue):
            rounding = EvenOdd(epilogue, level)
        elif Converted.takes(rescale, bound):
            rounding = Converted(epilogue, level)
        return Rescaling(X86Epilogue(epilogue, level, rounding), functools.partial(rounding.pack, rescale))


def channel_order(lanes: int, vectors: int) -> Array:
    """[vectors, lanes]: which of the block's channels each lane of its accumulators holds.

    One, two and four vectors are ordered for `packed`, three plainly.
    """
    if PACKED % vectors:
        return np.arange(vectors * lanes).reshape(vectors, lanes)
    lane = np.arange(lanes)
    return 4 * vectors * (lane // 4) + lane % 4 + 4 * np.arange(vectors)[:, None]


def _unpacked(lanes: int, vectors: int) -> list[int]:
    """Where each byte lies in a packed vector of several pixels' codes, `vectors` of each: pixel by pixel, in order."""
    place = np.arange(PACKED * lanes).reshape(lanes // 4, PACKED // vectors, vectors, 4)  # by 128 bits
    return [int(i) for i in place.transpose(1, 0, 2, 3).reshape(-1)]


def lane_channels(section: Section) -> Array:
    """[blocks * vectors, lanes]: the output channel of each lane of a section's accumulators."""
    order = channel_order(section.lanes, section.vectors).reshape(-1)
    return section.channel_indices()[:, order].reshape(-1, section.lanes)


def start(bias: Buffer, index: Expr, lanes: int, term: Expr | None) -> Expr:
    """First value of an accumulator: the bias of vector `index`, plus a scalar of the pixel if there is one."""
    value = load(bias, index, 0, lanes=lanes)
    return value if term is None else wrapping_add(value, broadcast(term, lanes), lanes)
