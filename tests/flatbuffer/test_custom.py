"""What is odd about some operators: custom options, intermediates, open shapes, and operators not supported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import cases
from draw import Draw

from tflite2q.dialect import ops
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.infer import inferred
from tflite2q.dialect.types import Quantization, TensorType, Value
from tflite2q.errors import ModelError, UnsupportedError
from tflite2q.execution import reference
from tflite2q.flatbuffer import reader, schema, writer
from tflite2q.flatbuffer.records import ModelRecord, OperatorCode


def changed(graph: Graph, change: object) -> bytes:
    """The graph's file with its only operator code replaced."""
    model: ModelRecord = schema.decode(writer.write(graph))
    assert isinstance(change, OperatorCode)
    return schema.encode(replace(model, codes=(change,)))


@pytest.mark.parametrize("family", ["TFLite_Detection_PostProcess-uint8", "UNIDIRECTIONAL_SEQUENCE_LSTM-int8"])
def test_custom_options_and_intermediates_survive(family: str) -> None:
    for case in cases(family, 5):
        assert reader.read(writer.write(case.graph)).ops == case.graph.ops


def test_shapes_left_open_are_inferred() -> None:
    """Old converters wrote [] for the results of custom operators."""
    case = next(cases("TFLite_Detection_PostProcess-uint8", 1))
    model = schema.decode(writer.write(case.graph))
    graph = model.subgraphs[0]
    open_tensors = tuple(replace(t, shape=()) if i in graph.outputs else t for i, t in enumerate(graph.tensors))
    data = schema.encode(replace(model, subgraphs=(replace(graph, tensors=open_tensors),)))
    assert reader.read(data) == reader.read(writer.write(case.graph))


def test_damaged_custom_options_are_the_files_fault() -> None:
    model = schema.decode(writer.write(next(cases("TFLite_Detection_PostProcess-uint8", 1)).graph))
    graph = model.subgraphs[0]
    for options in (b"\x01\x02\x03", b"\x05\x04\x01"):  # truncated; the integer 5
        operators = (replace(graph.operators[0], custom_options=options),)
        data = schema.encode(replace(model, subgraphs=(replace(graph, operators=operators),)))
        with pytest.raises(ModelError, match="options"):
            reader.read(data)


def test_unsupported_operators_are_all_named_and_can_be_carried() -> None:
    graph = next(cases("RELU-int8", 1)).graph
    data = changed(graph, OperatorCode("MyOp", 3, custom=True))
    with pytest.raises(UnsupportedError, match=r"unsupported operators: 0 custom MyOp$") as caught:
        reader.read(data)
    assert caught.value.carriable
    carried = reader.read(data, allow_unsupported=True)
    (op,) = carried.ops
    assert isinstance(op, ops.Opaque) and (op.code, op.custom, op.version) == ("MyOp", True, 3)
    assert writer.write(carried) == data
    with pytest.raises(UnsupportedError, match="MyOp cannot be run"):
        reference.run(carried, *(np.zeros(graph[n].type.shape, np.int8) for n in graph.inputs))


def test_sizes_that_a_model_computes_from_its_shapes_are_folded() -> None:
    """x -> SHAPE -> STRIDED_SLICE -> MUL -> RESIZE: the size is twice that of x."""
    draw = Draw(np.random.default_rng(0))
    image = TensorType((1, 3, 4, 2), "uint8", Quantization.per_tensor(0.5, 1))
    x = draw.input(image)
    begin, end, one, two = draw.ints(1), draw.ints(3), draw.ints(1), draw.ints(2)
    values = [
        Value("s", TensorType((4,), "int32")),
        Value("n", TensorType((2,), "int32")),
        Value("m", TensorType((2,), "int32")),
        Value("y", image.with_(shape=(1, 6, 8, 2))),
    ]
    operators = (
        ops.ShapeOf(inputs=(x,), outputs=("s",)),
        ops.StridedSlice(inputs=("s", begin, end, one), outputs=("n",)),
        ops.Mul(inputs=("n", two), outputs=("m",)),
        ops.ResizeNearest(inputs=(x, "m"), outputs=("y",)),
    )
    graph = Graph((x,), ("y",), (*draw.values, *values), operators)
    small = verify(inferred(graph).graph)
    assert [op.mnemonic for op in small.ops] == ["q.resize_nearest"]
    assert small["m"].data.tolist() == [6, 8]
    assert reference.run(small, draw.arrays[0])[0].shape == (1, 6, 8, 2)
    outwards = verify(inferred(graph.with_(outputs=("y", "m"))).graph)
    assert outwards["m"].data.tolist() == [6, 8]
    assert [op.mnemonic for op in outwards.ops] == ["q.mul", "q.resize_nearest"]
