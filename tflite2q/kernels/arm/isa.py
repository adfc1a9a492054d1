"""Levels of Arm vector instructions, and how each multiplies a tile of pixels by a tile of channels.

`widen`   NEON: smlal by element.  16-bit weights of four channels times one input, widened to 16 bits.  Weights of nine
          bits fit.
`halves`  NEON: smull and smlal of two weights of four channels each times two pairs of input bytes, whose sums sadalp
          adds up in 32 bits: eight products an instruction that multiplies, twice those of `widen`.  Two products fit
          16 bits unless both weights are -128.
`dot`     sdot (or sudot) by element: four weights of four channels times four input bytes.
`matrix`  smmla (or usmmla): eight weights of two channels times eight input bytes of two pixels, twice the work.
`pairs`   the same, of inputs that already lie in pairs of pixels.

The first three load sixteen (or eight) input bytes of each pixel at once and use them element by element, so that no
single loads stand between the multiplications.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tflite2q.kernels.accumulators import Accumulators
from tflite2q.kernels.features import has
from tflite2q.kernels.refusals import Because, Refusal
from tflite2q.kernels.tir import Expr, T, shuffle, vector, wrapping_add

LANES = 4  # 32-bit lanes of a vector
INT32X4 = vector("int32", LANES)

# Elements from `first` on, so many: of a unit's weights, or of a pixel's input.
WeightReader = Callable[[int, int], Expr]
InputReader = Callable[[int, int], Expr]  # (pixel, count)


@dataclass(frozen=True)
class Level:
    """`features`: LLVM's names of what it needs.

    `dots`: dot products of four bytes; `matrix`: matrix products, and products of unsigned by signed bytes.
    """

    name: str
    features: tuple[str, ...]
    dots: bool = False
    matrix: bool = False

    def lacks(self, target: Any) -> Refusal | None:
        """Why `target` (a tvm.target.Target) cannot run this level."""
        if target.kind.name != "llvm" or not str(target.attrs["mtriple"]).startswith(("aarch64", "arm64")):
            return Refusal(Because.PROCESSOR, "the target is not a 64-bit Arm")
        missing = [f for f in self.features if not has(target, f)]
        return Refusal(Because.INSTRUCTIONS, f"the target has no {' or '.join(missing)}") if missing else None


NEON = Level("neon", ("neon",))
DOTPROD = Level("dotprod", ("neon", "dotprod"), dots=True)
I8MM = Level("i8mm", ("neon", "dotprod", "i8mm"), dots=True, matrix=True)

LEVELS = (I8MM, DOTPROD, NEON)


class Tile(Protocol):
    """Accumulators of so many pixels times so many vectors of four channels, and the inputs they take."""

    def start(self, values: list[list[Expr]]) -> None:
        """Set them to int32x4 values [pixels][vectors]."""

    def chunk(self, read: InputReader) -> list[Expr]:
        """`Form.chunk` input bytes of each pixel, in registers."""

    def rest(self, read: InputReader) -> list[Expr]:
        """The bytes of one unit of each pixel, in registers as if they were the chunk's first unit."""

    def multiply(self, inputs: list[Expr], index: int, weights: WeightReader) -> None:
        """Add the products of unit `index` of `inputs` and a unit's weights."""

    def values(self) -> list[list[Expr]]:
        """The int32x4 values [pixels][vectors]."""


@dataclass(frozen=True)
class Form:
    """How a tile multiplies.

    `unit`: input bytes of a pixel that one multiplication takes; `operand`: those it reads, a pixel's or a pair's;
    `chunk`: those loaded at once; `parts`: into how many a unit's weights of four channels are cut, each of which has
    some of every channel; `shift`: what is subtracted from each input code on the way; `pixels`: tiles have a
    multiple of so many, and at most `most_pixels`; `vectors`: of the widest blocks of channels; `accumulators`: vectors
    of them that leave enough of the 32 registers for inputs and weights (one more is spilled in the inner loop).
    """

    name: str
    dtype: str
    unit: int
    operand: int
    chunk: int
    parts: int
    weight_dtype: str
    shift: int
    pixels: int
    most_pixels: int
    vectors: int
    accumulators: int
    tile: Callable[[Form, int, int], Tile]

    @property
    def pairs(self) -> bool:
        """Whether inputs are read in pairs of pixels."""
        return self.operand > self.unit

    def open(self, pixels: int, vectors: int) -> Tile:
        return self.tile(self, pixels, vectors)


