"""TIR functions and the sequence of their calls to one relax executable.

`relax.build` would do the same, but sends kernels through TVM's whole schedule lowering, which they do not need and
which takes four times as long as the rest, and everything through LLVM in one thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.relax.vm_build import VMExecutable, _ffi_api, _vmcodegen

from tflite2q import files
from tflite2q.kernels.loops import AT_ONCE, DEMANDS_FIRST
from tflite2q.lower.entry import ALIGNMENT
from tflite2q.lower.machine import processors

# Attributes of functions of TIR.
KERNEL = "tflite2q.kernel"  # loops over explicit vectors, as `kernels` builds them
# What takes bare pointers, to memory that fits, and returns 0, or another number and leaves an error; a symbol of C.
BARE = "tflite2q.bare"

OPAQUE = 8  # TVM's op pattern of functions that fusion leaves alone

KERNELS = 4  # in one object file: few, so that threads begin early and end together


def symbol(name: str) -> str:
    """The symbol of a bare function called `name`."""
    return f"tflite2q_{name}"


def bare(name: str) -> str:
    """The name of the bare function that is made of one of tensors called `name`."""
    return f"{name}_bare"


def link(module: Any, target: Any, exec_mode: str, objects: Objects | None) -> Any:
    """A relax executable of a module whose Relax functions are planned, for a tvm.target.Target.

    With `objects` bare kernels are in object files: it can be exported, and not be run as it is.
    """
    constants = dict(module.attrs.get("const_name_to_constant", {})) if module.attrs else {}
    builder = relax.ExecBuilder()
    rest = _vmcodegen(builder, module, exec_mode)
    functions = {variable.name_hint: f for variable, f in rest.functions.items() if isinstance(f, tirx.PrimFunc)}
    compiler = Compiler(target, _given_foreign(module))
    apart = {n: f for n, f in sorted(functions.items()) if objects and KERNEL in f.attrs and BARE in f.attrs}
    functions = {name: function for name, function in functions.items() if name not in apart}
    code = compiler.module(functions) if functions else None
    libraries = objects.of(apart) if objects else []
    return VMExecutable(_ffi_api.VMLink(builder, target, code, libraries, constants))


def _given_foreign(module: Any) -> dict[str, set[int]]:
    """Functions that the graph calls with its own parameters, which are tensors that a caller has made, and the places
    of those among the arguments."""
    found: dict[str, set[int]] = {}

    def visit(expression: Any) -> None:
        if not isinstance(expression, relax.Call) or not isinstance(expression.op, tvm.ir.GlobalVar):
            return
        for place, given in enumerate(expression.args):
            if any(parameter.same_as(given) for parameter in parameters):
                found.setdefault(expression.op.name_hint, set()).add(place)

    for function in module.functions.values():
        if isinstance(function, relax.Function):
            parameters = list(function.params)
            relax.analysis.post_order_visit(function, visit)
    return found


@dataclass(frozen=True)
class Compiler:
    """TIR functions to code for a tvm.target.Target.  Those named in `checked` check the arguments at these places."""

    target: Any
    checked: Mapping[str, Collection[int]] = field(default_factory=dict)

    def module(self, functions: Mapping[str, Any]) -> Any:
        """A runtime module: LLVM's optimized IR, from which machine code is made when needed."""
        return tvm.get_global_func("target.build.llvm")(self._lowered(functions), self.target)

    def _lowered(self, functions: Mapping[str, Any]) -> Any:
        """Functions of TVM's calling convention, and bare ones."""
        full, finish, _ = tirx.get_default_tir_pipeline(self.target)
        functions = {name: _bare(f) if BARE in f.attrs else f for name, f in functions.items()}
        explicit = {name: f for name, f in functions.items() if KERNEL in f.attrs}
        others = {name: f for name, f in functions.items() if name not in explicit}
        lowered = tvm.IRModule()
        at_once = {name: f for name, f in explicit.items() if AT_ONCE in f.attrs}
        explicit = {name: f for name, f in explicit.items() if name not in at_once}
        for part, passes in (
            (explicit, _kernel_passes()),
            (at_once, _kernel_passes(moved_scratch=False)),
            (others, full),
        ):
            if part:
                lowered.update(passes(tirx.transform.BindTarget(self._host)(tvm.IRModule(part))))
        for variable, function in lowered.functions.items():
            if BARE in function.attrs:
                name = symbol(variable.name_hint)
                made = function.with_body(_ended(name, function.params, function.body))
                lowered.update_func(variable, made.with_attr("global_symbol", name))
            else:
                name = variable.name_hint
                given = [functions[name].params[place].name for place in self.checked.get(name, ())]
                lowered.update_func(variable, function.with_body(_checking(function.body, _described(name, given))))
        return finish()(lowered)

    @property
    def _host(self) -> Any:
        return self.target.with_host(self.target)


@dataclass(frozen=True, eq=False)
class _File:
    """Bare kernels by name, and their machine code."""

    functions: Mapping[str, Any]
    module: Future[Any]

    def is_part_of(self, functions: Mapping[str, Any]) -> bool:
        """Whether all of its kernels are among `functions`, and still do the same."""
        return all(n in functions and functions[n].body.same_as(f.body) for n, f in self.functions.items())


