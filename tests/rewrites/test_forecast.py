"""A forecast says of every layer what the conversion then does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import detectors
import networks
import pytest
from forecasts import agreeing
from networks import Net

from tflite2q import rewrites
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.dense import Dense
from tflite2q.flatbuffer import reader
from tflite2q.rewrites import scheme


def check(graph: Graph, name: str) -> None:
    forecast, truth = agreeing(graph, name)
    for expected, layer in zip(forecast, truth, strict=True):
        # A channel may fit another grid by luck, or miss the same by the last bit of a scale; there are few of them.
        count = layer.channels_rescaled or 0
        assert (expected.channels_rescaled or 0) == pytest.approx(count, rel=0.02, abs=1), layer.name


@pytest.mark.parametrize("name", scheme.shipped())
def test_digits(digits: Path, name: str) -> None:
    check(reader.load(digits), name)


@pytest.mark.parametrize("name", scheme.shipped())
@pytest.mark.parametrize("model", ["mobilenet_v1_0.25_128_quant", "kws_ref_model", "pretrainedResnet_quant"])
def test_shared_models(shared: Path, model: str, name: str) -> None:
    check(reader.load(shared / "models" / f"{model}.tflite"), name)


@pytest.mark.parametrize("name", scheme.shipped())
@pytest.mark.parametrize("first", sorted({*scheme.shipped()} - {"asymmetric-uint8", "symmetric-uint8"}))
def test_converted_models_once_more(digits: Path, first: str, name: str) -> None:
    check(rewrites.convert(reader.load(digits), scheme.find(first)).graph, name)


@pytest.mark.parametrize("name", scheme.shipped())
@pytest.mark.parametrize("make", [networks.everything, detectors.ssd], ids=["everything", "ssd"])
def test_made_networks(make: Callable[[int], Graph], name: str) -> None:
    check(make(3), name)


@pytest.mark.parametrize("name", scheme.shipped())
def test_weights_that_the_model_computes(name: str) -> None:
    net = Net()
    x = net.input("x", (1, 4), (0.05, 3))
    weights = net.input("w", (3, 4), (0.02, 130))
    net.value("y", (1, 3), (0.1, 3))
    check(net.graph(net.op(Dense(inputs=(x, weights), outputs=("y",)))), name)


def test_a_cast_that_merges_with_its_layer_does_not_hide_the_loss(digits: Path) -> None:
    """The 16-bit softmax loses bits on the way back, although its cast to the output's uint8 is gone then."""
    wide = rewrites.convert(reader.load(digits), scheme.find("int16x8")).graph
    back = rewrites.convert(wide, scheme.find("asymmetric-uint8"))
    (softmax,) = (op for op in wide.ops if op.mnemonic == "q.softmax")
    assert softmax.name not in back.graph.by_name
    (layer,) = (layer for layer in back.layers if layer.name == softmax.name)
    assert layer.loss == "requantized" and layer.bound is not None and layer.bound > 0
