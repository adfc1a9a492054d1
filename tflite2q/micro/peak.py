"""The memory that a run of a graph needs, as the planner of arenas has it, before any kernel is chosen for a target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import STORAGE
from tflite2q.micro import memory, steps


@dataclass(frozen=True)
class Peak:
    """Bytes of RAM that a run needs, the op at which tensors need most of the arena, and those tensors."""

    bytes: int
    op: str
    values: tuple[str, ...]


def peak(graph: Graph) -> Peak:
    """The arena that the kernels for any processor get, with inputs, outputs and state.

    Ops for which there is no such kernel count with what they read and write.
    """
    program = steps.outline(graph)
    plan = memory.plan(program)
    around = sum(port.bytes for port in (*program.inputs, *program.outputs)) + program.state_bytes
    if not program.steps:
        return Peak(around, "", ())
    step = program.steps[plan.peak]
    alive = [item.name for item in plan.items if item.first <= plan.peak <= item.last and not item.scratch]
    values = dict.fromkeys((*step.reads, *step.writes, *alive))
    return Peak(plan.bytes + around, step.layer, tuple(values))


def held(graph: Graph, name: str) -> int:
    """Bytes that a value takes."""
    kind = graph[name].type
    return int(np.prod(kind.held, dtype=np.int64)) * np.dtype(STORAGE[kind.dtype]).itemsize
