"""Sums of two 8-bit tensors as a plane on Arm: two fused multiply-adds in float32, proven equal on all pairs of codes.

How that is proven is told in `tflite2q.kernels.plane`.  Fixed point takes 64-bit products, for which Arm has no vector
instruction.  Sixteen codes at a time; widening bytes to floats and back limits it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from tflite2q.kernels.arm.finish import Finish
from tflite2q.kernels.arm.isa import LANES, NEON, intrinsic
from tflite2q.kernels.base import Built, Eltwise, Tensor
from tflite2q.kernels.plane import plane_function, proven_plane, refusal
from tflite2q.kernels.tir import Buffer, Expr, T, load, shuffle, store, vector

BLOCK = 4 * LANES


@dataclass(frozen=True)
class Instructions:
    """Bytes are widened twice, sixteen of them at once, and narrowed likewise."""

    finish: Finish
    lanes: int = LANES
    block: int = BLOCK

    def floats(self, x: Buffer, start: Expr) -> list[Expr]:
        codes = T.Bind(T.cast(load(x, start, lanes=BLOCK), f"int16x{BLOCK}"))
        fours = [shuffle([codes], list(range(at, at + LANES))) for at in range(0, BLOCK, LANES)]
        return [T.cast(T.cast(four, vector("int32", LANES)), vector("float32", LANES)) for four in fours]

    def rounded(self, t: Expr) -> Expr:
        return intrinsic("fcvtns", t)

    def store(self, rounded: list[Expr], y: Buffer, start: Expr) -> None:
        store(y, self.finish.packed(rounded), start, lanes=BLOCK)


class ArmPlane:
    """Eltwise contracts of two operands that are linear up to rounding."""

    name = "plane__neon"

    def refuses(self, contract: Eltwise, target: Any) -> str | None:
        return NEON.lacks(target) or refusal(contract, BLOCK)

    def build(self, contract: Eltwise, target: Any) -> Built:
        slopes, epilogue = proven_plane(contract)
        key = ((contract.inputs[0], contract.inputs[1]), Instructions(Finish(epilogue)))
        name = f"{contract.inputs[0].dtype}_{contract.name}_plane__neon"
        return Built(name, (name, key), _function(*key), contract.inputs, (slopes,), contract.output)


@functools.cache
def _function(inputs: tuple[Tensor, Tensor], how: Instructions) -> Any:
    return plane_function(inputs, how.finish.epilogue.dtype, how)
