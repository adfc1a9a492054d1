"""Levels of x86 vector instructions, and the few operations in which they differ.

A level multiplies four consecutive unsigned input bytes by four weights per 32-bit lane, or two inputs of 16 bits by
two, and adds the products to the lane's accumulator.  With VNNI that is one instruction, vpdpbusd (vpdpwssd), which
does not saturate.  Without it, inputs of 16 bits take vpmaddwd and an addition, and bytes are widened: even and odd
bytes of the four become two pairs of 16 bits.  vpmaddubsw multiplies bytes in three instructions instead of four, but
saturates, so it is for weights that certainly do not make it (`tflite2q.kernels.x86.saturation`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tflite2q.kernels.contracts import Array
from tflite2q.kernels.features import has
from tflite2q.kernels.refusals import Because, Refusal
from tflite2q.kernels.tir import Expr, T, broadcast, shuffle, vector

UNIT = 4  # bytes of a product
LINE = 64  # bytes of a line of the caches

Reader = Callable[[int, int], Expr]  # of so many elements of weights from one on


class ByteProduct(Protocol):
    """How four unsigned bytes are multiplied by four weights in each 32-bit lane; hashable.

    `bits`: of a weight; `operands`: vectors of inputs, and of weights, that one product takes.
    """

    @property
    def bits(self) -> int: ...

    @property
    def operands(self) -> int: ...

    def arrange(self, weights: Array) -> Array:
        """Integer weights [..., lanes, 4] as the elements [..., 4 * lanes] that `weights` reads.

        Raises ValueError for weights that do not fit `bits`.
        """

    def inputs(self, packed: Expr) -> tuple[Expr, ...]:
        """Four bytes in each lane, as `add` wants them."""

    def weights(self, read: Reader) -> tuple[Expr, ...]:
        """A product's weights, as `add` wants them."""

    def add(self, accumulator: Expr, inputs: tuple[Expr, ...], weights: tuple[Expr, ...]) -> Expr:
        """accumulator + four products per lane."""


@dataclass(frozen=True)
class _WholeProduct:
    """Products of bytes by weights of 8 bits."""

    lanes: int

    bits = 8
    operands = 1

    def arrange(self, weights: Array) -> Array:
        return _narrowed(weights.reshape(*weights.shape[:-2], UNIT * self.lanes), "int8")

    def inputs(self, packed: Expr) -> tuple[Expr, ...]:
        return (T.Bind(packed),)

    def weights(self, read: Reader) -> tuple[Expr, ...]:
        return (T.Bind(read(0, UNIT * self.lanes)),)

    def _bytes(self, inputs: tuple[Expr, ...]) -> Expr:
        return T.reinterpret(vector("int8", UNIT * self.lanes), inputs[0])


@dataclass(frozen=True)
class DotProduct(_WholeProduct):
    """One instruction, vpdpbusd."""

    def add(self, accumulator: Expr, inputs: tuple[Expr, ...], weights: tuple[Expr, ...]) -> Expr:
        name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"
        return _call(name, vector("int32", self.lanes), accumulator, self._bytes(inputs), weights[0])


@dataclass(frozen=True)
class SaturatingProduct(_WholeProduct):
    """vpmaddubsw, vpmaddwd by ones, and an addition.  Exact while pairs of weights keep to `PAIR_LIMIT`."""

    def add(self, accumulator: Expr, inputs: tuple[Expr, ...], weights: tuple[Expr, ...]) -> Expr:
        shorts = vector("int16", 2 * self.lanes)
        pairs = _call("llvm.x86.avx2.pmadd.ub.sw", shorts, self._bytes(inputs), weights[0])
        ones = broadcast(T.int16(1), 2 * self.lanes)
        return accumulator + _multiply_add(self.lanes, pairs, ones)


@dataclass(frozen=True)
class WidenedProduct:
    """Even and odd bytes are widened for vpmaddwd and an addition each; weights have 16 bits."""

    lanes: int

    bits = 16
    operands = 2

    def arrange(self, weights: Array) -> Array:
        """The even bytes' weights of all lanes, then the odd bytes'."""
        lead = weights.shape[:-2]
        weights = np.stack([weights[..., 0::2], weights[..., 1::2]], axis=len(lead))
        return _narrowed(weights.reshape(*lead, UNIT * self.lanes), "int16")

    def inputs(self, packed: Expr) -> tuple[Expr, ...]:
        packed = T.Bind(packed)
        even = T.bitwise_and(packed, broadcast(0x00FF00FF, self.lanes))
        shorts = T.reinterpret(vector("uint16", 2 * self.lanes), packed)
        odd = T.shift_right(shorts, broadcast(T.uint16(8), 2 * self.lanes))
        return T.Bind(even), T.Bind(T.reinterpret(vector("int32", self.lanes), odd))

    def weights(self, read: Reader) -> tuple[Expr, ...]:
        return T.Bind(read(0, 2 * self.lanes)), T.Bind(read(2 * self.lanes, 2 * self.lanes))

    def add(self, accumulator: Expr, inputs: tuple[Expr, ...], weights: tuple[Expr, ...]) -> Expr:
        for x, w in zip(inputs, weights, strict=True):
            pairs = T.reinterpret(vector("int16", 2 * self.lanes), x)
            accumulator = accumulator + _multiply_add(self.lanes, pairs, w)
        return accumulator


