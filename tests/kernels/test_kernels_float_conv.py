"""Float32 convolutions, each element within the bound that any order of summation keeps."""

from __future__ import annotations

from typing import Any

import made
import numpy as np
import numpy.typing as npt
import plans
import pytest

from tflite2q.kernels.contracts import FloatConv2DContract, Tensor
from tflite2q.kernels.generic.float_conv import GenericFloatConv, Program, Registers
from tflite2q.kernels.registry import select

UNIT_ROUNDOFF = 2.0**-24

SAME_3X3 = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}
LAYERS: dict[str, dict[str, Any]] = {
    "pointwise": {"size": (9, 7, 40), "out_c": 72},
    "batch": {"size": (5, 7, 12), "out_c": 20, "batch": 3},
    "narrow": {"size": (6, 5, 3), "out_c": 1},
    "overlapping-blocks": {"size": (4, 31, 8), "out_c": 45},
    "first-layer": {"size": (21, 23, 3), "out_c": 32, "strides": (2, 2), **SAME_3X3},
    "uneven": {"size": (11, 12, 7), "out_c": 19, "kernel": (2, 5), "strides": (3, 1), "padding": (0, 2, 1, 2)},
    "dilated": {"size": (12, 11, 5), "out_c": 24, "dilation": (2, 3), "kernel": (3, 3), "padding": (2, 3, 2, 3)},
    "groups": {"size": (7, 6, 24), "out_c": 36, "groups": 3, **SAME_3X3},
    "depthwise": {"size": (9, 10, 50), "out_c": 50, "groups": 50, **SAME_3X3},
    "depthwise-stride": {"size": (9, 10, 33), "out_c": 33, "groups": 33, "strides": (2, 2), **SAME_3X3},
    "depthwise-large": {"size": (13, 12, 6), "out_c": 6, "groups": 6, "kernel": (7, 7), "padding": (3, 3, 3, 3)},
    "depthwise-multiplier": {"size": (8, 9, 5), "out_c": 15, "groups": 5, **SAME_3X3},
    "dense": {"size": (1, 1, 300), "out_c": 101},
}


def layer(
    size: tuple[int, int, int], out_c: int, batch: int = 1, kernel: tuple[int, int] = (1, 1),
    strides: tuple[int, int] = (1, 1), dilation: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0), groups: int = 1, **clamp: float,
) -> FloatConv2DContract:  # fmt: skip
    """A random layer on images of `size` (height, width, channels)."""
    rng = np.random.default_rng(3)
    h, w, c = size
    spans = (h + padding[0] + padding[2], w + padding[1] + padding[3])
    facts = zip(spans, kernel, strides, dilation, strict=True)
    out_h, out_w = ((span - (k - 1) * d - 1) // s + 1 for span, k, s, d in facts)
    weights = rng.normal(size=(*kernel, c // groups, out_c)).astype(np.float32)
    bias = rng.normal(size=out_c).astype(np.float32)
    return FloatConv2DContract(
        Tensor((batch, h, w, c), "float32"), (out_h, out_w), strides, dilation, padding, groups, weights, bias, **clamp
    )


def sums(
    contract: FloatConv2DContract, x: npt.NDArray[Any], bias: Any, weights: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """The convolution in float64, one product at a time."""
    n = x.shape[0]
    (top, left, bottom, right), (kh, kw, depth, out_c) = contract.padding, weights.shape
    image = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))).astype(np.float64)
    y = np.zeros((n, *contract.out_size, out_c)) + bias
    for index in np.ndindex(n, *contract.out_size, kh, kw, out_c):
        b, row, column, i, j, o = index
        first = o // (out_c // contract.groups) * depth
        down = row * contract.strides[0] + i * contract.dilation[0]
        right = column * contract.strides[1] + j * contract.dilation[1]
        y[b, row, column, o] += image[b, down, right, first : first + depth] @ weights[i, j, :, o].astype(np.float64)
    return y


def check(contract: FloatConv2DContract, target: Any) -> None:
    """|error| <= gamma(k + 1) * sum of magnitudes, for k products and a bias (Higham, Accuracy and Stability, 3.1)."""
    x = np.random.default_rng(4).normal(size=contract.x.shape).astype(np.float32)
    built = plans.built(GenericFloatConv(), contract, target)
    got = made.run(built, target, x.reshape(built.inputs[0].shape)).reshape(contract.output.shape)
    bias = np.zeros(1, np.float32) if contract.bias is None else contract.bias
    want = sums(contract, x, bias, contract.weights)
    if contract.low is not None or contract.high is not None:
        want = np.clip(want, contract.low, contract.high)
    terms = int(np.prod(contract.weights.shape[:3])) + 1
    gamma = terms * UNIT_ROUNDOFF / (1 - terms * UNIT_ROUNDOFF)
    error = np.abs(got.astype(np.float64) - want)
    assert (error <= gamma * sums(contract, np.abs(x), np.abs(bias), np.abs(contract.weights))).all()


@pytest.mark.parametrize("name", LAYERS)
def test_within_the_bound_of_summation(name: str) -> None:
    check(layer(**LAYERS[name]), made.target())


@pytest.mark.parametrize("target", [t for t in ("x86-64", "x86-64-v3", "aarch64") if made.runs_here(t)])
@pytest.mark.parametrize("name", ["pointwise", "depthwise", "groups"])
def test_other_registers(name: str, target: str) -> None:
    check(layer(**LAYERS[name]), made.target(target))


@pytest.mark.parametrize("clamp", [{"low": 0.0}, {"low": 0.0, "high": 6.0}, {"low": -1.0, "high": 1.0}])
def test_clamp(clamp: dict[str, float]) -> None:
    check(layer(**LAYERS["pointwise"], **clamp), made.target())


def test_without_bias() -> None:
    contract = layer(**LAYERS["groups"])
    check(FloatConv2DContract(**{**vars(contract), "bias": None}), made.target())


@pytest.mark.parametrize("registers", [Registers(16, 32, 2), Registers(8, 16, 2), Registers(4, 32, 4)])
@pytest.mark.parametrize("name", LAYERS)
def test_accumulators_fit_registers(name: str, registers: Registers) -> None:
    plan = Program.of(layer(**LAYERS[name]), registers)
    assert plan.lanes <= registers.lanes and plan.pixels <= plan.output.shape[2]
    assert plan.pixels * plan.vectors + plan.vectors + 1 < registers.count


def test_selected() -> None:
    selection = select(layer(**LAYERS["dense"]), made.target())
    assert (selection.kernel.name, selection.refusals) == ("generic_real", ())
