"""Comparisons, logic, and the choice between two operands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import INT8_VERSION_2, Builtin, Named, Op, Operand, Operands, Shape, Values, attribute, require
from tflite2q.dialect.ops.binary import raised_to_common_scale
from tflite2q.dialect.ops.common import CODES, broadcast_shape, check_numbers, is_codes, negated
from tflite2q.dialect.spans import Span, union
from tflite2q.dialect.types import Value

T = TypeVar("T")

COMPARE_HEADROOM = 8  # bits by which the operands of a comparison are raised


@dataclass(frozen=True, kw_only=True)
class Compare(Op):
    """Comparison of codes on their own real scales, or of plain numbers.

    The order of 16-bit codes (but not their equality) is that of the codes as they are.
    """

    relation: str = attribute(None, "LESS")

    mnemonic: ClassVar[str] = "q.compare"
    builtins: ClassVar[tuple[Builtin, ...]] = tuple(
        Builtin(name, options, INT8_VERSION_2, {"relation": name})
        for name, options in (
            ("EQUAL", "EqualOptions"),
            ("NOT_EQUAL", "NotEqualOptions"),
            ("LESS", "LessOptions"),
            ("LESS_EQUAL", "LessEqualOptions"),
            ("GREATER", "GreaterOptions"),
            ("GREATER_EQUAL", "GreaterEqualOptions"),
        )
    )
    operands: ClassVar[tuple[Operand, ...]] = (Operand("a"), Operand("b"))
    dtypes: ClassVar[tuple[str, ...]] = CODES
    scales_below: ClassVar[float] = 1.0
    deviation: ClassVar[str] = "scales of 1 and more count as well; LiteRT's process ends, or it compares wrongly"

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        if ins["a"].type.dtype != "bool":
            check_numbers(*ins, bare=("int16",))
        require(outs[0].type.dtype == "bool", f"result is {outs[0].type.dtype}, not bool")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (broadcast_shape(ins["a"], ins["b"]),)

    def ties(self, dtype: str) -> tuple[tuple[str, ...], ...]:
        return (tuple(name for name in self.inputs if name is not None),) if dtype == "int16" else ()

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        a, b = ins["a"].data, ins["b"].data
        scaled = is_codes(ins["a"].type) and (ins["a"].type.dtype != "int16" or self.relation in ("EQUAL", "NOT_EQUAL"))
        if scaled:
            a, b = (raised_to_common_scale(core, t, COMPARE_HEADROOM, t.type.scale) for t in (ins["a"], ins["b"]))
        match self.relation:
            case "EQUAL":
                return (core.equal(a, b),)
            case "NOT_EQUAL":
                return (negated(core, core.equal(a, b)),)
            case "LESS":
                return (core.less(a, b),)
            case "LESS_EQUAL":
                return (core.less_equal(a, b),)
            case "GREATER":
                return (core.less(b, a),)
            case _:
                return (core.less_equal(b, a),)


@dataclass(frozen=True, kw_only=True)
class Logical(Op):
    """AND, OR and NOT of booleans."""

    function: str = attribute(None, "LOGICAL_AND")

    mnemonic: ClassVar[str] = "q.logical"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("LOGICAL_AND", "LogicalAndOptions", {}, {"function": "LOGICAL_AND"}),
        Builtin("LOGICAL_OR", "LogicalOrOptions", {}, {"function": "LOGICAL_OR"}),
        Builtin("LOGICAL_NOT", "LogicalNotOptions", {}, {"function": "LOGICAL_NOT"}),
    )
    operands: ClassVar[tuple[Operand, ...]] = (Operand("a", "plain"), Operand("b", "plain", optional=True))
    dtypes: ClassVar[tuple[str, ...]] = ()

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        for value in (*ins, *outs):
            require(value is not None and value.type.dtype == "bool", "operands and result must be bool")
        require(len(ins) == (1 if self.function == "LOGICAL_NOT" else 2), f"{self.function} with {len(ins)} operands")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (broadcast_shape(*(value for value in ins if value is not None)),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        a = ins["a"].data
        if self.function == "LOGICAL_NOT":
            return (negated(core, a),)
        if self.function == "LOGICAL_AND":
            return (core.where(a, ins["b"].data, core.const(np.zeros(1, np.bool_))),)
        return (core.where(a, core.const(np.ones(1, np.bool_)), ins["b"].data),)


@dataclass(frozen=True, kw_only=True)
class Select(Op):
    """a where the condition holds, else b; both move codes as they are."""

    broadcasts: bool = attribute(None, True)

    mnemonic: ClassVar[str] = "q.select"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("SELECT_V2", "SelectV2Options", {}, {"broadcasts": True}),
        Builtin("SELECT", "SelectOptions", INT8_VERSION_2, {"broadcasts": False}),
    )
    operands: ClassVar[tuple[Operand, ...]] = (Operand("condition", "plain"), Operand("a"), Operand("b"))
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = CODES

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        condition = ins["condition"].type.dtype
        require(condition == "bool", f"condition is {condition}, not bool")
        for value in (ins["a"], ins["b"]):
            require(value.type.dtype == outs[0].type.dtype, f"{value.name!r} is not {outs[0].type.dtype}")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        condition, a, b = ins["condition"], ins["a"], ins["b"]
        if self.broadcasts:
            return (broadcast_shape(condition, a, b),)
        require(a.type.shape == b.type.shape, f"{list(a.type.shape)} and {list(b.type.shape)} differ")
        rows = len(condition.type.shape) <= 1 and condition.type.shape[:1] == a.type.shape[: len(condition.type.shape)]
        require(rows or condition.type.shape == a.type.shape, "condition must have the operands' shape or their rows")
        return (a.type.shape,)

    def ties(self, dtype: str) -> tuple[tuple[str, ...], ...]:
        return ((self.reads("a"), self.reads("b"), *self.outputs),)

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return union(spans["a"], spans["b"])

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        condition, shape = ins["condition"].data, ins["condition"].type.shape
        if not self.broadcasts and len(shape) == 1:
            condition = core.reshape(condition, (*shape, *(1 for _ in outs[0].type.shape[1:])))
        return (core.broadcast_to(core.where(condition, ins["a"].data, ins["b"].data), outs[0].type.shape),)
