"""Small numbers that follow from constants and static shapes: sizes, axes and indices that a model computes itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op, Operands, Tensor, Values
from tflite2q.dialect.ops.eltwise import Dequantize
from tflite2q.dialect.ops.plain import ShapeOf
from tflite2q.dialect.types import Constant, Value
from tflite2q.errors import DataError, UnsupportedError

# Elements of a result that are computed while a model is read, by dtype; shapes of tensors need few.
MOST_ELEMENTS = {"int32": 1 << 16, "int64": 1 << 16, "float32": 64}


def known_results(op: Op, ins: Values, outs: Sequence[Value]) -> list[npt.NDArray[Any]] | None:
    """The results of an op that is verified and whose results have their shapes, if they are numbers and known.

    Real numbers count where there are few: a model may scale the size of an image by a factor.
    """
    known = isinstance(op, ShapeOf) or (bool(ins) and all(value is None or value.constant is not None for value in ins))
    small = all(y.type.size <= MOST_ELEMENTS.get(y.type.dtype, -1) for y in outs)
    coded = any(value is not None and value.type.quantized for value in (*ins, *outs))
    if op.updates or op.regions or not known or not small or (coded and not isinstance(op, ShapeOf)):
        return None
    nothing: npt.NDArray[Any] = np.empty(0)  # ShapeOf looks at types only
    tensors = [None if v is None else Tensor(v, nothing if v.constant is None else v.data) for v in ins]
    try:
        with np.errstate(all="ignore"):
            results = op.compute(NumpyCore(), Operands(op, tensors), outs)
    except (IndexError, ArithmeticError, DataError, UnsupportedError):
        return None  # an index out of range, say: every run of the model will tell
    return [np.asarray(result) for result in results]


def folded(graph: Graph) -> Graph:
    """rewrite: ops whose results are all known are dropped; their results are constants, weights that are stored as
    integers or halves among them.

    For running a graph at the sizes that it has now.
    """
    graph = dequantized(graph)
    kept = [op for op in graph.ops if not op.outputs or any(graph[name].constant is None for name in op.outputs)]
    return graph.with_(ops=tuple(kept)) if len(kept) < len(graph.ops) else graph


def dequantized(graph: Graph) -> Graph:
    """rewrite: what a q.dequantize makes of a constant gets its data."""
    known = {}
    for op in graph.ops:
        if isinstance(op, Dequantize) and op.inputs[0] is not None and graph[op.inputs[0]].constant is not None:
            x, y = graph[op.inputs[0]], graph[op.name]
            with np.errstate(all="ignore"):  # infinities are results like others
                (real,) = op.compute(NumpyCore(), Operands(op, [Tensor(x, x.data)]), [y])
            known[op.name] = y.with_(constant=Constant(np.asarray(real)))
    return graph.with_(values=tuple(known.get(v.name, v) for v in graph.values)) if known else graph
