"""The epilogue of 16-bit inputs on x86: from sums of pairs of products to 16-bit codes.

vpdpwssd (with VNNI) or vpmaddwd and an addition multiply two consecutive 16-bit inputs by two weights in each 32-bit
lane and add both products to the lane's accumulator.

split   the rescale of `tflite2q.kernels.split_rescale`.  The upper and the lower half of an accumulator are 16-bit
        numbers that already lie in its lane, so the same instruction multiplies them, by (m, 0) and (0, m): five
        instructions for 16 outputs with VNNI, where a 64-bit fixed point takes eight.
even    where the rounding is half a unit, the upper half of the lower product is one instruction, vpmulhuw: four.
halved  where codes are not negative besides, packing rounds them: three, and a half for vpavgw.
plain   the portable text, in 64 bits where sums need them.

A saturating pack makes one vector of the codes of two, and does most of the clamping.  It interleaves 128-bit lanes;
the order of output channels in the accumulators (`channel_order`) makes the codes come out in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tflite2q.arithmetic.rounding import code_range
from tflite2q.kernels.contracts import Array, Tensor
from tflite2q.kernels.epilogue import Epilogue
from tflite2q.kernels.frame import Tensors
from tflite2q.kernels.split_rescale import SplitEpilogue
from tflite2q.kernels.sums import Sums
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, shuffle, store_first, vector
from tflite2q.kernels.x86.isa import Level


def interleave(level: Level, first: Expr, second: Expr) -> list[Expr]:
    """Two vectors of 2 * lanes int16 to two of pairs, of one element each; channels lie as `channel_order` says."""
    size = 2 * level.lanes
    found = []
    for half in (0, 4):
        places = [at + half + i for at in range(0, size, 8) for i in range(4)]
        found.append(T.Bind(shuffle([first, second], [index for i in places for index in (i, size + i)])))
    return found


def channel_order(level: Level, vectors: int) -> Array:
    """[vectors, lanes]: which of a block's channels each lane of its accumulators holds.

    Pairs of vectors are ordered for packing, one that is left over plainly.
    """
    lane = np.arange(level.lanes)
    pair = 8 * (lane // 4) + lane % 4 + np.array([[0], [4]])
    orders = [pair + 2 * level.lanes * i for i in range(vectors // 2)]
    if vectors % 2:
        orders.append((vectors - 1) * level.lanes + lane[None, :])
    return np.concatenate(orders)


@dataclass(frozen=True)
class Epilogue16:
    """Sums of 16-bit inputs and their epilogue, in the portable text, on one level of instructions.

    `proven`: sums do not overflow.
    """

    epilogue: Epilogue | SplitEpilogue
    level: Level
    proven: bool

    @staticmethod
    def of(sums: Sums, level: Level) -> Epilogue16:
        epilogue, kind = sums.epilogue, Epilogue16
        if isinstance(epilogue, SplitEpilogue):
            unsigned = epilogue.low == 0 and not epilogue.lifted
            kind = SplitEpilogue16 if not epilogue.even else HalvedEpilogue16 if unsigned else EvenEpilogue16
        return kind(epilogue, level, sums.proven)

    def add(self, accumulator: Expr, pairs: Expr, weights: Expr) -> Expr:
        """accumulator + two products per lane."""
        return self.level.pairs.add(accumulator, pairs, weights, self.proven)

    def constants(self, vectors: int) -> Tensors:
        """The constants of so many vectors of accumulators."""
        return {name: Tensor((vectors, self.level.lanes), dtype) for name, dtype in self.epilogue.constants.items()}

    def pack(self, sums: Sums, channels: Array) -> dict[str, Array]:
        """Constants for accumulators whose lanes hold `channels` [vectors, lanes]."""
        return sums.pack(channels)

    def rounded(self, v: Expr, constants: Buffers, index: Expr) -> Expr:
        """Codes of the accumulators of vector `index` as int32, which may still have to be clamped."""
        return T.Bind(self.epilogue.codes(v, constants, (index, 0), self.level.lanes))

    def store(self, rounded: list[list[Expr]], stored: int, y: Buffer, rows: list[Expr], channel: Expr) -> None:
        """The first `stored` codes of each row's vectors, from `channel` on."""
        for row, values in zip(rows, rounded, strict=True):
            self.store_row(values, stored, y, row, channel)

    def store_row(self, rounded: list[Expr], count: int, y: Buffer, *index: Expr) -> None:
        """The first `count` codes of vectors in `channel_order` to consecutive elements of y."""
        *outer, last = index
        whole, done = count == self.level.lanes * len(rounded), 0
        for i in range(0, len(rounded), 2):
            pair = rounded[i : i + 2]
            lanes = self.level.lanes * len(pair)
            store_first(self.codes(pair, whole), lanes, count - done, y, *outer, last + done)
            done += lanes

    def codes(self, rounded: list[Expr], whole: bool) -> Expr:
        """Clamped codes of one or two vectors as one of int16.  `whole`: no parts of it will be taken."""
        lanes = self.level.lanes
        if whole:
            return T.Bind(self._clamped(self._packed(rounded), "int16", lanes * len(rounded)))
        # Before packing: LLVM 22 never ends on some clamps of packed vectors of which parts are read.
        return T.Bind(self._packed([T.Bind(self._clamped(v, "int32", lanes)) for v in rounded]))

    def _packed(self, pair: list[Expr]) -> Expr:
        """One or two vectors of int32 as one of int16, saturated."""
        if len(pair) == 2:
            return self.level.pack32(pair[0], pair[1])
        low, high = (broadcast(T.int32(bound), self.level.lanes) for bound in code_range("int16"))
        return T.cast(T.min(T.max(pair[0], low), high), vector("int16", self.level.lanes))

    def _clamped(self, codes: Expr, dtype: str, lanes: int) -> Expr:
        bounds = (self.epilogue.low, self.epilogue.high)
        low, high = (broadcast(T.IntImm(dtype, bound), lanes) for bound in bounds)
        widest = code_range("int16")
        codes = T.max(codes, low) if bounds[0] > widest[0] else codes
        return T.min(codes, high) if bounds[1] < widest[1] else codes


