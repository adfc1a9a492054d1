"""What the dialect cannot represent is carried whole: LiteRT makes of a copy what it makes of the file."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from handmade import CONV_OPTIONS, OPERATORS, TENSORS, model, with_tensor
from judge import judge
from networks import Net
from surroundings import Outcome

import tflite2q
from tflite2q import pipeline
from tflite2q.dialect.text import parse_graph, print_graph
from tflite2q.errors import InvalidGraph, ModelError, SchemeError, Tflite2qError, UnsupportedError
from tflite2q.execution import reference
from tflite2q.flatbuffer import schema
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.records import (
    ModelRecord,
    OperatorCode,
    OperatorRecord,
    SignatureRecord,
    SubgraphRecord,
    TensorRecord,
)
from tflite2q.flatbuffer.writer import write

IMAGE = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 1), np.uint8)
SPARSE = {  # of [2, 4]: rows dense, columns listed
    "Sparsity": {
        "traversal_order": [0, 1],
        "dim_metadata": [
            {"dense_size": 2},
            {
                "format": 1,
                "array_segments": ["Int32Vector", {"values": [0, 2, 3]}],
                "array_indices": ["Uint8Vector", {"values": [0, 3, 1]}],
            },
        ],
    }
}


def beside(record: ModelRecord, code: OperatorCode, tensors: list[TensorRecord], data: bytes = b"") -> ModelRecord:
    """The record with another operator, from the first of `tensors` (which holds `data`) to the others, all outputs."""
    graph = record.subgraphs[0]
    first, buffer = len(graph.tensors), len(record.buffers)
    made = (replace(tensors[0], buffer=buffer), *tensors[1:])
    places = tuple(range(first + 1, first + len(tensors)))
    op = OperatorRecord(len(record.codes), (first,), places)
    graph = replace(
        graph, tensors=(*graph.tensors, *made), operators=(*graph.operators, op), outputs=(*graph.outputs, *places)
    )
    return replace(record, codes=(*record.codes, code), buffers=(*record.buffers, data), subgraphs=(graph,))


def tensor(name: str, dtype: str, shape: tuple[int, ...] = (2,), **more: Any) -> TensorRecord:
    return TensorRecord(name, shape, dtype, 0, **more)


STRINGS = struct.pack("<iiii", 2, 16, 17, 18) + b"ab"
A, B = tensor("a", "int8"), tensor("b", "int8")
WIDE = OperatorCode("Wide", custom=True)
BLOCKS = ["BlockwiseQuantization", {"scales": 1, "zero_points": 0, "block_size": 2}]
UNKNOWN = {
    "custom operator": beside(model(), OperatorCode("MyOp", 2, custom=True), [tensor("a", "int8"), B], bytes(2)),
    "complex64": beside(model(), OperatorCode("REAL"), [tensor("a", "complex64"), tensor("b", "float32")], bytes(16)),
    "string": beside(model(), OperatorCode("CAST_STRING", custom=True), [tensor("a", "string"), B], STRINGS),
    "int2": beside(model(), WIDE, [tensor("a", "int2", (4,)), B], bytes(1)),
    "float8": beside(model(), WIDE, [tensor("a", "float8_e4m3fn"), B], bytes(2)),
    "type 77": beside(model(), WIDE, [tensor("a", "type 77"), B], bytes(2)),
    "float16": beside(model(), OperatorCode("NEG"), [tensor("a", "float16"), tensor("b", "float16")], bytes(4)),
    "future operator": beside(model(), OperatorCode("BUILTIN_4711"), [tensor("a", "int8"), B], bytes(2)),
    "sparse": beside(  # with an element too many, so that it cannot be unpacked
        model(),
        OperatorCode("DENSIFY"),
        [tensor("a", "int8", (2, 4), problem="is sparse", beyond=SPARSE), tensor("b", "int8", (2, 4))],
        bytes([1, 2, 3, 4]),
    ),
    "blockwise": beside(
        model(),
        OperatorCode("Blocks", custom=True),
        [
            tensor(
                "a",
                "int4",
                (2, 4),
                problem="has blockwise or custom quantization",
                beyond={
                    "Quantization": {
                        "details": ["BlockwiseQuantization", {"scales": 1, "zero_points": 0, "block_size": 2}]
                    }
                },
            ),
            tensor("b", "int8", (2, 4)),
        ],
        bytes(4),
    ),
    "scale of 0": beside(
        model(),
        OperatorCode("NEG"),
        [tensor("a", "int8", scale=(0.0,), zero_point=(0,)), B],
        bytes(2),
    ),
    "boundaries": beside(model(), OperatorCode("BUCKETIZE"), [tensor("a", "int8"), tensor("b", "int32")], bytes(2)),
}
bucketize = UNKNOWN["boundaries"].subgraphs[0]
bucketize_op = replace(
    bucketize.operators[-1], options_type="BucketizeOptions", options={"Boundaries": (-1.5, 0.25, 1e30)}
)
UNKNOWN["boundaries"] = replace(
    UNKNOWN["boundaries"], subgraphs=(replace(bucketize, operators=(*bucketize.operators[:-1], bucketize_op)),)
)


def outcome(answer: list[npt.NDArray[Any]] | str) -> object:
    """LiteRT's outputs, or what it says, to be compared."""
    return answer if isinstance(answer, str) else [array.tolist() for array in answer]


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_is_carried_is_carried_whole(kind: str) -> None:
    data = schema.encode(UNKNOWN[kind])
    with pytest.raises((UnsupportedError, InvalidGraph)) as caught:
        read(data)
    assert kind == "scale of 0" or (isinstance(caught.value, UnsupportedError) and caught.value.carriable)
    graph = read(data, allow_unsupported=True)
    assert graph.ops[-1].mnemonic == "q.opaque" and [op.mnemonic for op in graph.ops[:-1]] == ["q.conv2d", "q.softmax"]
    assert any("carried through unchanged" in note for note in graph.notes)
    copy = write(graph)
    assert read(copy, allow_unsupported=True) == graph
    assert parse_graph(print_graph(graph)) == graph
    before, after = schema.decode(data), schema.decode(copy)
    assert before.codes == after.codes
    assert before.subgraphs[0].operators == after.subgraphs[0].operators
    for old, new in zip(before.subgraphs[0].tensors, after.subgraphs[0].tensors, strict=True):
        assert bytes(before.buffers[old.buffer]) == bytes(after.buffers[new.buffer])
        assert replace(old, buffer=0) == replace(new, buffer=0)
    first, second = judge([(data, [IMAGE]), (copy, [IMAGE])])
    assert outcome(first) == outcome(second)
    converted = tflite2q.convert(graph, "int8")
    written = schema.decode(write(converted.graph))
    assert any(op == replace(before.subgraphs[0].operators[-1], **_places(op)) for op in written.subgraphs[0].operators)
    assert graph.notes[-1] in converted.notes
    with pytest.raises(UnsupportedError, match="cannot be run"):
        reference.run(graph, IMAGE)
    with pytest.raises(UnsupportedError, match="cannot be run"):
        tflite2q.compile(converted)


