"""The epilogue on x86: the same numbers as `tflite2q.kernels.epilogue`, in fewer instructions.

fixed    64-bit products exist for the even 32-bit lanes only (vpmuldq), so even and odd lanes go separate ways and are
         blended at the end.  Where negative numbers need no correction, both shifts become one 64-bit shift: even lanes
         by 31 + n, odd lanes by n - 1, which leaves the result in the upper half, where the blend wants it.  Eight
         instructions for 16 outputs; eleven with the correction.
fma      where `tflite2q.kernels.fma_rescale` proves it equal, the fixed point is one fused multiply-add in float32:
         three instructions, four where negative numbers count, two more to mend a single accumulator.
float32  vcvtps2dq rounds to nearest even by itself: three instructions.

Codes of four vectors are packed into one with three saturating packs, which do most of the clamping.  Packs interleave
128-bit lanes; the order of output channels in the accumulators (`channel_order`) makes the packed bytes come out in
order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tflite2q.arithmetic.rescale import Rescale
from tflite2q.arithmetic.rounding import code_range
from tflite2q.kernels.contracts import Array, Tensor
from tflite2q.kernels.epilogue import Epilogue, shifts, spread
from tflite2q.kernels.fma_rescale import FmaRescale, floating, prove
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
    store_first,
    vector,
    wrapping_add,
)
from tflite2q.kernels.x86.isa import Level

PACKED = 4  # vectors whose codes are packed into one
_WIDE = ("even multiplier", "odd multiplier", "even rounding", "odd rounding")
_WIDE_SHIFTS = ("even right", "odd right")


@dataclass(frozen=True)
class X86Epilogue:
    """An `Epilogue` on one level of instructions.

    `form`: "fma", "even_odd" (fixed point), "convert" (float32), or "plain" for the portable text.  `middle`,
    `mended`, `signed`, `floating` describe an fma.
    """

    epilogue: Epilogue
    level: Level
    form: str
    middle: int = 0
    signed: bool = False
    mended: bool = False
    floating: bool = False

    @property
    def one_shift(self) -> bool:
        """Whether both shifts of the fixed point become one (AVX2 has no arithmetic 64-bit shift)."""
        return not self.epilogue.corrects_negatives and self.level.avx512

    def constants(self, vectors: int) -> Tensors:
        """The constants of so many vectors of accumulators."""
        lanes = self.level.lanes
        if self.form == "fma":
            dtypes = {"slope": "float32", "offset": "float32"} | (
                {"wrong": "int32", "mend": "int32"} if self.mended else {}
            )
        elif self.form == "even_odd":
            wide = Tensor((vectors, lanes // 2), "int64")
            if self.one_shift:
                return dict.fromkeys((*_WIDE, *_WIDE_SHIFTS), wide)
            return {**dict.fromkeys(_WIDE, wide), "right": Tensor((vectors, lanes), "int32")}
        else:
            dtypes = dict(self.epilogue.constants)
        return {name: Tensor((vectors, lanes), dtype) for name, dtype in dtypes.items()}

    def rounded(self, v: Expr, constants: Buffers, index: Expr) -> Expr:
        """Rescaled accumulators of vector `index` as int32, before zero point, middle and clamp."""
        lanes = self.level.lanes
        if self.form == "plain":
            return T.Bind(self.epilogue.rounded(v, constants, (index, 0), lanes))
        if self.form == "even_odd":
            return T.Bind(self._even_odd(v, constants, index))
        if self.form == "fma":
            return T.Bind(self._fma(v, constants, index))
        real = load(constants["multiplier"], index, 0, lanes=lanes)
        return T.Bind(self.level.round_float32(T.cast(v, vector("float32", lanes)) * real))

    def _fma(self, v: Expr, constants: Buffers, index: Expr) -> Expr:
        lanes = self.level.lanes
        loads = {name: load(constants[name], index, 0, lanes=lanes) for name in self.constants(0)}
        offset, floats, ints = loads["offset"], vector("float32", lanes), vector("int32", lanes)
        x = T.Bind(T.reinterpret(floats, v) if self.floating else T.cast(v, floats))
        if self.signed:
            sign = T.bitwise_and(T.reinterpret(ints, x), broadcast(T.int32(-(2**31)), lanes))
            offset = T.reinterpret(floats, T.bitwise_or(sign, T.reinterpret(ints, offset)))
        fused = T.call_llvm_pure_intrin(floats, T.llvm_lookup_intrinsic_id("llvm.fma"), x, loads["slope"], offset)
        rounded = T.Bind(self.level.round_float32(fused))
        return T.Select(T.EQ(v, loads["wrong"]), rounded + loads["mend"], rounded) if self.mended else rounded

    def _even_odd(self, v: Expr, constants: Buffers, index: Expr) -> Expr:
        half, lanes = self.level.lanes // 2, self.level.lanes
        wide, narrow = vector("int64", half), vector("int32", lanes)
        by32 = broadcast(T.int64(32), half)
        pairs = T.Bind(T.reinterpret(wide, v))
        m_even, m_odd, r_even, r_odd = (load(constants[n], index, 0, lanes=half) for n in _WIDE)

        def low32(e: Expr) -> Expr:  # sign-extended: the form in which LLVM recognizes vpmuldq
            return T.shift_right(T.shift_left(e, by32), by32)

        even = low32(pairs) * low32(m_even) + r_even
        odd = T.shift_right(pairs, by32) * low32(m_odd) + r_odd
        if self.one_shift:
            counts = [load(constants[n], index, 0, lanes=half) for n in _WIDE_SHIFTS]
            return _blend(T.shift_right(even, counts[0]), T.shift_right(odd, counts[1]), half, narrow)
        unsigned = vector("uint64", half)
        low = T.shift_right(T.reinterpret(unsigned, even), broadcast(T.uint64(31), half))
        scaled = _blend(T.reinterpret(wide, low), T.shift_left(odd, broadcast(T.int64(1), half)), half, narrow)
        if self.epilogue.corrects_negatives:
            scaled = scaled + T.shift_right(v, broadcast(31, lanes))
        return T.shift_right(scaled, load(constants["right"], index, 0, lanes=lanes))

    def store(self, rounded: list[list[Expr]], stored: int, y: Buffer, rows: list[Expr], channel: Expr) -> None:
        """The first `stored` codes of each row's vectors, from `channel` on: those that exist."""
        lanes, vectors = self.level.lanes, len(rounded[0])
        if vectors == PACKED:
            block = PACKED * lanes
            for row, values in zip(rows, rounded, strict=True):
                store_first(self.packed(values, stored == block), block, stored, y, row, channel)
            return
        codes = iter(self.pieces([value for values in rounded for value in values]))
        for row in rows:
            for v in range(vectors):
                store_first(next(codes), lanes, stored - v * lanes, y, row, channel + v * lanes)

    def packed(self, rounded: list[Expr], whole: bool = True) -> Expr:
        """Codes of four vectors in `channel_order`, as one vector of 4 * lanes bytes in order.

        `whole`: no parts of it will be taken.
        """
        e, level = self.epilogue, self.level
        if not whole:
            rounded = self._clamped(rounded)
        shorts = [level.pack32(rounded[0], rounded[1]), level.pack32(rounded[2], rounded[3])]
        if e.zero_point + self.middle:
            lanes = 2 * level.lanes
            add = T.llvm_lookup_intrinsic_id("llvm.sadd.sat")
            zero = broadcast(T.int16(e.zero_point + self.middle), lanes)
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
            shift = broadcast(T.int32(e.zero_point + self.middle), lanes)
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
        return broadcast(T.int32(code - self.epilogue.zero_point - self.middle), self.level.lanes)


