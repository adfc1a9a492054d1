"""Infinite or huge numbers that the end of the range of codes may represent, because the results stay the same.

PyTorch's max pooling pads with -inf, and its softmax takes the larger of a number and -inf.  Attention has -inf or -1e9
at masked positions: it matters only that softmax turns it into 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.binary import Extremum
from tflite2q.dialect.ops.logic import Select
from tflite2q.dialect.ops.pool import MaxPool2D
from tflite2q.dialect.ops.shape import Pad
from tflite2q.dialect.ops.softmax import Softmax
from tflite2q.dialect.types import Value

Array = npt.NDArray[np.floating]

FAINT = 12.0  # exp(-12) is a fifth of the step that 16-bit results of softmax have


def bounds(graph: Graph) -> dict[str, Callable[[Array], Array]]:
    """By value, what makes of its numbers those that its codes must reach."""
    masked = (op.outputs[0] for op in graph.ops if _masks(op, graph))
    return {**dict.fromkeys(endless(graph), finite), **dict.fromkeys(masked, heard)}


def endless(graph: Graph) -> frozenset[str]:
    """The values that may hold such numbers: constants, and what is padded with them."""
    constants = {
        value.name
        for value in graph.values
        if _infinite(value) and all(_outdone(op, value, graph) for op in graph.consumers.get(value.name, ()))
    }
    padded = {op.outputs[0] for op in graph.ops if isinstance(op, Pad) and _fill(op) in constants}
    return frozenset(constants | padded)


def finite(array: Array) -> Array:
    """`array` with the nearest finite numbers that it has in place of infinite ones; zeros if it has none."""
    known = array[np.isfinite(array)]
    return np.clip(array, known.min(), known.max()) if known.size else np.zeros_like(array)


def heard(array: Array) -> Array:
    """`array` without what is so far below the largest of its row that softmax makes nothing of it."""
    loud = loudest(array)
    return finite(np.maximum(array, loud.min() - FAINT) if loud.size else array)


def loudest(array: Array) -> Array:
    """The largest number of each row that softmax reads, but of rows of equal numbers, which stay such wherever they
    end."""
    largest, least = array.max(-1, initial=-np.inf), array.min(-1, initial=np.inf)
    return np.asarray(largest[largest > least])


def _masks(op: Op, graph: Graph) -> bool:
    """Whether an op puts a constant in places of what only softmax reads."""
    return (
        isinstance(op, Select)
        and any(graph[str(name)].constant is not None for name in op.inputs[1:])
        and _read_by(Softmax, op, graph)
    )


def _read_by(kind: type[Op], op: Op, graph: Graph) -> bool:
    """Whether ops of one kind alone read the result."""
    readers = graph.consumers.get(op.outputs[0], ())
    return op.outputs[0] not in graph.outputs and all(isinstance(reader, kind) for reader in readers)


def _infinite(value: Value) -> bool:
    if value.constant is None or value.type.dtype != "float32":
        return False
    return bool(np.isinf(value.data).any() and not np.isnan(value.data).any())


def _outdone(op: Op, value: Value, graph: Graph) -> bool:
    """Whether no result of `op`, or of what reads it, is one of the infinite numbers of its constant operand."""
    wrong = np.inf if not (isinstance(op, Extremum) and op.smallest) else -np.inf
    if (value.data == wrong).any():
        return False
    if isinstance(op, Extremum):
        return True
    return _masks(op, graph) or (isinstance(op, Pad) and _fill(op) == value.name and _read_by(MaxPool2D, op, graph))


def _fill(op: Pad) -> str | None:
    """The number that an op pads with, if it has one."""
    return op.inputs[2] if len(op.inputs) > 2 else None