class _Single:
    """One accumulator for each pixel and vector."""

    def __init__(self, form: Form, pixels: int, vectors: int) -> None:
        self.form = form
        self.sums = Accumulators.apart(pixels, vectors, LANES)

    def start(self, values: list[list[Expr]]) -> None:
        self.sums.start(lambda p, v: values[p][v])

    def values(self) -> list[list[Expr]]:
        return self.sums.values()


class _WidenTile(_Single):
    def chunk(self, read: InputReader) -> list[Expr]:
        return [T.Bind(T.cast(read(p, 8), "int16x8")) for p in range(self.sums.pixels)]

    def rest(self, read: InputReader) -> list[Expr]:
        return [T.Bind(T.Broadcast(T.cast(read(p, 1), "int16"), 8)) for p in range(self.sums.pixels)]

    def multiply(self, inputs: list[Expr], index: int, weights: WeightReader) -> None:
        sums, vectors = self.sums, self.sums.vectors
        operands: list[Expr] = []
        for first in range(0, vectors - 1, 2):
            two = T.Bind(weights(first * LANES, 2 * LANES))
            operands += [shuffle([two], [0, 1, 2, 3]), shuffle([two], [4, 5, 6, 7])]
        if vectors % 2:
            operands.append(T.Bind(weights((vectors - 1) * LANES, LANES)))
        for p, x in enumerate(inputs):
            element = shuffle([x], [index] * LANES)
            for v, w in enumerate(operands):
                sums[p, v] = widening(sums[p, v], w, element)


