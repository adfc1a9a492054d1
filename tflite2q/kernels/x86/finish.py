"""The epilogue on x86: the same numbers as `tflite2q.kernels.epilogue`, in fewer instructions.

fixed    64-bit products exist for the even 32-bit lanes only (vpmuldq), so even and odd lanes go separate ways and are
         blended at the end.  Where negative numbers need no correction, both shifts become one 64-bit shift: even lanes
         by 31 + n, odd lanes by n - 1, which leaves the result in the upper half, where the blend wants it.  Eight
         instructions for 16 outputs; eleven with the correction.
line     where `tflite2q.kernels.line` proves it equal, the fixed point is one fused multiply-add in float32: three
         instructions, four where negative numbers count, two more to mend a single accumulator.
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
from tflite2q.kernels.base import Array, Tensor
from tflite2q.kernels.epilogue import Epilogue, shifts, spread
from tflite2q.kernels.line import Line
from tflite2q.kernels.product import Section
from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, load, part, shuffle, store_first, vector, wrapping_add
from tflite2q.kernels.x86.isa import Isa

PACKED = 4  # vectors whose codes are packed into one


@dataclass(frozen=True)
class Finish:
    """An `Epilogue` on one level of instructions.

    `form`: "line", "even_odd" (fixed point), "convert" (float32), or "plain" for the portable text.  `middle`,
    `mended`, `signed`, `floating` describe a line.
    """

    epilogue: Epilogue
    isa: Isa
    form: str
    middle: int = 0
    signed: bool = False
    mended: bool = False
    floating: bool = False

    @staticmethod
    def of(rescale: Rescale, bound: Array, isa: Isa, proven: Line | None) -> Finish:
        """`bound`: largest accumulator of each channel; `proven`: what `line.prove` says of the same."""
        epilogue = Epilogue.of(rescale, bound)
        if proven is not None:
            mended, floating = proven.mend is not None, proven.start is not None
            return Finish(epilogue, isa, "line", proven.middle, proven.signed, mended, floating)
        form = "plain"
        if rescale.arithmetic == "fixed" and epilogue.right_everywhere and not (epilogue.left or epilogue.wide):
            form = "even_odd"
        if rescale.arithmetic == "float32" and (bound * np.array(rescale.real) < 2.0**30).all():
            form = "convert"
        return Finish(epilogue, isa, form)

    @property
    def one_shift(self) -> bool:
        """Whether both shifts of the fixed point become one (AVX2 has no arithmetic 64-bit shift)."""
        return not self.epilogue.corrects_negatives and self.isa.lanes == 16

    def pack(self, rescale: Rescale, proven: Line | None, channels: Array) -> tuple[Array, ...]:
        """Constants for accumulators whose lanes hold `channels` [vectors, lanes]."""
        if proven is not None:
            return tuple(np.ascontiguousarray(a[channels]) for a in (proven.slope, proven.offset, *(proven.mend or ())))
        if self.form != "even_odd":
            return self.epilogue.pack(rescale, channels)
        m, _ = rescale.fixed_point()
        _, right = shifts(rescale)
        half = np.left_shift(np.int64(1), right - 1)
        wide = [spread(a.astype(np.int64), channels) for a in (m, 2**30 + (half << 31))]
        halves = [np.ascontiguousarray(a[:, parity::2]) for a in wide for parity in (0, 1)]
        if not self.one_shift:
            return (*halves, spread(right.astype(np.int32), channels))
        count = spread(right.astype(np.int64), channels)
        return (*halves, np.ascontiguousarray(count[:, 0::2] + 31), np.ascontiguousarray(count[:, 1::2] - 1))

    def tensors(self, vectors: int) -> tuple[Tensor, ...]:
        """Shapes and dtypes of what `pack` returns."""
        lanes = self.isa.lanes
        if self.form == "line":
            names = ["float32"] * 2 + ["int32"] * 2 * self.mended
            return tuple(Tensor((vectors, lanes), name) for name in names)
        if self.form != "even_odd":
            return self.epilogue.tensors((vectors, lanes))
        wide = Tensor((vectors, lanes // 2), "int64")
        return (wide,) * 6 if self.one_shift else (wide,) * 4 + (Tensor((vectors, lanes), "int32"),)

    def rounded(self, v: Expr, constants: tuple[Buffer, ...], index: Expr) -> Expr:
        """Rescaled accumulators of vector `index` as int32, before zero point, middle and clamp."""
        if self.form == "line":
            return self._line(v, [load(c, index, 0, lanes=self.isa.lanes) for c in constants])
        if self.form == "plain":
            return self.epilogue.rounded(v, constants, (index, 0), self.isa.lanes)
        if self.form == "convert":
            real = load(constants[0], index, 0, lanes=self.isa.lanes)
            return self.isa.round_float32(T.cast(v, vector("float32", self.isa.lanes)) * real)
        return self._even_odd(v, constants, index)

    def _line(self, v: Expr, loads: list[Expr]) -> Expr:
        slope, offset, *mend = loads
        floats, ints = vector("float32", self.isa.lanes), vector("int32", self.isa.lanes)
        x = T.Bind(T.reinterpret(floats, v) if self.floating else T.cast(v, floats))
        if self.signed:
            sign = T.bitwise_and(T.reinterpret(ints, x), broadcast(T.int32(-(2**31)), self.isa.lanes))
            offset = T.reinterpret(floats, T.bitwise_or(sign, T.reinterpret(ints, offset)))
        fused = T.call_llvm_pure_intrin(floats, T.llvm_lookup_intrinsic_id("llvm.fma"), x, slope, offset)
        rounded = T.Bind(self.isa.round_float32(fused))
        return T.Select(T.EQ(v, mend[0]), rounded + mend[1], rounded) if mend else rounded

    def _even_odd(self, v: Expr, constants: tuple[Buffer, ...], index: Expr) -> Expr:
        half, lanes = self.isa.lanes // 2, self.isa.lanes
        wide, narrow = vector("int64", half), vector("int32", lanes)
        by32 = broadcast(T.int64(32), half)
        pairs = T.Bind(T.reinterpret(wide, v))
        m_even, m_odd, r_even, r_odd = (load(c, index, 0, lanes=half) for c in constants[:4])

        def low32(e: Expr) -> Expr:  # sign-extended: the form in which LLVM recognizes vpmuldq
            return T.shift_right(T.shift_left(e, by32), by32)

        even = low32(pairs) * low32(m_even) + r_even
        odd = T.shift_right(pairs, by32) * low32(m_odd) + r_odd
        if self.one_shift:
            counts = [load(c, index, 0, lanes=half) for c in constants[4:]]
            return _blend(T.shift_right(even, counts[0]), T.shift_right(odd, counts[1]), half, narrow)
        unsigned = vector("uint64", half)
        low = T.shift_right(T.reinterpret(unsigned, even), broadcast(T.uint64(31), half))
        scaled = _blend(T.reinterpret(wide, low), T.shift_left(odd, broadcast(T.int64(1), half)), half, narrow)
        if self.epilogue.corrects_negatives:
            scaled = scaled + T.shift_right(v, broadcast(31, lanes))
        return T.shift_right(scaled, load(constants[4], index, 0, lanes=lanes))

    def stored(self, pixels: list[list[Expr]], s: Section, y: Buffer, pixel: Expr, block: Expr) -> None:
        """Store a block's codes of consecutive pixels, each given as `s.vectors` rounded vectors: those that exist."""
        if s.vectors == PACKED:
            for p, vectors in enumerate(pixels):
                codes = self.packed(vectors, s.stored == s.block)
                store_first(codes, s.block, s.stored, y, pixel + p, s.start(block))
            return
        codes = iter(self.pieces([value for vectors in pixels for value in vectors]))
        for p in range(len(pixels)):
            for v in range(s.vectors):
                at = v * s.lanes
                store_first(next(codes), s.lanes, s.stored - at, y, pixel + p, s.start(block) + at)

    def packed(self, rounded: list[Expr], whole: bool = True) -> Expr:
        """Codes of four vectors in `channel_order`, as one vector of 4 * lanes bytes in order.

        `whole`: no parts of it will be taken.
        """
        e, isa = self.epilogue, self.isa
        if not whole:
            rounded = self._clamped(rounded)
        shorts = [isa.pack32(rounded[0], rounded[1]), isa.pack32(rounded[2], rounded[3])]
        if e.zero_point + self.middle:
            lanes = 2 * isa.lanes
            add = T.llvm_lookup_intrinsic_id("llvm.sadd.sat")
            zero = broadcast(T.int16(e.zero_point + self.middle), lanes)
            shorts = [T.Bind(T.call_llvm_pure_intrin(vector("int16", lanes), add, s, zero)) for s in shorts]
        codes = isa.pack16(shorts[0], shorts[1], e.dtype)
        low, high = code_range(e.dtype)
        if e.low > low and whole:
            codes = T.max(codes, broadcast(T.IntImm(e.dtype, e.low), 4 * isa.lanes))
        if e.high < high and whole:
            codes = T.min(codes, broadcast(T.IntImm(e.dtype, e.high), 4 * isa.lanes))
        return T.Bind(codes)

    def pieces(self, rounded: list[Expr]) -> list[Expr]:
        """Codes of any number of plainly ordered vectors, each as one vector of `lanes` bytes."""
        lanes, e = self.isa.lanes, self.epilogue
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
        return broadcast(T.int32(code - self.epilogue.zero_point - self.middle), self.isa.lanes)


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


def start(bias: Buffer, index: Expr, isa: Isa, row_term: Expr | None) -> Expr:
    """First value of an accumulator: the bias of vector `index`, plus a scalar of the pixel if there is one."""
    value = load(bias, index, 0, lanes=isa.lanes)
    return value if row_term is None else wrapping_add(value, broadcast(row_term, isa.lanes), isa.lanes)


def _blend(even: Expr, odd: Expr, half: int, narrow: str) -> Expr:
    """Lower 32 bits of `even`, upper 32 of `odd`."""
    low = broadcast(T.int64(0xFFFFFFFF), half)
    high = broadcast(T.int64(-(1 << 32)), half)
    return T.Bind(T.reinterpret(narrow, T.bitwise_or(T.bitwise_and(even, low), T.bitwise_and(odd, high))))
