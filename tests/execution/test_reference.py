"""The NumPy oracle against LiteRT's reference kernels: every tensor of every model, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from litert import run_litert

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.text import parse_graph
from tflite2q.dialect.types import Quantization, TensorType, initial_state
from tflite2q.errors import DataError
from tflite2q.evaluation import data
from tflite2q.execution import reference
from tflite2q.flatbuffer.reader import load

IMAGE_MODELS = (
    "mobilenet_v1_0.25_128_quant",
    "mobilenet_v1_1.0_224_quant_embedding_extractor",
    "mobilenet_v2_1.0_224_quant",
    "tf2_mobilenet_v2_1.0_224_ptq",
    "mobilenet_edgetpu_0.75_224_post_training_quant",
    "vww_96_int8",
    "pretrainedResnet_quant",
)
OTHER_MODELS = ("kws_ref_model", "ad01_int8")


def check(path: Path, graph: Graph, inputs: list[np.ndarray]) -> None:
    """Every result of every op equals LiteRT's."""
    judge = run_litert(path, inputs, every=True)
    ours = reference.run_every(graph, *inputs)
    wrong = []
    for op in graph.ops:
        for name in op.outputs:
            expected, got = judge[name], ours[name]
            assert expected.dtype == got.dtype, name
            assert expected.shape == got.shape, name
            # Real results may hold NaN, which is not equal to itself: compare bits.
            different = int(
                (expected.view(f"u{expected.itemsize}") != np.ascontiguousarray(got).view(f"u{got.itemsize}")).sum()
            )
            if different:
                wrong.append(f"{op.mnemonic} {name}: {different} of {got.size}")
    assert not wrong, "\n".join(wrong[:5])


def random_inputs(graph: Graph, seed: int) -> list[np.ndarray]:
    return next(iter(data.synthetic([graph[name] for name in graph.inputs], samples=1, seed=seed)))


def photos(shared: Path, graph: Graph, first: int, count: int) -> list[list[np.ndarray]]:
    files = sorted((shared / "images").glob("*.jpg"))[first : first + count]
    return [next(iter(data.load(file, [graph[graph.inputs[0]]]))) for file in files]


@pytest.mark.parametrize("name", [*IMAGE_MODELS, *OTHER_MODELS])
def test_every_tensor_on_random_input(name: str, shared: Path) -> None:
    path = shared / "models" / f"{name}.tflite"
    graph = load(path)
    check(path, graph, random_inputs(graph, seed=len(name)))


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_every_tensor_on_a_photo(name: str, shared: Path) -> None:
    path = shared / "models" / f"{name}.tflite"
    graph = load(path)
    for inputs in photos(shared, graph, IMAGE_MODELS.index(name), 1):
        check(path, graph, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_every_tensor_on_ten_photos(name: str, shared: Path) -> None:
    path = shared / "models" / f"{name}.tflite"
    graph = load(path)
    for inputs in photos(shared, graph, 20 * IMAGE_MODELS.index(name), 10):
        check(path, graph, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_MODELS)
@pytest.mark.parametrize("seed", range(10))
def test_every_tensor_on_more_random_inputs(name: str, seed: int, shared: Path) -> None:
    path = shared / "models" / f"{name}.tflite"
    graph = load(path)
    check(path, graph, random_inputs(graph, seed))


def test_every_tensor_of_the_digits_model(digits: Path, digits_data: tuple[Path, Path]) -> None:
    graph = load(digits)
    dataset = data.load(digits_data[0], [graph[name] for name in graph.inputs], limit=3)
    for inputs in dataset:
        check(digits, graph, inputs)


@pytest.mark.parametrize(
    ("text", "inputs", "expected"),
    [
        pytest.param(
            "values { %x : uint8[1, 6] <0.1:0> %y : uint8[1, 6] <0.00390625:0> } ops { %y = q.softmax(%x) }",
            [np.array([[200, 190, 180, 150, 100, 0]], np.uint8)],
            [[170, 62, 23, 1, 0, 0]],
            id="softmax",
        ),
        pytest.param(
            "values { %x : int8[4] <0.1:3> %b : int8[4] <0.05:-7> %y : int8[4] <0.2:5> } ops { %y = q.add(%x, %b) }",
            [np.array([10, -20, 127, 0], np.int8), np.array([1, 2, -128, 100], np.int8)],
            [11, -4, 37, 30],
            id="add",
        ),
        pytest.param(
            "values { %x : int8[9] <0.4:0> %y : int8[9] <1.0:0> } ops { %y = q.requantize(%x) }",
            [np.arange(-4, 5, dtype=np.int8)],
            [-2, -1, -1, -1, 0, 1, 1, 1, 2],
            id="requantize",
        ),
        pytest.param(
            """values { %x : int8[9] <0.05:0> %y : int8[9] <0.04:-60> }
            ops { %y = q.lookup(%x) {function = HARD_SWISH} }""",
            [np.array([-128, -60, -40, -10, 0, 10, 40, 60, 127], np.int8)],
            [-60, -60, -68, -65, -60, -53, -18, 15, 99],
            id="hard swish",
        ),
    ],
)
def test_known_answers(text: str, inputs: list[np.ndarray], expected: list[int]) -> None:
    names = ", ".join(["%x", "%b"][: len(inputs)])
    graph = parse_graph(f'graph "" {{ inputs ({names}) outputs (%y) {text} }}')
    assert reference.run(graph, *inputs)[0].tolist() == expected


def softmax() -> Graph:
    text = "values { %x : uint8[1, 2] <0.1:0> %y : uint8[1, 2] <0.00390625:0> } ops { %y = q.softmax(%x) }"
    return parse_graph(f'graph "" {{ inputs (%x) outputs (%y, %x) {text} }}')


def test_run_gives_the_outputs_in_order_and_run_every_all_values() -> None:
    x = np.array([[3, 3]], np.uint8)
    y, same = reference.run(softmax(), x)
    assert (y.tolist(), same.tolist()) == ([[128, 128]], [[3, 3]])
    assert list(reference.run_every(softmax(), x)) == ["x", "y"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "the model takes 1 input, got 0"),
        ([np.zeros((1, 2), np.uint8)] * 2, "the model takes 1 input, got 2"),
        ([np.zeros((2, 1), np.uint8)], r"input 'x' must be uint8\[1, 2\], got uint8\[2, 1\]"),
        ([np.zeros((1, 2), np.int8)], r"input 'x' must be uint8\[1, 2\], got int8\[1, 2\]"),
    ],
)
def test_inputs_are_checked(inputs: list[np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        reference.run(softmax(), *inputs)


def test_variables_start_at_real_zero() -> None:
    q = Quantization.per_tensor(0.5, 7)
    assert initial_state(TensorType((2,), "int8", q)).tolist() == [7, 7]
    assert initial_state(TensorType((2,), "int16", Quantization.per_tensor(0.5, 0))).tolist() == [0, 0]
    assert initial_state(TensorType((2,), "float32")).tolist() == [0.0, 0.0]
