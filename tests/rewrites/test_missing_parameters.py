"""Files whose tensors lack parameters here and there: what verifies also converts and runs, or is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from networks import Net, everything

import tflite2q
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.ops.movement import Split
from tflite2q.dialect.ops.shape import Concat
from tflite2q.errors import InvalidGraph, Unchanged
from tflite2q.execution import reference

SCHEMES = ("int8", "asymmetric-uint8", "int16x8", "float32")
SHARED = Path(__file__).parents[3] / "shared" / "models"
FILES = ("split_concat", "keras_lstm_mnist_ptq", "kws_ref_model")


def runs(graph: Graph) -> None:
    reference.run(graph, *(np.zeros(graph[n].type.shape, graph[n].type.dtype) for n in graph.inputs))


def without_each(graph: Graph) -> list[Graph]:
    """The graph without the parameters of one value, for each value; only those that verify."""
    found = []
    for index, value in enumerate(graph.values):
        bare = replace(value, type=value.type.with_(quantization=None))
        values = (*graph.values[:index], bare, *graph.values[index + 1 :])
        try:
            found.append(verify(graph.with_(values=values)))
        except InvalidGraph as refusal:
            assert str(refusal).startswith("op ")
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pieces_without_parameters_keep_the_others_where_they_are(scheme: str) -> None:
    net = Net()
    x = net.input("x", (1, 2, 2, 4), (0.02, 120))
    for piece in "ab":
        net.value(piece, (1, 2, 2, 2), (0.02, 120))
    axis = net.constant("axis", np.array([3], np.int32))
    net.op(Split(inputs=(axis, x), outputs=("a", "b"), count=2))
    net.values["b"] = replace(net.values["b"], type=net.values["b"].type.with_(quantization=None))
    net.conv("a", "y", 3, (0.1, 0))
    try:
        converted = tflite2q.convert(net.graph("y", "b"), scheme).graph
    except Unchanged:
        assert scheme == "asymmetric-uint8"
        return
    assert {converted[n].type.dtype for n in "xab"} == {"uint8"}
    runs(converted)


def test_joined_legacy_parts_must_all_have_parameters() -> None:
    net = Net()
    a, b = (net.input(name, (1, 2, 2, 2), (0.02, 120)) for name in "ab")
    net.value("both", (1, 2, 2, 4), (0.03, 120))
    net.op(Concat(inputs=(a, b), outputs=("both",), axis=3))
    net.values["b"] = replace(net.values["b"], type=net.values["b"].type.with_(quantization=None))
    with pytest.raises(InvalidGraph, match=r"q\.concat .both.: .b. and .both.: one has no quantization parameters"):
        net.graph("both")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_verifies_converts_and_runs(scheme: str) -> None:
    graphs = [everything(seed=1)]
    graphs += [tflite2q.load(path) for name in FILES if (path := SHARED / f"{name}.tflite").exists()]
    for graph in graphs:
        for bare in without_each(graph):
            try:
                converted = tflite2q.convert(bare, scheme).graph
            except Unchanged:
                converted = bare
            runs(converted)
