"""Operators on plain numbers and on integers as they are, which have no quantized arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Builtin, Op, Operand, Operands, Shape, Values, attribute, require, supported
from tflite2q.dialect.ops.common import (
    axis_of,
    broadcast_shape,
    check_numbers,
    float32,
    integer,
    is_codes,
    negated,
    number,
)
from tflite2q.dialect.ops.eltwise import Binary
from tflite2q.dialect.types import STORAGE, Value

T = TypeVar("T")

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64")
SUMMED = ("float32", "int32", "int64")


def check_plain(*values: Value | None) -> None:
    """All plain numbers of one dtype: float32, int32 or int64."""
    check_numbers(*values)
    for value in values:
        if value is not None:
            supported(
                not is_codes(value.type), f"{value.name!r} holds quantized codes; the operator takes plain numbers"
            )


@dataclass(frozen=True, kw_only=True)
class RealFunction(Binary):
    """A function of two real numbers: atan2(a, b) or a to the power of b.

    Both are evaluated in float64.  An int32 power is the truncated float64 one; a negative exponent is an error of the
    data, as in LiteRT.
    """

    function: str = attribute(None, "POW")

    mnemonic: ClassVar[str] = "q.real_function"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("POW", "PowOptions", {}, {"function": "POW"}),
        Builtin("ATAN2", "ATan2Options", {}, {"function": "ATAN2"}),
    )
    dtypes: ClassVar[tuple[str, ...]] = ()
    deviation: ClassVar[str] = (
        "float32 within 1e-5; an int32 power beyond 2^31 is the least int32, as on x86, where C leaves it undefined"
    )

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        check_plain(*ins, *outs)
        dtypes = ("float32", "int32") if self.function == "POW" else ("float32",)
        supported(outs[0].type.dtype in dtypes, f"{self.function} of {outs[0].type.dtype}")
        same = self.function == "POW" or ins["a"].type.shape == ins["b"].type.shape
        require(same, "ATAN2 of different shapes, which LiteRT does not broadcast")

    def numbers(self, core: Core[T], a: T, b: T, dtype: str) -> T:
        if dtype == "float32":
            return core.libm("pow" if self.function == "POW" else "atan2", a, b)
        holds = negated(core, core.less(b, number(core, 0, dtype)))
        b = core.demand(b, holds, f"{self.mnemonic} {self.name!r}: a negative exponent of an integer")
        power = core.libm("pow", core.astype(a, "float64"), core.astype(b, "float64"))
        least = core.const(np.array([-(2.0**31)]))
        fits = core.where(core.less(power, core.const(np.array([2.0**31]))), power, least)
        fits = core.where(core.less(fits, least), least, fits)
        return core.astype(fits, dtype)


@dataclass(frozen=True, kw_only=True)
class Bitwise(Op):
    """Bits of integers as they are; quantization parameters play no part.

    BITWISE_XOR has the bits in which a and b differ.  RIGHT_SHIFT is arithmetic; counts are clamped to 0 and to the
    width less 1.
    """

    function: str = attribute(None, "BITWISE_XOR")

    mnemonic: ClassVar[str] = "q.bitwise"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("BITWISE_XOR", "BitwiseXorOptions", {}, {"function": "BITWISE_XOR"}),
        Builtin("RIGHT_SHIFT", "RightShiftOptions", {}, {"function": "RIGHT_SHIFT"}),
    )
    operands: ClassVar[tuple[Operand, ...]] = (Operand("a", "fixed"), Operand("b", "fixed"))
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "int16")

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        for value in (ins["a"], ins["b"]):
            require(value.type.dtype == outs[0].type.dtype, f"{value.name!r} is not {outs[0].type.dtype}")
        supported(outs[0].type.dtype in INTEGERS, f"{self.function} of {outs[0].type.dtype}")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (broadcast_shape(ins["a"], ins["b"]),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        a, b, dtype = ins["a"].data, ins["b"].data, outs[0].type.dtype
        if self.function == "RIGHT_SHIFT":
            return (core.right_shift(a, core.clip(b, 0, np.iinfo(dtype).bits - 1)),)
        return (exclusive_or(core, a, b),)


def exclusive_or(core: Core[T], a: T, b: T) -> T:
    """a + b counts the common bits twice; integers wrap, so no width is lost."""
    common = core.bitwise_and(a, b)
    return core.subtract(core.subtract(core.add(a, b), common), common)


@dataclass(frozen=True, kw_only=True)
class AddN(Op):
    """The sum of any number of equal shapes, from the first to the last."""

    mnemonic: ClassVar[str] = "q.add_n"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("ADD_N", "AddNOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"),)
    variadic: ClassVar[bool] = True
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = ()

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        check_plain(*ins, *outs)
        shapes = {part.type.shape for part in ins.every("x")}
        require(len(shapes) == 1, f"parts {[list(s) for s in shapes]} differ")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["x"].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        return (reduce(core.add, [part.data for part in ins.every("x")]),)


@dataclass(frozen=True, kw_only=True)
class FakeQuant(Op):
    """Real numbers rounded to the steps of a quantization of `bits` bits between `low` and `high`.

    The range is moved so that 0 is a step.
    """

    low: float = attribute("Min", 0.0)
    high: float = attribute("Max", 0.0)
    bits: int = attribute("NumBits", 8)

    mnemonic: ClassVar[str] = "q.fake_quant"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("FAKE_QUANT", "FakeQuantOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"),)
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = ()

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        check_plain(*ins, *outs)
        supported(outs[0].type.dtype == "float32", f"FAKE_QUANT of {outs[0].type.dtype}")
        require(2 <= self.bits <= 16, f"{self.bits} bits")
        ordered = self.low <= 0 <= self.high and self.low < self.high
        require(ordered and math.isfinite(self.high - self.low), f"no range from {self.low} to {self.high} around 0")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["x"].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        least, most = np.float32(0), np.float32(2**self.bits - 1)
        low, high = np.float32(self.low), np.float32(self.high)
        step = np.float32((high - low) / (most - least))
        zero = np.float32(least - np.float32(low / step))
        zero = np.clip(np.floor(zero + np.float32(0.5)), least, most)
        bottom, top = (np.float32(np.float32(end - zero) * step) for end in (least, most))
        x = core.minimum(core.maximum(ins["x"].data, core.const(float32(bottom))), core.const(float32(top)))
        inverse = np.float32(np.float32(1) / step)
        steps = core.multiply(core.subtract(x, core.const(float32(bottom))), core.const(float32(inverse)))
        whole = core.floor(core.add(steps, core.const(float32(0.5))))
        y = core.add(core.multiply(whole, core.const(float32(step))), core.const(float32(bottom)))
        return (y,)


@dataclass(frozen=True, kw_only=True)
class ZerosLike(Op):
    """Zeros of the shape and dtype of x."""

    mnemonic: ClassVar[str] = "q.zeros_like"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("ZEROS_LIKE", "ZerosLikeOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "plain"),)
    dtypes: ClassVar[tuple[str, ...]] = ()

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        check_plain(ins["x"], outs[0])

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["x"].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        return (core.const(np.zeros(outs[0].type.shape, STORAGE[outs[0].type.dtype])),)


@dataclass(frozen=True, kw_only=True)
class CumulativeSum(Op):
    """Sums of all elements up to each one along a constant axis, without itself if `exclusive`, or from the end."""

    exclusive: bool = attribute("Exclusive", False)
    backwards: bool = attribute("Reverse", False)

    mnemonic: ClassVar[str] = "q.cumsum"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("CUMSUM", "CumsumOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("axis", "plain"))
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = ()
    deviation: ClassVar[str] = "float32 within 1e-5 of the largest sum: sums are taken in another order"

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        check_plain(ins["x"], outs[0])

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        axis_of(integer(ins["axis"]), len(ins["x"].type.shape))
        return (ins["x"].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        shape = ins["x"].type.shape
        axis = axis_of(integer(ins["axis"].value), len(shape))
        x, extent, reach = ins["x"].data, shape[axis], 1
        if self.exclusive and extent <= 1:
            return (core.const(np.zeros(shape, ins["x"].type.dtype)),)
        if self.exclusive:
            x = self.moved(core, x, shape, axis, 1)
        while reach < extent:  # each step doubles the number of elements summed
            x = core.add(x, self.moved(core, x, shape, axis, reach))
            reach *= 2
        return (x,)

    def moved(self, core: Core[T], x: T, shape: Shape, axis: int, steps: int) -> T:
        """x moved by `steps` along the axis in the direction of summation, zeros behind."""
        before, after = [0] * len(shape), [0] * len(shape)
        (after if self.backwards else before)[axis] = steps
        first, last = (steps, shape[axis]) if self.backwards else (0, shape[axis] - steps)
        return core.pad(core.strided_slice(x, (axis,), (first,), (last,), (1,)), before, after, 0)
