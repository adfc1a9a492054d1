"""The rarer binary operators: quotients, maxima, squared differences, and PRELU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic import rounding
from tflite2q.arithmetic.core import Core
from tflite2q.arithmetic.fixedpoint import leading_sign_bits, reciprocal_of
from tflite2q.arithmetic.rescale import Rescale, high_multiply, int_const, multiply_fixed, rounding_shift_by
from tflite2q.dialect.op import (
    INT8_VERSION_2,
    Builtin,
    Named,
    Op,
    Operand,
    Tensor,
    Values,
    attribute,
    require,
    supported,
)
from tflite2q.dialect.ops.common import CODES, centred, check_codes, check_numbers, is_codes, negated, number
from tflite2q.dialect.ops.eltwise import Binary, Eltwise
from tflite2q.dialect.spans import Span, minus, square, times, union
from tflite2q.dialect.types import TensorType, Value

T = TypeVar("T")

SQUARE_HEADROOM = 7  # bits by which the operands of a squared difference are raised
MOST_RATIO = 50  # of the divisors of a quotient: 8-bit codes of each are not 0, also with steps of a power of two


def raised_to_common_scale(core: Core[T], x: Tensor[T], headroom: int, real: float) -> T:
    """(code - zero point) << headroom, times `real` in fixed point; int64."""
    wide = centred(core, x.data, x.type.zero_point)
    raised = core.left_shift(wide, core.const(np.array([headroom], np.int32)))
    return multiply_fixed(core, raised, *rounding.quantize_multiplier(real))


@dataclass(frozen=True, kw_only=True)
class Div(Eltwise):
    """Quotient; on codes, a fixed-point reciprocal of the divisor (eq. 27).

    A divisor of 0 is an error of the data, unless it is a float.
    """

    mnemonic: ClassVar[str] = "q.div"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("DIV", "DivOptions"),)
    contract: ClassVar[str | None] = None

    def takes_codes(self, ins: Values) -> bool:
        """Only where the divisors are known, and none is so small that its code may be 0."""
        divisor = ins["b"]
        if divisor.constant is None:
            return False
        size = np.abs(divisor.data.astype(np.float64))
        return bool(size.min(initial=np.inf) * MOST_RATIO >= size.max(initial=0.0) > 0)

    def outgrown(self, before: tuple[Values, Sequence[Value]], after: tuple[Values, Sequence[Value]]) -> bool:
        """Also where the smallest divisor would be rounded to 0."""
        old, new = before[0]["b"].type, after[0]["b"].type
        return super().outgrown(before, after) or (old.quantized and new.scale >= 2 * old.scale)

    def codes(self, core: Core[T], a: Tensor[T], b: Tensor[T], y: TensorType) -> T:
        real = np.float32(a.type.scale) / np.float32(np.float32(b.type.scale) * np.float32(y.scale))
        m, shift = (int(v) for v in rounding.quantize_multiplier(real))
        dividend, divisor = (centred(core, t.data, t.type.zero_point, "int64") for t in (a, b))
        zero = int_const(core, 0)
        divisor = not_zero(core, divisor, "int64", self)
        negative = core.less(divisor, zero)
        dividend = core.where(negative, core.negative(dividend), dividend)
        divisor = core.maximum(core.where(negative, core.negative(divisor), divisor), int_const(core, 1))
        inverse, bits = reciprocal_of(core, divisor, 31)
        headroom = leading_sign_bits(core, dividend)
        quotient = high_multiply(core, core.left_shift(dividend, headroom), inverse)
        scaled = high_multiply(core, quotient, int_const(core, m))
        right = core.subtract(core.add(headroom, bits), int_const(core, shift))
        quotient = rounding_shift_by(core, scaled, core.minimum(right, int_const(core, 31)))
        # Shifts beyond 31 (of dividends near 0) are undefined in C: x86 takes five bits of the count, and the rounding
        # term becomes 1 for numbers that are not negative.
        few_bits = core.right_shift(scaled, core.bitwise_and(right, int_const(core, 31)))
        not_negative = core.astype(core.less_equal(zero, scaled), "int64")
        odd = core.add(few_bits, not_negative)
        quotient = core.where(core.less(int_const(core, 31), right), odd, quotient)
        code = core.add(quotient, int_const(core, y.zero_point))
        return core.astype(core.clip(code, *self.clamp(y)), y.dtype)

    def numbers(self, core: Core[T], a: T, b: T, dtype: str) -> T:
        if dtype == "float32":
            return core.divide(a, b)
        return truncated_quotient(core, a, not_zero(core, b, dtype, self), dtype)


def not_zero(core: Core[T], b: T, dtype: str, op: Op) -> T:
    """The divisor b of `op`, none of which may be 0."""
    holds = negated(core, core.equal(b, number(core, 0, dtype)))
    return core.demand(b, holds, f"{op.mnemonic} {op.name!r}: a divisor is 0")


def floored_quotient(core: Core[T], a: T, b: T, dtype: str) -> T:
    """a / b toward minus infinity; that of the least integer and -1 wraps, and is no fault of the processor's."""
    if dtype == "int32":
        wide = core.floor_divide(core.astype(a, "int64"), core.astype(b, "int64"))
        return core.astype(wide, dtype)
    by_minus_one = core.equal(b, number(core, -1, dtype))
    quotient = core.floor_divide(a, core.where(by_minus_one, number(core, 1, dtype), b))
    return core.where(by_minus_one, core.negative(a), quotient)


