"""Why a kernel leaves a contract to the next one."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Because(enum.Enum):
    """Kinds of reasons."""

    PROCESSOR = "the target is of another family of processors"
    INSTRUCTIONS = "the target lacks instructions, or the system does not grant them"
    TYPES = "other types of inputs or results"
    GEOMETRY = "shapes, strides or kernels that the kernel does not take"
    NUMBERS = "weights, zero points or multipliers for which the kernel would not be exact"
    SPEED = "another kernel is faster"


@dataclass(frozen=True)
class Refusal:
    """`reason` is a sentence for people; nothing may depend on its words."""

    kind: Because
    reason: str


def other_types(x: str, y: str) -> Refusal:
    return Refusal(Because.TYPES, f"{x} to {y}")
