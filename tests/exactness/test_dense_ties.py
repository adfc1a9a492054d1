"""Dense layers round one float64 product, on sums at which two roundings in fixed point give another code."""

from __future__ import annotations

import numpy as np
import pytest
from judge import judge
from networks import Net

from tflite2q.arithmetic.numpy_core import NumpyCore
from tflite2q.arithmetic.rescale import multiply_fixed
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.dense import Dense
from tflite2q.dialect.types import Quantization
from tflite2q.execution import reference, runtime
from tflite2q.flatbuffer.writer import write

pytest.importorskip("ai_edge_litert")

CODES = np.arange(-120, 120)


def constant_sums(sums: np.ndarray, step: float) -> Graph:
    """A layer whose weights are 0: each unit's sum is its bias, and its code the bias divided by `step`."""
    net = Net("int8")
    x = net.input("x", (1, 1), (1.0, 0))
    weights = net.constant("w", np.zeros((len(sums), 1), np.int8), Quantization.per_tensor(1.0, 0))
    bias = net.constant("b", sums.astype(np.int32), Quantization.per_tensor(1.0, 0))
    net.value("y", (1, len(sums)), (step, 0))
    return net.graph(net.op(Dense(inputs=(x, weights, bias), outputs=("y",), version=4)))


@pytest.mark.parametrize("step", [37.4, 300.7, 5.31])
def test_ties(step: float) -> None:
    step = float(np.float32(step))
    sums = np.floor((CODES + 0.5) * step)
    graph = constant_sums(sums, step)
    x = np.zeros((1, 1), np.int8)
    (expected,) = judge([(write(graph), [x])])
    assert not isinstance(expected, str), expected
    np.testing.assert_array_equal(reference.run(graph, x)[0], expected[0])
    np.testing.assert_array_equal(runtime.compile(graph).run(x)[0], expected[0])
    fraction, exponent = np.frexp(1 / step)
    two = multiply_fixed(NumpyCore(), sums.astype(np.int32), round(float(fraction) * 2**31), int(exponent))
    assert (two != expected[0][0]).sum() > 5, "two roundings would not be noticed"
