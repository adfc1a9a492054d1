"""Shapes follow from the inputs', whatever the file stores, as LiteRT computes them anew."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from draw import Draw
from networks import Net
from surroundings import Outcome

import tflite2q
from tflite2q import pipeline
from tflite2q.dialect import ops
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.infer import inferred
from tflite2q.dialect.text import parse_graph, print_graph
from tflite2q.dialect.types import Constant, Quantization, TensorType, Value
from tflite2q.errors import DataError, InvalidGraph, UnsupportedError, UsageError
from tflite2q.execution import reference
from tflite2q.flatbuffer import schema
from tflite2q.flatbuffer.reader import load, read
from tflite2q.flatbuffer.writer import write

Array = npt.NDArray[Any]

RESIZED = """
import json, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
model, given, taken, shapes = sys.argv[1:]
interpreter = Interpreter(model_path=model, experimental_op_resolver_type=OpResolverType.BUILTIN_REF, num_threads=1)
for detail in interpreter.get_input_details():
    if detail["name"] in json.loads(shapes):
        interpreter.resize_tensor_input(detail["index"], json.loads(shapes)[detail["name"]])
interpreter.allocate_tensors()
arrays = np.load(given)
for detail, name in zip(interpreter.get_input_details(), arrays.files):
    interpreter.set_tensor(detail["index"], arrays[name])
interpreter.invoke()
np.savez(taken, *[interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()])
"""


def litert(data: bytes, inputs: Sequence[Array], shapes: Mapping[str, Sequence[int]], folder: Path) -> list[Array]:
    """LiteRT's outputs after its inputs were resized to `shapes`."""
    model, given, taken = (folder / name for name in ("resized.tflite", "in.npz", "out.npz"))
    model.write_bytes(data)
    np.savez(given, *inputs)
    arguments = [str(model), str(given), str(taken), json.dumps(shapes)]
    subprocess.run([sys.executable, "-c", RESIZED, *arguments], check=True, capture_output=True, timeout=300)
    with np.load(taken) as arrays:
        return [arrays[name] for name in arrays.files]


def dynamic(dtype: str = "uint8", computed: bool = True) -> Graph:
    """A convolution whose result is flattened to [batch, -1], with the batch taken from the input or left over."""
    net = Net(dtype)
    x = net.input("image", (1, 6, 5, 3), (0.05, 3))
    y = net.conv(x, "conv", 4, (0.1, 5))
    integers = {"begin": [0], "end": [1], "one": [1], "rest": 120, "wanted": [-1, 120]}
    for name, data in integers.items():
        net.constant(name, np.array(data, np.int32))
    for name, shape in (("shape", (4,)), ("batch", ()), ("packed", (2,))):
        net.values[name] = Value(name, TensorType(shape, "int32"))
    if computed:
        net.op(ops.ShapeOf(inputs=(y,), outputs=("shape",)))
        net.op(ops.StridedSlice(inputs=("shape", "begin", "end", "one"), outputs=("batch",), shrink_axis_mask=1))
        net.op(ops.Pack(inputs=("batch", "rest"), outputs=("packed",), count=2))
    kind = net.values[y].type
    net.values["rows"] = Value("rows", kind.with_(shape=(1, 120)))
    net.op(ops.Reshape(inputs=(y, "packed" if computed else "wanted"), outputs=("rows",)))
    graph = Graph(tuple(net.inputs), ("rows",), tuple(net.values.values()), tuple(net.ops))
    graph = inferred(graph).graph if not computed else graph
    open_shapes = {"image": (-1, 6, 5, 3), "conv": (-1, 6, 5, 4), "rows": (-1, -1)}
    return graph.with_(values=tuple(v.with_(shape_signature=open_shapes.get(v.name)) for v in graph.values))


