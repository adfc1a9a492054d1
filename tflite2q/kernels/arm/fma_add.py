"""Sums of two 8-bit tensors on Arm: two fused multiply-adds in float32, proven equal on all pairs of codes.

How that is proven is told in `tflite2q.kernels.fma_add`.  Fixed point takes 64-bit products, for which Arm has no
vector instruction.  Sixteen codes at a time; widening bytes to floats and back limits it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tflite2q.kernels import fma_add
from tflite2q.kernels.arm.epilogue import ArmEpilogue
from tflite2q.kernels.arm.isa import LANES, NEON, intrinsic
from tflite2q.kernels.contracts import EltwiseContract
from tflite2q.kernels.frame import Plan
from tflite2q.kernels.refusals import Refusal
from tflite2q.kernels.tir import Buffer, Expr, T, load, shuffle, store, vector

BLOCK = 4 * LANES


@dataclass(frozen=True)
class Instructions:
    """Bytes are widened twice, sixteen of them at once, and narrowed likewise."""

    epilogue: ArmEpilogue
    lanes: int = LANES
    block: int = BLOCK

    def floats(self, x: Buffer, start: Expr) -> list[Expr]:
        codes = T.Bind(T.cast(load(x, start, lanes=BLOCK), f"int16x{BLOCK}"))
        fours = [shuffle([codes], list(range(at, at + LANES))) for at in range(0, BLOCK, LANES)]
        return [T.cast(T.cast(four, vector("int32", LANES)), vector("float32", LANES)) for four in fours]

    def rounded(self, t: Expr) -> Expr:
        return intrinsic("fcvtns", t)

    def store(self, rounded: list[Expr], y: Buffer, start: Expr) -> None:
        store(y, self.epilogue.packed(rounded), start, lanes=BLOCK)


class ArmFmaAdd:
    """Eltwise contracts of two operands that are linear up to rounding."""

    name = f"fma_add__{NEON.name}"

    def plan(self, contract: EltwiseContract, target: Any) -> Plan | Refusal:
        return NEON.lacks(target) or fma_add.plan(
            contract, NEON.name, BLOCK, lambda epilogue: Instructions(ArmEpilogue(epilogue))
        )
