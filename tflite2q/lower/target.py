"""Named targets as TVM target objects."""

from __future__ import annotations

from typing import Any

import tvm
from tvm.target import codegen

from tflite2q.errors import TargetError
from tflite2q.lower import machine, targets
from tflite2q.lower.noise import without_lines


def resolve(name: str) -> targets.Target:
    """The target called `name`, or given in TVM's terms; `native` completed for this machine.  Raises TargetError.

    TVM's terms are JSON, "llvm -mcpu=NAME ..." and TVM's own names of targets, such as "raspberry-pi/4b-aarch64".
    """
    if not isinstance(name, str):
        raise TargetError(f"a target is the name of one, or TVM's JSON as text, not {type(name).__name__}")
    found = _tagged(name) if "/" in name and not name.lstrip().startswith("{") else targets.find(name)
    if found.name != targets.NATIVE.name:
        return found
    mcpu = str(codegen.llvm_get_system_cpu())
    withheld = frozenset() if machine.grants_matrix_unit() else targets.MATRIX_FEATURES
    return targets.native_target(mcpu, features(tvm.target.Target({"kind": "llvm", "mcpu": mcpu})), withheld)


def _tagged(name: str) -> targets.Target:
    """The target that TVM calls `name`."""
    if name not in map(str, tvm.target.list_tags()):
        return targets.find(name)
    made = tvm.target.Target(name)
    given = {
        key: made.attrs[key] for key in ("mtriple", "mcpu", "mattr", "num-cores", "mfloat-abi") if key in made.attrs
    }
    plain = {key: [str(s) for s in value] if key == "mattr" else value for key, value in given.items()}
    return targets.from_spec(name, {"kind": made.kind.name, **plain})


def tvm_target(target: targets.Target) -> Any:
    """A tvm.target.Target, its triple always given.  Raises TargetError for what LLVM does not know.

    Architecture and processor are checked first, because code generation for an unknown one ends the process.
    """
    triple = target.mtriple or str(codegen.llvm_get_system_triple())
    architecture = targets.architecture(triple)
    if architecture not in {str(name) for name in codegen.llvm_get_targets()}:
        raise TargetError(f"target {target.name}: LLVM knows no architecture {architecture!r} (of triple {triple!r})")
    if target.mcpu and not codegen.llvm_is_valid_cpu(target.mcpu, triple):
        raise TargetError(f"target {target.name}: LLVM knows no processor {target.mcpu!r} for {triple}")
    _check_features(target, triple)
    try:
        return tvm.target.Target({**target.spec, "mtriple": triple})
    except (ValueError, TypeError, RuntimeError) as error:
        why = str(error).strip().splitlines()[-1]
        raise TargetError(f"target {target.name}: {why}") from error


def _check_features(target: targets.Target, triple: str) -> None:
    """Raise TargetError for a feature that LLVM does not know: it would say so for every function, and go on."""
    named = [str(name) for name in target.spec.get("mattr", ())]
    asked = {name.lstrip("+-") for name in named}
    if not asked:
        return
    with without_lines(b"is not a recognized feature"):
        known = features(tvm.target.Target({"kind": "llvm", "mtriple": triple, "mattr": [f"+{f}" for f in asked]}))
    if unknown := sorted(asked - known):
        raise TargetError(f"target {target.name}: LLVM knows no feature {', '.join(unknown)} of {triple}")


def features(target: Any) -> frozenset[str]:
    """LLVM's names of the features a tvm.target.Target may use."""
    return frozenset(str(name) for name in codegen.llvm_get_cpu_features(target))
