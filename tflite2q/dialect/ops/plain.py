"""Glue between integers, booleans and real numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Builtin, Op, Operand, Operands, Shape, Values, attribute, require
from tflite2q.dialect.ops.common import CODES, axis_of, integer, integers
from tflite2q.dialect.types import STORAGE, Value

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Cast(Op):
    """Elements in another dtype, as C converts them; codes are numbers here.

    Real numbers beyond what an integer holds become its least or largest, NaN the largest.
    """

    in_type: str = attribute("InDataType", "FLOAT32", enum="TensorType")
    out_type: str = attribute("OutDataType", "FLOAT32", enum="TensorType")

    mnemonic: ClassVar[str] = "q.cast"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("CAST", "CastOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "fixed"),)
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "int16")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["x"].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        kind, source = outs[0].type.dtype, ins["x"].type.dtype
        if kind == "bool":
            zero = core.const(np.zeros(1, STORAGE[source]))
            same = core.equal(ins["x"].data, zero)
            return (core.where(same, core.const(np.zeros(1, np.bool_)), core.const(np.ones(1, np.bool_))),)
        if source.startswith("float") and not kind.startswith("float"):
            return (saturated(core, ins["x"].data, STORAGE[source], STORAGE[kind]),)
        return (core.astype(ins["x"].data, STORAGE[kind]),)


def saturated(core: Core[T], x: T, source: str, dtype: str) -> T:
    """Real numbers of dtype `source` as integers, toward zero and within their range; NaN is the largest."""
    info = np.iinfo(dtype)
    zero, low, end = (core.const(np.array([bound]).astype(source)) for bound in (0, info.min, float(info.max) + 1))
    least, most = (core.const(np.array([bound], dtype)) for bound in (info.min, info.max))
    below, fits = core.less(x, low), core.less(x, end)
    number = core.astype(core.where(below, zero, core.where(fits, x, zero)), dtype)
    return core.where(below, least, core.where(fits, number, most))


@dataclass(frozen=True, kw_only=True)
class ShapeOf(Op):
    """The static shape (or its length) of x as a tensor."""

    rank: bool = attribute(None, False)
    output_type: str = attribute("OutType", "INT32", enum="TensorType")

    mnemonic: ClassVar[str] = "q.shape_of"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("SHAPE", "ShapeOptions", {}, {"rank": False}),
        Builtin("RANK", "RankOptions", {}, {"rank": True}),
    )
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "plain"),)
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "int16")

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        wanted = "INT32" if self.rank else self.output_type
        require(wanted in ("INT32", "INT64"), f"a shape of {wanted.lower()}")
        require(outs[0].type.dtype == wanted.lower(), f"{outs[0].name!r} is {outs[0].type.dtype}, not {wanted.lower()}")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return ((),) if self.rank else ((len(ins["x"].type.shape),),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        shape = ins["x"].type.shape
        return (core.const(np.array(len(shape) if self.rank else shape, outs[0].type.dtype)),)


@dataclass(frozen=True, kw_only=True)
class Fill(Op):
    """A constant shape filled with one element."""

    mnemonic: ClassVar[str] = "q.fill"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("FILL", "FillOptions", {"int8": 3, "int16": 3}),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("shape", "plain"), Operand("value", "fixed"))
    dtypes: ClassVar[tuple[str, ...]] = CODES

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        require(ins["value"].type.size == 1, "fills with more than one element")
        return (tuple(integers(ins["shape"])),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        shape = outs[0].type.shape
        return (core.broadcast_to(core.reshape(ins["value"].data, (1,) * len(shape)), shape),)


@dataclass(frozen=True, kw_only=True)
class OneHot(Op):
    """`on` where an index says so, `off` elsewhere, along a new axis of constant length."""

    axis: int = attribute("Axis", -1)

    mnemonic: ClassVar[str] = "q.one_hot"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("ONE_HOT", "OneHotOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("indices", "plain"),
        Operand("depth", "plain"),
        Operand("on", "fixed"),
        Operand("off", "fixed"),
    )

    def place(self, ins: Values) -> int:
        return axis_of(self.axis, len(ins["indices"].type.shape) + 1)

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape, axis = ins["indices"].type.shape, self.place(ins)
        single = all(ins[name].type.size == 1 for name in ("on", "off"))
        require(single, "the elements for on and off must be single numbers")
        return ((*shape[:axis], integer(ins["depth"]), *shape[axis:]),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        axis, shape = self.place(ins.values), outs[0].type.shape
        thin = (*shape[:axis], 1, *shape[axis + 1 :])
        behind = (1,) * (len(shape) - axis - 1)
        places = np.arange(shape[axis], dtype=np.int32).reshape(-1, *behind)
        hit = core.equal(core.reshape(core.astype(ins["indices"].data, "int32"), thin), core.const(places))
        on, off = (core.reshape(ins[name].data, (1,)) for name in ("on", "off"))
        return (core.where(hit, on, off),)
