"""When results are the same: integers bit for bit, real numbers to the last digits that sums in another order keep."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from draw import Array, Case

from tflite2q.dialect.ops.detection import DetectionPostprocess
from tflite2q.dialect.ops.sequence import BidirectionalRnn, SequenceRnn


def assert_agrees(case: Case, got: Sequence[Array], want: Sequence[Array], steps: int = 0) -> None:
    """Results `got` are those that `want` has, codes at most `steps` apart."""
    op = case.graph.ops[0]
    for name, a, b in zip(case.graph.outputs, *shown(case, got, want), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        if a.dtype == np.float32:
            largest = float(np.abs(b).max(initial=0.0, where=np.isfinite(b)))
            code = largest * code_of_a_state(case)
            few = np.count_nonzero(~np.isclose(a, b, rtol=1e-5, atol=1e-5 * largest, equal_nan=True)) <= a.size // 20
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=max(1e-5 * largest, few * code), err_msg=str(op))
        elif steps:
            np.testing.assert_allclose(a.astype(np.int64), b, rtol=0, atol=steps, err_msg=str(op))
        else:
            np.testing.assert_array_equal(a, b, err_msg=str(op))


def code_of_a_state(case: Case) -> float:
    """What one code of the state more or less makes of the next result, as a part of the largest result, where a layer
    feeds its results back as codes.  A result on the border of two codes gets one or the other by the last digit of a
    function such as tanh, so a few results may be that far apart.
    """
    op = case.graph.ops[0]
    if not isinstance(op, SequenceRnn | BidirectionalRnn):
        return 0.0
    weights = [case.graph[name] for name in op.inputs if name is not None and case.graph[name].type.dtype == "int8"]
    real = [float(np.abs(value.type.parameters.real(value.data)).max()) for value in weights]
    return max(real, default=0.0) / 127


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
