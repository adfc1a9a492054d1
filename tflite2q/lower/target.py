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
    """A tvm.target.Target.  Raises TargetError where LLVM does not know the processor."""
    spec = target.spec
    try:
        made = tvm.target.Target(spec)
    except (ValueError, TypeError, RuntimeError) as error:
        why = str(error).strip().splitlines()[-1]
        raise TargetError(f"target {target.name}: {why}") from error
    if target.mcpu:
        triple = target.mtriple or str(codegen.llvm_get_system_triple())
        if not codegen.llvm_is_valid_cpu(target.mcpu, triple):
            raise TargetError(f"target {target.name}: LLVM knows no processor {target.mcpu!r} for {triple}")
    return made


def features(target: Any) -> frozenset[str]:
    """LLVM's names of the features a tvm.target.Target may use."""
    return frozenset(str(name) for name in codegen.llvm_get_cpu_features(target))
