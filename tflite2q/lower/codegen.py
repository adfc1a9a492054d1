"""TIR functions and the sequence of their calls to one relax executable.

`relax.build` would do the same, but sends kernels through TVM's whole schedule lowering, which they do not need and
which takes four times as long as the rest.
"""

from __future__ import annotations

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
    code = _machine_code(functions, target) if functions else None
    return VMExecutable(_ffi_api.VMLink(builder, target, code, [], constants))


def _machine_code(functions: dict[Any, Any], target: Any) -> Any:
    """A runtime module of TIR functions: LLVM's optimized IR, from which machine code is made when needed."""
    full, finish, _ = tirx.get_default_tir_pipeline(target)
    host = target.with_host(target)
    kernels = {name: f for name, f in functions.items() if KERNEL in f.attrs}
    others = {name: f for name, f in functions.items() if KERNEL not in f.attrs}
    lowered = tvm.IRModule()
    for part, passes in ((kernels, _kernel_passes()), (others, full)):
        if part:
            lowered.update(passes(tirx.transform.BindTarget(host)(tvm.IRModule(part))))
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