@dataclass(frozen=True, eq=False)
class Rescaling:
    """A layer's rescale: how it is computed, and its numbers.  `fma`: the proof that one multiply-add does it."""

    epilogue: X86Epilogue
    rescale: Rescale
    fma: FmaRescale | None

    @staticmethod
    def of(rescale: Rescale, bound: Array, level: Level, floats: bool = False) -> Rescaling:
        """`bound`: largest accumulator of each channel; `floats`: accumulators may begin as bits of a float32."""
        epilogue, fma = Epilogue.of(rescale, bound), prove(rescale, bound)
        if fma is not None:
            fma = (floating(fma, rescale, bound) if floats else None) or fma
            mended, starts = fma.mend is not None, fma.start is not None
            return Rescaling(X86Epilogue(epilogue, level, "fma", fma.middle, fma.signed, mended, starts), rescale, fma)
        form = "plain"
        if rescale.arithmetic == "fixed" and epilogue.right_everywhere and not (epilogue.left or epilogue.wide):
            form = "even_odd"
        if rescale.arithmetic == "float32" and (bound * np.array(rescale.real) < 2.0**30).all():
            form = "convert"
        return Rescaling(X86Epilogue(epilogue, level, form), rescale, None)

    @property
    def start(self) -> Array | int:
        """What accumulators begin with beside the bias, by channel."""
        return 0 if self.fma is None or self.fma.start is None else self.fma.start.astype(np.int64)

    def pack(self, channels: Array) -> dict[str, Array]:
        """Constants for accumulators whose lanes hold `channels` [vectors, lanes]."""
        rescale, epilogue = self.rescale, self.epilogue
        if self.fma is not None:
            values = {"slope": self.fma.slope, "offset": self.fma.offset}
            values |= dict(zip(("wrong", "mend"), self.fma.mend or (), strict=False))
            return {name: np.ascontiguousarray(a[channels]) for name, a in values.items()}
        if epilogue.form != "even_odd":
            return epilogue.epilogue.pack(rescale, channels)
        m, _ = rescale.fixed_point()
        _, right = shifts(rescale)
        half = np.left_shift(np.int64(1), right - 1)
        wide = [spread(a.astype(np.int64), channels) for a in (m, 2**30 + (half << 31))]
        packed = dict(zip(_WIDE, (a[:, parity::2] for a in wide for parity in (0, 1)), strict=True))
        if not epilogue.one_shift:
            return {**packed, "right": spread(right.astype(np.int32), channels)}
        count = spread(right.astype(np.int64), channels)
        return {**packed, "even right": count[:, 0::2] + 31, "odd right": count[:, 1::2] - 1}


