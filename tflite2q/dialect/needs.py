"""What a graph needs before it is run, compiled or converted, so that too much is refused and not tried."""

from __future__ import annotations

import math

import numpy as np

from tflite2q import limits
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import STORAGE, Value
from tflite2q.errors import UnsupportedError

# Times the bytes of the constants, measured on large models: LLVM's module and its object hold them several times.
COMPILING = 6
CONVERTING = 3


def bytes_of(value: Value) -> int:
    """The bytes of a value as NumPy holds it."""
    return math.prod(value.type.held) * np.dtype(STORAGE.get(value.type.dtype, "uint8")).itemsize


def of_constants(graph: Graph) -> int:
    """The bytes of a graph's constants, with those of the graphs that its ops run."""
    own = sum(bytes_of(value) for value in graph.values if value.constant is not None)
    return own + sum(of_constants(region) for op in graph.ops for region in op.regions)


def of_run(graph: Graph) -> int:
    """The bytes that a run with NumPy takes at most: every value, and the largest workspace of an op."""
    held = sum(bytes_of(value) for value in graph.values)
    largest = 0
    for op in graph.ops:
        inner = sum(of_run(region) for region in op.regions)
        largest = max(largest, inner, op.workspace(graph.ins(op), graph.outs(op)))
    return held + largest


def require_run(graph: Graph) -> None:
    """Raise UnsupportedError if a run with NumPy needs more memory than is allowed."""
    limits.require_memory(of_run(graph), "running the model with NumPy", UnsupportedError)


def require_compile(graph: Graph) -> None:
    """Raise UnsupportedError if compiling and running needs more memory than is allowed."""
    activations = sum(bytes_of(value) for value in graph.values if value.constant is None)
    limits.require_memory(COMPILING * of_constants(graph) + activations, "compiling the model", UnsupportedError)


def require_convert(graph: Graph) -> None:
    """Raise UnsupportedError if rewriting and writing needs more memory than is allowed."""
    limits.require_memory(CONVERTING * of_constants(graph), "converting the model", UnsupportedError)
