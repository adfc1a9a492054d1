"""What a target offers to compiled models."""

from __future__ import annotations

from dataclasses import dataclass

from tflite2q.kernels.typical import typical_kernels
from tflite2q.lower import targets
from tflite2q.lower.target import features, resolve, tvm_target


@dataclass(frozen=True)
class Capability:
    """A target's name and sentence, the features it assumes under LLVM's names (the notable ones, weakest first), and
    the kernel that each kind of layer gets."""

    name: str
    sentence: str
    features: tuple[str, ...]
    kernels: tuple[tuple[str, str], ...]


def capability(name: str) -> Capability:
    """What the target called `name` offers.  Raises TargetError."""
    target = resolve(name)
    made = tvm_target(target)
    return Capability(name, target.sentence, targets.notable_features(features(made)), typical_kernels(made))


def capabilities() -> list[Capability]:
    """What every named target offers."""
    return [capability(target.name) for target in targets.TARGETS]
