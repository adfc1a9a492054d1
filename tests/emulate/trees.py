"""Rewriting TIR: TVM 0.27 has no visitors in Python, so here is one for what kernels are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import tirx
from tvm.target import codegen

Node = Any
LLVM_CALLS = ("tirx.call_llvm_intrin", "tirx.call_llvm_pure_intrin")
_PAIRS = ("a", "b")


def is_call(node: Node) -> bool:
    return isinstance(node, tvm.ir.Call)


def callee(call: Node) -> str:
    """What a call calls: the LLVM intrinsic, the C function, or TIR's own operation."""
    name = str(call.op.name)
    if name in LLVM_CALLS:
        return str(codegen.llvm_get_intrinsic_name(int(call.args[0].value)))
    if name in ("tirx.call_extern", "tirx.call_pure_extern"):
        return str(call.args[0].value)
    return name


def operands(call: Node) -> list[Node]:
    """The operands proper of a call."""
    named = (*LLVM_CALLS, "tirx.call_extern", "tirx.call_pure_extern")
    return list(call.args)[1:] if str(call.op.name) in named else list(call.args)


Change = Callable[[Node, Callable[[Node], Node]], Node]


class Rewriter:
    """Rewrites every call in a function's body by `change(call, bind)`, operands first.

    `bind` gives a variable for an expression, computed before the statement that the call is in.
    """

    def __init__(self, change: Change) -> None:
        self._change = change
        self._bound: list[Node] = []

    def function(self, func: Node) -> Node:
        return func.with_body(self.statement(func.body))

    def statement(self, node: Node) -> Node:
        """The statement with its expressions rewritten, behind what they need."""
        if isinstance(node, tirx.SeqStmt):
            return tirx.SeqStmt([self.statement(each) for each in node.seq])
        if isinstance(node, tirx.For):
            extent = self.expression(node.extent)
            return self._behind(
                tirx.For(node.loop_var, node.min, extent, node.kind, self.statement(node.body), node.thread_binding,
                         node.annotations)
            )  # fmt: skip
        if isinstance(node, tirx.IfThenElse):
            condition = self.expression(node.condition)
            other = None if node.else_case is None else self.statement(node.else_case)
            return self._behind(tirx.IfThenElse(condition, self.statement(node.then_case), other))
        if isinstance(node, tirx.AttrStmt):
            return tirx.AttrStmt(node.node, node.attr_key, node.value, self.statement(node.body))
        return self._behind(self._leaf(node))

    def _leaf(self, node: Node) -> Node:
        if isinstance(node, tirx.BufferStore):
            return tirx.BufferStore(node.buffer, self.expression(node.value), self._all(node.indices))
        if isinstance(node, tirx.Bind):
            return tirx.Bind(node.var, self.expression(node.value))
        if isinstance(node, tirx.Evaluate):
            return tirx.Evaluate(self.expression(node.value))
        if isinstance(node, tirx.AssertStmt):
            # The constructor names its first two operands the other way round.
            return tirx.AssertStmt(self.expression(node.condition), node.error_kind, node.message_parts)
        assert isinstance(node, tirx.AllocBuffer | tirx.DeclBuffer), type(node)
        return node

    def _behind(self, node: Node) -> Node:
        bound, self._bound = self._bound, []
        return tirx.SeqStmt([*bound, node]) if bound else node

    def _all(self, nodes: Sequence[Node]) -> list[Node]:
        return [self.expression(each) for each in nodes]

    def expression(self, node: Node) -> Node:
        if is_call(node):
            changed = self._all(node.args)
            same = all(a is b for a, b in zip(node.args, changed, strict=True))
            return self._change(node if same else tvm.ir.Call(node.op, changed, node.attrs, ret_ty=node.ty), self.bind)
        if isinstance(node, tvm.ir.TensorLoad):
            return tirx.BufferLoad(node.source, self._all(node.indices))
        if isinstance(node, tirx.Cast):
            return tirx.Cast(str(node.ty.dtype), self.expression(node.value))
        if isinstance(node, tirx.Select):
            return tirx.Select(*self._all([node.condition, node.true_value, node.false_value]))
        if isinstance(node, tirx.Broadcast):
            return tirx.Broadcast(self.expression(node.value), node.lanes)
        if isinstance(node, tirx.Ramp):
            return tirx.Ramp(self.expression(node.base), node.stride, node.lanes)
        if isinstance(node, tirx.Shuffle):
            return tirx.Shuffle(self._all(node.vectors), list(node.indices))
        if isinstance(node, tirx.Not):
            return tirx.Not(self.expression(node.a))
        if all(hasattr(node, name) for name in _PAIRS):
            return type(node)(*(self.expression(getattr(node, name)) for name in _PAIRS))
        assert isinstance(node, tvm.ir.Var | tirx.IntImm | tirx.FloatImm | tvm.ir.StringImm), type(node)
        return node

    def bind(self, value: Node) -> Node:
        """A variable for a value.

        It goes through memory: chains of them take TVM's simplifier a time that doubles with each.
        """
        if isinstance(value, tirx.Broadcast):
            return value
        lanes, dtype = int(value.ty.dtype.lanes), str(value.ty.dtype).split("x")[0]
        cell = tirx.decl_buffer((lanes,), dtype, name="cell")
        places = [tirx.Ramp(0, 1, lanes) if lanes > 1 else 0]
        variable = tirx.Var("operand", value.ty)
        load = tirx.Bind(variable, tirx.BufferLoad(cell, places))
        self._bound += [tirx.AllocBuffer(cell), tirx.BufferStore(cell, value, places), load]
        return variable
