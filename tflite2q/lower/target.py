"""Named targets as TVM target objects."""

from __future__ import annotations

from typing import Any

import tvm
from tvm.target import codegen

from tflite2q import targets
from tflite2q.errors import TargetError


def resolve(name: str) -> targets.Target:
    """The target called `name` (or given as TVM's JSON), `native` completed for this machine.  Raises TargetError."""
    found = targets.find(name)
    if found.name != targets.NATIVE.name:
        return found
    mcpu = str(codegen.llvm_get_system_cpu())
    return targets.native_target(mcpu, features(tvm.target.Target({"kind": "llvm", "mcpu": mcpu})))


def tvm_target(target: targets.Target) -> Any:
    """A tvm.target.Target.  Raises TargetError where LLVM does not know the architecture or the processor.

    Both are checked first, because code generation for an unknown one ends the process.
    """
    triple = target.mtriple or str(codegen.llvm_get_system_triple())
    architecture = targets.architecture(triple)
    if architecture not in {str(name) for name in codegen.llvm_get_targets()}:
        raise TargetError(f"target {target.name}: LLVM knows no architecture {architecture!r} (of triple {triple!r})")
    if target.mcpu and not codegen.llvm_is_valid_cpu(target.mcpu, triple):
        raise TargetError(f"target {target.name}: LLVM knows no processor {target.mcpu!r} for {triple}")
    try:
        return tvm.target.Target(target.spec)
    except (ValueError, TypeError, RuntimeError) as error:
        why = str(error).strip().splitlines()[-1]
        raise TargetError(f"target {target.name}: {why}") from error


def features(target: Any) -> frozenset[str]:
    """LLVM's names of the features a tvm.target.Target may use."""
    return frozenset(str(name) for name in codegen.llvm_get_cpu_features(target))
