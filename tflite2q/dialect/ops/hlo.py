"""StableHLO's element-wise operators as TFLite has them: plain numbers of one shape, no quantized arithmetic.

Meanings are those of the StableHLO specification; where LiteRT has a kernel, those of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Builtin, Op, Operand, Operands, Shape, Values, attribute, require, supported
from tflite2q.dialect.ops.binary import not_zero, truncated_quotient
from tflite2q.dialect.ops.common import negated, number
from tflite2q.dialect.ops.formulas import FORMULAS
from tflite2q.dialect.ops.plain import saturated
from tflite2q.dialect.types import STORAGE, Value

T = TypeVar("T")

INTEGERS = ("int8", "uint8", "int16", "int32", "int64")
NUMBERS = (*INTEGERS, "float32")
WITHOUT_KERNEL = "LiteRT has no kernel; this is what StableHLO's specification says, float32 within 1e-5"


def check_kinds(dtypes: Sequence[str], *values: Value | None) -> None:
    """All plain elements of one dtype, which is one of `dtypes`."""
    present = [value for value in values if value is not None]
    for value in present:
        kind = value.type
        supported(kind.quantization is None, f"{value.name!r} is quantized; the operator takes plain numbers")
        supported(kind.dtype in dtypes, f"{value.name!r} is {kind.dtype}, not {' or '.join(dtypes)}")
        require(kind.dtype == present[0].type.dtype, f"{value.name!r} is {kind.dtype}, not {present[0].type.dtype}")


@dataclass(frozen=True, kw_only=True)
class Hlo(Op):
    """Base of StableHLO's operators: types around them stay as they are."""

    dtypes: ClassVar[tuple[str, ...]] = ()


def _unary(name: str) -> Builtin:
    return Builtin(f"STABLEHLO_{name}", None, {}, {"function": name}, deviation=WITHOUT_KERNEL)


UNARY: Mapping[str, str] = {  # StableHLO's names of formulas
    "LOGISTIC": "LOGISTIC",
    "ABS": "ABS",
    "COSINE": "COS",
    "EXPONENTIAL": "EXP",
    "FLOOR": "FLOOR",
    "LOG": "LOG",
    "NEGATE": "NEG",
    "RSQRT": "RSQRT",
    "TANH": "TANH",
    "CBRT": "CBRT",
}


@dataclass(frozen=True, kw_only=True)
class HloUnary(Hlo):
    """A function of each element."""

    function: str = attribute(None, "ABS")

    mnemonic: ClassVar[str] = "q.hlo_unary"
    builtins: ClassVar[tuple[Builtin, ...]] = tuple(_unary(name) for name in UNARY)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "fixed"),)

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        whole = self.function in ("ABS", "NEGATE")
        check_kinds(("float32", "int32", "int64", "int8", "int16") if whole else ("float32",), ins["x"], outs[0])

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["x"].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        return (FORMULAS[UNARY[self.function]](core, ins["x"].data, outs[0].type.dtype, 0.0),)


def _either(core: Core[Any], a: Any, b: Any, dtype: str) -> Any:
    if dtype == "bool":
        return core.where(a, core.const(np.ones(1, np.bool_)), b)
    return core.subtract(core.add(a, b), core.bitwise_and(a, b))


def _both(core: Core[Any], a: Any, b: Any, dtype: str) -> Any:
    return core.where(a, b, core.const(np.zeros(1, np.bool_))) if dtype == "bool" else core.bitwise_and(a, b)


def _shifted(core: Core[Any], a: Any, b: Any, dtype: str) -> Any:
    """Counts below 0 or beyond the width leave nothing."""
    width = np.iinfo(dtype).bits
    zero = number(core, 0, dtype)
    moved = core.left_shift(a, core.clip(b, 0, width - 1))
    return core.where(core.less(b, zero), zero, core.where(core.less(b, number(core, width, dtype)), moved, zero))


def _remainder(core: Core[Any], a: Any, b: Any, dtype: str) -> Any:
    """Has the sign of the dividend."""
    if dtype == "float32":
        return core.libm("fmod", a, b)
    return core.subtract(a, core.multiply(truncated_quotient(core, a, b, dtype), b))


def _quotient(core: Core[Any], a: Any, b: Any, dtype: str) -> Any:
    return core.divide(a, b) if dtype == "float32" else truncated_quotient(core, a, b, dtype)


# (core, a, b, dtype) -> result, and the dtypes it is for.
BINARY: Mapping[str, tuple[Callable[[Core[Any], Any, Any, str], Any], tuple[str, ...]]] = {
    "ADD": (lambda core, a, b, dtype: core.add(a, b), NUMBERS),
    "SUBTRACT": (lambda core, a, b, dtype: core.subtract(a, b), NUMBERS),
    "MULTIPLY": (lambda core, a, b, dtype: core.multiply(a, b), NUMBERS),
    "MAXIMUM": (lambda core, a, b, dtype: core.maximum(a, b), NUMBERS),
    "MINIMUM": (lambda core, a, b, dtype: core.minimum(a, b), NUMBERS),
    "DIVIDE": (_quotient, ("float32", "int32", "int64")),
    "REMAINDER": (_remainder, ("float32", "int32", "int64")),
    "POWER": (lambda core, a, b, dtype: core.libm("pow", a, b), ("float32",)),
    "AND": (_both, (*INTEGERS, "bool")),
    "OR": (_either, (*INTEGERS, "bool")),
    "SHIFT_LEFT": (_shifted, ("int8", "int16", "int32")),
}
WITH_KERNEL = ("ADD", "MULTIPLY", "MAXIMUM", "MINIMUM")
OTHER_KERNEL = ("AND", "SHIFT_LEFT")