def floored_remainder(core: Core[T], a: T, b: T, dtype: str) -> T:
    """The remainder of real numbers that has the sign of b: C's, which has the sign of a, plus b where these differ."""
    rest, zero = core.libm("fmod", a, b), number(core, 0, dtype)
    opposite = core.where(core.less(rest, zero), core.less(zero, b), core.less(b, zero))
    apart = core.where(core.equal(rest, zero), core.const(np.zeros(1, np.bool_)), opposite)
    return core.where(apart, core.add(rest, b), rest)


def truncated_quotient(core: Core[T], a: T, b: T, dtype: str) -> T:
    """C's integer division, toward zero; of the least int32 and -1 the largest."""
    if dtype == "int32":
        wide = truncated_quotient(core, core.astype(a, "int64"), core.astype(b, "int64"), "int64")
        return core.astype(core.clip(wide, -(2**31), 2**31 - 1), dtype)
    quotient = floored_quotient(core, a, b, dtype)
    zero = number(core, 0, dtype)
    rest = core.subtract(a, core.multiply(quotient, b))  # has the sign of b
    opposite = core.less(core.multiply(_sign(core, a, dtype), _sign(core, b, dtype)), zero)
    inexact = core.where(core.equal(rest, zero), zero, number(core, 1, dtype))
    return core.where(opposite, core.add(quotient, inexact), quotient)


def _sign(core: Core[T], x: T, dtype: str) -> T:
    return core.where(core.less(x, number(core, 0, dtype)), number(core, -1, dtype), number(core, 1, dtype))


@dataclass(frozen=True, kw_only=True)
class FloorDiv(Binary):
    """Quotient rounded toward minus infinity, or the remainder that belongs to it; plain numbers only.

    A divisor of 0 is an error of the data, but for the remainder of floats, which is NaN there.
    """

    remainder: bool = attribute(None, False)

    mnemonic: ClassVar[str] = "q.floor_divide"
    deviation: ClassVar[str] = (
        "bit for bit on integers, where the remainder of the least int32 and -1, which ends the reference kernel's "
        "process, is 0, and the quotient of the least int8 or int16 and -1, which C leaves undefined, wraps"
    )
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("FLOOR_DIV", "FloorDivOptions", {"float32": 2}, {"remainder": False}),
        Builtin("FLOOR_MOD", "FloorModOptions", {}, {"remainder": True}),
    )
    dtypes: ClassVar[tuple[str, ...]] = ()

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        check_numbers(*ins, *outs, bare=("int8", "int16"))
        supported(not is_codes(outs[0].type), "takes plain numbers, not quantized codes")

    def numbers(self, core: Core[T], a: T, b: T, dtype: str) -> T:
        if dtype == "float32" and self.remainder:
            return floored_remainder(core, a, b, dtype)
        if dtype == "float32":
            quotient = core.floor_divide(a, not_zero(core, b, dtype, self))
        else:
            b = not_zero(core, b, dtype, self)
            quotient = floored_quotient(core, a, b, dtype)
        return core.subtract(a, core.multiply(quotient, b)) if self.remainder else quotient


