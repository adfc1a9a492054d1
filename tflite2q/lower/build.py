"""A Relax module to machine code: the passes, in order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax import transform
from tvm.tirx import PrimFunc

from tflite2q.lower.codegen import Objects, link
from tflite2q.lower.whole import is_one_call, whole

EXEC_MODES = ("compiled", "bytecode")


@dataclass(frozen=True)
class Call:
    """One call of a compiled function while the graph runs, and the index of the op it (or its last part) computes."""

    function: str
    op: int


@dataclass(frozen=True)
class Built:
    """A relax executable, the calls its function `main` makes itself, in order, and the names of all compiled
    functions: graphs that ops run call those."""

    executable: Any
    calls: tuple[Call, ...]
    functions: frozenset[str]


def build(
    module: Any, target: Any, exec_mode: str = EXEC_MODES[0], manifest: bytes = b"", objects: Objects | None = None
) -> Built:
    """Machine code of `module` (a tvm.IRModule with a function `main`) for `target` (a tvm.target.Target).

    `exec_mode` "compiled" turns the sequence of kernel calls into machine code too; "bytecode" interprets it.  The
    library's function `manifest` returns `manifest` as a tensor of bytes.  With `objects` the code of kernels is in
    object files: the executable can be exported, and not be run as it is.
    """
    module = _with_manifest(module, manifest)
    with target:
        grouped = _grouping()(module)
        fused = transform.FuseTIR()(grouped)
        planned = _planning()(fused)
        if exec_mode == EXEC_MODES[0]:
            planned = whole(planned)
            if is_one_call(planned):  # the machine interprets it within a microsecond; LLVM takes 0.05 s for it
                exec_mode = EXEC_MODES[1]
        planned = _instructions()(planned)
    executable = link(planned, target, exec_mode, objects)
    functions = (call.args[0].name_hint for _, call in _kernel_calls(fused))
    calls = tuple(Call(*pair) for pair in zip(functions, _op_indices(grouped), strict=True))
    names = frozenset(name.name_hint for name, function in fused.functions.items() if isinstance(function, PrimFunc))
    return Built(executable, calls, names)


def _with_manifest(module: Any, manifest: bytes) -> Any:
    builder = relax.BlockBuilder(module)
    with builder.function("manifest", []):
        with builder.dataflow():
            content = builder.emit_output(relax.const(np.frombuffer(manifest, np.uint8), dtype="uint8"))
        builder.emit_func_output(content)
    return builder.get()


def _grouping() -> Any:
    """Core operations to TIR functions, chains of them gathered into groups that become one function each.

    Reshapes are left alone: they become views at run time instead of copies.
    """
    return tvm.transform.Sequential(
        [
            transform.LegalizeOps(skip_ops=["relax.reshape"]),
            transform.DeadCodeElimination(),
            transform.AnnotateTIROpPattern(),
            transform.FuseOps(),
        ]
    )


def _planning() -> Any:
    """Calls of compiled functions, with every buffer planned before the first run."""
    return tvm.transform.Sequential(
        [
            transform.ToNonDataflow(),
            transform.RemovePurityChecking(),
            transform.CallTIRRewrite(),
            transform.StaticPlanBlockMemory(),
            transform.LowerAllocTensor(),
        ]
    )


def _instructions() -> Any:
    """Calls to those of the virtual machine's own functions."""
    return tvm.transform.Sequential(
        [
            transform.KillAfterLastUse(),
            transform.LowerRuntimeBuiltin(),
            transform.ComputePrimValue(),
            transform.VMShapeLower(),
            transform.AttachGlobalSymbol(),
        ]
    )


def _op_indices(grouped: Any) -> list[int]:
    """For each call in `main`, the index of the op it computes (of a group: the last one); -1 if it belongs to none."""
    indices = []
    for variable, call in _kernel_calls(grouped):
        bindings = grouped[call.op].body.blocks[-1].bindings if isinstance(call.op, tvm.ir.GlobalVar) else ()
        names = (variable.name, *(binding.var.name for binding in bindings))
        found = [index for name in names if (index := op_index(name)) >= 0]
        indices.append(found[-1] if found else -1)
    return indices


def op_index(name: str) -> int:
    """The index of the op that a variable or function of a module was made for, -1 if for none."""
    match = re.match(r"op(\d+)_", name)
    return int(match.group(1)) if match else -1


def _kernel_calls(module: Any) -> list[tuple[Any, Any]]:
    """(variable, call) for each binding in `main` that runs a TIR function or a group of them."""
    bindings = [binding for block in module["main"].body.blocks for binding in block.bindings]
    calls = [(b.var, b.value) for b in bindings if isinstance(b.value, relax.Call)]
    call_tir = tvm.ir.Op.get("relax.call_tir")
    return [(var, call) for var, call in calls if call.op == call_tir or _is_group(module, call.op)]


def _is_group(module: Any, function: Any) -> bool:
    """Whether a call is of fused core operations, and not of a branch or a loop."""
    return isinstance(function, tvm.ir.GlobalVar) and "Primitive" in (module[function].attrs or {})