class Objects:
    """Object files of bare kernels, made by as many threads as there are processors, which start while a graph is
    still being lowered.  What is in a file depends on the order of the kernels alone, and not on the machine.

    A context: with its end, files that are not made yet are not made any more.
    """

    def __init__(self, target: Any) -> None:
        self._compiler = Compiler(target)
        self._pool = ThreadPoolExecutor(processors())
        self._next: dict[str, Any] = {}
        self._files: list[_File] = []

    def __enter__(self) -> Objects:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, name: str, function: Any) -> None:
        """Begin with a kernel of tensors, which will most likely be asked for as a bare one; once for each name."""
        if bare(name) not in self._begun():
            self._add(bare(name), function.with_attr(BARE, True))

    def of(self, functions: Mapping[str, Any]) -> list[Any]:
        """Modules of machine code of bare kernels, which exporting writes as they are."""
        self._start()
        self._files = [file for file in self._files if file.is_part_of(functions)]
        for name in sorted(functions.keys() - self._begun()):
            self._add(name, functions[name])
        self._start()
        return [file.module.result() for file in self._files]

    def _begun(self) -> set[str]:
        return {*self._next, *(name for file in self._files for name in file.functions)}

    def _add(self, name: str, function: Any) -> None:
        self._next[name] = function
        if len(self._next) == KERNELS:
            self._start()

    def _start(self) -> None:
        """Begin with the file of the kernels that wait for one."""
        if self._next:
            self._files.append(_File(self._next, self._pool.submit(self._made, self._next)))
            self._next = {}

    def _made(self, functions: Mapping[str, Any]) -> Any:
        with files.temporary_folder() as folder:
            path = str(folder / "kernels.o")
            self._compiler.module(functions).write_to_file(path, "o")
            return tvm.runtime.load_static_library(path, [symbol(name) for name in functions])


def _kernel_passes(moved_scratch: bool = True) -> Any:
    """What functions without blocks need: they are loops over explicit vectors already.

    `moved_scratch`: scratch may be declared elsewhere than where it is.
    """
    return tvm.transform.Sequential(
        [
            tirx.transform.FlattenBuffer(),
            tirx.transform.NarrowDataType(32),
            tirx.transform.VectorizeLoop(True),
            *([tirx.transform.StorageRewrite()] if moved_scratch else []),
            tirx.transform.UnrollLoop(),
            tirx.transform.StmtSimplify(),
            tirx.transform.RemoveNoOp(),
            tirx.transform.AnnotateEntryFunc(),
            tirx.transform.SplitHostDevice(),
            tirx.transform.MakePackedAPI(),
        ]
    )


def _described(function: str, arguments: Iterable[str]) -> set[str]:
    """The variables into which TVM's calling convention reads what describes these arguments of a function."""
    return {
        name
        for each in arguments
        for name in (f"{each}.type_index", f"{each}.handle", f"{function}.{each}_shape", f"{function}.{each}_strides")
    }


def _checking(statement: Any, variables: Collection[str]) -> Any:
    """The body of a function of TVM's calling convention with the checks that read one of `variables`, and no others.

    The graph calls functions with tensors that it made itself, to fit.  The checks of each of ten arguments are more
    code than most kernels, and take LLVM longer.  What the function computes, and checks itself, is left as it is.
    """
    if isinstance(statement, tirx.SeqStmt):
        kept = [each for each in statement.seq if not _is_check(each) or _reads(each, variables)]
        parts = [_checking(each, variables) for each in kept]
        return parts[0] if len(parts) == 1 else tirx.SeqStmt(parts)
    if isinstance(statement, tirx.AttrStmt) and statement.attr_key != "compute_scope":
        return tirx.AttrStmt(statement.node, statement.attr_key, statement.value, _checking(statement.body, variables))
    return statement


def _is_check(statement: Any) -> bool:
    return isinstance(statement, (tirx.AssertStmt, tirx.IfThenElse))


def _reads(statement: Any, variables: Collection[str]) -> bool:
    return any(each.name in variables for each in tirx.analysis.undefined_vars(statement))


def _bare(function: Any) -> Any:
    """A function of buffers as one of bare pointers, without the demand on the machine that it may begin with: its
    caller makes that.

    It has no symbol yet: those that have one get TVM's calling convention.
    """
    pointers = [tirx.Var(buffer.name, buffer.data.ty) for buffer in function.params]
    buffers = [tirx.DeclBuffer(buffer, data=p) for buffer, p in zip(function.params, pointers, strict=True)]
    statements = function.body.seq[1:] if DEMANDS_FIRST in function.attrs else [function.body]
    body = tirx.SeqStmt([*buffers, *statements])
    attributes = {key: value for key, value in function.attrs.items() if str(key) != "global_symbol"}
    made = tirx.PrimFunc(pointers, body, tvm.ir.PrimType("int32"))
    return made.with_attrs({**attributes, "tirx.is_host_func": True})


def _ended(name: str, pointers: Iterable[Any], body: Any) -> Any:
    """The statements of a bare function called `name`, on this processor's memory, and its result.

    They become a function that LLVM leaves alone: TVM tells it that buffers of different names are never the same
    memory, which only holds within a function.  What they allocate is freed at the end of their scope, before the
    result.
    """
    place = tvm.ir.StringImm("default")
    body = tirx.AttrStmt(place, "compute_scope", tvm.ir.StringImm(f"{name}_compute"), body)
    for pointer in pointers:
        body = _with(pointer, "storage_alignment", ALIGNMENT, body)
    body = _with(place, "device_type", tvm.cpu().dlpack_device_type(), _with(place, "device_id", 0, body))
    return tirx.SeqStmt([body, tirx.Return(tirx.IntImm("int32", 0))])


def _with(node: Any, attribute: str, value: int, body: Any) -> Any:
    return tirx.AttrStmt(node, attribute, tirx.IntImm("int32", value), body)
