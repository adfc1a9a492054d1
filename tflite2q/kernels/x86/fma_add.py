"""Sums of two 8-bit tensors on x86: two fused multiply-adds in float32, proven equal on all pairs of codes.

How that is proven is told in `tflite2q.kernels.fma_add`.  Widening bytes to floats and back limits it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tflite2q.kernels import fma_add
from tflite2q.kernels.contracts import EltwiseContract
from tflite2q.kernels.frame import Plan
from tflite2q.kernels.refusals import Refusal
from tflite2q.kernels.tir import Buffer, Expr, T, load, store, vector
from tflite2q.kernels.x86.epilogue import X86Epilogue
from tflite2q.kernels.x86.isa import Level
from tflite2q.kernels.x86.roundings import Converted


@dataclass(frozen=True)
class Instructions:
    """Four vectors of accumulators make one of codes."""

    epilogue: X86Epilogue

    @property
    def lanes(self) -> int:
        return self.epilogue.level.lanes

    @property
    def block(self) -> int:
        return 4 * self.lanes

    def floats(self, x: Buffer, start: Expr) -> list[Expr]:
        codes = [load(x, start + at, lanes=self.lanes) for at in range(0, self.block, self.lanes)]
        wide = [T.cast(c, vector("int32", self.lanes)) for c in codes]
        return [T.cast(w, vector("float32", self.lanes)) for w in wide]

    def rounded(self, t: Expr) -> Expr:
        return self.epilogue.level.round_float32(t)

    def store(self, rounded: list[Expr], y: Buffer, start: Expr) -> None:
        for k, codes in enumerate(self.epilogue.pieces(rounded)):
            store(y, codes, start + k * self.lanes, lanes=self.lanes)


@dataclass(frozen=True)
class X86FmaAdd:
    """Eltwise contracts of two operands that are linear up to rounding, on one level of instructions."""

    level: Level

    @property
    def name(self) -> str:
        return f"fma_add__{self.level.name}"

    def plan(self, contract: EltwiseContract, target: Any) -> Plan | Refusal:
        return self.level.lacks(target) or fma_add.plan(
            contract, self.level.name, 4 * self.level.lanes,
            lambda epilogue: Instructions(X86Epilogue(epilogue, self.level, Converted(epilogue, self.level))),
        )  # fmt: skip