class PairProduct(Protocol):
    """How two inputs of 16 bits are multiplied by two weights in each 32-bit lane; hashable."""

    def add(self, accumulator: Expr, pairs: Expr, weights: Expr, proven: bool) -> Expr:
        """accumulator + two products per lane; `pairs` and `weights` are vectors of 2 * lanes int16.

        `proven`: the sum does not overflow.
        """


@dataclass(frozen=True)
class PairDotProduct:
    """One instruction, vpdpwssd."""

    lanes: int

    def add(self, accumulator: Expr, pairs: Expr, weights: Expr, proven: bool) -> Expr:
        # Where nothing overflows, the saturating instruction does the same, and LLVM leaves it alone.  The wrapping one
        # it takes apart where that shortens a chain of sums, which doubles the work to save time that other sums would
        # have filled.
        name = f"llvm.x86.avx512.{'vpdpwssds' if proven else 'vpdpwssd'}.{32 * self.lanes}"
        return _call(name, vector("int32", self.lanes), accumulator, pairs, weights)


@dataclass(frozen=True)
class MultiplyAdd:
    """vpmaddwd and an addition."""

    lanes: int

    def add(self, accumulator: Expr, pairs: Expr, weights: Expr, proven: bool) -> Expr:
        return accumulator + _multiply_add(self.lanes, pairs, weights)


@dataclass(frozen=True)
class Level:
    """`lanes`: 32-bit lanes of a vector; `features`: LLVM's names of what it needs.

    `accumulators`, `accumulators16`: how many fit in registers beside weights and inputs of 8 and of 16 bits.
    `bytes`, `pairs`: its products of bytes and of 16 bits; `unsaturated`: faster ones of bytes for weights that do not
    saturate, if there are any.
    """

    name: str
    lanes: int
    accumulators: int
    accumulators16: int
    features: tuple[str, ...]
    bytes: ByteProduct
    pairs: PairProduct
    unsaturated: ByteProduct | None = None

    def lacks(self, target: Any) -> Refusal | None:
        """Why `target` cannot run this level."""
        return lacks(self.features, target)

    @property
    def avx512(self) -> bool:
        """Whether there are 32 registers, 64-bit arithmetic shifts, and vectors of 64 bytes."""
        return self.lanes == 16

    def as_pairs(self, lanes: Expr) -> Expr:
        """A vector of int32 as the pairs of int16 that its lanes hold."""
        return T.reinterpret(vector("int16", 2 * self.lanes), lanes)

    def interleave(self, rows: list[Expr]) -> list[Expr]:
        """Four vectors of 4 * lanes bytes to four of int32 lanes that hold one byte of each row.

        Unpack instructions work within 128 bits: vector j, lane 4 i + e holds byte 16 i + 4 j + e of the rows.
        """
        size = 4 * self.lanes
        low, high = _unpack(size, 1, 0), _unpack(size, 1, 1)
        pairs = [[T.Bind(shuffle([a, b], mask)) for a, b in (rows[:2], rows[2:])] for mask in (low, high)]
        masks = [_unpack(size, 2, 0), _unpack(size, 2, 1)]
        vectors = [shuffle(pair, mask) for pair in pairs for mask in masks]
        return [T.Bind(T.reinterpret(vector("int32", self.lanes), v)) for v in vectors]

    def pack32(self, a: Expr, b: Expr) -> Expr:
        """Two vectors of int32 to one of int16, saturated, interleaved by 128 bits."""
        name = "llvm.x86.avx512.packssdw.512" if self.avx512 else "llvm.x86.avx2.packssdw"
        return T.Bind(_call(name, vector("int16", 2 * self.lanes), a, b))

    def pack32_unsigned(self, a: Expr, b: Expr) -> Expr:
        """The same to uint16, in a vector of int16."""
        name = "llvm.x86.avx512.packusdw.512" if self.avx512 else "llvm.x86.avx2.packusdw"
        return T.Bind(_call(name, vector("int16", 2 * self.lanes), a, b))

    def high_products(self, a: Expr, b: Expr) -> Expr:
        """(a * b) >> 16 of unsigned numbers of 16 bits, all in vectors of int16."""
        name = "llvm.x86.avx512.pmulhu.w.512" if self.avx512 else "llvm.x86.avx2.pmulhu.w"
        return T.Bind(_call(name, vector("int16", 2 * self.lanes), a, b))

    def halves(self, a: Expr) -> Expr:
        """(a + 1) >> 1 of unsigned numbers of 16 bits, in vectors of int16."""
        name = "llvm.x86.avx512.pavg.w.512" if self.avx512 else "llvm.x86.avx2.pavg.w"
        return T.Bind(_call(name, vector("int16", 2 * self.lanes), a, broadcast(T.int16(0), 2 * self.lanes)))

    def pack16(self, a: Expr, b: Expr, dtype: str) -> Expr:
        """Two vectors of int16 to one of `dtype` (int8 or uint8), saturated, interleaved by 128 bits."""
        stem = "packuswb" if dtype == "uint8" else "packsswb"
        name = f"llvm.x86.avx512.{stem}.512" if self.avx512 else f"llvm.x86.avx2.{stem}"
        packed = _call(name, vector("int8", 4 * self.lanes), a, b)
        return T.Bind(T.reinterpret(vector(dtype, 4 * self.lanes), packed))

    def round_float32(self, t: Expr) -> Expr:
        """float32 to the nearest int32, ties to even."""
        if not self.avx512:
            return _call("llvm.x86.avx.cvt.ps2dq.256", vector("int32", 8), t)
        zero = broadcast(T.int32(0), 16)
        current = 4  # the rounding mode in force, which is to nearest even
        name = "llvm.x86.avx512.mask.cvtps2dq.512"
        return _call(name, vector("int32", 16), t, zero, T.int16(-1), T.int32(current))


