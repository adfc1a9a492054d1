"""TIR functions and the sequence of their calls to one relax executable.

`relax.build` would do the same, but sends kernels through TVM's whole schedule lowering, which they do not need and
which takes four times as long as the rest.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.relax.vm_build import VMExecutable, _ffi_api, _vmcodegen

KERNEL = "tflite2q.kernel"  # attribute of the functions that `kernels` built
OPAQUE = 8  # TVM's op pattern of functions that fusion leaves alone


def link(module: Any, target: Any, exec_mode: str) -> Any:
    """A relax executable of a module whose Relax functions are planned, for a tvm.target.Target."""
    constants = dict(module.attrs.get("const_name_to_constant", {})) if module.attrs else {}
    builder = relax.ExecBuilder()
    rest = _vmcodegen(builder, module, exec_mode)
    functions = {name: f for name, f in rest.functions.items() if isinstance(f, tirx.PrimFunc)}
    code = machine_code(functions, target, _given_foreign(module)) if functions else None
    return VMExecutable(_ffi_api.VMLink(builder, target, code, [], constants))


def _given_foreign(module: Any) -> frozenset[str]:
    """The names of functions that the graph calls with its own parameters: tensors that a caller has made."""
    found: set[str] = set()

    def visit(expression: Any) -> None:
        called = isinstance(expression, relax.Call) and isinstance(expression.op, tvm.ir.GlobalVar)
        if called and any(parameter.same_as(given) for parameter in parameters for given in expression.args):
            found.add(expression.op.name_hint)

    for function in module.functions.values():
        if isinstance(function, relax.Function):
            parameters = list(function.params)
            relax.analysis.post_order_visit(function, visit)
    return frozenset(found)


def machine_code(functions: dict[Any, Any], target: Any, checked: Collection[str]) -> Any:
    """A runtime module of TIR functions: LLVM's optimized IR, from which machine code is made when needed.

    Only those named in `checked` check their arguments.
    """
    full, finish, _ = tirx.get_default_tir_pipeline(target)
    host = target.with_host(target)
    kernels = {name: f for name, f in functions.items() if KERNEL in f.attrs}
    others = {name: f for name, f in functions.items() if KERNEL not in f.attrs}
    lowered = tvm.IRModule()
    for part, passes in ((kernels, _kernel_passes()), (others, full)):
        if part:
            lowered.update(passes(tirx.transform.BindTarget(host)(tvm.IRModule(part))))
    for variable, function in lowered.functions.items():
        if variable.name_hint not in checked:
            lowered.update_func(variable, function.with_body(_unchecked(function.body)))
    return tvm.get_global_func("target.build.llvm")(finish()(lowered), target)


def _kernel_passes() -> Any:
    """What functions without blocks need: they are loops over explicit vectors already."""
    return tvm.transform.Sequential(
        [
            tirx.transform.FlattenBuffer(),
            tirx.transform.NarrowDataType(32),
            tirx.transform.VectorizeLoop(True),
            tirx.transform.StorageRewrite(),
            tirx.transform.UnrollLoop(),
            tirx.transform.StmtSimplify(),
            tirx.transform.RemoveNoOp(),
            tirx.transform.AnnotateEntryFunc(),
            tirx.transform.SplitHostDevice(),
            tirx.transform.MakePackedAPI(),
        ]
    )


def _unchecked(statement: Any) -> Any:
    """The body of a function of TVM's calling convention without the checks of its arguments.

    The graph calls functions with tensors that it made itself, to fit.  The checks of each of ten arguments are more
    code than most kernels, and take LLVM longer.  What the function computes, and checks itself, is left as it is.
    """
    if isinstance(statement, tirx.SeqStmt):
        kept = [each for each in statement.seq if not isinstance(each, (tirx.AssertStmt, tirx.IfThenElse))]
        parts = [_unchecked(each) for each in kept]
        return parts[0] if len(parts) == 1 else tirx.SeqStmt(parts)
    if isinstance(statement, tirx.AttrStmt) and statement.attr_key != "compute_scope":
        return tirx.AttrStmt(statement.node, statement.attr_key, statement.value, _unchecked(statement.body))
    return statement
