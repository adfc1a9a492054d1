"""The committed digits model: the structure and the accuracy that models/README.md claims."""

import re
from pathlib import Path

import numpy as np
import pytest

from tflite2q.dialect.graph import Graph
from tflite2q.flatbuffer import reader

MODELS = Path(__file__).parents[2] / "models"


def held_out() -> tuple[np.ndarray, np.ndarray]:
    """Input codes uint8 [360, 8, 8, 1] and the digit of each, int64 [360]."""
    with np.load(MODELS / "digits_test.npz") as arrays:
        inputs = arrays["input"]
    rows = np.loadtxt(MODELS / "digits_labels.csv", np.int64, delimiter=",", skiprows=1)
    assert rows[:, 0].tolist() == list(range(len(inputs)))
    return inputs, rows[:, 1]


@pytest.fixture(scope="module")
def graph() -> Graph:
    return reader.load(MODELS / "digits_uint8.tflite")


def test_held_out_set_is_balanced_and_in_the_models_codes(graph: Graph) -> None:
    inputs, labels = held_out()
    kind = graph["input"].type
    assert graph.inputs == ("input",)
    assert inputs.shape == (360, *kind.shape[1:])
    assert inputs.dtype.name == kind.dtype == "uint8"
    assert np.bincount(labels).tolist() == [36] * 10
    pixels = kind.scale * (inputs.astype(np.float64) - kind.zero_point) * 8 + 8
    assert pixels == pytest.approx(np.round(pixels), abs=1e-6)
    assert (pixels.min().round(), pixels.max().round()) == (0, 16)


def test_held_out_images_are_scikit_learns() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    known = {image.astype(np.uint8).tobytes(): label for image, label in zip(digits.images, digits.target, strict=True)}
    inputs, labels = held_out()
    assert [known[(codes // 15).tobytes()] for codes in inputs] == labels.tolist()
    assert len({codes.tobytes() for codes in inputs}) == len(inputs)


def test_operators_are_those_of_a_small_mobilenet(graph: Graph) -> None:
    expected = (
        "CONV_2D DEPTHWISE_CONV_2D CONV_2D ADD DEPTHWISE_CONV_2D CONV_2D DEPTHWISE_CONV_2D CONV_2D ADD "
        "AVERAGE_POOL_2D RESHAPE FULLY_CONNECTED SOFTMAX"
    )
    assert [op.builtin.name for op in graph.ops] == expected.split()
    assert {getattr(op, "activation", "NONE") for op in graph.ops} == {"NONE", "RELU", "RELU6"}


def test_quantization_is_the_legacy_kind(graph: Graph) -> None:
    """uint8 per tensor with weight codes from 1, zero points of all sorts, int32 biases in the accumulator's scale."""
    weighted = [graph.ins(op) for op in graph.ops if len(op.inputs) == 3]
    assert len(weighted) == 8
    for x, weights, bias in weighted:
        assert x is not None
        assert weights is not None
        assert bias is not None
        assert weights.type.dtype == x.type.dtype == "uint8"
        assert (weights.data.min(), weights.data.max()) == (1, 255)
        assert weights.type.zero_point != 128
        assert bias.type.dtype == "int32"
        assert bias.type.zero_point == 0
        assert bias.type.scale == np.float32(x.type.scale * weights.type.scale)
    assert (graph["softmax"].type.scale, graph["softmax"].type.zero_point) == (1 / 256, 0)
    assert {graph[name].type.zero_point == 0 for op in graph.ops for name in op.outputs} == {True, False}


def test_some_channels_reach_further_than_a_signed_byte(graph: Graph) -> None:
    """Most channels fit int8 unchanged, a few do not: a conversion has both of its lanes to take."""
    reach = []
    for op in graph.ops:
        if op.mnemonic in ("q.conv2d", "q.dense"):
            weights = graph.ins(op)[1]
            assert weights is not None
            centred = np.abs(weights.data.astype(np.int64) - weights.type.zero_point)
            reach += centred.reshape(len(centred), -1).max(axis=1).tolist()
    assert 0 < sum(r > 127 for r in reach) < len(reach) / 10


def test_litert_reaches_the_accuracy_the_readme_claims() -> None:
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = litert.Interpreter(
        model_path=str(MODELS / "digits_uint8.tflite"),
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_REF,
    )
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    assert source["name"] == "input"
    inputs, labels = held_out()
    correct = 0
    for codes, label in zip(inputs, labels, strict=True):
        interpreter.set_tensor(source["index"], codes[np.newaxis])
        interpreter.invoke()
        correct += int(interpreter.get_tensor(result["index"])[0].argmax() == label)
    claimed = re.search(r"(\d+) of (\d+) held-out digits", (MODELS / "README.md").read_text())
    assert claimed is not None
    assert (correct, len(labels)) == (int(claimed[1]), int(claimed[2]))
    assert correct / len(labels) >= 0.97
