"""Levels of x86 vector instructions, and the few operations in which they differ.

A level multiplies four consecutive unsigned input bytes by four weights per 32-bit lane and adds the products to the
lane's accumulator.  With VNNI that is one instruction, vpdpbusd, which does not saturate.  AVX2's vpmaddubsw does, so
there the bytes are widened: even and odd bytes of the four become two pairs of 16 bits for two vpmaddwd.  Weights whose
pairs certainly do not saturate take vpmaddubsw after all (`AVX2_PAIRS`): three instructions instead of four.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tflite2q.kernels.base import Array
from tflite2q.kernels.tir import Expr, T, broadcast, shuffle, vector


@dataclass(frozen=True)
class Isa:
    """`lanes`: 32-bit lanes of a vector; `most_accumulators`: how many fit in registers beside weights and inputs;
    `features`: LLVM's names of what it needs."""

    name: str
    lanes: int
    most_accumulators: int
    features: tuple[str, ...]
    dot_intrinsic: str | None

    def lacks(self, target: Any) -> str | None:
        """Why `target` cannot run this level."""
        return lacks(self.features, target)

    @property
    def weight_dtype(self) -> str:
        return "int8" if self.dot_intrinsic else "int16"

    @property
    def operand_count(self) -> int:
        """Vectors that `operands` makes of one."""
        return 1 if self.dot_intrinsic else 2

    def arrange(self, weights: Array) -> Array:
        """Integer weights [..., lanes, 4] as the elements [..., 4 * lanes] that `dot` reads.

        Raises ValueError for weights that do not fit `weight_dtype`.
        """
        lead, limits = weights.shape[:-2], np.iinfo(self.weight_dtype)
        if weights.size and (weights.min() < limits.min or weights.max() > limits.max):
            raise ValueError(f"weights from {weights.min()} to {weights.max()} do not fit {self.weight_dtype}")
        if self.dot_intrinsic is None:  # the even bytes' weights of all lanes, then the odd bytes'
            weights = np.stack([weights[..., 0::2], weights[..., 1::2]], axis=len(lead))
        return np.ascontiguousarray(weights.reshape(*lead, 4 * self.lanes), self.weight_dtype)

    def operands(self, packed: Expr) -> tuple[Expr, ...]:
        """Four unsigned input bytes in each 32-bit lane, as `dot` wants them."""
        packed = T.Bind(packed)
        if self.dot_intrinsic:
            return (packed,)
        even = T.bitwise_and(packed, broadcast(0x00FF00FF, self.lanes))
        words = T.reinterpret(vector("uint16", 2 * self.lanes), packed)
        odd = T.shift_right(words, broadcast(T.uint16(8), 2 * self.lanes))
        return T.Bind(even), T.Bind(T.reinterpret(vector("int32", self.lanes), odd))

    def interleave(self, rows: list[Expr]) -> list[Expr]:
        """Four vectors of 4 * lanes bytes to four of int32 lanes that hold one byte of each row.

        Unpack instructions work within 128 bits: vector j, lane 4 i + e holds byte 16 i + 4 j + e of the rows.
        """
        size = 4 * self.lanes
        low, high = _unpack(size, 1, 0), _unpack(size, 1, 1)
        pairs = [[T.Bind(shuffle([a, b], mask)) for a, b in (rows[:2], rows[2:])] for mask in (low, high)]
        words = [_unpack(size, 2, 0), _unpack(size, 2, 1)]
        vectors = [shuffle(pair, mask) for pair in pairs for mask in words]
        return [T.Bind(T.reinterpret(vector("int32", self.lanes), v)) for v in vectors]

    def dot(self, accumulator: Expr, inputs: tuple[Expr, ...], weights: tuple[Expr, ...]) -> Expr:
        """accumulator + four products per lane."""
        bytes_ = vector("int8", 4 * self.lanes)
        if self.dot_intrinsic == _PAIRS:
            products = T.llvm_lookup_intrinsic_id(_PAIRS)
            shorts = vector("int16", 2 * self.lanes)
            pairs = T.call_llvm_pure_intrin(shorts, products, T.reinterpret(bytes_, inputs[0]), weights[0])
            ones = broadcast(T.int16(1), 2 * self.lanes)
            return accumulator + self._call("llvm.x86.avx2.pmadd.wd", "int32", pairs, ones)
        if self.dot_intrinsic:
            return self._call(self.dot_intrinsic, "int32", accumulator, T.reinterpret(bytes_, inputs[0]), weights[0])
        for x, w in zip(inputs, weights, strict=True):
            pairs = T.reinterpret(vector("int16", 2 * self.lanes), x)
            accumulator = accumulator + self._call("llvm.x86.avx2.pmadd.wd", "int32", pairs, w)
        return accumulator

    def load_weights(self, load: Any) -> tuple[Expr, ...]:
        """`load(offset, count)` reads elements; the operands of `dot`."""
        if self.dot_intrinsic:
            return (T.Bind(load(0, 4 * self.lanes)),)
        return T.Bind(load(0, 2 * self.lanes)), T.Bind(load(2 * self.lanes, 2 * self.lanes))

    def pack32(self, a: Expr, b: Expr) -> Expr:
        """Two vectors of int32 to one of int16, saturated, interleaved by 128 bits."""
        name = "llvm.x86.avx512.packssdw.512" if self.lanes == 16 else "llvm.x86.avx2.packssdw"
        return T.Bind(T.call_llvm_pure_intrin(vector("int16", 2 * self.lanes), _id(name), a, b))

    def pack16(self, a: Expr, b: Expr, dtype: str) -> Expr:
        """Two vectors of int16 to one of `dtype` (int8 or uint8), saturated, interleaved by 128 bits."""
        stem = "packuswb" if dtype == "uint8" else "packsswb"
        name = f"llvm.x86.avx512.{stem}.512" if self.lanes == 16 else f"llvm.x86.avx2.{stem}"
        packed = T.call_llvm_pure_intrin(vector("int8", 4 * self.lanes), _id(name), a, b)
        return T.Bind(T.reinterpret(vector(dtype, 4 * self.lanes), packed))

    def round_float32(self, t: Expr) -> Expr:
        """float32 to the nearest int32, ties to even."""
        if self.lanes == 8:
            return self._call("llvm.x86.avx.cvt.ps2dq.256", "int32", t)
        zero = broadcast(T.int32(0), 16)
        current = 4  # the rounding mode in force, which is to nearest even
        return self._call("llvm.x86.avx512.mask.cvtps2dq.512", "int32", t, zero, T.int16(-1), T.int32(current))

    def _call(self, name: str, dtype: str, *operands: Expr) -> Expr:
        return T.call_llvm_pure_intrin(vector(dtype, self.lanes), _id(name), *operands)