@dataclass(frozen=True)
class SplitEpilogue16(Epilogue16):
    """The same with both halves of a lane multiplied in it, each by itself."""

    def constants(self, vectors: int) -> Tensors:
        lanes = Tensor((vectors, self.level.lanes), "int32")
        return {"multiplier": lanes, "raised multiplier": lanes, **super().constants(vectors)}

    def pack(self, sums: Sums, channels: Array) -> dict[str, Array]:
        packed = super().pack(sums, channels)
        return {**packed, "raised multiplier": np.left_shift(packed["multiplier"], 16)}

    def rounded(self, v: Expr, constants: Buffers, index: Expr) -> Expr:
        level, lanes = self.level, self.level.lanes
        loads = self._loads(constants, index)
        v = T.Bind(v)
        m_low, m_high = level.as_pairs(loads["multiplier"]), level.as_pairs(loads["raised multiplier"])
        low = T.Bind(level.pairs.add(loads["rest"], level.as_pairs(v), m_low, proven=True))
        raised = T.Bind(v + broadcast(T.int32(1 << 15), lanes))
        carry = T.shift_right(low, broadcast(T.int32(16), lanes))
        high = level.pairs.add(carry, level.as_pairs(raised), m_high, proven=True)
        return self._lifted(T.shift_right(high, loads["right"]), loads)

    def _loads(self, constants: Buffers, index: Expr) -> dict[str, Expr]:
        return {name: load(constants[name], index, 0, lanes=self.level.lanes) for name in self.constants(0)}

    def _lifted(self, scaled: Expr, loads: dict[str, Expr]) -> Expr:
        return T.Bind(scaled + loads["lift"] if "lift" in loads else scaled)

    def _product(self, v: Expr, loads: dict[str, Expr]) -> Expr:
        """(v * m) >> 16, where m is what `rest` is a whole multiple of 2**16 for."""
        level = self.level
        pairs = level.as_pairs(T.Bind(v))
        carry = level.high_products(pairs, level.as_pairs(loads["multiplier"]))
        carry = T.reinterpret(vector("int32", level.lanes), carry)
        return level.pairs.add(carry, pairs, level.as_pairs(loads["raised multiplier"]), proven=True)


@dataclass(frozen=True)
class EvenEpilogue16(SplitEpilogue16):
    """The same where the rounding is half a unit of the last shift (`tflite2q.kernels.split_rescale`): the upper half
    of the lower product needs no rounding of its own."""

    def pack(self, sums: Sums, channels: Array) -> dict[str, Array]:
        packed = super().pack(sums, channels)
        return {**packed, "rest": packed["rest"] >> 16}

    def rounded(self, v: Expr, constants: Buffers, index: Expr) -> Expr:
        loads = self._loads(constants, index)
        return self._lifted(T.shift_right(self._product(v, loads) + loads["rest"], loads["right"]), loads)


@dataclass(frozen=True)
class HalvedEpilogue16(SplitEpilogue16):
    """The same where codes are not negative: the last bit is taken off, and rounded, when they are packed."""

    def constants(self, vectors: int) -> Tensors:
        return {name: tensor for name, tensor in super().constants(vectors).items() if name != "rest"}

    def pack(self, sums: Sums, channels: Array) -> dict[str, Array]:
        packed = super().pack(sums, channels)
        return {**{name: packed[name] for name in self.constants(0)}, "right": packed["right"] - 1}

    def rounded(self, v: Expr, constants: Buffers, index: Expr) -> Expr:
        """Twice the codes, before rounding and clamp."""
        loads = self._loads(constants, index)
        return T.Bind(T.shift_right(self._product(v, loads), loads["right"]))

    def codes(self, rounded: list[Expr], whole: bool) -> Expr:
        level, one = self.level, broadcast(T.int32(1), self.level.lanes)
        if len(rounded) == 1:
            return super().codes([T.Bind(T.shift_right(rounded[0] + one, one))], whole)
        if not whole:  # clamped before packing, as `Epilogue16` does
            most = broadcast(T.int32(2 * self.epilogue.high), level.lanes)
            return level.halves(level.pack32_unsigned(*(T.Bind(T.min(v, most)) for v in rounded)))
        codes = T.reinterpret(vector("uint16", 2 * level.lanes), level.halves(level.pack32_unsigned(*rounded)))
        codes = T.min(codes, broadcast(T.uint16(self.epilogue.high), 2 * level.lanes))
        return T.Bind(T.reinterpret(vector("int16", 2 * level.lanes), codes))
