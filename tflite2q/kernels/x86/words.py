"""Inputs of 16 bits on x86: pairs of products, and the epilogue that turns their sums into 16-bit codes.

vpdpwssd (with VNNI) or vpmaddwd and an addition multiply two consecutive 16-bit inputs by two weights in each 32-bit
lane and add both products to the lane's accumulator.

halves  the rescale of `tflite2q.kernels.halves`.  The upper and the lower half of an accumulator are 16-bit numbers
        that already lie in its lane, so the same instruction multiplies them, by (m, 0) and (0, m): five instructions
        for 16 outputs with VNNI, where a 64-bit fixed point takes eight.
plain   the portable text, in 64 bits where sums need them.

A saturating pack makes one vector of the codes of two, and does most of the clamping.  It interleaves 128-bit lanes;
the order of output channels in the accumulators (`channel_order`) makes the codes come out in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tflite2q.arithmetic.rounding import code_range
from tflite2q.kernels.base import Array, Conv2D, DepthwiseConv2D, Tensor
from tflite2q.kernels.epilogue import Epilogue
from tflite2q.kernels.halves import HalvesEpilogue
from tflite2q.kernels.sums import Sums
from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, load, shuffle, store_first, vector
from tflite2q.kernels.x86.isa import Isa


def dot(isa: Isa, accumulator: Expr, pairs: Expr, weights: Expr, proven: bool) -> Expr:
    """accumulator + two products per lane; `pairs` and `weights` are vectors of 2 * lanes int16.

    `proven`: the sum does not overflow.  Then the saturating instruction does the same, which LLVM leaves alone; the
    wrapping one it takes apart where that shortens a chain of sums, and so doubles the work to save time that other
    sums would have filled.
    """
    wide = vector("int32", isa.lanes)
    if isa.dot_intrinsic:
        name = isa.dot_intrinsic.replace("vpdpbusd", "vpdpwssds" if proven else "vpdpwssd")
        return T.call_llvm_pure_intrin(wide, T.llvm_lookup_intrinsic_id(name), accumulator, pairs, weights)
    multiply = T.llvm_lookup_intrinsic_id("llvm.x86.avx2.pmadd.wd")
    return accumulator + T.call_llvm_pure_intrin(wide, multiply, pairs, weights)


def as_pairs(isa: Isa, lanes: Expr) -> Expr:
    """A vector of int32 as the pairs of int16 that its lanes hold."""
    return T.reinterpret(vector("int16", 2 * isa.lanes), lanes)


def interleave(isa: Isa, first: Expr, second: Expr) -> list[Expr]:
    """Two vectors of 2 * lanes int16 to two of pairs, of one element each; channels lie as `channel_order` says."""
    size = 2 * isa.lanes
    found = []
    for half in (0, 4):
        places = [at + half + i for at in range(0, size, 8) for i in range(4)]
        found.append(T.Bind(shuffle([first, second], [index for i in places for index in (i, size + i)])))
    return found


def channel_order(isa: Isa, vectors: int) -> Array:
    """[vectors, lanes]: which of a block's channels each lane of its accumulators holds.

    Pairs of vectors are ordered for `Words.packed`, one that is left over plainly.
    """
    lane = np.arange(isa.lanes)
    pair = 8 * (lane // 4) + lane % 4 + np.array([[0], [4]])
    orders = [pair + 2 * isa.lanes * i for i in range(vectors // 2)]
    if vectors % 2:
        orders.append((vectors - 1) * isa.lanes + lane[None, :])
    return np.concatenate(orders)


@dataclass(frozen=True)
class Words:
    """Sums of 16-bit inputs and their epilogue on one level of instructions; `proven`: sums do not overflow."""

    epilogue: Epilogue | HalvesEpilogue
    isa: Isa
    proven: bool

    def add(self, accumulator: Expr, pairs: Expr, weights: Expr) -> Expr:
        """accumulator + two products per lane."""
        return dot(self.isa, accumulator, pairs, weights, self.proven)

    def pack(self, contract: Conv2D | DepthwiseConv2D, sums: Sums, channels: Array) -> tuple[Array, ...]:
        """Constants for accumulators whose lanes hold `channels` [vectors, lanes]."""
        packed = sums.pack(contract, channels)
        if isinstance(self.epilogue, Epilogue):
            return packed
        m, *rest = packed
        return (m, np.left_shift(m, 16), *rest)

    def tensors(self, vectors: int) -> tuple[Tensor, ...]:
        """Shapes and dtypes of what `pack` returns."""
        shape = (vectors, self.isa.lanes)
        extra = () if isinstance(self.epilogue, Epilogue) else (Tensor(shape, "int32"),)
        return (*extra, *self.epilogue.tensors(shape))

    def rounded(self, v: Expr, constants: tuple[Buffer, ...], index: Expr) -> Expr:
        """Codes of the accumulators of vector `index` as int32; after `halves` not clamped yet."""
        isa, lanes = self.isa, self.isa.lanes
        if isinstance(self.epilogue, Epilogue):
            return T.Bind(self.epilogue.codes(v, constants, (index, 0), lanes))
        m_low, m_high, rest, shift, *lift = (load(c, index, 0, lanes=lanes) for c in constants)
        v = T.Bind(v)
        low = T.Bind(dot(isa, rest, as_pairs(isa, v), as_pairs(isa, m_low), proven=True))
        raised = T.Bind(v + broadcast(T.int32(1 << 15), lanes))
        carry = T.shift_right(low, broadcast(T.int32(16), lanes))
        high = dot(isa, carry, as_pairs(isa, raised), as_pairs(isa, m_high), proven=True)
        scaled = T.shift_right(high, shift)
        return T.Bind(scaled + lift[0] if lift else scaled)

    def stored(self, rounded: list[Expr], count: int, y: Buffer, *index: Expr) -> None:
        """Store the first `count` codes of vectors in `channel_order` to consecutive elements of y."""
        *outer, last = index
        whole, done = count == self.isa.lanes * len(rounded), 0
        for i in range(0, len(rounded), 2):
            pair = rounded[i : i + 2]
            codes = self.codes(pair, whole)
            store_first(codes, self.isa.lanes * len(pair), count - done, y, *outer, last + done)
            done += self.isa.lanes * len(pair)

    def codes(self, rounded: list[Expr], whole: bool) -> Expr:
        """Clamped codes of one or two vectors as one of int16.  `whole`: no parts of it will be taken."""
        lanes = self.isa.lanes
        if whole:
            return T.Bind(self._clamped(self._packed(rounded), "int16", lanes * len(rounded)))
        # Before packing: LLVM 22 simplifies some clamps of packed vectors, of which parts are read, for ever.
        return T.Bind(self._packed([T.Bind(self._clamped(v, "int32", lanes)) for v in rounded]))

    def _packed(self, pair: list[Expr]) -> Expr:
        """One or two vectors of int32 as one of int16, saturated."""
        if len(pair) == 2:
            return self.isa.pack32(pair[0], pair[1])
        low, high = (broadcast(T.int32(bound), self.isa.lanes) for bound in code_range("int16"))
        return T.cast(T.min(T.max(pair[0], low), high), vector("int16", self.isa.lanes))

    def _clamped(self, codes: Expr, dtype: str, lanes: int) -> Expr:
        bounds = (self.epilogue.low, self.epilogue.high)
        low, high = (broadcast(T.IntImm(dtype, bound), lanes) for bound in bounds)
        widest = code_range("int16")
        codes = T.max(codes, low) if bounds[0] > widest[0] else codes
        return T.min(codes, high) if bounds[1] < widest[1] else codes
