"""How x86 rescales a vector of accumulators: the numbers of `tflite2q.kernels.epilogue`, in fewer instructions.

even and odd  64-bit products exist for the even 32-bit lanes only (vpmuldq), so even and odd lanes go separate ways and
              are blended at the end.  Where negative numbers need no correction, both shifts become one 64-bit shift:
              even lanes by 31 + n, odd lanes by n - 1, which leaves the result in the upper half, where the blend wants
              it.  Eight instructions for 16 outputs; eleven with the correction.
fma           where `tflite2q.kernels.fma_rescale` proves it equal, the fixed point is one fused multiply-add in
              float32: three instructions, four where negative numbers count, two more to mend a single accumulator.
converted     float32 by vcvtps2dq, which rounds to nearest even by itself: three instructions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from tflite2q.arithmetic.rescale import Rescale
from tflite2q.kernels.contracts import Array, Tensor
from tflite2q.kernels.epilogue import Epilogue, Fixed, spread
from tflite2q.kernels.fma_rescale import FmaRescale
from tflite2q.kernels.frame import Tensors
from tflite2q.kernels.tir import Buffers, Expr, T, broadcast, load, vector
from tflite2q.kernels.x86.isa import Level

_WIDE = ("even multiplier", "odd multiplier", "even rounding", "odd rounding")
_WIDE_SHIFTS = ("even right", "odd right")


class Rounding(Protocol):
    """From accumulators to int32, on one level of instructions; hashable.

    Results are codes less the zero point and less `middle`, and not clamped.
    """

    @property
    def middle(self) -> int: ...

    def constants(self, vectors: int) -> Tensors:
        """The constants of so many vectors of accumulators."""

    def rounded(self, v: Expr, constants: Buffers, index: Expr) -> Expr:
        """Accumulators of vector `index`, rescaled."""


@dataclass(frozen=True)
class Portable:
    """The text for every processor."""

    epilogue: Epilogue
    level: Level

    middle: ClassVar[int] = 0

    def constants(self, vectors: int) -> Tensors:
        return {name: Tensor((vectors, self.level.lanes), dtype) for name, dtype in self.epilogue.constants.items()}

    def rounded(self, v: Expr, constants: Buffers, index: Expr) -> Expr:
        return self.epilogue.rounded(v, constants, (index, 0), self.level.lanes)

    def pack(self, rescale: Rescale, channels: Array) -> dict[str, Array]:
        """Constants for accumulators whose lanes hold `channels` [vectors, lanes]."""
        return self.epilogue.pack(rescale, channels)


@dataclass(frozen=True)
class Converted(Portable):
    """float32 by the processor's own rounding, for products within 2^30."""

    @staticmethod
    def takes(rescale: Rescale, bound: Array) -> bool:
        """Whether accumulators up to `bound` may be rescaled so."""
        return rescale.arithmetic == "float32" and bool((bound * np.array(rescale.real) < 2.0**30).all())

    def rounded(self, v: Expr, constants: Buffers, index: Expr) -> Expr:
        real = load(constants["multiplier"], index, 0, lanes=self.level.lanes)
        return self.level.round_float32(T.cast(v, vector("float32", self.level.lanes)) * real)


@dataclass(frozen=True)
class EvenOdd(Portable):
    """Fixed point whose multipliers all shift to the right, in 32-bit accumulators."""

    epilogue: Fixed

    @staticmethod
    def takes(epilogue: Fixed) -> bool:
        """Whether `epilogue` is such a fixed point."""
        return epilogue.right_everywhere and not (epilogue.left or epilogue.wide)

    @property
    def one_shift(self) -> bool:
        """Whether both shifts become one (AVX2 has no arithmetic 64-bit shift)."""
        return not self.epilogue.corrects_negatives and self.level.avx512

    def constants(self, vectors: int) -> Tensors:
        lanes = self.level.lanes
        wide = Tensor((vectors, lanes // 2), "int64")
        if self.one_shift:
            return dict.fromkeys((*_WIDE, *_WIDE_SHIFTS), wide)
        return {**dict.fromkeys(_WIDE, wide), "right": Tensor((vectors, lanes), "int32")}

    def rounded(self, v: Expr, constants: Buffers, index: Expr) -> Expr:
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

    def pack(self, rescale: Rescale, channels: Array) -> dict[str, Array]:
        m, _ = rescale.fixed_point()
        _, right = self.epilogue.shifts(rescale)
        half = np.left_shift(np.int64(1), right - 1)
        wide = [spread(a.astype(np.int64), channels) for a in (m, 2**30 + (half << 31))]
        packed = dict(zip(_WIDE, (a[:, parity::2] for a in wide for parity in (0, 1)), strict=True))
        if not self.one_shift:
            return {**packed, "right": spread(right.astype(np.int32), channels)}
        count = spread(right.astype(np.int64), channels)
        return {**packed, "even right": count[:, 0::2] + 31, "odd right": count[:, 1::2] - 1}


@dataclass(frozen=True)
class Fma:
    """One fused multiply-add; see `FmaRescale`.

    `signed`: the offset takes the sign of the accumulator; `mended`: one accumulator of each channel is corrected;
    `floating`: accumulators are the bits of a float32.
    """

    level: Level
    middle: int
    signed: bool
    mended: bool
    floating: bool

    @staticmethod
    def of(line: FmaRescale, level: Level) -> Fma:
        return Fma(level, line.middle, line.signed, line.mend is not None, line.start is not None)

    def constants(self, vectors: int) -> Tensors:
        dtypes = {"slope": "float32", "offset": "float32"}
        dtypes |= {"wrong": "int32", "mend": "int32"} if self.mended else {}
        return {name: Tensor((vectors, self.level.lanes), dtype) for name, dtype in dtypes.items()}

    def rounded(self, v: Expr, constants: Buffers, index: Expr) -> Expr:
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

    @staticmethod
    def pack(line: FmaRescale, channels: Array) -> dict[str, Array]:
        """Constants for accumulators whose lanes hold `channels` [vectors, lanes]."""
        values = {"slope": line.slope, "offset": line.offset}
        values |= dict(zip(("wrong", "mend"), line.mend or (), strict=False))
        return {name: np.ascontiguousarray(a[channels]) for name, a in values.items()}


def _blend(even: Expr, odd: Expr, half: int, narrow: str) -> Expr:
    """Lower 32 bits of `even`, upper 32 of `odd`."""
    low = broadcast(T.int64(0xFFFFFFFF), half)
    high = broadcast(T.int64(-(1 << 32)), half)
    return T.Bind(T.reinterpret(narrow, T.bitwise_or(T.bitwise_and(even, low), T.bitwise_and(odd, high))))
