"""Sums of two 8-bit tensors as two fused multiply-adds in float32, where that is proven equal.

The reference adds in fixed point with three roundings of its own.  But two 8-bit operands have only 65,536 pairs of
codes, so rint(fma(a, slope_a, fma(b, slope_b, offset))), clamped, can be compared with the definition for every one of
them when a model is compiled; one that differs nowhere is exact.  Slopes and offset are tried a few steps of float32 to
either side; where all differ somewhere (multipliers that make exact ties), the kernel refuses.

This is what such kernels have in common on every processor with fused multiply-adds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.arithmetic.rounding import code_range
from tflite2q.kernels.contracts import Array, EltwiseContract, Tensor
from tflite2q.kernels.epilogue import Epilogue, Float32
from tflite2q.kernels.frame import Name, Plan, Tensors
from tflite2q.kernels.loops import region
from tflite2q.kernels.refusals import Because, Refusal
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, vector, view

GRAIN = 64  # blocks that one thread takes at a time
ULPS = (0, 1, -1, 2, -2)  # by which slopes are tried beside the nearest float32
NUDGES = (0.0, 3e-6, -3e-6, 1e-5, -1e-5, 3e-5, -3e-5, 1e-4, -1e-4)  # added to the offset
CRITICAL = 1e-3  # pairs nearer than this to a rounding boundary decide between candidates


class Instructions(Protocol):
    """What differs between processors; hashable, since functions depend on it."""

    @property
    def lanes(self) -> int:
        """Numbers of a float32 vector."""

    @property
    def block(self) -> int:
        """Codes that are computed and stored at once."""

    def floats(self, x: Buffer, start: Expr) -> list[Expr]:
        """A block of codes as float32 vectors."""

    def rounded(self, t: Expr) -> Expr:
        """float32 to the nearest int32, ties to even."""

    def store(self, rounded: list[Expr], y: Buffer, start: Expr) -> None:
        """A block of codes, clamped, to y."""


@dataclass(frozen=True)
class Program:
    """What the text of the function depends on."""

    inputs: tuple[Tensor, ...]
    output: Tensor
    how: Instructions

    @property
    def constants(self) -> Tensors:
        """The slope of each operand, and the offset."""
        return {"factors": Tensor((3,), "float32")}

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        size, how, factors = self.output.size, self.how, constants["factors"]
        operands = [view(x, (size,), t.dtype) for x, t in zip(inputs, self.inputs, strict=True)]
        target = view(y, (size,), self.output.dtype)
        blocks = -(-size // how.block)
        grain = min(GRAIN, blocks)
        slope_a, slope_b, offset = (T.Bind(broadcast(factors[i], how.lanes)) for i in range(3))
        with region(-(-blocks // grain), size * 8) as piece:
            first = T.min(piece * grain, blocks - grain)
            with T.serial(grain) as i:
                start = T.Bind(T.min((first + i) * how.block, size - how.block))
                rounded = []
                for x, z in zip(*(how.floats(operand, start) for operand in operands), strict=True):
                    inner = _fma(z, slope_b, offset, how.lanes)
                    rounded.append(T.Bind(how.rounded(_fma(x, slope_a, inner, how.lanes))))
                how.store(rounded, target, start)


def plan(contract: EltwiseContract, level: str, least: int, how: Callable[[Epilogue], Instructions]) -> Plan | Refusal:
    """A sum of at least so many elements, as `how` computes it with a clamp; or why it is none."""
    if contract.linear is None or len(contract.inputs) != 2:
        return Refusal(Because.TYPES, "not a weighted sum of two operands")
    tensors = (*contract.inputs, contract.output)
    if any(t.dtype not in ("int8", "uint8") for t in tensors) or len({t.shape for t in tensors}) > 1:
        return Refusal(Because.TYPES, "operands and result are not 8-bit tensors of one shape")
    if contract.output.size < least:
        return Refusal(Because.GEOMETRY, f"fewer than {least} elements")
    proven = _proven(contract, contract.linear)
    if proven is None:
        return Refusal(Because.NUMBERS, "no two fused multiply-adds round as the definition does")
    factors, exact = proven
    clamp = int(exact.min()), int(exact.max())
    epilogue = Float32(0, *clamp, contract.output.dtype)
    name = Name(contract.inputs[0].dtype, contract.name, level, "fma")
    return Plan(name, Program(contract.inputs, contract.output, how(epilogue)), lambda: {"factors": factors})


def _proven(contract: EltwiseContract, linear: tuple[float, ...]) -> tuple[Array, Array] | None:
    """(slope of each operand and offset, float32 [3]; codes for every pair), or None."""
    axes = [np.arange(low, high + 1) for low, high in (code_range(t.dtype) for t in contract.inputs)]
    a, b = (grid.reshape(-1) for grid in np.meshgrid(*axes, indexing="ij"))
    exact = contract.meaning(NumpyCore(), a.astype(contract.inputs[0].dtype), b.astype(contract.inputs[1].dtype))
    exact, low, high = exact.astype(np.int64), exact.min(), exact.max()
    first, second, offset = linear
    real = first * a + second * b + offset
    critical = np.abs(real - np.floor(real) - 0.5) < CRITICAL
    some = a[critical], b[critical], exact[critical]
    for ulps_a, ulps_b, nudge in itertools.product(ULPS, ULPS, NUDGES):
        factors = np.array([first, second, offset + nudge], np.float32)
        factors = (factors.view(np.int32) + np.array([ulps_a, ulps_b, 0], np.int32)).view(np.float32)
        if all(_equal(factors, *pairs, low, high) for pairs in (some, (a, b, exact))):
            return factors, exact
    return None


def _equal(factors: Array, a: Array, b: Array, exact: Array, low: int, high: int) -> bool:
    return bool((np.clip(_evaluate(a, b, factors), low, high) == exact).all())


def _evaluate(a: Array, b: Array, factors: Array) -> Array:
    """The sum of integer codes, exactly as two fused instructions compute it.

    Products of a code and a float32 and their sums fit float64's 53 bits, so each `astype` is the one rounding.
    """
    slope_a, slope_b, offset = factors.astype(np.float64)
    inner = (b * slope_b + offset).astype(np.float32)
    return np.asarray(np.rint((a * slope_a + inner).astype(np.float32)))


def _fma(x: Expr, slope: Expr, addend: Expr, lanes: int) -> Expr:
    fma = T.llvm_lookup_intrinsic_id("llvm.fma")
    return T.call_llvm_pure_intrin(vector("float32", lanes), fma, x, slope, addend)