def _places(op: OperatorRecord) -> dict[str, Any]:
    return {"code": op.code, "inputs": op.inputs, "outputs": op.outputs}


def test_quantization_by_blocks_refers_to_other_tensors() -> None:
    """Its scales are a tensor, which is kept and found at its new place."""
    graph = read(schema.encode(UNKNOWN["blockwise"]), allow_unsupported=True)
    value = graph["a"]
    assert value.carried is not None and value.carried.names == ("weights", "image")
    moved = graph.with_(values=(*graph.values[1:], graph.values[0]))
    record = schema.decode(write(moved)).subgraphs[0].tensors
    details = next(t for t in record if t.name == "a").beyond["Quantization"]["details"][1]
    assert record[details["scales"]].name == "weights" and record[details["zero_points"]].name == "image"


def test_options_of_the_future_cannot_be_carried() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "option_places", lambda table: 1)  # as if only the first field were known
        for allow in (False, True):
            with pytest.raises(UnsupportedError, match="newer than the schema known here") as caught:
                read(schema.encode(model()), allow)
            assert not caught.value.carriable


# ------------------------------------------------------------------------------------------------------ more subgraphs


def stateful() -> ModelRecord:
    """y = softmax(conv(x)) as before, and a variable, set once by another subgraph, that is added to and read."""
    kind = {"scale": (1 / 256,), "zero_point": (0,)}
    shape = (1, 4, 4, 2)
    tensors = (
        *TENSORS,
        TensorRecord("handle", (), "resource", 0),
        TensorRecord("state", shape, "uint8", 0, **kind),  # type: ignore[arg-type]
        TensorRecord("next", shape, "uint8", 0, **kind),  # type: ignore[arg-type]
    )
    handle = {"Container": b"", "SharedName": b"state"}
    operators = (
        OperatorRecord(2, (), (), options_type="CallOnceOptions", options={"InitSubgraphIndex": 1}),
        *OPERATORS,
        OperatorRecord(3, (), (5,), options_type="VarHandleOptions", options=handle),
        OperatorRecord(4, (5,), (6,)),
        OperatorRecord(6, (6, 4), (7,), options_type="MaximumMinimumOptions"),
        OperatorRecord(5, (5, 7), ()),
    )
    start = tuple(replace(t, buffer=b) for t, b in ((tensors[5], 0), (replace(tensors[6], name="start"), 4)))
    start += (replace(start[1], name="larger", buffer=0),)
    setup = SubgraphRecord(
        "setup",
        start,
        (),
        (),
        (
            OperatorRecord(3, (), (0,), options_type="VarHandleOptions", options=handle),
            OperatorRecord(6, (1, 1), (2,), options_type="MaximumMinimumOptions"),
            OperatorRecord(5, (0, 2), ()),
        ),
    )
    names = ("CONV_2D", "SOFTMAX", "CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "MAXIMUM")
    made = model()
    return replace(
        made,
        codes=tuple(OperatorCode(name) for name in names),
        buffers=(*made.buffers, np.full(shape, 100, np.uint8).tobytes()),
        subgraphs=(SubgraphRecord("main", tensors, (0,), (7,), operators), setup),
        signatures=(SignatureRecord("main", (("x", 0),), (("y", 7),)), SignatureRecord("setup", (), (), 1)),
    )


def test_further_subgraphs_and_state_are_carried() -> None:
    data = schema.encode(stateful())
    with pytest.raises(UnsupportedError, match="CALL_ONCE runs MAXIMUM") as caught:
        read(data)
    assert caught.value.carriable
    graph = read(data, allow_unsupported=True)
    assert [op.mnemonic for op in graph.ops if op.mnemonic != "q.opaque"] == ["q.conv2d", "q.softmax", "q.maximum"]
    assert [other.name for other in graph.others] == ["setup"]
    copy = write(graph)
    assert read(copy, allow_unsupported=True) == graph
    assert parse_graph(print_graph(graph)) == graph
    converted = tflite2q.convert(graph, "int8", interface="keep")
    new = write(converted.graph)
    first, second, third = judge([(model_bytes, [IMAGE]) for model_bytes in (data, copy, new)])
    assert not isinstance(first, str) and not isinstance(second, str) and not isinstance(third, str)
    assert first[0].min() == 100  # the other subgraph ran
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_allclose(first[0].astype(int), third[0], atol=1)
    assert read(new, allow_unsupported=True)["state"].type == graph["state"].type


def test_a_subgraph_that_calls_the_first_cannot_be_carried() -> None:
    made = stateful()
    loop = replace(made.subgraphs[1].operators[0], code=2, outputs=(), options_type="CallOnceOptions")
    for called, error in ((0, UnsupportedError), (7, ModelError)):
        op = replace(loop, options={"InitSubgraphIndex": called})
        record = replace(made, subgraphs=(made.subgraphs[0], replace(made.subgraphs[1], operators=(op,))))
        with pytest.raises(error) as caught:
            read(schema.encode(record), allow_unsupported=True)
        assert not getattr(caught.value, "carriable", False)


# ---------------------------------------------------------------------------------------------------- the command line


def test_the_flag_is_named_where_it_helps(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    path = tmp_path / "custom.tflite"
    path.write_bytes(schema.encode(UNKNOWN["custom operator"]))
    x = tmp_path / "x.npy"
    np.save(x, IMAGE)
    for command in (("inspect", path), ("convert", path, "--scheme", "int8"), ("compare", path, "--scheme", "int8")):
        done = cli(*command)
        assert done.code == 3 and "2 custom MyOp; --allow-unsupported" in done.err
        done = cli(*command, "--allow-unsupported")
        assert done.code == 0 and "carried through unchanged: unsupported operators: 2 custom MyOp" in done.err
    done = cli("run", path, "--input", x)
    assert done.code == 3 and "MyOp" in done.err and "--allow" not in done.err
    path.write_bytes(schema.encode(with_tensor(1, shape=(3, 3, 3, 1))))
    done = cli("inspect", path)
    assert done.code == 3 and "--allow" not in done.err


def test_comparing_says_what_was_not_compared() -> None:
    graph = read(schema.encode(UNKNOWN["custom operator"]), allow_unsupported=True)
    found = pipeline.compare(graph, pipeline.convert(graph, "int8"))
    assert found.accuracy is None and found.speed is None and len(found.layers) == 3
    assert any("neither outputs nor speed were compared" in note for note in found.notes)


def test_what_cannot_change_is_not_called_done() -> None:
    real = Net("uint8")
    x = real.input("x", (1, 4), (0.5, 1))
    real.softmax(x, "y")
    graph = real.graph("y")
    plain = graph.with_(
        values=tuple(v.with_(type=v.type.with_(dtype="float32", quantization=None)) for v in graph.values)
    )
    with pytest.raises(SchemeError, match="needs data for a float model"):
        tflite2q.convert(plain, "int8")
    record = model(codes=(OperatorCode("CONV_2D"), OperatorCode("MyOp", custom=True)))
    graph = read(schema.encode(replace(record, subgraphs=(only_custom(),), signatures=())), allow_unsupported=True)
    with pytest.raises(UnsupportedError, match="changes nothing: MyOp is carried through unchanged"):
        tflite2q.convert(graph, "int8")


def only_custom() -> SubgraphRecord:
    tensors = (replace(TENSORS[0], name="x"), replace(TENSORS[4], name="y"))
    return SubgraphRecord("main", tensors, (0,), (1,), (OperatorRecord(1, (0,), (1,)),))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": "uint8"}, "there is no CONV_2D of float32 activations with uint8 weights"),
        ({"zero_point": (1, 1)}, "weights with zero point 1; CONV_2D takes none but 0 here"),
    ],
)
def test_real_numbers_with_weights_that_no_kernel_takes_are_refused(changes: dict[str, Any], reason: str) -> None:
    real = [replace(t, dtype="float32", scale=(), zero_point=()) for t in TENSORS]
    weights = replace(TENSORS[1], **{"dtype": "int8", "scale": (0.25, 0.5), "zero_point": (0, 0), **changes})
    real[2] = replace(real[2], buffer=2)
    conv = OperatorRecord(0, (0, 1, 2), (3,), options_type="Conv2DOptions", options=CONV_OPTIONS)
    graph = SubgraphRecord("main", (real[0], weights, *real[2:]), (0,), (3,), (conv,))
    record = model(codes=(OperatorCode("CONV_2D"),), subgraphs=(graph,), signatures=())
    with pytest.raises(Tflite2qError, match=reason):
        read(schema.encode(record))
