"""What of a model of real numbers stays real, because codes would ruin it; and models that do not run on noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from draw import Case, Draw

from tflite2q import convert
from tflite2q.dialect import ops
from tflite2q.dialect.types import Quantization, TensorType
from tflite2q.errors import UnsupportedError
from tflite2q.evaluation import calibration, data
from tflite2q.execution import reference
from tflite2q.rewrites import scheme

REAL = TensorType((1, 6), "float32")
CODES = TensorType((4, 6), "uint8", Quantization.per_tensor(0.1, 100))


def draw() -> Draw:
    return Draw(np.random.default_rng(0))


def negated() -> Case:
    d = draw()
    x = d.input(REAL, np.array([[-3, -2.99, -1, 0, 1, 2]], np.float32))
    return d.case(ops.Lookup, (x,), REAL.with_(shape=()), function="NEG")


def product() -> Case:
    d = draw()
    x = d.input(TensorType((2, 30), "float32"), d.rng.uniform(0.5, 3, (2, 30)).astype(np.float32))
    return d.case(ops.Product, (x, d.ints(1)), REAL.with_(shape=()))


def divided(divisors: list[float] | None) -> Case:
    d = draw()
    a = d.input(REAL, np.linspace(-1, 1, 6, dtype=np.float32).reshape(1, 6))
    small = np.array([[0.001, 1, 1, 1, 1, 30]], np.float32)
    b = d.input(REAL, small) if divisors is None else d.constant(np.array([divisors], np.float32))
    return d.case(ops.Div, (a, b), REAL.with_(shape=()))


@pytest.mark.parametrize("name", ["int8", "int16x8", "symmetric-int8"])
@pytest.mark.parametrize(
    "make",
    [negated, product, lambda: divided(None), lambda: divided([0.001, 1, 1, 1, 1, 30]), lambda: divided([0] * 6)],
)
def test_what_codes_would_ruin_stays_real(make: Callable[[], Case], name: str) -> None:
    case = make()
    with pytest.raises(UnsupportedError, match="no activation of the model is quantized, or can be"):
        calibration.convert(case.graph, scheme.find(name), [case.inputs])


def test_divisors_that_are_known_and_alike_become_codes() -> None:
    case = divided([1, -2, 3, 4, 5, 30])
    new = calibration.convert(case.graph, scheme.find("int8"), [case.inputs]).graph
    (op,) = [op for op in new.ops if isinstance(op, ops.Div)]
    assert new[op.name].type.dtype == "int8"
    (got,), (want,) = (reference.run(graph, *case.inputs) for graph in (new, case.graph))
    np.testing.assert_allclose(got, want, atol=0.05)


@pytest.mark.parametrize("name", ["int8", "int16x8"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_product_with_integers_in_an_activations_place_stays(channels: int, name: str) -> None:
    d = draw()
    q = Quantization((0.125,) * channels, (0,) * channels, 1 if channels > 1 else None)
    b = d.constant(d.rng.integers(-127, 128, (6, 3)), TensorType((6, 3), "int8", q))
    case = d.case(ops.BatchMatmul, (d.input(REAL), b), REAL.with_(shape=()), version=4)
    for samples in (None, [case.inputs]):
        with pytest.raises(UnsupportedError, match="BATCH_MATMUL of float32 and int8 is defined only for the types"):
            calibration.convert(case.graph, scheme.find(name), samples)


def gathering(count: int) -> Case:
    d = draw()
    table = d.input(CODES.with_(shape=(count, 6)))
    indices = d.input(TensorType((3,), "int32"), np.zeros(3, np.int32))
    return d.case(ops.Gather, (table, indices), CODES.with_(shape=()), axis=0)


def test_noise_for_indices_is_small() -> None:
    """A scheme that observes noise takes a model whose inputs are indices."""
    done = convert(gathering(2).graph, "power-of-two")
    assert not done.unsampled
    assert all("correction" not in note for note in done.notes)


def test_a_model_that_does_not_run_on_noise_is_converted_without() -> None:
    done = convert(gathering(1).graph, "power-of-two")
    assert any("needs data: it does not run on noise (q.gather" in note for note in done.notes)
    assert done.graph[done.graph.ops[-1].name].type.quantized


def test_synthetic_integers_are_small_whatever_their_parameters() -> None:
    d = draw()
    kinds = (TensorType((9,), "int32", Quantization.per_tensor(0.1, 0)), TensorType((9,), "int64"))
    names = [d.input(kind) for kind in kinds]
    values = [value for value in d.values if value.name in names]
    for sample in data.synthetic(values):
        assert all(array.min() >= 0 and array.max() <= 1 for array in sample)