class _FourTile(_Single):
    """Takes four input bytes of a pixel at a time."""

    def chunk(self, read: InputReader) -> list[Expr]:
        units = vector("int32", self.form.chunk // 4)
        chunks = [T.reinterpret(units, read(p, self.form.chunk)) for p in range(self.sums.pixels)]
        return [self._signed(chunk) for chunk in chunks]

    def rest(self, read: InputReader) -> list[Expr]:
        fours = [T.reinterpret("int32", read(p, 4)) for p in range(self.sums.pixels)]
        return [self._signed(T.Broadcast(four, self.form.chunk // 4)) for four in fours]

    def _signed(self, bytes_: Expr) -> Expr:
        return T.Bind(flipped(bytes_, self.form.chunk // 4) if self.form.shift else bytes_)


class _HalvesTile(_FourTile):
    """Vector by vector of channels: one after another, their weights take few registers."""

    def multiply(self, inputs: list[Expr], index: int, weights: WeightReader) -> None:
        pairs = [self._pairs(x, index) for x in inputs]
        for v in range(self.sums.vectors):
            halves = [T.Bind(weights(16 * v + 8 * half, 8)) for half in range(2)]
            for p, pair in enumerate(pairs):
                low, high = (intrinsic("smull", x, w, dtype="int16x8") for x, w in zip(pair, halves, strict=True))
                both = intrinsic("saddlp", wrapping_add(low, high, 8, "int16"))
                self.sums[p, v] = wrapping_add(self.sums[p, v], both, LANES)

    def _pairs(self, x: Expr, index: int) -> list[Expr]:
        """The two pairs of bytes of unit `index`, each four times."""
        shorts = T.reinterpret(vector("int16", self.form.chunk // 2), x)
        fours = [shuffle([shorts], [2 * index + half] * LANES) for half in range(2)]
        return [T.Bind(T.reinterpret("int8x8", four)) for four in fours]


class _DotTile(_FourTile):
    def multiply(self, inputs: list[Expr], index: int, weights: WeightReader) -> None:
        sums = self.sums
        operands = [T.Bind(weights(v * 16, 16)) for v in range(sums.vectors)]
        mixed = self.form.dtype == "uint8" and not self.form.shift
        for p, x in enumerate(inputs):
            four = T.reinterpret("int8x16", shuffle([x], [index] * LANES))
            for v, w in enumerate(operands):
                # By element, the unsigned operand is the input's: LLVM makes sudot of it.
                sums[p, v] = (
                    intrinsic("usdot", sums[p, v], four, w) if mixed else intrinsic("sdot", sums[p, v], w, four)
                )


class _MatrixTile:
    """An accumulator holds two pixels times two channels: p0c0 p0c1 p1c0 p1c1.  `sums`: [pairs, 2 * vectors]."""

    def __init__(self, form: Form, pixels: int, vectors: int) -> None:
        self.form = form
        self.sums = Accumulators.apart(pixels // 2, 2 * vectors, LANES)

    def start(self, values: list[list[Expr]]) -> None:
        def first(pair: int, half: int) -> Expr:
            both = [values[2 * pair + i][half // 2] for i in (0, 1)]
            return shuffle(both, [2, 3, 6, 7] if half % 2 else [0, 1, 4, 5])

        self.sums.start(first)

    def values(self) -> list[list[Expr]]:
        found: list[list[Expr]] = []
        for loaded in self.sums.values():
            pairs = list(zip(loaded[0::2], loaded[1::2], strict=True))
            found.append([shuffle(pair, [0, 1, 4, 5]) for pair in pairs])
            found.append([shuffle(pair, [2, 3, 6, 7]) for pair in pairs])
        return found

    def chunk(self, read: InputReader) -> list[Expr]:
        """Eight bytes of both pixels of each pair; sixteen each, to be zipped, would take too many registers."""
        eights = [T.reinterpret("int64", read(p, 8)) for p in range(2 * self.sums.pixels)]
        return [T.Bind(shuffle(pair, [0, 1])) for pair in zip(eights[0::2], eights[1::2], strict=True)]

    def rest(self, read: InputReader) -> list[Expr]:
        return self.chunk(read)

    def multiply(self, inputs: list[Expr], index: int, weights: WeightReader) -> None:
        name = "usmmla" if self.form.dtype == "uint8" else "smmla"
        for half in range(self.sums.vectors):
            w = T.Bind(weights(half * 16, 16))
            for pair, eights in enumerate(inputs):
                x = T.reinterpret("int8x16", eights)
                self.sums[pair, half] = intrinsic(name, self.sums[pair, half], x, w)


class _PairTile(_MatrixTile):
    """Reads pairs, not pixels."""

    def chunk(self, read: InputReader) -> list[Expr]:
        return [T.Bind(read(pair, 16)) for pair in range(self.sums.pixels)]


def widen(dtype: str) -> Form:
    return Form(
        "smlal", dtype, unit=1, operand=1, chunk=8, parts=1, weight_dtype="int16", shift=0,
        pixels=1, most_pixels=8, vectors=4, accumulators=20, tile=_WidenTile,
    )  # fmt: skip


def halves(dtype: str) -> Form:
    return Form(
        "smlal8", dtype, unit=4, operand=4, chunk=8, parts=2, weight_dtype="int8", shift=128 if dtype == "uint8" else 0,
        pixels=1, most_pixels=4, vectors=4, accumulators=12, tile=_HalvesTile,
    )  # fmt: skip


def dot(dtype: str, mixed: bool) -> Form:
    """`mixed`: the processor multiplies unsigned by signed bytes."""
    return Form(
        "dot", dtype, unit=4, operand=4, chunk=16, parts=1, weight_dtype="int8",
        shift=128 if dtype == "uint8" and not mixed else 0,
        pixels=1, most_pixels=8, vectors=4, accumulators=20, tile=_DotTile,
    )  # fmt: skip


def matrix(dtype: str) -> Form:
    return Form(
        "mmla", dtype, unit=8, operand=8, chunk=8, parts=1, weight_dtype="int8", shift=0,
        pixels=2, most_pixels=8, vectors=4, accumulators=24, tile=_MatrixTile,
    )  # fmt: skip


def pairs(dtype: str) -> Form:
    """Six pairs of pixels times four of channels: 24 products to 10 loads."""
    return replace(matrix(dtype), name="mmla_pairs", operand=16, chunk=16, most_pixels=12, vectors=2, tile=_PairTile)


def flipped(bytes_: Expr, lanes: int = LANES) -> Expr:
    """Unsigned bytes, in `lanes` of int32, as signed ones that are 128 less: their upper bits flipped."""
    return T.bitwise_xor(bytes_, T.Broadcast(T.int32(-0x7F7F7F80), lanes))


def widening(accumulator: Expr, a: Expr, b: Expr) -> Expr:
    """accumulator + a * b, of int16x4 in 32 bits: smlal."""
    return wrapping_add(accumulator, intrinsic("smull", a, b), LANES)


def intrinsic(name: str, *operands: Expr, dtype: str = INT32X4) -> Expr:
    """LLVM's intrinsic of a NEON instruction."""
    identifier = T.llvm_lookup_intrinsic_id(f"llvm.aarch64.neon.{name}")
    return T.call_llvm_pure_intrin(dtype, identifier, *operands)
