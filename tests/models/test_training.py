"""The training code of models/: gradients against finite differences, quantization against its definition."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from shutil import copy
from types import ModuleType

import numpy as np
import pytest

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture
def nn(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(MODELS)
    return import_module("nn")


@pytest.fixture
def quantize(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(MODELS)
    return import_module("quantize")


def test_gradients_equal_finite_differences(nn: ModuleType) -> None:
    """Every kind of layer, odd strides, a layer read twice and both clamps, at random points away from their kinks."""
    layers = (
        nn.Layer("first", "conv", ("input",), 3, kernel=3, activation="relu6"),
        nn.Layer("depthwise", "depthwise", ("first",), 3, kernel=3, stride=2, activation="relu"),
        nn.Layer("pointwise", "conv", ("first",), 3, stride=2),
        nn.Layer("sum", "add", ("depthwise", "pointwise")),
        nn.Layer("pool", "average_pool", ("sum",), kernel=2, stride=2),
        nn.Layer("flat", "flatten", ("pool",)),
        nn.Layer("logits", "dense", ("flat",), 4),
    )
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((5, 8, 8, 2)), rng.integers(0, 4, 5)
    drawn = nn.initialize(layers, x[:1], rng)
    parameters = {name: (weights, rng.standard_normal(bias.shape)) for name, (weights, bias) in drawn.items()}

    def loss() -> float:
        value, _ = nn.cross_entropy(nn.forward(layers, parameters, x, nn.Exact()).values["logits"], labels)
        return float(value)

    tape = nn.forward(layers, parameters, x, nn.Exact())
    grads = tape.backward(nn.cross_entropy(tape.values["logits"], labels)[1])
    assert grads.keys() == {"first", "depthwise", "pointwise", "logits"}
    for name, arrays in parameters.items():
        for array, grad in zip(arrays, grads[name], strict=True):
            for flat in rng.integers(0, array.size, 5):
                index = np.unravel_index(flat, array.shape)
                kept = array[index]
                array[index] = kept + 1e-6
                above = loss()
                array[index] = kept - 1e-6
                below = loss()
                array[index] = kept
                assert grad[index] == pytest.approx((above - below) / 2e-6, abs=1e-6), (name, index)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"), [(8, 3, 1, (1, 1)), (8, 3, 2, (0, 1)), (8, 1, 1, (0, 0))]
)
def test_same_padding_is_tflites(nn: ModuleType, size: int, kernel: int, stride: int, padding: tuple[int, int]) -> None:
    assert nn.same_padding(size, kernel, stride) == padding


@pytest.mark.parametrize(("low", "high"), [(-1.3, 2.1), (0.2, 5.0), (-4.0, -0.5), (0.0, 6.0)])
@pytest.mark.parametrize("lowest_code", [0, 1])
def test_grids_hold_zero_and_cover_the_range(quantize: ModuleType, low: float, high: float, lowest_code: int) -> None:
    parameters = quantize.grid(low, high, lowest_code)
    (scale,), (zero_point,) = parameters.scale, parameters.zero_point
    assert lowest_code <= zero_point <= 255
    ends = scale * (np.array([lowest_code, 255]) - zero_point)
    assert ends == pytest.approx([min(low, 0), max(high, 0)], abs=0.51 * scale)


def test_weights_use_codes_1_to_255_and_biases_the_accumulators_scale(quantize: ModuleType) -> None:
    weights, of_weights = quantize.quantized_weights(np.array([-1.0, 0.0, 0.5, 1.54]))
    assert weights.tolist() == [1, 101, 151, 255]  # scale 2.54 / 254 = 0.01, zero point 1 + 1.0 / 0.01
    of_input = quantize.Quantization.per_tensor(0.5, 7)
    bias, of_bias = quantize.quantized_bias(np.array([0.025, -1.0]), of_input, of_weights)
    assert bias.tolist() == [5, -200]
    assert of_bias.scale[0] == pytest.approx(0.005, rel=1e-6)
    assert of_bias.zero_point == (0,)


def test_clipped_activations_pass_no_gradient(quantize: ModuleType) -> None:
    numerics = quantize.FakeQuantization(0.5, frozenset({"pool"}))
    numerics.activation("conv", np.array([0.0, 2.55]))
    value, passes = numerics.activation("conv", np.array([0.0, 0.004, 5.10]))
    assert numerics.ranges["conv"] == pytest.approx((0.0, 3.825))  # halfway from 2.55 to 5.10
    assert value == pytest.approx([0.0, 0.0, 3.825])
    assert passes.tolist() == [True, True, False]
    assert numerics.activation("pool", value) == (value, None)


@pytest.mark.slow
def test_training_gives_the_same_data_and_as_good_a_model(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    for script in MODELS.glob("*.py"):
        copy(script, tmp_path)
    command = [sys.executable, str(tmp_path / "train_digits.py")]
    done = subprocess.run(command, check=True, timeout=1800, capture_output=True, text=True)
    assert int(done.stdout.splitlines()[-1].split()[0]) >= 350
    for name in ("digits_test.npz", "digits_labels.csv"):
        assert (tmp_path / name).read_bytes() == (MODELS / name).read_bytes()


def test_standardized_layers_begin_with_mean_0_and_variance_1(nn: ModuleType) -> None:
    layers = (
        nn.Layer("conv", "conv", ("input",), 4, kernel=3, stride=2, activation="relu6"),
        nn.Layer("depthwise", "depthwise", ("conv",), 4, kernel=3, activation="relu6"),
        nn.Layer("pointwise", "conv", ("depthwise",), 5),
    )
    rng = np.random.default_rng(0)
    images = rng.standard_normal((6, 9, 9, 2)) * 7 + 3
    parameters = nn.standardized(layers, nn.initialize(layers, images[:1], rng), images)
    values = {"input": images}
    for layer in layers:
        y, _ = nn.apply(layer, [values[layer.inputs[0]]], parameters[layer.name])
        assert y.mean(axis=(0, 1, 2)) == pytest.approx(0, abs=1e-9)
        assert y.std(axis=(0, 1, 2)) == pytest.approx(1, rel=0.02)
        values[layer.name] = np.clip(y, nn.LOWER_BOUND[layer.activation], nn.UPPER_BOUND[layer.activation])


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_in_parts_equals_depthwise_at_once(
    nn: ModuleType, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((5, 7, 6, 3)), rng.standard_normal((1, 3, 3, 3)), rng.standard_normal(3)
    y, backward = nn.depthwise(x, stride, w, b)
    (grad_x,), grads = backward(np.ones_like(y))
    monkeypatch.setattr(nn, "CHUNK", 400)  # two images of 9 x 8 x 3 at a time
    parts, backward = nn.depthwise(x, stride, w, b)
    (other_x,), others = backward(np.ones_like(y))
    np.testing.assert_array_equal(y, parts)
    np.testing.assert_array_equal(grad_x, other_x)
    for one, other in zip(grads, others, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
