"""Operators that tflite2q does not implement, carried through unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, TypeVar

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Builtin, Op, Operand, Operands, Shape, Values, attribute
from tflite2q.dialect.types import Value
from tflite2q.errors import UnsupportedError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Opaque(Op):
    """Any operator: what the file says about it, to be written again.  Its operands and results keep their types, and
    it may have no results (ASSIGN_VARIABLE) or lead to other subgraphs (WHILE).

    `code` is the builtin operator's name or the custom code, `options` the fields of the table `options_type`, and
    `custom_options` the bytes of a custom operator's options.
    """

    code: str = attribute(None, "")
    custom: bool = attribute(None, False)
    options_type: str | None = attribute(None, None)
    options: tuple[tuple[str, Any], ...] = attribute(None, ())
    custom_options: bytes = attribute(None, b"")

    mnemonic: ClassVar[str] = "q.opaque"
    builtins: ClassVar[tuple[Builtin, ...]] = ()
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "fixed", optional=True),)
    variadic: ClassVar[bool] = True
    carries: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return self.outputs[0] if self.outputs else f"({self.code} without results)"

    @property
    def builtin(self) -> Builtin:
        return Builtin(self.code, self.options_type, custom=self.custom)

    @property
    def variable(self) -> tuple[str, str] | None:
        """Container and shared name of the variable that a VAR_HANDLE is a handle of, None for other operators."""
        if self.code != "VAR_HANDLE" or self.custom:
            return None
        options = dict(self.options)
        container, shared = (bytes(options.get(name, b"")) for name in ("Container", "SharedName"))
        return container.decode("utf-8", "surrogateescape"), shared.decode("utf-8", "surrogateescape")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return tuple(y.type.shape for y in outs)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> NoReturn:
        kind = "custom operator" if self.custom else "operator"
        raise UnsupportedError(f"{self.name!r}: the {kind} {self.code} cannot be run; the model can only be converted")


def shared_variables(graph: Graph) -> frozenset[str]:
    """The variables of a graph that its further subgraphs use, too: their types cannot change."""
    used = {op.variable for other in graph.others for op in other.ops if isinstance(op, Opaque)}
    mine = ((value.name, value.resource) for value in graph.values if value.resource is not None)
    return frozenset(name for name, known in mine if (known.container, known.shared_name) in used)


def check_runnable(graph: Graph) -> None:
    """Raise UnsupportedError where a graph has parts that are only carried through."""
    kinds = dict.fromkeys(op.code for op in graph.ops if isinstance(op, Opaque))
    if kinds:
        raise UnsupportedError(
            f"{', '.join(kinds)} cannot be run, only carried through; the model can only be converted"
        )
    for region in (region for op in graph.ops for region in op.regions):
        check_runnable(region)
    for name in (*graph.inputs, *graph.outputs):
        carried = graph[name].carried
        if carried is not None:
            raise UnsupportedError(f"{name!r} {carried.reason}, so the model cannot be run, only converted")
