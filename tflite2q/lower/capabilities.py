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


# What the families of kernels for microcontrollers compute with, and what convolutions, depthwise ones and dense layers
# get of them.
_FAMILIES = {
    "plain": ((), ("q_convolve", "q_depthwise_plain", "q_convolve")),
    "dsp": (("dsp",), ("q_pairs", "q_depthwise_3x3", "q_single")),
    "mve": (("mve",), ("q_fours", "q_depthwise_lanes", "q_fours")),
}


def micro_capability(target: targets.Micro) -> Capability:
    """What a microcontroller offers."""
    features, kernels = _FAMILIES[target.family]
    layers = zip(("conv2d", "depthwise", "dense"), kernels, strict=True)
    return Capability(target.name, target.sentence, features, tuple(layers))


def capabilities() -> list[Capability]:
    """What every named target offers, microcontrollers last."""
    found = [capability(target.name) for target in targets.TARGETS]
    return [*found, *(micro_capability(target) for target in targets.MICROS)]