@dataclass(frozen=True, kw_only=True)
class SquaredDifference(Binary):
    """(a - b) ** 2 on a common scale of twice the larger one (eq. 28)."""

    mnemonic: ClassVar[str] = "q.squared_difference"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("SQUARED_DIFFERENCE", "SquaredDifferenceOptions", INT8_VERSION_2),
    )
    dtypes: ClassVar[tuple[str, ...]] = ("int8",)
    contract: ClassVar[str | None] = "eltwise"

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return square(minus(spans["a"], spans["b"]))

    def codes(self, core: Core[T], a: Tensor[T], b: Tensor[T], y: TensorType) -> T:
        common = 2.0 * max(a.type.scale, b.type.scale)
        headroom = 0 if y.dtype == "int16" else SQUARE_HEADROOM  # squares of 16-bit codes fill 31 bits as they are
        terms = [raised_to_common_scale(core, t, headroom, t.type.scale / common) for t in (a, b)]
        difference = core.subtract(*terms)
        real = common * common / float(np.float32(2.0 ** (2 * headroom) * y.scale))
        square = core.multiply(difference, difference)
        return Rescale((real,), y.zero_point, *y.range, y.dtype).meaning(core, square)

    def numbers(self, core: Core[T], a: T, b: T, dtype: str) -> T:
        difference = core.subtract(a, b)
        return core.multiply(difference, difference)


@dataclass(frozen=True, kw_only=True)
class Extremum(Binary):
    """The larger (or smaller) of two codes or numbers; operands and result share their parameters."""

    smallest: bool = attribute(None, False)

    mnemonic: ClassVar[str] = "q.maximum"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("MAXIMUM", "MaximumMinimumOptions", {"int8": 2, "int16": 4}, {"smallest": False}),
        Builtin("MINIMUM", "MaximumMinimumOptions", {"int8": 2, "int16": 4}, {"smallest": True}),
    )

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        check_numbers(*ins, *outs, bare=CODES)

    def ties(self, dtype: str) -> tuple[tuple[str, ...], ...]:
        return ((*(name for name in self.inputs if name is not None), *self.outputs),)

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        chosen = min if self.smallest else max
        return chosen(spans["a"][0], spans["b"][0]), chosen(spans["a"][1], spans["b"][1])

    def codes(self, core: Core[T], a: Tensor[T], b: Tensor[T], y: TensorType) -> T:
        return self.numbers(core, a.data, b.data, y.dtype)

    def numbers(self, core: Core[T], a: T, b: T, dtype: str) -> T:
        return core.minimum(a, b) if self.smallest else core.maximum(a, b)


@dataclass(frozen=True, kw_only=True)
class Prelu(Binary):
    """x where it is not negative, else x * alpha; alpha broadcasts against x, and has 8 bits where x has 16."""

    mnemonic: ClassVar[str] = "q.prelu"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("PRELU"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("alpha"))
    dtypes: ClassVar[tuple[str, ...]] = CODES

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        x, alpha = ins["x"], ins["alpha"]
        if x.type.dtype != "int16":
            super().verify(ins, outs)
            return
        check_codes(x, outs[0])
        require(is_codes(alpha.type) and alpha.type.dtype == "int8", f"alpha is {alpha.type.dtype}, not int8")

    def constant_dtype(self, index: int, dtype: str) -> str:
        return "int8" if index == 1 and dtype == "int16" else dtype

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        (low, high), slopes = spans["x"], spans["alpha"]
        return union((max(low, 0.0), max(high, 0.0)), times((min(low, 0.0), min(high, 0.0)), slopes))

    def codes(self, core: Core[T], a: Tensor[T], b: Tensor[T], y: TensorType) -> T:
        value, slope = (centred(core, t.data, t.type.zero_point) for t in (a, b))
        s_x, s_y = np.float32(a.type.scale), np.float32(y.scale)
        kept = multiply_fixed(core, value, *rounding.quantize_multiplier(s_x / s_y))
        steep = rounding.quantize_multiplier(np.float32(s_x * np.float32(b.type.scale)) / s_y)
        sloped = multiply_fixed(core, core.multiply(value, slope), *steep)
        chosen = core.where(core.less(value, core.const(np.zeros(1, np.int32))), sloped, kept)
        code = core.add(chosen, int_const(core, y.zero_point))
        return core.astype(core.clip(code, *y.range), y.dtype)

    def numbers(self, core: Core[T], a: T, b: T, dtype: str) -> T:
        return core.where(core.less(a, number(core, 0, dtype)), core.multiply(a, b), a)
