"""Infinite numbers that codes may stand for by the end of their range, because nothing is beyond them there either.

PyTorch's max pooling pads with -inf, and its softmax takes the larger of a number and -inf.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.binary import Extremum
from tflite2q.dialect.ops.pool import MaxPool2D
from tflite2q.dialect.ops.shape import Pad
from tflite2q.dialect.types import Value


def endless(graph: Graph) -> frozenset[str]:
    """The values that may hold such numbers: constants, and what is padded with them."""
    constants = {
        value.name
        for value in graph.values
        if _infinite(value) and all(_outdone(op, value, graph) for op in graph.consumers.get(value.name, ()))
    }
    padded = {op.outputs[0] for op in graph.ops if isinstance(op, Pad) and _fill(op) in constants}
    return frozenset(constants | padded)


def finite(array: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """`array` with the nearest finite numbers that it has in place of infinite ones; zeros if it has none."""
    known = array[np.isfinite(array)]
    return np.clip(array, known.min(), known.max()) if known.size else np.zeros_like(array)


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
    readers = graph.consumers.get(op.outputs[0], ())
    return (
        isinstance(op, Pad)
        and _fill(op) == value.name
        and op.outputs[0] not in graph.outputs
        and all(isinstance(reader, MaxPool2D) for reader in readers)
    )


def _fill(op: Pad) -> str | None:
    """What an op pads with, if it is told."""
    return op.inputs[2] if len(op.inputs) > 2 else None
