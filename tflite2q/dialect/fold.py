"""Integers that follow from constants and static shapes: sizes, axes and indices that a model computes for itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op, Operands, Tensor
from tflite2q.dialect.ops.plain import ShapeOf
from tflite2q.dialect.types import Constant, Value
from tflite2q.errors import DataError

INTEGERS = ("int32", "int64")


def folded(graph: Graph) -> Graph:
    """rewrite: ops whose integer results follow from constants and static shapes are replaced by these results.

    before: s = shape_of(x); n = strided_slice(s, 1, 3, 1); y = resize_nearest(x, n)
    after:  n = constant [h, w];                            y = resize_nearest(x, n)
    """
    values = dict(graph.by_name)
    kept = []
    for op in graph.ops:
        results = None if set(op.outputs) & set(graph.outputs) else _results(op, values)
        if results is None:
            kept.append(op)
            continue
        for name, result in zip(op.outputs, results, strict=True):
            kind = values[name].type.with_(shape=result.shape)
            values[name] = values[name].with_(type=kind, constant=Constant(result), shape_signature=None)
    return graph.with_(ops=tuple(kept), values=tuple(values[value.name] for value in graph.values))


def _results(op: Op, values: dict[str, Value]) -> list[npt.NDArray[Any]] | None:
    """The op's results if they are integers and known, else None."""
    outs = [values[name] for name in op.outputs]
    ins = [None if name is None else values[name] for name in op.inputs]
    known = isinstance(op, ShapeOf) or all(value is None or value.constant is not None for value in ins)
    if not known or any(y.type.dtype not in INTEGERS or y.type.quantized for y in outs):
        return None
    op.check_operands()
    op.verify(ins, outs)
    shapes = op.infer(ins, outs)
    outs = [y.with_(type=y.type.with_(shape=tuple(shape))) for y, shape in zip(outs, shapes, strict=True)]
    nothing: npt.NDArray[Any] = np.empty(0)  # ShapeOf looks at types only
    tensors = [None if v is None else Tensor(v, nothing if v.constant is None else v.data) for v in ins]
    try:
        results = op.meaning(NumpyCore(), Operands(tensors), outs)
    except DataError:  # as every run of the model will
        return None
    return [np.asarray(result) for result in results]