PAIR_LIMIT = 128  # what weights of one sign in a pair may sum to: 255 times that fits 16 bits

AVX512VNNI = Level(
    "avx512vnni", 16, 24, 24, ("avx512vnni", "avx512bw", "avx512dq", "avx512vl"), DotProduct(16), PairDotProduct(16)
)
AVXVNNI = Level("avxvnni", 8, 12, 12, ("avxvnni", "avx2", "fma"), DotProduct(8), PairDotProduct(8))
AVX2 = Level("avx2", 8, 8, 12, ("avx2", "fma"), WidenedProduct(8), MultiplyAdd(8), SaturatingProduct(8))

LEVELS = (AVX512VNNI, AVXVNNI, AVX2)


def idle(channels: int, level: Level, target: Any) -> bool:
    """Whether so few output channels leave half of a vector idle, and `target` has dot products of half the length."""
    return level is AVX512VNNI and channels <= level.lanes // 2 and AVXVNNI.lacks(target) is None


def lacks(features: tuple[str, ...], target: Any) -> Refusal | None:
    """Why `target` (a tvm.target.Target) cannot run code that takes `features`, by LLVM's names."""
    if target.kind.name != "llvm" or not str(target.attrs["mtriple"]).startswith(("x86", "i386", "i686")):
        return Refusal(Because.PROCESSOR, "the target is not an x86")
    missing = [f for f in features if not has(target, f)]
    return Refusal(Because.INSTRUCTIONS, f"the target has no {' or '.join(missing)}") if missing else None


def _unpack(size: int, unit: int, half: int) -> list[int]:
    """Indices, into two vectors of `size` bytes, of interleaving `unit` bytes of one half of each 128 bits."""
    mask: list[int] = []
    for lane in range(0, size, 16):
        for at in range(lane + 8 * half, lane + 8 * half + 8, unit):
            mask += [*range(at, at + unit), *range(size + at, size + at + unit)]
    return mask


def _narrowed(weights: Array, dtype: str) -> Array:
    limits = np.iinfo(dtype)
    if weights.size and (weights.min() < limits.min or weights.max() > limits.max):
        raise ValueError(f"weights from {weights.min()} to {weights.max()} do not fit {dtype}")
    return np.ascontiguousarray(weights, dtype)


def _multiply_add(lanes: int, pairs: Expr, weights: Expr) -> Expr:
    """vpmaddwd: the sum of two products of 16 bits in each 32-bit lane."""
    name = "llvm.x86.avx512.pmaddw.d.512" if lanes == 16 else "llvm.x86.avx2.pmadd.wd"
    return _call(name, vector("int32", lanes), pairs, weights)


def _call(name: str, dtype: str, *operands: Expr) -> Expr:
    return T.call_llvm_pure_intrin(dtype, T.llvm_lookup_intrinsic_id(name), *operands)
