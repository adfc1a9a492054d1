"""Small numbers that follow from constants: a converted graph knows those that its file's reader finds, no others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from draw import Array, Draw

from tflite2q.dialect import ops
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.types import Quantization, TensorType, Value
from tflite2q.evaluation import calibration
from tflite2q.execution import reference
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.writer import write
from tflite2q.rewrites import scheme
from tflite2q.rewrites.conversion import convert

WIDTH = 8


def scattered(kind: TensorType) -> tuple[Graph, Sequence[Array]]:
    """x and a row of the sum of two constants, placed by an op that takes real numbers alone if x does."""
    d = Draw(np.random.default_rng(0))
    x = d.input(kind.with_(shape=(2, WIDTH)))
    first, second = (d.constant(d.data(kind), kind) for _ in range(2))
    places, shape = d.constant(np.array([[1]], np.int32)), d.ints(2, WIDTH)
    values = (
        *d.values,
        *(Value(name, kind.with_(shape=(rows, WIDTH))) for name, rows in (("sum", 1), ("placed", 2), ("y", 2))),
    )
    graph_ops = (
        ops.Add(inputs=(first, second), outputs=("sum",)),
        ops.ScatterNd(inputs=(places, "sum", shape), outputs=("placed",)),
        ops.Add(inputs=(x, "placed"), outputs=("y",)),
    )
    made = verify(Graph((x,), ("y",), values, graph_ops))
    return read(write(made)), d.arrays


@pytest.mark.parametrize("name", ["float32", "weight-only"])
def test_codes_that_become_real_numbers(name: str) -> None:
    codes = TensorType((1, WIDTH), "int8", Quantization.per_tensor(0.03, 3))
    d = Draw(np.random.default_rng(0))
    x = d.input(codes)
    first, second = (d.constant(d.data(codes), codes) for _ in range(2))
    values = (*d.values, Value("sum", codes), Value("y", codes))
    sums = (ops.Add(inputs=(first, second), outputs=("sum",)), ops.Add(inputs=(x, "sum"), outputs=("y",)))
    made = convert(verify(Graph((x,), ("y",), values, sums)), scheme.find(name, "keep")).graph
    again = read(write(made))
    assert made == again
    assert again["sum"].constant is not None


def test_real_numbers_of_which_some_become_codes() -> None:
    """What was known of the original, rounded since, is known no more."""
    graph, inputs = scattered(TensorType((1, WIDTH), "float32"))
    assert graph["placed"].constant is not None
    made = calibration.convert(graph, scheme.find("int8", "keep"), [inputs]).graph
    again = read(write(made))
    assert made == again
    for a, b in zip(reference.run(made, *inputs), reference.run(again, *inputs), strict=True):
        np.testing.assert_array_equal(a, b)
