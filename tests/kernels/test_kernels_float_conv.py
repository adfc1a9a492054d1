"""Float32 convolutions, each element within the bound that any order of summation keeps."""

from __future__ import annotations

from typing import Any

import made
import numpy as np
import numpy.typing as npt
import plans
import pytest
from emulate.bounds import faults

from tflite2q.kernels.contracts import FloatConv2DContract, Tensor
from tflite2q.kernels.generic import float_conv, float_depthwise, float_gemm
from tflite2q.kernels.real import Registers
from tflite2q.kernels.registry import KERNELS, select

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
    "dilated-many-taps": {
        "size": (11, 13, 6),
        "out_c": 20,
        "dilation": (1, 2),
        "kernel": (4, 5),
        "padding": (1, 4, 2, 4),
    },
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
    """The convolution in float64, one tap after another."""
    (top, left, bottom, right), (kh, kw, depth, out_c) = contract.padding, weights.shape
    image = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))).astype(np.float64)
    grouped = image.reshape(*image.shape[:3], contract.groups, depth)
    (out_h, out_w), (down, across) = contract.out_size, contract.strides
    y = np.zeros((x.shape[0], out_h, out_w, contract.groups, out_c // contract.groups))
    for i, j in np.ndindex(kh, kw):
        first, start = i * contract.dilation[0], j * contract.dilation[1]
        part = grouped[:, first : first + out_h * down : down, start : start + out_w * across : across]
        by_group = weights[i, j].astype(np.float64).reshape(depth, contract.groups, -1)
        y += np.einsum("nhwgd,dgo->nhwgo", part[:, :out_h, :out_w], by_group)
    return y.reshape(*y.shape[:3], out_c) + bias


def check(contract: FloatConv2DContract, target: Any) -> None:
    """Of every kernel that takes it: accesses within its buffers, and

    |error| <= gamma(k + 1) * sum of magnitudes, for k products and a bias (Higham, Accuracy and Stability, 3.1).
    """
    x = np.random.default_rng(4).normal(size=contract.x.shape).astype(np.float32)
    bias = np.zeros(1, np.float32) if contract.bias is None else contract.bias
    want = sums(contract, x, bias, contract.weights)
    if contract.low is not None or contract.high is not None:
        want = np.clip(want, contract.low, contract.high)
    terms = int(np.prod(contract.weights.shape[:3])) + 1
    gamma = terms * UNIT_ROUNDOFF / (1 - terms * UNIT_ROUNDOFF)
    bound = gamma * sums(contract, np.abs(x), np.abs(bias), np.abs(contract.weights))
    taking = [kernel for kernel in KERNELS[FloatConv2DContract] if plans.refusal(kernel, contract, target) is None]
    for kernel in taking:
        built = plans.built(kernel, contract, target)
        assert faults(built) == []
        got = made.run(built, target, x.reshape(built.inputs[0].shape)).reshape(contract.output.shape)
        assert (np.abs(got.astype(np.float64) - want) <= bound).all(), built.name


def drawn(seed: int) -> FloatConv2DContract:
    """A layer of 1 to 200 channels, in batches, of windows that may reach far beyond the image."""
    rng = np.random.default_rng([seed, 5])

    def number(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    channels, kind = number(1, 200), number(0, 4)
    groups = channels if kind < 2 else 1
    out_c = channels if kind == 0 else channels * number(1, 3) if kind == 1 else number(1, 200)
    size, kernel = (number(1, 12), number(1, 12), channels), (number(1, 5), number(1, 5))
    if kind == 4:
        kernel = (1, 1)
    dilation = (number(1, 2), number(1, 2))
    reach = tuple((k - 1) * d for k, d in zip(kernel, dilation, strict=True))
    padding = tuple(number(0, r) if n > r else r for n, r in zip((*size[:2], *size[:2]), (*reach, *reach), strict=True))
    clamp = ({}, {"low": 0.0}, {"low": -1.0, "high": 1.0})[number(0, 2)]
    return layer(
        size, out_c, batch=number(1, 3), kernel=kernel, strides=(number(1, 3), number(1, 3)), dilation=dilation,
        padding=padding, groups=groups, **clamp,
    )  # fmt: skip


@pytest.mark.parametrize("seed", [*range(12), *(pytest.param(i, marks=pytest.mark.slow) for i in range(12, 300))])
def test_any_layer(seed: int) -> None:
    check(drawn(seed), made.target())


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3", "x86-64-v4", "aarch64"])
def test_accesses_stay_within_buffers_on_every_kind_of_registers(target: str) -> None:
    for seed in range(40, 44):
        contract = drawn(seed)
        assert faults(select(contract, made.target(target)).plan.build()) == []


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


@pytest.mark.parametrize("registers", [Registers(16, 32, 4), Registers(8, 16, 2), Registers(4, 32, 4)])
@pytest.mark.parametrize("name", LAYERS)
def test_accumulators_fit_registers(name: str, registers: Registers) -> None:
    contract = layer(**LAYERS[name])
    plan = float_conv.Program.of(contract, registers)
    assert plan.lanes <= registers.lanes and plan.pixels <= plan.output.shape[2]
    assert plan.pixels * plan.vectors + plan.vectors + 1 < registers.count
    if contract.groups == 1:
        for s in float_gemm.Program.of(contract, registers).sections:
            assert s.pixels * s.vectors + 2 <= registers.count
    if contract.each_by_itself:
        for s in float_depthwise.Program.of(contract, registers).sections:
            assert s.pixels * s.vectors + 2 <= registers.count


@pytest.mark.parametrize(
    ("name", "kernel", "reasons"),
    [
        ("dense", "float_gemm", 1),
        ("depthwise", "float_depthwise", 0),
        ("groups", "generic_float_conv2d", 2),
        ("depthwise-multiplier", "generic_float_conv2d", 2),
    ],
)
def test_selected(name: str, kernel: str, reasons: int) -> None:
    selection = select(layer(**LAYERS[name]), made.target())
    assert (selection.kernel.name, len(selection.refusals)) == (kernel, reasons)


def test_numbers_outside_the_image_are_not_multiplied() -> None:
    """An infinity in the row or column next to the border stays where it is."""
    contract = layer(**LAYERS["depthwise"])
    contract = FloatConv2DContract(**{**vars(contract), "weights": np.abs(contract.weights)})
    built = select(contract, made.target()).plan.build()
    x = np.full(contract.x.shape, np.inf, np.float32)
    assert np.isposinf(made.run(built, made.target(), x)).all()
