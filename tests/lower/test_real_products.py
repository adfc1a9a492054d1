"""What convolutions of real numbers take over: PAD before them, MAXIMUM and MINIMUM behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tflite2q.dialect import ops
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.types import Constant, Quantization, TensorType, Value
from tflite2q.execution import reference, runtime
from tflite2q.kernels.contracts import FloatConv2DContract
from tflite2q.lower import stored
from tflite2q.lower.graph import NOTHING
from tflite2q.lower.target import resolve, tvm_target

FLOAT = "float32"


def constant(name: str, array: npt.NDArray[Any], scale: float | None = None) -> Value:
    q = None if scale is None else Quantization.per_tensor(scale, 0)
    return Value(name, TensorType(array.shape, str(array.dtype), q), Constant(array))


def network(integers: bool, fill: float = 0.0, shared: bool = False) -> Graph:
    """PAD, a convolution with RELU, MINIMUM with 8, MAXIMUM with 0.5; `shared`: the convolution is an output, too."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (6, 3, 3, 5))
    weights = constant("weights", codes.astype("int8"), 0.02) if integers else constant("weights", codes.astype(FLOAT))
    made = {
        "image": (2, 6, 7, 5), "padded": (2, 9, 8, 5), "sums": (2, 7, 6, 6), "below": (2, 7, 6, 6), "y": (2, 7, 6, 6),
    }  # fmt: skip
    values = [Value(name, TensorType(shape, FLOAT)) for name, shape in made.items()]
    values += [
        weights, constant("bias", rng.normal(size=6).astype(FLOAT)),
        constant("amounts", np.array([[0, 0], [2, 1], [1, 0], [0, 0]], np.int32)),
        constant("fill", np.array([fill], FLOAT)), constant("eight", np.array(8, FLOAT)),
        constant("half", np.array(0.5, FLOAT)),
    ]  # fmt: skip
    every = (
        ops.Pad(inputs=("image", "amounts", "fill"), outputs=("padded",)),
        ops.Conv2D(
            inputs=("padded", "weights", "bias"), outputs=("sums",), padding="VALID", activation="RELU",
            version=5 if integers else 1,
        ),
        ops.Extremum(inputs=("sums", "eight"), outputs=("below",), smallest=True),
        ops.Extremum(inputs=("below", "half"), outputs=("y",)),
    )  # fmt: skip
    return verify(Graph(("image",), ("sums", "y") if shared else ("y",), tuple(values), every))


def image() -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(2, 6, 7, 5)).astype(FLOAT) * np.float32(9)


@pytest.mark.parametrize("integers", [False, True])
def test_one_kernel_computes_all(integers: bool) -> None:
    graph = network(integers)
    executable = runtime.compile(graph)
    assert [c.kernel == NOTHING for c in executable.choices] == [True, False, True, True]
    got, want = executable.run(image())[0], reference.run(graph, image())[0]
    assert want.min() == 0.5 and want.max() == 8
    if integers:
        np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))
    else:
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


def test_other_numbers_around_the_image_stay() -> None:
    found = stored.contracts(network(True, fill=1.0), tvm_target(resolve("native")))
    convolution = found[1]
    assert isinstance(convolution, FloatConv2DContract)
    assert 0 not in found and convolution.padding == (0, 0, 0, 0)


def test_sums_that_others_read_stay_as_they_are() -> None:
    graph = network(True, shared=True)
    found = stored.contracts(graph, tvm_target(resolve("native")))
    convolution = found[1]
    assert isinstance(convolution, FloatConv2DContract)
    assert (convolution.low, convolution.high) == (0.0, None)


@pytest.mark.parametrize(
    ("bounds", "want"),
    [
        ((-np.inf, 6.0), (0.0, 6.0)),
        ((0.5, np.inf), (0.5, None)),
        ((-1.0, np.inf), (0.0, None)),
        ((-np.inf, -1.0), None),
    ],
)
def test_clamped(bounds: tuple[float, float], want: tuple[float | None, float | None] | None) -> None:
    found = stored.contracts(network(False, shared=True), tvm_target(resolve("native")))[1].clamped(*bounds)
    assert (None if found is None else (found.low, found.high)) == want  # type: ignore[attr-defined]


@pytest.mark.parametrize("layer", ["dense", "integers", "matmul"])
def test_a_padded_image_that_is_read_as_rows(layer: str) -> None:
    """Such layers are convolutions of single pixels, which have no borders of an image."""
    rng = np.random.default_rng(3)
    codes = rng.integers(-127, 128, (6, 5))
    real = codes.T.astype(FLOAT) if layer == "matmul" else codes.astype(FLOAT)
    weights = constant("weights", codes.astype("int8"), 0.02) if layer == "integers" else constant("weights", real)
    made = {"image": (2, 6, 7, 5), "padded": (2, 9, 8, 5), "y": (2, 9, 8, 6)}
    values = [*(Value(name, TensorType(shape, FLOAT)) for name, shape in made.items()), weights]
    values.append(constant("amounts", np.array([[0, 0], [2, 1], [1, 0], [0, 0]], np.int32)))
    product: ops.Op = ops.Dense(
        inputs=("padded", "weights", None), outputs=("y",), keep_num_dims=True, version=12 if layer == "integers" else 1
    )
    if layer == "matmul":
        product = ops.BatchMatmul(inputs=("padded", "weights"), outputs=("y",))
    every = (ops.Pad(inputs=("image", "amounts"), outputs=("padded",)), product)
    graph = verify(Graph(("image",), ("y",), tuple(values), every))
    (got,), (want,) = runtime.compile(graph).run(image()), reference.run(graph, image())
    terms = 5  # of a sum, each rounded once and added with an error of half a digit, in both
    digits = 0 if layer == "integers" else 2 * terms * 2.0**-24
    np.testing.assert_allclose(got, want, rtol=0, atol=digits * terms * 127 * np.abs(image()).max())