def file_of(graph: Graph, **stored: tuple[int, ...]) -> bytes:
    """The graph's file with other shapes stored for some tensors; the graph need not be right."""
    whole = inferred(graph).graph
    model = schema.decode(write(whole))
    subgraph = model.subgraphs[0]
    tensors = tuple(replace(t, shape=stored.get(t.name or "", t.shape)) for t in subgraph.tensors)
    return schema.encode(replace(model, subgraphs=(replace(subgraph, tensors=tensors),)))


@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_batch_is_chosen_and_stays_open_in_the_file(computed: bool, batch: int, tmp_path: Path) -> None:
    shape = (batch, 6, 5, 3)
    data = file_of(dynamic(computed=computed), rows=(1, 1))
    graph = read(data, shapes={"image": shape})
    assert graph.notes == ()
    assert graph["rows"].type.shape == (batch, 120)
    x = np.random.default_rng(batch).integers(0, 256, shape, np.uint8)
    ours = reference.run(graph, x)
    np.testing.assert_array_equal(ours[0], litert(data, [x], {"image": shape}, tmp_path)[0])
    np.testing.assert_array_equal(ours[0], tflite2q.compile(graph).run(x)[0])
    assert parse_graph(print_graph(graph)) == graph
    assert read(write(graph)) == graph
    other = (3, 6, 5, 3)
    converted = tflite2q.convert(graph, "int8", interface="scheme")
    written = write(converted.graph)
    assert schema.decode(written).subgraphs[0].tensors[0].shape_signature == (-1, 6, 5, 3)
    x = np.random.default_rng(9).integers(-128, 128, other, np.int8)
    ours = reference.run(read(written, shapes={"image": other}), x)
    np.testing.assert_array_equal(ours[0], litert(written, [x], {"image": other}, tmp_path)[0])


def test_sizes_left_open_are_1() -> None:
    graph = read(file_of(dynamic(), image=(-1, 6, 5, 3), conv=(-1, 6, 5, 4), rows=(-1, -1)))
    assert graph["image"].type.shape == (1, 6, 5, 3)
    assert graph["image"].shape_signature == (-1, 6, 5, 3)
    assert graph["rows"].type.shape == (1, 120)
    assert graph.notes == ()


def static(**stored: tuple[int, ...]) -> bytes:
    graph = dynamic(computed=False)
    return file_of(graph.with_(values=tuple(v.with_(shape_signature=None) for v in graph.values)), **stored)


