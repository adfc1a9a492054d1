"""What damaged models showed, each as small as it can be told."""

from __future__ import annotations

import warnings
from dataclasses import replace

import handmade
import numpy as np
import pytest
from cases import cases

from tflite2q import rewrites
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.ops.detection import DetectionPostprocess
from tflite2q.dialect.ops.hlo import HloSelect
from tflite2q.dialect.ops.hlo_movement import HloIota
from tflite2q.dialect.ops.lookup import Lookup
from tflite2q.dialect.types import Quantization, TensorType, Value
from tflite2q.errors import InvalidGraph, ModelError, Tflite2qError, UnsupportedError
from tflite2q.execution import reference
from tflite2q.flatbuffer import schema
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.records import OperatorCode, OperatorRecord, TensorRecord
from tflite2q.flatbuffer.writer import write
from tflite2q.rewrites import scheme


@pytest.mark.parametrize("shared", [0, 1, 3, 4])  # an input, a constant, a result, an output
@pytest.mark.parametrize("allow", [False, True])
def test_intermediates_that_are_used_elsewhere(shared: int, allow: bool) -> None:
    with pytest.raises(ModelError, match="among its intermediates, which is used elsewhere"):
        read(schema.encode(handmade.with_operator(0, intermediates=(shared,))), allow)


def test_intermediates_of_a_graph_that_are_values_of_it() -> None:
    x = Value("x", TensorType((1,), "float32"))
    op = Lookup(inputs=("x",), outputs=("y",), function="TANH", intermediates=(x,))
    with pytest.raises(InvalidGraph, match="among its intermediates"):
        verify(Graph(("x",), ("y",), (x, Value("y", x.type)), (op,)))


@pytest.mark.parametrize("table", ["LeakyReluOptions", "Pool2DOptions", "AddOptions"])
def test_options_of_another_operator(table: str) -> None:
    changed = handmade.with_operator(0, options_type=table, options={})
    with pytest.raises(UnsupportedError, match=f"has {table} instead of Conv2DOptions"):
        read(schema.encode(changed))


def test_options_of_an_operator_without_any() -> None:
    graph = next(cases("SQRT-float32", 1)).graph
    model = schema.decode(write(graph))
    op = replace(model.subgraphs[0].operators[0], options_type="LeakyReluOptions", options={"Alpha": 0.25})
    changed = replace(model, subgraphs=(replace(model.subgraphs[0], operators=(op,)),))
    with pytest.raises(UnsupportedError, match="has LeakyReluOptions instead of no options"):
        read(schema.encode(changed))


def test_clamps_of_single_numbers() -> None:
    kind = TensorType((), "float32")
    op = HloSelect(inputs=("a", "x", "b"), outputs=("y",), clamp=True)
    graph = verify(Graph(("a", "x", "b"), ("y",), tuple(Value(n, kind) for n in "axby"), (op,)))
    assert reference.run(graph, *(np.float32(n) for n in (0, 7, 5)))[0] == 5


def test_the_last_axis_of_an_iota() -> None:
    graph = verify(
        Graph((), ("y",), (Value("y", TensorType((2, 3), "int32")),), (HloIota(inputs=(), outputs=("y",), axis=-1),))
    )
    assert reference.run(graph)[0].tolist() == [[0, 1, 2]] * 2


def test_an_operator_that_computes_an_input() -> None:
    # Its result is known before the model runs, so that the operator is gone before the graph is verified.
    model = handmade.with_subgraph(inputs=(0, 5), tensors=(*handmade.TENSORS, _indices()))
    codes = (*model.codes, OperatorCode("STABLEHLO_IOTA"))
    iota = OperatorRecord(2, (), (5,), options_type="StablehloIotaOptions", options={"IotaDimension": 0})
    graph = replace(model.subgraphs[0], operators=(*model.subgraphs[0].operators, iota))
    with pytest.raises(ModelError, match="operator 2 computes 'indices', an input"):
        read(schema.encode(replace(model, codes=codes, subgraphs=(graph,))))


def _indices() -> TensorRecord:
    return TensorRecord("indices", (4,), "int32", 0)


@pytest.mark.parametrize("shape", [(1, 25, 1, 2), (1, 25)])
def test_scores_of_another_rank(shape: tuple[int, ...]) -> None:
    kinds = {
        "boxes": (1, 25, 4),
        "scores": shape,
        "anchors": (25, 4),
        "a": (1, 3, 4),
        "b": (1, 3),
        "c": (1, 3),
        "n": (1,),
    }
    values = tuple(Value(name, TensorType(kind, "float32")) for name, kind in kinds.items())
    names = tuple(kinds)
    op = DetectionPostprocess(
        inputs=names[:3], outputs=names[3:], max_detections=3, max_classes_per_detection=1, num_classes=1
    )
    with pytest.raises(InvalidGraph, match=r"scores .* for 25 boxes and 1 classes"):
        verify(Graph(names[:3], names[3:], values, (op,)))


@pytest.mark.parametrize("name", ["int8", "int16x8", "float32", "power-of-two", "asymmetric-uint8"])
def test_the_largest_scales_make_no_warnings(name: str) -> None:
    x = Value("x", TensorType((3, 1), "uint8", Quantization.per_tensor(3e38, 0)))
    y = Value("y", TensorType((3, 1), "uint8", Quantization.per_tensor(0.25, 7)))
    op = Lookup(inputs=("x",), outputs=("y",), function="LEAKY_RELU", alpha=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            rewrites.convert(verify(Graph(("x",), ("y",), (x, y), (op,))), scheme.find(name))
        except Tflite2qError as error:
            assert "\n" not in str(error)