def channel_order(lanes: int, vectors: int) -> Array:
    """[vectors, lanes]: which of the block's channels each lane of its accumulators holds.

    Four vectors are ordered for `packed`, others plainly.
    """
    if vectors != 4:
        return np.arange(vectors * lanes).reshape(vectors, lanes)
    lane = np.arange(lanes)
    return 16 * (lane // 4) + lane % 4 + 4 * np.arange(4)[:, None]


def lane_channels(section: Section) -> Array:
    """[blocks * vectors, lanes]: the output channel of each lane of a section's accumulators."""
    order = channel_order(section.lanes, section.vectors).reshape(-1)
    return section.channel_indices()[:, order].reshape(-1, section.lanes)


def start(bias: Buffer, index: Expr, lanes: int, term: Expr | None) -> Expr:
    """First value of an accumulator: the bias of vector `index`, plus a scalar of the pixel if there is one."""
    value = load(bias, index, 0, lanes=lanes)
    return value if term is None else wrapping_add(value, broadcast(term, lanes), lanes)


def _blend(even: Expr, odd: Expr, half: int, narrow: str) -> Expr:
    """Lower 32 bits of `even`, upper 32 of `odd`."""
    low = broadcast(T.int64(0xFFFFFFFF), half)
    high = broadcast(T.int64(-(1 << 32)), half)
    return T.Bind(T.reinterpret(narrow, T.bitwise_or(T.bitwise_and(even, low), T.bitwise_and(odd, high))))
