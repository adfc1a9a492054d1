"""Variables that a model keeps from run to run, read and assigned in the order of execution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Builtin, Named, Operand, Operands, Shape, Values, require
from tflite2q.dialect.ops.shape import Movement
from tflite2q.dialect.spans import EVERYTHING, Span
from tflite2q.dialect.types import TensorType, Value

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ReadVariable(Movement):
    """What a variable holds now."""

    mnemonic: ClassVar[str] = "q.read_variable"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("READ_VARIABLE"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("variable"),)

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        _check_variable(ins["variable"], outs[0].type)

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["variable"].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        return (ins["variable"].data,)

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return spans["variable"]


@dataclass(frozen=True, kw_only=True)
class AssignVariable(Movement):
    """What a variable holds from now on.  It has no result and is known by the variable."""

    mnemonic: ClassVar[str] = "q.assign_variable"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("ASSIGN_VARIABLE"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("variable"), Operand("x"))
    results: ClassVar[tuple[str, ...]] = ()
    updates: ClassVar[tuple[str, ...]] = ("variable",)

    @property
    def name(self) -> str:
        return self.reads("variable")

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        variable, x = ins["variable"], ins["x"]
        _check_variable(variable, x.type)
        require(x.type.shape == variable.type.shape, f"assigns {list(x.type.shape)} to {list(variable.type.shape)}")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return ()

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        return (ins["x"].data,)

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return EVERYTHING


def _check_variable(variable: Value, moved: TensorType) -> None:
    require(variable.resource is not None, f"{variable.name!r} is not a resource variable")
    require(moved.dtype == variable.type.dtype, f"{variable.name!r} is {variable.type.dtype}, not {moved.dtype}")
