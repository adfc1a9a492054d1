"""When results are the same: integers bit for bit, real numbers to the last digits that sums in another order keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
from draw import Array, Case

from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.dialect import ops
from tflite2q.dialect.ops.detection import DetectionPostprocess
from tflite2q.dialect.ops.formulas import FORMULAS
from tflite2q.execution import reference

DIGIT = 2.0**-22  # what sums in another order, and tanh and logistic in other ways, leave open of a float32 near 1
TRIALS = 12


def assert_agrees(case: Case, got: Sequence[Array], want: Sequence[Array]) -> None:
    """Results `got` are those that `want` has."""
    op = case.graph.ops[0]
    for index, (name, a, b) in enumerate(zip(case.graph.outputs, *shown(case, got, want), strict=True)):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        if a.dtype == np.float32:
            largest = float(np.abs(b).max(initial=0.0, where=np.isfinite(b)))
            near = np.isclose(a, b, rtol=1e-5, atol=max(1e-5 * largest, digit_of_a_sum(case)), equal_nan=True)
            if not near.all() and feeds_codes_back(case):
                near |= np.abs(a - b) <= 2 * moved(case, got)[index]
            np.testing.assert_array_equal(np.where(near, b, a), b, err_msg=str(op))
        else:
            np.testing.assert_array_equal(a, b, err_msg=str(op))


def digit_of_a_sum(case: Case) -> float:
    """The last digit of the numbers that are added up, which may be far above that of a sum in which they cancel."""
    if not isinstance(case.graph.ops[0], ops.Sum):
        return 0.0
    return DIGIT * float(np.abs(case.inputs[0]).max(initial=0.0, where=np.isfinite(case.inputs[0])))


def feeds_codes_back(case: Case) -> bool:
    """Whether the layer rounds its own real results to codes and computes on with them."""
    op = case.graph.ops[0]
    kinds = {case.graph[name].type.dtype for name in op.inputs if name is not None}
    return isinstance(op, ops.Lstm | ops.BidirectionalLstm | ops.SequenceRnn | ops.BidirectionalRnn) and "int8" in kinds


def moved(case: Case, got: Sequence[Array]) -> list[Array]:
    """How far each result moves when inputs and functions change in their last digits.

    A real number on the border of two codes becomes one or the other by such a digit, and the layer computes on with a
    code: what is open is measured for each case, so that everything else is compared as closely as elsewhere.
    """
    furthest = [np.zeros_like(result) for result in got]
    logistic, tanh = FORMULAS["LOGISTIC"], NumpyCore.tanh
    for trial in range(TRIALS):
        nudge = partial(np.random.default_rng(trial).uniform, -DIGIT, DIGIT)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(FORMULAS, "LOGISTIC", lambda *given, nudge=nudge: _added(logistic(*given), nudge))
            patch.setattr(NumpyCore, "tanh", lambda core, x, nudge=nudge: _added(tanh(core, x), nudge))
            results = reference.run(case.graph, *(x * (1 + nudge(size=x.shape)).astype(x.dtype) for x in case.inputs))
        furthest = [np.maximum(most, np.abs(a - b)) for most, a, b in zip(furthest, results, got, strict=True)]
    return furthest


def _added(x: Array, nudge: Callable[..., Array]) -> Array:
    return (x + nudge(size=x.shape)).astype(x.dtype)


def shown(case: Case, got: Sequence[Array], want: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """Both without the rows that TFLite leaves as they were."""
    op = case.graph.ops[0]
    if not isinstance(op, DetectionPostprocess):
        return list(got), list(want)
    rows = written(op, int(got[3][0]))
    first, second = ([a[:, rows] if a.ndim > 1 else a for a in results] for results in (got, want))
    return first, second


def written(op: DetectionPostprocess, count: int) -> list[int]:
    """Rows of the results that `count` detections fill; TFLite leaves the others as they were."""
    most = 1 if op.regular else op.max_classes_per_detection
    return [box * most + rank for box in range(count) for rank in range(min(most, op.num_classes))]
