"""TIR functions and the sequence of their calls to one relax executable.

`relax.build` would do the same, but sends kernels through TVM's whole schedule lowering, which they do not need and
which takes four times as long as the rest, and everything through LLVM in one thread.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.relax.vm_build import VMExecutable, _ffi_api, _vmcodegen

from tflite2q import files
from tflite2q.kernels.tir import ERRORS
from tflite2q.lower.machine import processors

KERNEL = "tflite2q.kernel"  # attribute of the functions that `kernels` built
OPAQUE = 8  # TVM's op pattern of functions that fusion leaves alone

# Kernels in one object file, and object files of one model: few kernels, so that no file takes much longer than others.
KERNELS = 4
OBJECTS = 8

# TVM's calling convention of compiled functions, and what their symbols begin with.
CONVENTION = (("self_handle", "handle"), ("args", "handle"), ("num_args", "int32"), ("result", "handle"))
PACKED = 1
PREFIX = "__tvm_ffi_"
APART = "__apart"  # ends the symbols of kernels in object files of their own


def link(module: Any, target: Any, exec_mode: str, objects: bool) -> Any:
    """A relax executable of a module whose Relax functions are planned, for a tvm.target.Target.

    With `objects` kernels are in object files, made by as many threads as there are processors: it can be exported, and
    not be run as it is.  How kernels are spread over files does not depend on the machine.
    """
    constants = dict(module.attrs.get("const_name_to_constant", {})) if module.attrs else {}
    builder = relax.ExecBuilder()
    rest = _vmcodegen(builder, module, exec_mode)
    functions = {variable.name_hint: f for variable, f in rest.functions.items() if isinstance(f, tirx.PrimFunc)}
    compiler = Compiler(target, _given_foreign(module))
    apart = {}
    for name in sorted(functions) if objects else ():
        if compiler.may_be_apart(name, functions[name]):
            apart[name] = functions.pop(name)
    code = compiler.module(functions, apart) if functions or apart else None
    return VMExecutable(_ffi_api.VMLink(builder, target, code, compiler.objects(apart), constants))


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


@dataclass(frozen=True)
class Compiler:
    """TIR functions to code for a tvm.target.Target; those named in `checked` check their arguments."""

    target: Any
    checked: Collection[str] = ()

    def module(self, functions: Mapping[str, Any], apart: Mapping[str, Any] | None = None) -> Any:
        """A runtime module: LLVM's optimized IR, from which machine code is made when needed.

        Calls of kernels that are `apart` go through functions that pass them on.
        """
        lowered = self._lowered(functions)
        for name, function in (apart or {}).items():
            lowered[name] = self._passing_on(name, function)
        return self._optimized(lowered)

    def may_be_apart(self, name: str, function: Any) -> bool:
        """Whether a function can be in another object file: a kernel that has one error at most."""
        return KERNEL in function.attrs and name not in self.checked and len(function.attrs.get(ERRORS, ())) <= 1

    def objects(self, kernels: Mapping[str, Any]) -> list[Any]:
        """Modules of machine code, which exporting writes as they are."""
        names = list(kernels)
        count = min(OBJECTS, -(-len(names) // KERNELS))
        with files.temporary_folder() as folder, ThreadPoolExecutor(processors()) as pool:

            def compiled(index: int) -> Any:
                mine = names[index::count]
                lowered = self._lowered({name: kernels[name] for name in mine})
                for variable, function in lowered.functions.items():
                    lowered.update_func(variable, function.with_attr("global_symbol", f"{variable.name_hint}{APART}"))
                path = str(folder / f"{index}.o")
                self._optimized(lowered).write_to_file(path, "o")
                return tvm.runtime.load_static_library(path, mine)

            return list(pool.map(compiled, range(count)))

    def _lowered(self, functions: Mapping[str, Any]) -> Any:
        """Functions of TVM's calling convention."""
        full, finish, _ = tirx.get_default_tir_pipeline(self.target)
        kernels = {name: f for name, f in functions.items() if KERNEL in f.attrs}
        others = {name: f for name, f in functions.items() if KERNEL not in f.attrs}
        lowered = tvm.IRModule()
        for part, passes in ((kernels, _kernel_passes()), (others, full)):
            if part:
                lowered.update(passes(tirx.transform.BindTarget(self._host)(tvm.IRModule(part))))
        for variable, function in lowered.functions.items():
            if variable.name_hint not in self.checked:
                lowered.update_func(variable, function.with_body(_unchecked(function.body)))
        return finish()(lowered)

    def _optimized(self, lowered: Any) -> Any:
        return tvm.get_global_func("target.build.llvm")(lowered, self.target)

    def _passing_on(self, name: str, kernel: Any) -> Any:
        """A function with the symbol by which others call `kernel`, which calls the one in an object file.

        A call by symbol into another file has no place for TVM's errors, so it raises that of the kernel itself.
        """
        arguments = [tirx.Var(each, kind) for each, kind in CONVENTION]
        done = tirx.call_extern("int32", f"{name}{APART}", *arguments) == 0
        (message,) = kernel.attrs.get(ERRORS, (f"{name} failed",))
        raised = tirx.AssertStmt(done, tvm.ir.StringImm("RuntimeError"), [tvm.ir.StringImm(message)])
        body = tirx.SeqStmt([raised, tirx.Return(tirx.IntImm("int32", 0))])
        attributes = {"global_symbol": f"{PREFIX}{name}", "calling_conv": PACKED, "target": self._host}
        return tirx.PrimFunc(arguments, body, tvm.ir.PrimType("int32")).with_attr(attributes)

    @property
    def _host(self) -> Any:
        return self.target.with_host(self.target)


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