def _binary(name: str) -> Builtin:
    options = "StablehloShiftLeftOptions" if name == "SHIFT_LEFT" else None
    deviation = "" if name in WITH_KERNEL else WITHOUT_KERNEL
    if name in OTHER_KERNEL:
        deviation = "LiteRT has no reference kernel; this is what its other one computes"
    return Builtin(f"STABLEHLO_{name}", options, {}, {"function": name}, deviation=deviation)


@dataclass(frozen=True, kw_only=True)
class HloBinary(Hlo):
    """A function of two elements.  An integer divisor of 0 is an error of the data."""

    function: str = attribute(None, "ADD")

    mnemonic: ClassVar[str] = "q.hlo_binary"
    builtins: ClassVar[tuple[Builtin, ...]] = tuple(_binary(name) for name in BINARY)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("a", "fixed"), Operand("b", "fixed"))

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        check_kinds(BINARY[self.function][1], ins["a"], ins["b"], outs[0])
        require(ins["a"].type.shape == ins["b"].type.shape, "operands of different shapes")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["a"].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        dtype, b = outs[0].type.dtype, ins["b"].data
        if self.function in ("DIVIDE", "REMAINDER") and dtype != "float32":
            b = not_zero(core, b, dtype, self)
        return (BINARY[self.function][0](core, ins["a"].data, b, dtype),)


DIRECTION = "STABLEHLO_COMPARISON_DIRECTION_"
RELATIONS = ("EQ", "NE", "GE", "GT", "LE", "LT")


@dataclass(frozen=True, kw_only=True)
class HloCompare(Hlo):
    """A comparison of two elements; one with a NaN holds only if it asks for a difference."""

    direction: str = attribute("ComparisonDirection", f"{DIRECTION}EQ", enum="StablehloComparisonDirection")
    kind: str = attribute("CompareType", "STABLEHLO_COMPARISON_TYPE_NOTYPE", enum="StablehloComparisonType")

    mnemonic: ClassVar[str] = "q.hlo_compare"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("STABLEHLO_COMPARE", "StablehloCompareOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("a", "fixed"), Operand("b", "fixed"))
    deviation: ClassVar[str] = WITHOUT_KERNEL

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        check_kinds((*NUMBERS, "bool"), ins["a"], ins["b"])
        require(self.direction.removeprefix(DIRECTION) in RELATIONS, f"no comparison is {self.direction}")
        require(outs[0].type.dtype == "bool", f"result is {outs[0].type.dtype}, not bool")
        require(ins["a"].type.shape == ins["b"].type.shape, "operands of different shapes")
        total = self.kind == "STABLEHLO_COMPARISON_TYPE_FLOAT_TOTAL_ORDER"
        supported(not total or ins["a"].type.dtype != "float32", "a total order of real numbers")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["a"].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        a, b = ins["a"].data, ins["b"].data
        if ins["a"].type.dtype == "bool":
            a, b = core.astype(a, "int8"), core.astype(b, "int8")
        match self.direction.removeprefix(DIRECTION):
            case "EQ":
                return (core.equal(a, b),)
            case "NE":
                return (negated(core, core.equal(a, b)),)
            case "LT":
                return (core.less(a, b),)
            case "LE":
                return (core.less_equal(a, b),)
            case "GT":
                return (core.less(b, a),)
            case _:
                return (core.less_equal(b, a),)


@dataclass(frozen=True, kw_only=True)
class HloSelect(Hlo):
    """a where the condition holds, else b; or x kept between two bounds.  Conditions and bounds may be single."""

    clamp: bool = attribute(None, False)

    mnemonic: ClassVar[str] = "q.hlo_select"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("STABLEHLO_SELECT", None, {}, {"clamp": False}),
        Builtin("STABLEHLO_CLAMP", None, {}, {"clamp": True}),
    )
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("first", "fixed"),
        Operand("x", "fixed"),
        Operand("last", "fixed"),
    )
    deviation: ClassVar[str] = WITHOUT_KERNEL

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        first, x, last = ins["first"], ins["x"], ins["last"]
        values = (first, x, last, outs[0]) if self.clamp else (x, last, outs[0])
        check_kinds(NUMBERS if self.clamp else (*NUMBERS, "bool"), *values)
        require(self.clamp or first.type.dtype == "bool", f"condition is {first.type.dtype}, not bool")
        for value in (first, last) if self.clamp else (first,):
            require(value.type.shape in ((), x.type.shape), f"{value.name!r} has another shape")
        require(self.clamp or last.type.shape == x.type.shape, "operands of different shapes")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["x"].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        first, x, last = (ins[name].data for name in ("first", "x", "last"))
        rank = len(outs[0].type.shape)
        if rank and ins["first"].type.shape == ():
            first = core.reshape(first, (1,) * rank)
        if rank and ins["last"].type.shape == ():
            last = core.reshape(last, (1,) * rank)
        if self.clamp:
            return (core.broadcast_to(core.minimum(core.maximum(x, first), last), outs[0].type.shape),)
        return (core.broadcast_to(core.where(first, x, last), outs[0].type.shape),)


@dataclass(frozen=True, kw_only=True)
class HloConvert(Hlo):
    """Elements in another dtype; real numbers beyond an integer's range become its ends."""

    mnemonic: ClassVar[str] = "q.hlo_convert"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("STABLEHLO_CONVERT", deviation=WITHOUT_KERNEL),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "fixed"),)

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        for value in (ins["x"], outs[0]):
            check_kinds((*NUMBERS, "bool"), value)

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["x"].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x, source, target = ins["x"].data, ins["x"].type.dtype, outs[0].type.dtype
        if target == "bool":
            return (negated(core, core.equal(x, core.const(np.zeros(1, STORAGE[source])))),)
        if source == "float32" and target != "float32":
            return (saturated(core, x, source, target),)
        return (core.astype(x, target),)
