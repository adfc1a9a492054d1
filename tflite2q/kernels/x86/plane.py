"""Sums of two 8-bit tensors as a plane: two fused multiply-adds in float32, where that is proven equal.

The reference adds in fixed point with three roundings of its own.  But two 8-bit operands have only 65,536 pairs of
codes, so rint(fma(a, slope_a, fma(b, slope_b, offset))), clamped, can be compared with the definition for every one of
them when a model is compiled; one that differs nowhere is exact.  Slopes and offset are tried a few steps of float32 to
either side; where all differ somewhere (multipliers that make exact ties), the kernel refuses.

Widening bytes to floats and back limits it.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels.base import Array, Built, Eltwise, Tensor
from tflite2q.kernels.epilogue import Epilogue
from tflite2q.kernels.loops import region
from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, function, load, store, vector, view
from tflite2q.kernels.x86.finish import Finish
from tflite2q.kernels.x86.isa import Isa
from tflite2q.numerics import code_range
from tflite2q.numpy_core import NumpyCore

GRAIN = 64  # blocks of 4 * lanes elements that one thread takes at a time
ULPS = (0, 1, -1, 2, -2)  # by which slopes are tried beside the nearest float32
NUDGES = (0.0, 3e-6, -3e-6, 1e-5, -1e-5, 3e-5, -3e-5, 1e-4, -1e-4)  # added to the offset
CRITICAL = 1e-3  # pairs nearer than this to a rounding boundary decide between candidates


@dataclass(frozen=True)
class Plan:
    """What the text of the function depends on."""

    inputs: tuple[Tensor, Tensor]
    finish: Finish


@dataclass(frozen=True)
class X86Plane:
    """Eltwise contracts of two operands that are linear up to rounding, on one level of instructions."""

    isa: Isa

    @property
    def name(self) -> str:
        return f"plane__{self.isa.name}"

    def refuses(self, contract: Eltwise, target: Any) -> str | None:
        lacks = self.isa.lacks(target)
        if lacks:
            return lacks
        if contract.linear is None or len(contract.inputs) != 2:
            return "not a weighted sum of two operands"
        tensors = (*contract.inputs, contract.output)
        if any(t.dtype not in ("int8", "uint8") for t in tensors) or len({t.shape for t in tensors}) > 1:
            return "operands and result are not 8-bit tensors of one shape"
        if contract.output.size < 4 * self.isa.lanes:
            return f"fewer than {4 * self.isa.lanes} elements"
        return None if _prove(contract) is not None else "no plane in float32 rounds as the definition does"

    def build(self, contract: Eltwise, target: Any) -> Built:
        proven = _prove(contract)
        assert proven is not None
        slopes, exact = proven
        low, high = int(exact.min()), int(exact.max())
        epilogue = Epilogue("float32", 0, low, high, contract.output.dtype, False, False, False, False)
        plan = Plan((contract.inputs[0], contract.inputs[1]), Finish(epilogue, self.isa, "convert"))
        name = f"{contract.inputs[0].dtype}_{contract.name}_plane__{self.isa.name}"
        return Built(name, (name, plan), _function(plan), contract.inputs, (slopes,), contract.output)


def _prove(contract: Eltwise) -> tuple[Array, Array] | None:
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


@functools.cache
def _function(plan: Plan) -> Any:
    output = Tensor(plan.inputs[0].shape, plan.finish.epilogue.dtype)
    return function(plan.inputs, [Tensor((3,), "float32")], output, functools.partial(_body, plan))


def _body(plan: Plan, a: Buffer, b: Buffer, plane: Buffer, y: Buffer) -> None:
    isa, size = plan.finish.isa, plan.inputs[0].size
    block = 4 * isa.lanes
    operands = [view(x, (size,), t.dtype) for x, t in zip((a, b), plan.inputs, strict=True)]
    target = view(y, (size,), plan.finish.epilogue.dtype)
    blocks = -(-size // block)
    grain = min(GRAIN, blocks)
    slope_a, slope_b, offset = (T.Bind(broadcast(plane[i], isa.lanes)) for i in range(3))
    with region(-(-blocks // grain), size * 8) as piece:
        first = T.min(piece * grain, blocks - grain)
        with T.serial(grain) as i:
            start = T.Bind(T.min((first + i) * block, size - block))
            rounded = []
            for at in range(0, block, isa.lanes):
                codes = [_floats(load(x, start + at, lanes=isa.lanes), isa) for x in operands]
                inner = _fma(codes[1], slope_b, offset, isa)
                rounded.append(T.Bind(isa.round_float32(_fma(codes[0], slope_a, inner, isa))))
            for k, codes8 in enumerate(plan.finish.pieces(rounded)):
                store(target, codes8, start + k * isa.lanes, lanes=isa.lanes)


def _floats(codes: Expr, isa: Isa) -> Expr:
    return T.cast(T.cast(codes, vector("int32", isa.lanes)), vector("float32", isa.lanes))


def _fma(x: Expr, slope: Expr, addend: Expr, isa: Isa) -> Expr:
    fma = T.llvm_lookup_intrinsic_id("llvm.fma")
    return T.call_llvm_pure_intrin(vector("float32", isa.lanes), fma, x, slope, addend)
