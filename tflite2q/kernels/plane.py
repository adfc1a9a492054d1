"""Sums of two 8-bit tensors as a plane: two fused multiply-adds in float32, where that is proven equal.

The reference adds in fixed point with three roundings of its own.  But two 8-bit operands have only 65,536 pairs of
codes, so rint(fma(a, slope_a, fma(b, slope_b, offset))), clamped, can be compared with the definition for every one of
them when a model is compiled; one that differs nowhere is exact.  Slopes and offset are tried a few steps of float32 to
either side; where all differ somewhere (multipliers that make exact ties), the kernel refuses.

This is what planes have in common on every processor with fused multiply-adds.
"""

from __future__ import annotations

import itertools
from typing import Any, Protocol

import numpy as np

from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.arithmetic.rounding import code_range
from tflite2q.kernels.base import Array, Eltwise, Tensor
from tflite2q.kernels.epilogue import Epilogue
from tflite2q.kernels.loops import region
from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, function, vector, view

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


def refusal(contract: Eltwise, least: int) -> str | None:
    """Why `contract` is no plane, or has fewer than `least` elements."""
    if contract.linear is None or len(contract.inputs) != 2:
        return "not a weighted sum of two operands"
    tensors = (*contract.inputs, contract.output)
    if any(t.dtype not in ("int8", "uint8") for t in tensors) or len({t.shape for t in tensors}) > 1:
        return "operands and result are not 8-bit tensors of one shape"
    if contract.output.size < least:
        return f"fewer than {least} elements"
    return None if _proven(contract) is not None else "no plane in float32 rounds as the definition does"


def proven_plane(contract: Eltwise) -> tuple[Array, Epilogue]:
    """Slope of each operand and offset, float32 [3], and the clamp.  Only for what `refusal` accepts."""
    proven = _proven(contract)
    assert proven is not None
    plane, exact = proven
    clamp = int(exact.min()), int(exact.max())
    return plane, Epilogue("float32", 0, *clamp, contract.output.dtype, False, False, False, False)


def plane_function(inputs: tuple[Tensor, Tensor], dtype: str, how: Instructions) -> Any:
    """The PrimFunc of all planes over `inputs` (of one shape), to codes of `dtype`; the plane is its constant."""
    size = inputs[0].size

    def body(a: Buffer, b: Buffer, plane: Buffer, y: Buffer) -> None:
        operands = [view(x, (size,), t.dtype) for x, t in zip((a, b), inputs, strict=True)]
        target = view(y, (size,), dtype)
        blocks = -(-size // how.block)
        grain = min(GRAIN, blocks)
        slope_a, slope_b, offset = (T.Bind(broadcast(plane[i], how.lanes)) for i in range(3))
        with region(-(-blocks // grain), size * 8) as piece:
            first = T.min(piece * grain, blocks - grain)
            with T.serial(grain) as i:
                start = T.Bind(T.min((first + i) * how.block, size - how.block))
                rounded = []
                for x, z in zip(*(how.floats(operand, start) for operand in operands), strict=True):
                    inner = _fma(z, slope_b, offset, how.lanes)
                    rounded.append(T.Bind(how.rounded(_fma(x, slope_a, inner, how.lanes))))
                how.store(rounded, target, start)

    return function(inputs, [Tensor((3,), "float32")], Tensor(inputs[0].shape, dtype), body)


def _proven(contract: Eltwise) -> tuple[Array, Array] | None:
    """(slope of each operand and offset, float32 [3]; codes for every pair), or None."""
    assert contract.linear is not None
    axes = [np.arange(low, high + 1) for low, high in (code_range(t.dtype) for t in contract.inputs)]
    a, b = (grid.reshape(-1) for grid in np.meshgrid(*axes, indexing="ij"))
    exact = contract.meaning(NumpyCore(), a.astype(contract.inputs[0].dtype), b.astype(contract.inputs[1].dtype))
    exact, low, high = exact.astype(np.int64), exact.min(), exact.max()
    first, second, offset = contract.linear
    real = first * a + second * b + offset
    critical = np.abs(real - np.floor(real) - 0.5) < CRITICAL
    some = a[critical], b[critical], exact[critical]
    for ulps_a, ulps_b, nudge in itertools.product(ULPS, ULPS, NUDGES):
        plane = np.array([first, second, offset + nudge], np.float32)
        plane = (plane.view(np.int32) + np.array([ulps_a, ulps_b, 0], np.int32)).view(np.float32)
        if all(_equal(plane, *pairs, low, high) for pairs in (some, (a, b, exact))):
            return plane, exact
    return None


def _equal(plane: Array, a: Array, b: Array, exact: Array, low: int, high: int) -> bool:
    return bool((np.clip(_evaluate(a, b, plane), low, high) == exact).all())


def _evaluate(a: Array, b: Array, plane: Array) -> Array:
    """The plane at integer codes, exactly as two fused instructions compute it.

    Products of a code and a float32 and their sums fit float64's 53 bits, so each `astype` is the one rounding.
    """
    slope_a, slope_b, offset = plane.astype(np.float64)
    inner = (b * slope_b + offset).astype(np.float32)
    return np.asarray(np.rint((a * slope_a + inner).astype(np.float32)))


def _fma(x: Expr, slope: Expr, addend: Expr, lanes: int) -> Expr:
    fma = T.llvm_lookup_intrinsic_id("llvm.fma")
    return T.call_llvm_pure_intrin(vector("float32", lanes), fma, x, slope, addend)
