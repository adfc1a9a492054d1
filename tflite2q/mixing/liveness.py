"""The memory that a graph's activations need at the same time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.shape import Reshape
from tflite2q.dialect.types import STORAGE


@dataclass(frozen=True)
class Peak:
    """The most bytes that are held at once, during which op, and the values that make them up."""

    bytes: int
    op: str
    values: tuple[str, ...]


def peak(graph: Graph) -> Peak:
    """The step of a run that holds most: what its op reads and writes, and what later ops still need.

    Inputs, outputs and variables count; constants do not.  A reshaped value lies where its source does.  No memory
    planner that keeps the order of the ops, and lets none of them write where it reads, needs less.
    """
    place = _places(graph)
    variables = {v.name for v in graph.values if v.variable}
    first = {place[name]: 0 for name in (*graph.inputs, *variables)}
    last = dict(first)
    for index, op in enumerate(graph.ops):
        for name in op.outputs:
            first.setdefault(place[name], index)
            last[place[name]] = index
        for read in op.inputs:
            if read is not None and place[read] in first:
                last[place[read]] = index
    for name in (*graph.outputs, *variables):
        if place[name] in first:
            last[place[name]] = len(graph.ops)
    best = Peak(0, "", ())
    for index, op in enumerate(graph.ops):
        live = tuple(name for name in first if first[name] <= index <= last[name])
        total = sum(held(graph, name) for name in live)
        if total > best.bytes:
            best = Peak(total, op.name, live)
    return best


def _places(graph: Graph) -> dict[str, str]:
    """The value whose memory each value lies in: its own, or for a reshaped one that of its source."""
    found = {value.name: value.name for value in graph.values}
    for op in graph.ops:
        source = op.inputs[0] if isinstance(op, Reshape) else None
        if source is not None and graph[source].constant is None:
            found[op.name] = found[source]
    return found


def held(graph: Graph, name: str) -> int:
    """Bytes that a value takes."""
    kind = graph[name].type
    return int(np.prod(kind.held, dtype=np.int64)) * np.dtype(STORAGE[kind.dtype]).itemsize
