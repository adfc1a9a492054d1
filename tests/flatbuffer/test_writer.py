"""Written files: read by our reader, by the schema's own tables, and run by LiteRT."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
import tflite
from litert import run_litert
from surroundings import SHARED

import tflite2q
from tflite2q.dialect.graph import Graph, Signature
from tflite2q.dialect.ops.conv import Conv2D
from tflite2q.dialect.ops.eltwise import Requantize
from tflite2q.dialect.ops.shape import Reshape
from tflite2q.dialect.types import Constant, Quantization, TensorType, Value
from tflite2q.errors import UnsupportedError, UsageError
from tflite2q.evaluation import data
from tflite2q.flatbuffer import reader, writer
from tflite2q.flatbuffer.tables import Output

MODELS = sorted(path.stem for path in (SHARED / "models").glob("*.tflite"))


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, shared: Path) -> Path:
    return shared / "models" / f"{request.param}.tflite"


def small(**more: object) -> Graph:
    """x: u8[1,2,2,1] -> requantize -> y: s8, with a signature."""
    shape = (1, 2, 2, 1)
    x = Value("x", TensorType(shape, "uint8", Quantization.per_tensor(0.5, 3)))
    y = Value("y", TensorType(shape, "int8", Quantization.per_tensor(0.25, -5)))
    graph = Graph(("x",), ("y",), (x, y), (Requantize(inputs=("x",), outputs=("y",)),), name="main")
    return graph.with_(**more)


def tables(content: bytes) -> tflite.Model:
    return tflite.Model.GetRootAs(content, 0)


def outline(content: bytes) -> dict[str, object]:
    """What a file says of itself, read without our reader: names, operators in order, signatures, metadata."""
    model = tables(content)
    graph = model.Subgraphs(0)
    # A tensor without a name is known by its number.
    names = {i: graph.Tensors(i).Name() or b"tensor_%d" % i for i in range(graph.TensorsLength())}

    def codes() -> list[tuple[int, bytes | None]]:
        found = []
        for i in range(graph.OperatorsLength()):
            code = model.OperatorCodes(graph.Operators(i).OpcodeIndex())
            found.append((max(code.DeprecatedBuiltinCode(), code.BuiltinCode()), code.CustomCode()))
        return found

    def signature(i: int) -> tuple[object, ...]:
        s = model.SignatureDefs(i)
        inputs = [(s.Inputs(k).Name(), names[s.Inputs(k).TensorIndex()]) for k in range(s.InputsLength())]
        outputs = [(s.Outputs(k).Name(), names[s.Outputs(k).TensorIndex()]) for k in range(s.OutputsLength())]
        return s.SignatureKey(), inputs, outputs

    def metadata(i: int) -> tuple[bytes, bytes]:
        entry = model.Metadata(i)
        buffer = model.Buffers(entry.Buffer())
        return entry.Name(), buffer.DataAsNumpy().tobytes() if buffer.DataLength() else b""

    return {
        "inputs": [names[i] for i in graph.InputsAsNumpy()],
        "outputs": [names[i] for i in graph.OutputsAsNumpy()],
        "operators": codes(),
        "results": [[names[t] for t in graph.Operators(i).OutputsAsNumpy()] for i in range(graph.OperatorsLength())],
        "signatures": [signature(i) for i in range(model.SignatureDefsLength())],
        "metadata": [metadata(i) for i in range(model.MetadataLength())],
        "description": model.Description() or b"",
    }


def test_reading_what_was_written_gives_the_same_graph(model: Path) -> None:
    graph = tflite2q.load(model, allow_unsupported=True)
    content = writer.write(graph)
    assert reader.read(content, allow_unsupported=True) == graph
    assert writer.write(reader.read(content, allow_unsupported=True)) == content


def test_names_order_signatures_and_metadata_are_the_originals(model: Path) -> None:
    original = model.read_bytes()
    assert outline(writer.write(reader.read(original, allow_unsupported=True))) == outline(original)


def test_constants_and_metadata_start_at_multiples_of_16_bytes(model: Path) -> None:
    content = writer.write(tflite2q.load(model, allow_unsupported=True))
    written = tables(content)
    for index in range(written.BuffersLength()):
        table = written.Buffers(index)._tab
        if offset := table.Offset(4):  # the field `data`
            assert table.Vector(offset) % 16 == 0
    assert content[4:8] == b"TFL3"
    assert written.Buffers(0).DataIsNone()


@pytest.mark.parametrize(
    "name",
    ["ad01_int8", "kws_ref_model", "mobilenet_v1_0.25_128_quant", "mobilenet_edgetpu_0.75_224_post_training_quant"],
)
def test_a_model_written_under_its_own_scheme_computes_the_same_bits(name: str, shared: Path, tmp_path: Path) -> None:
    original, written = shared / "models" / f"{name}.tflite", tmp_path / "written.tflite"
    graph = tflite2q.load(original)
    writer.save(graph, written)
    (inputs,) = data.synthetic([graph[n] for n in graph.inputs], 1)
    before, after = run_litert(original, inputs, every=True), run_litert(written, inputs, every=True)
    assert set(before) == set(after)
    for tensor, array in before.items():
        np.testing.assert_array_equal(after[tensor], array, err_msg=tensor)


def test_signatures_can_be_called_in_litert(tmp_path: Path) -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    signature = Signature("serve", (("image", "x"),), (("code", "y"),))
    writer.save(small(signatures=(signature,)), tmp_path / "signed.tflite")
    loaded = interpreter.Interpreter(model_path=str(tmp_path / "signed.tflite"))
    assert loaded.get_signature_list() == {"serve": {"inputs": ["image"], "outputs": ["code"]}}
    codes = np.array([3, 4, 5, 255], np.uint8).reshape(1, 2, 2, 1)
    # real = 0.5 * (code - 3), new = real / 0.25 - 5, by hand; 504 - 5 saturates
    assert loaded.get_signature_runner("serve")(image=codes)["code"].reshape(-1).tolist() == [-5, -3, -1, 127]


def test_associated_files_and_metadata_come_back_and_are_a_plain_zip() -> None:
    graph = small(
        files=(("labels.txt", b"cat\ndog\n"), ("empty", b"")), metadata=(("NORM", b"\x01\x02"), ("min", b"1.14"))
    )
    content = writer.write(graph)
    assert reader.read(content) == graph
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == dict(graph.files)
    assert outline(content)["metadata"] == [(b"NORM", b"\x01\x02"), (b"min", b"1.14")]


def test_equal_constants_share_a_buffer() -> None:
    weights = np.arange(8, dtype=np.int8).reshape(4, 1, 1, 2)
    q = Quantization.per_tensor(0.1, 0)
    x = Value("x", TensorType((1, 2, 2, 2), "int8", q))
    values = [x, Value("b", TensorType((4,), "int32"), Constant(np.zeros(4, np.int32)))]
    ops = []
    for name in ("left", "right"):
        values.append(Value(f"{name}/w", TensorType(weights.shape, "int8", q), Constant(weights.copy())))
        values.append(Value(name, TensorType((1, 2, 2, 4), "int8", q)))
        ops.append(Conv2D(inputs=("x", f"{name}/w", "b"), outputs=(name,)))
    graph = Graph(("x",), ("left", "right"), tuple(values), tuple(ops))
    content = writer.write(graph)
    tensors = tables(content).Subgraphs(0)
    by_name = {tensors.Tensors(i).Name(): tensors.Tensors(i).Buffer() for i in range(tensors.TensorsLength())}
    assert by_name[b"left/w"] == by_name[b"right/w"] != by_name[b"b"]
    assert reader.read(content) == graph


def test_what_the_format_cannot_express_is_refused_by_name() -> None:
    q = Quantization.per_tensor(0.1, 0)
    values = tuple(Value(name, TensorType((1, 4), "int8", q)) for name in ("x", "y"))
    reshape = Reshape(inputs=("x",), outputs=("y",), kind="reshape", squeeze_dims=(0,))
    with pytest.raises(UnsupportedError, match=r"q\.reshape 'y': a \.tflite cannot express squeeze_dims = \(0,\)"):
        writer.write(Graph(("x",), ("y",), values, (reshape,)))


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "kept.tflite"
    path.write_bytes(b"mine")
    with pytest.raises(UsageError):
        writer.save(small(), path)
    assert path.read_bytes() == b"mine"
    writer.save(small(), path, force=True)
    assert reader.load(path) == small()
    assert [file.name for file in tmp_path.iterdir()] == ["kept.tflite"]


def test_equal_vectors_of_numbers_are_written_once() -> None:
    output = Output(flatbuffers.Builder(0))
    first = output.vector((1, 0), "int32")
    assert output.vector([1, 0], "int32") == first
    others = [output.vector((1, 0), "int64"), output.vector((1,), "int64"), output.vector((), "int32")]
    assert len({first, *others}) == 4