def test_stale_shapes_are_computed_anew_and_said(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    data = static(conv=(1, 2, 2, 4), rows=(7, 120))
    graph = read(data)
    assert [graph[name].type.shape for name in ("conv", "rows")] == [(1, 6, 5, 4), (1, 120)]
    (note,) = graph.notes
    assert "2 tensors have a stored shape" in note and "'conv' is [1, 6, 5, 4], not [1, 2, 2, 4]" in note
    x = np.random.default_rng(0).integers(0, 256, (1, 6, 5, 3), np.uint8)
    np.testing.assert_array_equal(reference.run(graph, x)[0], litert(data, [x], {}, tmp_path)[0])
    path = tmp_path / "stale.tflite"
    path.write_bytes(data)
    outcome = cli("convert", path, "--scheme", "int8", "--json", "-")
    assert outcome.code == 0 and "2 tensors have a stored shape" in outcome.err
    assert json.loads(outcome.out)["notes"][0] == note


def test_shapes_that_are_open_or_right_are_not_worth_a_word() -> None:
    for stored in ({}, {"rows": ()}, {"rows": (-1, 120)}):
        assert read(static(**stored)).notes == ()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"picture": (1, 6, 5, 3)}, "no input 'picture' to give a shape; its inputs are image"),
        ({"image": (2, 6, 5)}, r"'image' cannot have shape \[2, 6, 5\]: it is \[-1, 6, 5, 3\] in the file"),
        ({"image": (2, 7, 5, 3)}, "cannot have shape"),
        ({"image": (0, 6, 5, 3)}, "cannot have shape"),
    ],
)
def test_shapes_that_do_not_fit(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(file_of(dynamic()), shapes=shapes)


def test_shape_is_an_option_of_every_command(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    path, x = tmp_path / "model.tflite", tmp_path / "x.npy"
    path.write_bytes(file_of(dynamic()))
    np.save(x, np.zeros((1, 2, 6, 5, 3), np.uint8))
    shape = ("--shape", "image=2x6x5x3")
    document = json.loads(cli("inspect", path, *shape, "--json", "-").out)
    assert document["inputs"][0]["shape"] == [2, 6, 5, 3]
    assert "[2, 120]" in cli("convert", path, "--scheme", "int8", *shape, "--until", "load").out
    assert cli("run", path, "--input", x, "--output", tmp_path / "y.npy", *shape).code == 0
    assert np.load(tmp_path / "y.npy").shape[-2:] == (2, 120)
    assert cli("compare", path, "--scheme", "int8", "--no-speed", *shape).code == 0
    for wrong in ("image", "=1", "image=1x", "image=0x1", "image=axb"):
        outcome = cli("inspect", path, "--shape", wrong)
        assert outcome.code == 2 and "is not NAME=SIZExSIZE" in outcome.err


# ---------------------------------------------------------------------------------- shapes that are given at run time


def transposed() -> Graph:
    """TRANSPOSE_CONV with its output shape as an input."""
    draw = Draw(np.random.default_rng(3))
    shape = draw.input(TensorType((4,), "int32"), np.array([1, 6, 8, 2], np.int32))
    x = draw.input(draw.kind((1, 3, 4, 2), "int8"))
    weights = draw.constant(
        np.arange(-16, 20)[:36].reshape(2, 3, 3, 2), TensorType((2, 3, 3, 2), "int8", Quantization.per_tensor(0.1, 0))
    )
    y = draw.kind((1, 6, 8, 2), "int8")
    op = ops.TransposeConv(inputs=(shape, weights, x), outputs=("y",), stride_h=2, stride_w=2, version=2)
    return Graph((shape, x), ("y",), (*draw.values, Value("y", y)), (op,))


def test_an_output_shape_given_at_run_time_must_be_the_declared_one(tmp_path: Path) -> None:
    found = inferred(transposed())
    graph = found.graph
    shape = graph.inputs[0]
    assert found.prescribed == {shape: (1, 6, 8, 2)}
    data = write(graph)
    assert not schema.decode(data).buffers[schema.decode(data).subgraphs[0].tensors[0].buffer]
    again = read(data)
    assert again == graph and "must be [1, 6, 8, 2]" in again.notes[0]
    right, pixels = np.array([1, 6, 8, 2], np.int32), np.arange(24, dtype=np.int8).reshape(1, 3, 4, 2)
    ours = reference.run(graph, right, pixels)[0]
    np.testing.assert_array_equal(ours, litert(data, [right, pixels], {}, tmp_path)[0])
    executable = tflite2q.compile(graph)
    np.testing.assert_array_equal(ours, executable.run(right, pixels)[0])
    executable.save(tmp_path / "lib.so")
    loaded = tflite2q.load_library(tmp_path / "lib.so")
    wrong = np.array([1, 5, 8, 2], np.int32)
    for run in (lambda *a: reference.run(graph, *a), executable.run, loaded.run):
        with pytest.raises(DataError, match=r"sets a shape and must be \[1, 6, 8, 2\]"):
            run(wrong, pixels)
    assert pipeline.compare(graph, graph, speed=False).accuracy is not None  # random inputs keep to it


def test_numbers_known_only_at_run_time_are_named() -> None:
    draw = Draw(np.random.default_rng(0))
    x = draw.input(TensorType((2, 8), "float32"))
    k = draw.input(TensorType((), "int32"))
    values = (Value("v", TensorType((2, 1), "float32")), Value("i", TensorType((2, 1), "int32")))
    graph = Graph((x, k), ("v", "i"), (*draw.values, *values), (ops.TopK(inputs=(x, k), outputs=("v", "i")),))
    with pytest.raises(UnsupportedError, match=rf"op 0 q\.top_k 'v': k \('{k}'\) is known only at run time"):
        inferred(graph)


# -------------------------------------------------------------------------------------------------- single operators


def reshaped(x: tuple[int, ...], **op: Any) -> tuple[int, ...]:
    values = [Value("x", TensorType(x, "float32")), Value("y", TensorType((), "float32"))]
    inputs = ["x"]
    if (told := op.pop("told", None)) is not None:
        array = np.array(told, np.int32)
        values.append(Value("s", TensorType(array.shape, "int32"), Constant(array)))
        inputs.append("s")
    graph = Graph(("x",), ("y",), tuple(values), (ops.Reshape(inputs=tuple(inputs), outputs=("y",), **op),))
    return inferred(graph).graph["y"].type.shape


def test_reshape_squeeze_and_expand_dims() -> None:
    assert reshaped((2, 3, 4), told=[-1, 6]) == (4, 6)
    assert reshaped((2, 3, 4), told=[24]) == (24,)
    assert reshaped((2, 3, 4), told=[-1, 6], new_shape=(3, 8)) == (4, 6)
    assert reshaped((2, 3, 4), told=7, new_shape=(3, -1)) == (3, 8)  # TFLite takes only a vector for a shape
    assert reshaped((1, 1), new_shape=(0,)) == ()
    assert reshaped((0, 3), told=[-1, 3]) == (0, 3)
    assert reshaped((1, 3, 1), kind="squeeze") == (3,)
    assert reshaped((1, 3, 1), kind="squeeze", squeeze_dims=(-1,)) == (1, 3)
    assert reshaped((2, 3), kind="expand_dims", told=-1) == (2, 3, 1)
    assert reshaped((2, 3), kind="expand_dims", told=[0]) == (1, 2, 3)
    for wrong in ({"told": [-1, -1]}, {"told": [5]}, {"told": [-2, 3]}, {"kind": "squeeze", "squeeze_dims": (0,)}):
        with pytest.raises(InvalidGraph):
            reshaped((2, 3, 4), **wrong)


def test_a_variable_that_is_an_input_is_what_is_given(tmp_path: Path) -> None:
    draw = Draw(np.random.default_rng(0))
    a, b = draw.input(TensorType((1, 3), "int32")), draw.input(TensorType((2, 3), "int32"))
    values = [replace(v, variable=v.name == b) for v in draw.values]
    op = ops.Concat(inputs=(a, b), outputs=("y",))
    graph = Graph((a, b), ("y",), (*values, Value("y", TensorType((3, 3), "int32"))), (op,))
    ours = reference.run(graph, *draw.arrays)[0]
    np.testing.assert_array_equal(ours, np.concatenate(draw.arrays))
    np.testing.assert_array_equal(ours, tflite2q.compile(graph).run(*draw.arrays)[0])
    np.testing.assert_array_equal(ours, litert(write(graph), draw.arrays, {}, tmp_path)[0])


# --------------------------------------------------------------------------------------------- models kept elsewhere


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("dynamic_batch_int8", {}),
        ("dynamic_batch_int8", {"x": (4, 6, 6, 8)}),
        ("dilated_conv", {}),
        ("dilated_conv", {"input_1": (2, 13, 9, 3)}),
        ("detection_postprocess_static", {}),
        ("transpose_conv0", {}),
    ],
)
def test_kept_models(name: str, shapes: dict[str, tuple[int, ...]], shared: Path, tmp_path: Path) -> None:
    path = shared / "cases" / "shapes" / f"{name}.tflite"
    if not path.exists():
        pytest.skip("that model is not here")
    graph = load(path, shapes=shapes)
    draw = Draw(np.random.default_rng(1))
    inputs = [draw.data(graph[n].type) if graph[n].constant is None else graph[n].data for n in graph.inputs]
    ours = reference.run(graph, *inputs)
    for mine, theirs in zip(ours, litert(path.read_bytes(), inputs, shapes, tmp_path), strict=True):
        if mine.dtype == np.float32:
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(mine, theirs)