_PAIRS = "llvm.x86.avx2.pmadd.ub.sw"
PAIR_LIMIT = 128  # what weights of one sign in a pair may sum to: 255 times that fits 16 bits

AVX512VNNI = Isa(
    "avx512vnni", 16, 24, ("avx512vnni", "avx512bw", "avx512dq", "avx512vl"), "llvm.x86.avx512.vpdpbusd.512"
)
AVXVNNI = Isa("avxvnni", 8, 12, ("avxvnni", "avx2", "fma"), "llvm.x86.avx512.vpdpbusd.256")
AVX2 = Isa("avx2", 8, 8, ("avx2", "fma"), None)
AVX2_PAIRS = replace(AVX2, dot_intrinsic=_PAIRS)  # for weights that keep to PAIR_LIMIT

LEVELS = (AVX512VNNI, AVXVNNI, AVX2)


def lacks(features: tuple[str, ...], target: Any) -> str | None:
    """Why `target` (a tvm.target.Target) cannot run code that takes `features`, by LLVM's names."""
    if target.kind.name != "llvm" or not str(target.attrs["mtriple"]).startswith(("x86", "i386", "i686")):
        return "the target is not an x86"
    missing = [f for f in features if not _has_feature(target, f)]
    return f"the target has no {' or '.join(missing)}" if missing else None


def _has_feature(target: Any, feature: str) -> bool:
    from tvm.target import codegen

    return bool(codegen.llvm_cpu_has_features(feature, target))


def _unpack(size: int, unit: int, half: int) -> list[int]:
    """Indices, into two vectors of `size` bytes, of interleaving `unit` bytes of one half of each 128 bits."""
    mask: list[int] = []
    for lane in range(0, size, 16):
        for at in range(lane + 8 * half, lane + 8 * half + 8, unit):
            mask += [*range(at, at + unit), *range(size + at, size + at + unit)]
    return mask


def _id(name: str) -> Any:
    return T.llvm_lookup_intrinsic_id(name)
