"""Sums of two 8-bit tensors as a plane on x86: two fused multiply-adds in float32, proven equal on all pairs of codes.

How that is proven is told in `tflite2q.kernels.plane`.  Widening bytes to floats and back limits it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from tflite2q.kernels.base import Built, Eltwise, Tensor
from tflite2q.kernels.plane import plane_function, proven_plane, refusal
from tflite2q.kernels.tir import Buffer, Expr, T, load, store, vector
from tflite2q.kernels.x86.finish import Finish
from tflite2q.kernels.x86.isa import Isa


@dataclass(frozen=True)
class Instructions:
    """Four vectors of accumulators make one of codes."""

    finish: Finish

    @property
    def lanes(self) -> int:
        return self.finish.isa.lanes

    @property
    def block(self) -> int:
        return 4 * self.lanes

    def floats(self, x: Buffer, start: Expr) -> list[Expr]:
        codes = [load(x, start + at, lanes=self.lanes) for at in range(0, self.block, self.lanes)]
        wide = [T.cast(c, vector("int32", self.lanes)) for c in codes]
        return [T.cast(w, vector("float32", self.lanes)) for w in wide]

    def rounded(self, t: Expr) -> Expr:
        return self.finish.isa.round_float32(t)

    def store(self, rounded: list[Expr], y: Buffer, start: Expr) -> None:
        for k, codes in enumerate(self.finish.pieces(rounded)):
            store(y, codes, start + k * self.lanes, lanes=self.lanes)


@dataclass(frozen=True)
class X86Plane:
    """Eltwise contracts of two operands that are linear up to rounding, on one level of instructions."""

    isa: Isa

    @property
    def name(self) -> str:
        return f"plane__{self.isa.name}"

    def refuses(self, contract: Eltwise, target: Any) -> str | None:
        return self.isa.lacks(target) or refusal(contract, 4 * self.isa.lanes)

    def build(self, contract: Eltwise, target: Any) -> Built:
        slopes, epilogue = proven_plane(contract)
        key = ((contract.inputs[0], contract.inputs[1]), Instructions(Finish(epilogue, self.isa, "convert")))
        name = f"{contract.inputs[0].dtype}_{contract.name}_plane__{self.isa.name}"
        return Built(name, (name, key), _function(*key), contract.inputs, (slopes,), contract.output)


@functools.cache
def _function(inputs: tuple[Tensor, Tensor], how: Instructions) -> Any:
    return plane_function(inputs, how.finish.epilogue.dtype, how)
