"""Reading: what a file says is in the graph, and what it must not say is one clear error."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
import tflite
from handmade import BIAS, TENSORS, WEIGHTS, model, with_external_buffers, with_operator, with_subgraph, with_tensor
from litert import run_litert

from tflite2q.dialect.graph import Signature
from tflite2q.dialect.types import Quantization
from tflite2q.errors import InvalidGraph, ModelError, UnsupportedError
from tflite2q.execution import reference
from tflite2q.flatbuffer.reader import load, read
from tflite2q.flatbuffer.records import ModelRecord, OperatorCode, OperatorRecord, TensorRecord
from tflite2q.flatbuffer.schema import decode, encode


def test_everything_the_file_says_is_in_the_graph() -> None:
    graph = read(encode(model()))
    assert (graph.name, graph.description) == ("main", "made by hand")
    assert (graph.inputs, graph.outputs) == (("image",), ("scores",))
    assert [value.name for value in graph.values] == [tensor.name for tensor in TENSORS]
    assert [op.mnemonic for op in graph.ops] == ["q.conv2d", "q.softmax"]
    assert graph.ops[0].inputs == ("image", "weights", "bias")
    assert graph["image"].type.quantization == Quantization.per_tensor(0.5, 128)
    assert graph["weights"].data.tobytes() == WEIGHTS
    assert graph["bias"].data.tolist() == [100, -100]
    assert graph.signatures == (Signature("serving_default", (("image", "image"),), (("scores", "scores"),)),)
    assert graph.metadata == (("min_runtime_version", b"1.5.0"),)


def test_the_made_model_computes_what_litert_computes(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(encode(model()))
    x = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 1), np.uint8)
    judge, ours = run_litert(path, [x], every=True), reference.run_every(load(path), x)
    for name in ("conv", "scores"):
        assert judge[name].tolist() == ours[name].tolist()


def test_external_buffers(tmp_path: Path) -> None:
    data = with_external_buffers(model())
    assert read(data) == read(encode(model()))
    path = tmp_path / "external.tflite"
    path.write_bytes(data)
    x = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 1), np.uint8)
    assert run_litert(path, [x])["scores"].tolist() == reference.run(load(path), x)[0].tolist()


@pytest.mark.parametrize("cut", [1, 6, 20, 40])
def test_truncated_external_buffers(cut: int) -> None:
    with pytest.raises(ModelError, match=r"a buffer lies at \d+\.\.\d+ of a file of \d+ bytes: the file is truncated"):
        read(with_external_buffers(model())[:-cut])


def test_shared_buffers_are_one_constant() -> None:
    twice = (*TENSORS, TensorRecord("weights again", (2, 3, 3, 1), "uint8", 1, (0.125,), (3,)))
    operators = (
        *model().subgraphs[0].operators,
        OperatorRecord(
            0, (0, 5, 2), (6,), options_type="Conv2DOptions", options=model().subgraphs[0].operators[0].options
        ),
    )
    tensors = (*twice, replace(TENSORS[3], name="conv again"))
    graph = read(encode(with_subgraph(tensors=tensors, operators=operators, outputs=(4, 6))))
    assert graph["weights"].constant is graph["weights again"].constant
    assert graph["weights"].type != graph["weights again"].type


def test_duplicate_and_missing_names() -> None:
    names = ["t", "t", None, "t", "t_1"]
    tensors = tuple(replace(tensor, name=name) for tensor, name in zip(TENSORS, names, strict=True))
    graph = read(encode(with_subgraph(tensors=tensors)))
    assert [value.name for value in graph.values] == ["t", "t_1", "tensor_2", "t_2", "t_1_1"]
    assert graph.ops[0].inputs == ("t", "t_1", "tensor_2")


def test_thousands_of_equal_names() -> None:
    tensors = TENSORS + tuple(replace(TENSORS[0], name="same") for _ in range(5000))
    assert len(read(encode(with_subgraph(tensors=tensors))).values) == len(TENSORS)  # unused ones are dropped


def test_missing_quantization_is_fine_where_it_is_not_needed() -> None:
    graph = read(encode(with_tensor(2, scale=(), zero_point=())))
    assert graph["bias"].type.quantization is None


def test_missing_quantization_where_it_is_needed() -> None:
    with pytest.raises(InvalidGraph, match=r"op 0 q\.conv2d 'conv': 'image' has no quantization parameters"):
        read(encode(with_tensor(0, scale=(), zero_point=())))


def test_per_channel_weights_and_the_axis_of_their_bias() -> None:
    weights = replace(TENSORS[1], dtype="int8", scale=(0.25, 0.5), zero_point=(0, 0))
    bias = replace(TENSORS[2], scale=(0.125, 0.25), zero_point=(0, 0), axis=3)  # some writers keep the weights' axis
    rest = (replace(tensor, dtype="int8", zero_point=(0,)) for tensor in (TENSORS[0], TENSORS[3]))
    image, conv = rest
    scores = replace(TENSORS[4], dtype="int8", zero_point=(-128,))
    graph = read(encode(with_subgraph(tensors=(image, weights, bias, conv, scores))))
    assert graph["weights"].type.quantization == Quantization((0.25, 0.5), (0, 0), 0)
    assert graph["bias"].type.quantization == Quantization((0.125, 0.25), (0, 0), 0)


def test_one_zero_point_stands_for_all_channels() -> None:
    assert read(encode(with_tensor(1, scale=(0.25, 0.5), zero_point=())))["weights"].type.parameters.zero_point == (
        0,
        0,
    )


def test_int4_constants_are_unpacked() -> None:
    packed = bytes([0x80, 0x7F, 0x21])  # 0, -8, -1, 7, 1: the low half of a byte comes first
    record = with_tensor(1, dtype="int4", shape=(5, 1, 1, 1), buffer=1)
    record = replace(record, buffers=(b"", packed, bytes(20), b""))
    tensors = list(record.subgraphs[0].tensors)
    tensors[2] = replace(tensors[2], shape=(5,))
    for index in (3, 4):
        tensors[index] = replace(tensors[index], shape=(1, 4, 4, 5))
    tensors[1] = replace(tensors[1], zero_point=(0,))
    graph = read(encode(replace(record, subgraphs=(replace(record.subgraphs[0], tensors=tuple(tensors)),))))
    assert graph["weights"].data.reshape(-1).tolist() == [0, -8, -1, 7, 1]


def test_dynamic_dimensions_are_kept() -> None:
    assert read(encode(with_tensor(0, shape_signature=(-1, 4, 4, 1))))["image"].shape_signature == (-1, 4, 4, 1)


def zipped(**members: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return archive.getvalue()


def test_associated_files() -> None:
    graph = read(encode(model()) + zipped(labels=b"cat\ndog\n", vocabulary=b"a b c"))
    assert graph.files == (("labels", b"cat\ndog\n"), ("vocabulary", b"a b c"))


def test_damaged_associated_files() -> None:
    data = bytearray(encode(model()) + zipped(labels=bytes(range(256))))
    start = data.index(b"labels") + 6
    data[start : start + 8] = b"\xff" * 8
    with pytest.raises(ModelError, match="the files appended to the model cannot be read"):
        read(bytes(data))


def test_associated_files_that_unpack_to_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tflite2q.flatbuffer.reader.FILES_LIMIT", 1000)
    with pytest.raises(ModelError, match="unpack to 1001 bytes, more than 1000"):
        read(encode(model()) + zipped(labels=bytes(1001)))


def test_weights_that_look_like_the_end_of_a_zip_archive_are_weights() -> None:
    record = replace(model(), buffers=(b"", b"PK\x05\x06" + bytes(14), BIAS, b""))
    assert read(encode(record)).files == ()


# ------------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        (with_tensor(0, shape=(1, 4, 4, 1) * 10), InvalidGraph, "value 'image': shape .* is too large"),
        (with_tensor(0, shape=(2**16,) * 4), InvalidGraph, "value 'image': shape .* is too large"),
        (with_tensor(1, shape=(2, -3, 3, 1)), InvalidGraph, "tensor 1 'weights': 18 bytes of data for uint8"),
        (with_tensor(1, shape=(2**31 - 1,) * 4), InvalidGraph, "tensor 1 'weights': 18 bytes of data for uint8"),
        (with_tensor(1, shape=(2**16,) * 4), InvalidGraph, "tensor 1 'weights': 18 bytes of data for uint8"),
        (with_tensor(1, shape=(2, 3, 3, 2)), InvalidGraph, r"18 bytes of data for uint8\[2, 3, 3, 2\]"),
        (with_tensor(1, shape=(5, 3, 3, 1), dtype="int4"), InvalidGraph, r"18 bytes of data for int4\[5, 3, 3, 1\]"),
        (with_tensor(1, scale=(0.25, 0.5, 0.75), zero_point=(1, 2)), InvalidGraph, "3 scales with 2 zero points"),
        (with_tensor(1, scale=(0.25, 0.5, 0.75), zero_point=(0,)), InvalidGraph, "3 scales on axis 0 of shape"),
        (with_tensor(1, scale=(0.25, 0.5), zero_point=(0,), axis=7), InvalidGraph, "2 scales on axis 7 of shape"),
        (with_tensor(1, scale=(0.25, 0.5), zero_point=(0,), axis=-4), InvalidGraph, "2 scales on axis -4 of shape"),
        (
            with_tensor(1, scale=(0.25, 0.5), zero_point=(0, 1)),
            InvalidGraph,
            "a scale per channel must have zero points",
        ),
        (with_tensor(0, scale=(-0.5,)), InvalidGraph, "tensor 0 'image': a scale must be a positive, finite float32"),
        (with_tensor(0, scale=(float("nan"),)), InvalidGraph, "a scale must be a positive, finite float32"),
        (with_tensor(0, zero_point=(1 << 40,)), InvalidGraph, "a zero point is not in the range of uint8"),
        (with_tensor(1, buffer=9), ModelError, "buffer 9 does not exist"),
        (
            with_tensor(0, dtype="complex64"),
            UnsupportedError,
            "op 0 q.conv2d 'conv': 'image' is complex64, which the operator",
        ),
        (with_tensor(0, dtype="string"), UnsupportedError, "op 0 q.conv2d 'conv': 'image' is string, which is not"),
        (with_tensor(0, dtype="type 99"), UnsupportedError, "op 0 q.conv2d 'conv': 'image' is type 99, which is not"),
        (with_subgraph(inputs=(99,)), ModelError, "tensor 99 does not exist"),
        (with_subgraph(inputs=(-1,)), ModelError, "tensor -1 does not exist"),
        (with_subgraph(outputs=(5,)), ModelError, "tensor 5 does not exist"),
        (with_subgraph(inputs=()), InvalidGraph, "op 0 q.conv2d 'conv': reads 'image' before it is computed"),
        (with_operator(0, code=7), ModelError, "operator code 7 does not exist"),
        (with_operator(0, inputs=(0, 1, -2)), ModelError, "tensor -2 does not exist"),
        (with_operator(0, inputs=(0, -1, 2)), InvalidGraph, "op 0 q.conv2d 'conv': operand weights is missing"),
        (with_operator(0, inputs=(0,)), InvalidGraph, "takes 2 to 3 operands, has 1"),
        (with_operator(0, outputs=()), ModelError, "operator 0 CONV_2D has no outputs"),
        (with_operator(0, outputs=(3, 4)), InvalidGraph, "has 2 results but should have 1"),
        (with_operator(1, outputs=(3,)), InvalidGraph, "op 1 q.softmax 'conv': defines 'conv' a second time"),
        (with_operator(0, options={"Padding": 5}), UnsupportedError, "operator 0 CONV_2D: Padding 5 is unknown"),
        (
            with_operator(1, options={"Beta": float("nan")}),
            ModelError,
            "operator 1 SOFTMAX: option Beta is not a number",
        ),
        (with_operator(0, options={"StrideW": -1, "StrideH": 1}), InvalidGraph, "must be positive"),
        (replace(model(), subgraphs=()), ModelError, "the model has no subgraph"),
        (replace(model(), metadata=(("m", 77),)), ModelError, "buffer 77 does not exist"),
    ],
)
def test_contradictions(record: ModelRecord, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read(encode(record))


def test_all_unsupported_operators_are_named_together() -> None:
    codes = (OperatorCode("BESSEL_NOT_THERE_YET", custom=True), OperatorCode("HASHTABLE"))
    with pytest.raises(UnsupportedError) as caught:
        read(encode(replace(model(), codes=codes)))
    assert "0 custom BESSEL_NOT_THERE_YET, 1 HASHTABLE" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_builtin_operator_of_the_future() -> None:
    data = bytearray(encode(model()))
    root = tflite.Model.GetRootAs(data, 0)
    code = root.OperatorCodes(0)
    field = code._tab.Offset(10)  # builtin_code
    struct.pack_into("<i", data, code._tab.Pos + field, 100_000)
    with pytest.raises(UnsupportedError, match="0 BUILTIN_100000"):
        read(bytes(data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty; expected a .tflite model"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "this is not a .tflite model"),
        (b"TFL3", "this is not a .tflite model"),
        (bytes(4) + b"TFL3", "schema version 0 is not supported, only 3"),
        (b"\xff\xff\xff\x7fTFL3" + bytes(100), "damaged"),
        (b"\x08\0\0\0TFL3" + bytes(100), "schema version 0 is not supported, only 3"),
    ],
)
def test_what_is_no_model(data: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=re.escape(message)):
        read(data)


def test_load_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.tflite"
    path.touch()
    with pytest.raises(ModelError, match=f"{re.escape(str(path))}: the file is empty"):
        load(path)
    with pytest.raises(ModelError, match=r"absent\.tflite: cannot be read: No such file"):
        load(tmp_path / "absent.tflite")
    with pytest.raises(ModelError, match="cannot be read: Is a directory"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("field", "message"), [("Sparsity", "is sparse"), ("Details", "has blockwise or custom quantization")]
)
def test_tensors_that_cannot_be_represented(field: str, message: str) -> None:
    builder = flatbuffers.Builder(256)
    if field == "Sparsity":
        tflite.SparsityParametersStart(builder)
        sparsity = tflite.SparsityParametersEnd(builder)
    else:
        tflite.CustomQuantizationStart(builder)
        details = tflite.CustomQuantizationEnd(builder)
        tflite.QuantizationParametersStart(builder)
        tflite.QuantizationParametersAddDetailsType(builder, tflite.QuantizationDetails.CustomQuantization)
        tflite.QuantizationParametersAddDetails(builder, details)
        quantization = tflite.QuantizationParametersEnd(builder)
    tflite.TensorStart(builder)
    if field == "Sparsity":
        tflite.TensorAddSparsity(builder, sparsity)
    else:
        tflite.TensorAddQuantization(builder, quantization)
    tensors = vector(builder, [tflite.TensorEnd(builder)])
    inputs = builder.CreateNumpyVector(np.zeros(1, np.int32))
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, tensors)
    tflite.SubGraphAddInputs(builder, inputs)
    subgraphs = vector(builder, [tflite.SubGraphEnd(builder)])
    tflite.BufferStart(builder)
    buffers = vector(builder, [tflite.BufferEnd(builder)])
    with pytest.raises(UnsupportedError, match=f"tensor 'tensor_0' {message}, which is not supported"):
        read(finished(builder, Subgraphs=subgraphs, Buffers=buffers))


def vector(builder: flatbuffers.Builder, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def finished(builder: flatbuffers.Builder, **fields: int) -> bytes:
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, 3)
    for name, offset in fields.items():
        getattr(tflite, f"ModelAdd{name}")(builder, offset)
    builder.Finish(tflite.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def test_tables_that_share_a_long_vector_do_not_multiply_it() -> None:
    """A file of a few hundred kilobytes that would unpack to tens of gigabytes."""
    builder = flatbuffers.Builder(1 << 20)
    shape = builder.CreateNumpyVector(np.ones(30_000, np.int32))
    tflite.TensorStart(builder)
    tflite.TensorAddShape(builder, shape)
    tensors = vector(builder, [tflite.TensorEnd(builder)] * 30_000)
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, tensors)
    subgraphs = vector(builder, [tflite.SubGraphEnd(builder)] * 1000)
    data = finished(builder, Subgraphs=subgraphs)
    assert len(data) < 300_000
    with pytest.raises(ModelError, match="bytes cannot hold all it claims, a vector of 30000 elements"):
        decode(data)


def test_tensors_that_share_a_buffer_do_not_multiply_it() -> None:
    """Equal types share one constant; a thousand different types of one buffer are refused."""
    large = bytes(1 << 16)
    shapes = [(1 << n, 1 << (16 - n), *ones) for n in range(17) for ones in ((), (1,), (1, 1), (1, 1, 1))]
    tensors = TENSORS + tuple(TensorRecord(f"view {i}", shape, "int8", 3) for i, shape in enumerate(shapes))
    record = replace(with_subgraph(tensors=tensors), buffers=(b"", WEIGHTS, BIAS, large), metadata=())
    with pytest.raises(ModelError, match="many tensors of different types share a buffer"):
        read(encode(record))
