"""Softmax in fixed point, as the reference kernels compute it (gemmlowp's exp and reciprocal; eq. 16 to 19)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q import numerics
from tflite2q.core import Core
from tflite2q.dialect.op import INT8_VERSION_2, Builtin, Op, Operand, Operands, Shape, attribute, require
from tflite2q.dialect.types import Quantization, Value
from tflite2q.fixedpoint import leading_zeros, reciprocal
from tflite2q.rescale import high_multiply, int_const

T = TypeVar("T")

INPUT_BITS = 5  # integer bits of the fixed-point logit differences
SUM_BITS = 12  # integer bits of the sum of exponentials


@dataclass(frozen=True, kw_only=True)
class Softmax(Op):
    """Softmax over the last axis; the result has scale 1/256 and spans [0, 1)."""

    beta: float = attribute("Beta", 1.0)

    mnemonic: ClassVar[str] = "q.softmax"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("SOFTMAX", "SoftmaxOptions", INT8_VERSION_2),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"),)
    contract: ClassVar[str | None] = "softmax"

    def verify(self, ins: Sequence[Value | None], outs: Sequence[Value]) -> None:
        x, y = ins[0], outs[0]
        assert x is not None
        require(x.type.quantized, f"{x.name!r} has no quantization parameters")
        require(x.type.dtype == y.type.dtype, f"input is {x.type.dtype} but result {y.type.dtype}")

    def infer(self, ins: Sequence[Value | None], outs: Sequence[Value]) -> tuple[Shape, ...]:
        assert ins[0] is not None
        return (ins[0].type.shape,)

    def fixed_result(self, dtype: str) -> Quantization | None:
        return Quantization.per_tensor(1 / 256, numerics.code_range(dtype)[0])

    def exponentials(self, scale: float) -> numerics.Ints:
        """exp(-beta * scale * i) in Q0.31 for i = 0..255; 0 where the kernels drop the element (eq. 16, 17)."""
        real = min(self.beta * scale * 2.0 ** (31 - INPUT_BITS), 2.0**31 - 1)
        m, left = (int(v) for v in numerics.quantize_multiplier(real))
        radius = int(np.floor(((1 << INPUT_BITS) - 1) * 2.0 ** (31 - INPUT_BITS) / 2.0**left))
        difference = -np.arange(256, dtype=np.int64)
        logits = numerics.high_multiply(numerics.wrap32(np.left_shift(difference, max(left, 0))), m)
        return np.where(difference < -radius, 0, numerics.exp_on_negative(logits, INPUT_BITS))

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x = ins[0]
        low, high = x.type.range
        table = self.exponentials(x.type.scale)
        wide = core.astype(x.data, "int32")
        below_max = core.subtract(core.max(wide, (-1,), keepdims=True), wide)
        e = core.take(core.const(table), below_max)
        shares = core.take(core.const(numerics.rounding_shift_right(table, SUM_BITS)), below_max)
        total = core.sum(shares, (-1,), keepdims=True)
        zeros = leading_zeros(core, total)
        fraction = core.subtract(core.left_shift(total, zeros), int_const(core, 1 << 31))
        product = high_multiply(core, reciprocal(core, fraction), e)
        # product / 2**shift to nearest; it is never negative, so ties need no sign.
        shift = core.subtract(int_const(core, SUM_BITS + 31 - 8), zeros)
        half = core.left_shift(int_const(core, 1), core.subtract(shift, int_const(core, 1)))
        code = core.add(core.right_shift(core.add(product, half), shift), int_const(core, low))
        return (core.astype(core.clip(code, low, high), x.type.dtype),)
