"""Softmax in fixed point, as the reference kernels compute it (gemmlowp's exp and reciprocal; eq. 16 to 19)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic import rounding
from tflite2q.arithmetic.core import Core
from tflite2q.arithmetic.fixedpoint import exp_on_negative, leading_zeros, reciprocal
from tflite2q.arithmetic.numpy_core import NUMPY
from tflite2q.arithmetic.rescale import high_multiply, int_const, multiply_fixed, rounding_shift_right
from tflite2q.arithmetic.tables import Codes, interpolated
from tflite2q.dialect.op import Builtin, Named, Op, Operand, Operands, Shape, Values, attribute, require
from tflite2q.dialect.ops.common import CODES, check_numbers, float32, is_codes
from tflite2q.dialect.spans import Span
from tflite2q.dialect.types import Quantization, Value

T = TypeVar("T")

INPUT_BITS = 5  # integer bits of the fixed-point logit differences
SUM_BITS = 12  # integer bits of the sum of exponentials


@dataclass(frozen=True, kw_only=True)
class Softmax(Op):
    """Softmax over the last axis; the result spans [0, 1).

    It has steps of 1/256, or of 1/32768 where operand and result have 16 bits.  int8 may also become int16, in steps of
    1/65536.
    """

    beta: float = attribute("Beta", 1.0)

    mnemonic: ClassVar[str] = "q.softmax"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("SOFTMAX", "SoftmaxOptions", {"int8": 2, "int16": 3}),)
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = CODES
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"),)
    contract: ClassVar[str | None] = "softmax"
    deviation: ClassVar[str] = (
        "8-bit rows whose exponentials sum to 512 or more (as many equal logits do) end LiteRT's process; here they "
        "become the lowest code"
    )

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        x, y = ins["x"], outs[0]
        if (x.type.dtype, y.type.dtype) == ("int8", "int16"):
            require(is_codes(x.type) and is_codes(y.type), f"{x.name!r} or {y.name!r} has no quantization parameters")
        else:
            check_numbers(x, y)

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["x"].type.shape,)

    def fixed_result(self, dtype: str) -> Quantization | None:
        if dtype == "int16":
            return Quantization.per_tensor(1 / 32768, 0)
        return Quantization.per_tensor(1 / 256, rounding.code_range(dtype)[0])

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return 0.0, 1.0

    def exponentials(self, scale: float) -> rounding.Ints:
        """exp(-beta * scale * i) in Q0.31 for i = 0..255; 0 where the kernels drop the element (eq. 16, 17)."""
        real = min(self.beta * scale * 2.0 ** (31 - INPUT_BITS), 2.0**31 - 1)
        m, left = (int(v) for v in rounding.quantize_multiplier(real))
        radius = int(np.floor(((1 << INPUT_BITS) - 1) * 2.0 ** (31 - INPUT_BITS) / 2.0**left))
        difference = -np.arange(256, dtype=np.int64)
        logits = multiply_fixed(NUMPY, difference, m, max(left, 0))
        return np.where(difference < -radius, 0, exp_on_negative(NUMPY, logits, INPUT_BITS))

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x = ins["x"]
        if not is_codes(x.type):
            return (self.of_numbers(core, x.data),)
        if x.type.dtype == "int16":
            return (self.of_int16(core, x.data, x.type.scale),)
        table = self.exponentials(x.type.scale)
        wide = core.astype(x.data, "int32")
        below_max = core.subtract(core.max(wide, (-1,), keepdims=True), wide)
        e = core.take(core.const(table), below_max)
        shares = core.take(core.const(rounding_shift_right(NUMPY, table, SUM_BITS)), below_max)
        total = core.sum(shares, (-1,), keepdims=True)
        inverse, shift = row_scale(core, total)
        y = outs[0].type
        low, high = y.range
        if y.dtype == "int16":  # 8 bits more of the same quotient
            shift = core.subtract(shift, int_const(core, 8))
        code = core.add(share(core, e, inverse, shift), int_const(core, low))
        return (core.astype(core.clip(code, low, high), y.dtype),)

    def of_numbers(self, core: Core[T], x: T) -> T:
        """exp(beta * (x - max)) over its sum, in float32."""
        below = core.multiply(core.subtract(x, core.max(x, (-1,), keepdims=True)), core.const(float32(self.beta)))
        e = core.exp(below)
        return core.divide(e, core.sum(e, (-1,), keepdims=True))

    def of_int16(self, core: Core[T], x: T, scale: float) -> T:
        """16-bit codes: exp and reciprocal by interpolated tables (eq. 35)."""
        exponential, reciprocal_table = int16_tables()
        wide = core.astype(x, "int32")
        below = core.subtract(wide, core.max(wide, (-1,), keepdims=True))
        m, shift = rounding.quantize_multiplier(np.float64(scale) * np.float64(self.beta) / (10.0 / 65535.0))
        # Tables start at the lowest code: 32768 more than the code itself.
        place = core.clip(core.add(multiply_fixed(core, below, m, shift), int_const(core, 32767)), -32768, 32767)
        e = core.take(core.const(exponential), core.astype(core.add(place, int_const(core, 32768)), "int32"))
        wide_e = core.astype(e, "int64")
        total = core.sum(wide_e, (-1,), keepdims=True)  # Q16.15
        zeros = leading_zeros(core, total)
        one = int_const(core, 1)
        raised = core.left_shift(total, core.subtract(zeros, one))
        fraction = core.right_shift(core.add(raised, int_const(core, 1 << 13)), int_const(core, 14))
        place = core.clip(core.subtract(fraction, int_const(core, 3 << 15)), -32768, 32767)
        place = core.astype(core.add(place, int_const(core, 32768)), "int32")
        inverse = core.astype(core.take(core.const(reciprocal_table), place), "int64")
        shift_right = core.subtract(int_const(core, 31), zeros)
        half = core.left_shift(one, core.subtract(shift_right, one))
        code = core.right_shift(core.add(core.multiply(wide_e, inverse), half), shift_right)
        return core.astype(core.clip(code, 0, 32767), "int16")


@cache
def int16_tables() -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """exp on [-10, 0] and 1 / (1 + x) on [0, 1], both Q0.15, for all int16 arguments; computed in float64."""
    y = Codes(2 / 65535, 0, "int16")
    exponential = interpolated(np.exp, Codes(10 / 65535, 32767, "int16"), y, np.float64)
    return exponential, interpolated(lambda x: 1 / (1 + x), Codes(1 / 65535, -32768, "int16"), y, np.float64)


def row_scale(core: Core[T], total: T) -> tuple[T, T]:
    """(r, n) for a row's sum of exponentials (Q12.19): 1 / total ~ r * 2**-n once r is multiplied by a Q0.31 share."""
    zeros = leading_zeros(core, total)
    fraction = core.subtract(core.left_shift(total, zeros), int_const(core, 1 << 31))
    return reciprocal(core, fraction), core.subtract(int_const(core, SUM_BITS + 31 - 8), zeros)


def share(core: Core[T], e: T, inverse: T, shift: T) -> T:
    """256 * e / total, to nearest; it is never negative, so ties need no sign."""
    product = high_multiply(core, inverse, e)
    half = core.left_shift(int_const(core, 1), core.subtract(shift, int_const(core, 1)))
    return core.right_shift(core.add(product, half), shift)
