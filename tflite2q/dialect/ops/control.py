"""Control flow: ops that run graphs, one of two or one again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.op import Builtin, Op, Operand, Operands, Shape, Values, require, supported
from tflite2q.dialect.types import TensorType, Value
from tflite2q.errors import Tflite2qError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Control(Op):
    """What crosses the border of a region keeps its type; the values inside are the region's own."""

    variadic: ClassVar[bool] = True
    parts: ClassVar[tuple[str, ...]]  # what each region is, in messages

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        for part, region, names in zip(self.parts, self.regions, self.fed, strict=True):
            given = dict(zip(self.inputs, ins, strict=True))
            try:
                _verify_region(region, [given[name] for name in names])
            except Tflite2qError as error:
                raise error.at(f"in its {part} {region.name!r}") from error


@dataclass(frozen=True, kw_only=True)
class If(_Control):
    """The results of one of two graphs of the same operands: of the first where the condition is true."""

    mnemonic: ClassVar[str] = "q.if"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("IF", "IfOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("condition", "plain"), Operand("x", "fixed", optional=True))
    subgraphs: ClassVar[tuple[str, ...]] = ("ThenSubgraphIndex", "ElseSubgraphIndex")
    parts: ClassVar[tuple[str, ...]] = ("branch", "branch")

    @property
    def fed(self) -> tuple[tuple[str | None, ...], ...]:
        return (self.inputs[1:],) * 2

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        super().verify(ins, outs)
        _verify_condition(ins["condition"])
        for region in self.regions:
            _verify_results(region, [y.type for y in outs], "its results")
        one, other = (_shapes(region) for region in self.regions)
        supported(one == other, "its branches give results of different shapes, which is not supported")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return _shapes(self.regions[0])

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        operands = [tensor.data for tensor in ins.every("x")]
        then, otherwise = self.regions
        return core.branch(ins["condition"].data, then, otherwise, operands)


@dataclass(frozen=True, kw_only=True)
class While(_Control):
    """The operands after a graph has been run on them for as long as another one, the condition, holds for them."""

    mnemonic: ClassVar[str] = "q.while"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("WHILE", "WhileOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "fixed"),)
    subgraphs: ClassVar[tuple[str, ...]] = ("CondSubgraphIndex", "BodySubgraphIndex")
    parts: ClassVar[tuple[str, ...]] = ("condition", "body")

    @property
    def fed(self) -> tuple[tuple[str | None, ...], ...]:
        return (self.inputs,) * 2

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        super().verify(ins, outs)
        condition, body = self.regions
        require(len(condition.outputs) == 1, f"its condition has {len(condition.outputs)} results, not 1")
        _verify_condition(condition[condition.outputs[0]])
        kinds = [value.type for value in ins.every("x")]
        _verify_results(body, kinds, "what it carries")
        _verify_dtypes([y.type for y in outs], kinds, "its results", "what it carries")
        for name, kind in zip(body.outputs, kinds, strict=True):
            changes = f"{name!r} of its body is {list(body[name].type.shape)} but was {list(kind.shape)}"
            supported(body[name].type.shape == kind.shape, f"{changes}: a shape that changes is not supported")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return tuple(value.type.shape for value in ins.every("x"))

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        condition, body = self.regions
        return core.loop(condition, body, [tensor.data for tensor in ins.every("x")])


def _verify_region(region: Graph, operands: Sequence[Value | None]) -> None:
    """Raise where a region breaks a rule of graphs, keeps state, or takes other things than it is given."""
    verify(region)
    variables = [value.name for value in region.values if value.variable]
    supported(not variables, f"the variable {variables[0] if variables else ''!r} is not supported there")
    require(len(region.inputs) == len(operands), f"it takes {len(region.inputs)} values, is given {len(operands)}")
    for name, operand in zip(region.inputs, operands, strict=True):
        require(operand is not None, f"{name!r} is not given")
        if operand is None:
            continue
        kind, given = region[name].type, operand.type
        same = (kind.shape, kind.dtype) == (given.shape, given.dtype)
        sorts = f"{kind.dtype}{list(kind.shape)}, is given {given.dtype}{list(given.shape)}"
        require(same, f"{name!r} is {sorts}")


def _verify_results(region: Graph, kinds: Sequence[TensorType], what: str) -> None:
    _verify_dtypes([region[name].type for name in region.outputs], kinds, f"the results of {region.name!r}", what)


def _verify_dtypes(kinds: Sequence[TensorType], others: Sequence[TensorType], what: str, other: str) -> None:
    one, two = ([kind.dtype for kind in each] for each in (kinds, others))
    require(one == two, f"{what} are {', '.join(one) or 'none'}, but {other} {', '.join(two) or 'none'}")


def _verify_condition(value: Value) -> None:
    kind = value.type
    single = kind.dtype == "bool" and kind.size == 1
    require(single, f"its condition {value.name!r} is {kind.dtype}{list(kind.shape)}, not one bool")


def _shapes(region: Graph) -> tuple[Shape, ...]:
    return tuple(region[name].type.shape for name in region.outputs)
