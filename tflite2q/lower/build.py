"""A Relax module to machine code: the passes, in order."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax
from tvm.relax import transform

EXEC_MODES = ("compiled", "bytecode")


def passes() -> Any:
    """From core operations and kernel calls to a module the virtual machine's code generator takes.

    Reshapes are kept out of legalization: they become views at run time instead of copies.
    """
    return tvm.transform.Sequential(
        [
            transform.LegalizeOps(skip_ops=["relax.reshape"]),
            transform.AnnotateTIROpPattern(),
            transform.FuseOps(),
            transform.FuseTIR(),
            transform.DeadCodeElimination(),
            transform.ToNonDataflow(),
            transform.RemovePurityChecking(),
            transform.CallTIRRewrite(),
            transform.StaticPlanBlockMemory(),
            transform.LowerAllocTensor(),
            transform.KillAfterLastUse(),
            transform.LowerRuntimeBuiltin(),
            transform.ComputePrimValue(),
            transform.VMShapeLower(),
            transform.AttachGlobalSymbol(),
        ]
    )


def build(module: Any, target: Any, exec_mode: str = EXEC_MODES[0]) -> Any:
    """A relax executable of `module` (a tvm.IRModule) for `target` (a tvm.target.Target).

    `exec_mode` "compiled" turns the sequence of kernel calls into machine code too; "bytecode" interprets it.
    """
    return relax.build(module, target=target, relax_pipeline=passes(), exec_mode=exec_mode)
