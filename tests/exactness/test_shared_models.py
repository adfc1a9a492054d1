"""Whole models with data movement, real numbers and recurrence: every tensor against LiteRT's reference kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from litert import run_litert

from tflite2q.dialect.graph import Graph, used
from tflite2q.errors import UnsupportedError
from tflite2q.evaluation import data
from tflite2q.execution import reference
from tflite2q.flatbuffer.reader import load
from tflite2q.flatbuffer.writer import write

IMAGE_MODELS = ("deeplabv3_mnv2_dm05_pascal_quant", "movenet_single_pose_lightning_ptq")
OTHER_MODELS = ("keras_lstm_mnist_ptq", "split_concat")


def check(path: Path, graph: Graph, inputs: list[np.ndarray]) -> None:
    """Integers equal bit for bit, real numbers within 1e-5 of the largest."""
    judge, ours = run_litert(path, inputs, every=True), reference.run_every(graph, *inputs)
    for op in graph.ops:
        for name in op.outputs:
            expected, got = judge[name], ours[name]
            assert expected.dtype == got.dtype and expected.shape == got.shape, name
            if got.dtype == np.float32:
                np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * float(np.abs(expected).max()))
            else:
                np.testing.assert_array_equal(got, expected, err_msg=f"{op.mnemonic} {name}")


def random_inputs(graph: Graph, seed: int) -> list[np.ndarray]:
    return next(iter(data.synthetic([graph[name] for name in graph.inputs], samples=1, seed=seed)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [*IMAGE_MODELS, *OTHER_MODELS])
def test_on_random_input(name: str, seed: int, shared: Path) -> None:
    path = shared / "models" / f"{name}.tflite"
    graph = load(path)
    check(path, graph, random_inputs(graph, seed))


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_on_photos(name: str, shared: Path) -> None:
    path = shared / "models" / f"{name}.tflite"
    graph = load(path)
    for file in sorted((shared / "images").glob("*.jpg"))[3:5]:
        check(path, graph, next(iter(data.load(file, [graph[graph.inputs[0]]]))))


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("posenet_mobilenet_v1_075_353_481_16_quant_decoder", "37 custom PosenetDecoderOp"),
        ("unknown_custom_op", "0 custom fake-op-double"),
    ],
)
def test_unsupported_operators_are_named_or_carried(name: str, operator: str, shared: Path) -> None:
    path = shared / "models" / f"{name}.tflite"
    with pytest.raises(UnsupportedError, match=operator):
        load(path)
    graph = load(path, allow_unsupported=True)
    inputs = [np.zeros(graph[i].type.shape, graph[i].type.dtype) for i in graph.inputs]
    with pytest.raises(UnsupportedError, match="cannot be run"):
        reference.run(graph, *inputs)


def test_all_of_posenet_before_its_decoder(shared: Path, tmp_path: Path) -> None:
    """LiteRT cannot run the decoder either; what feeds it is judged on the model without it."""
    path = shared / "models" / "posenet_mobilenet_v1_075_353_481_16_quant_decoder.tflite"
    graph = load(path, allow_unsupported=True)
    decoder = graph.ops[-1]
    network = used(graph.with_(ops=graph.ops[:-1], outputs=tuple(n for n in decoder.inputs if n), signatures=()))
    (codes,) = random_inputs(network, 1)
    small = tmp_path / "network.tflite"
    small.write_bytes(write(network))
    check(small, network, [codes])
