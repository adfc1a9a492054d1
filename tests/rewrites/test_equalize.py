"""Equalization: real numbers stay what they are, and only channels that may be divided are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from networks import Net

from tflite2q import rewrites
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import Constant, Value
from tflite2q.evaluation import calibration, data
from tflite2q.execution import reference
from tflite2q.rewrites import clamps, scheme
from tflite2q.rewrites.equalize import HEADROOM, LARGEST, equalize
from tflite2q.rewrites.plan import Plan
from tflite2q.rewrites.scheme import Scheme
from tflite2q.rewrites.statistics import Observation

MIDDLE = "middle"
TOP = 24.0  # real upper end of the codes of `MIDDLE`


def pair(activation: str, seed: int = 0) -> Graph:
    """Two 1x1 convolutions whose channels in between have weights of unlike sizes, and biases of 0."""
    net = Net(seed=seed)
    x = net.input("x", (1, 4, 4, 3), (1 / 255, 0))
    y = net.conv(x, MIDDLE, 8, (TOP / 255, 0), activation=activation)
    net.conv(y, "last", 4, (0.5, 128))
    sizes = np.rint(np.linspace(12, 128, 8))
    net.values[f"{MIDDLE}/w"] = sized(net.values[f"{MIDDLE}/w"], sizes.reshape(8, 1, 1, 1))
    net.values["last/w"] = sized(net.values["last/w"], sizes[::-1].reshape(1, 1, 1, 8))
    return net.graph("last")


def sized(weights: Value, sizes: np.ndarray) -> Value:
    """`weights` whose largest entries are as many steps from the zero point as `sizes` says."""
    # Negative ones: -128 is beyond what symmetric codes hold, so that something has to be rounded.
    return weights.with_(constant=Constant(np.broadcast_to(128 - sizes, weights.type.shape).astype(np.uint8)))


def per_tensor(granularity: str = "per-tensor") -> Scheme:
    base = scheme.find("int8")
    layer = replace(base.layer, recover=scheme.Recovery(equalize=True))
    return replace(base, layer=replace(layer, weights=replace(layer.weights, granularity=granularity)))


def observed(graph: Graph, highest: list[int]) -> dict[str, Observation]:
    """As if each channel of `MIDDLE` had reached such a code at most."""
    seen = Observation.nothing(graph[MIDDLE].type)
    seen.highest[...] = np.array(highest)
    return {MIDDLE: seen}


def factors(graph: Graph, seen: dict[str, Observation], wanted: Scheme | None = None) -> np.ndarray:
    wanted = wanted or per_tensor()
    return equalize(graph, Plan.of(wanted, graph), {}, seen, clamps.limits(graph).cuts).get(MIDDLE, np.ones(8))


@pytest.mark.parametrize("activation", ["NONE", "RELU"])
def test_channels_are_divided_by_ratios_to_the_middle_one(activation: str) -> None:
    found = factors(pair(activation), {})
    assert found.min() == 1.0
    assert 1.0 < found.max() <= LARGEST
    assert (found == 1.0).sum() >= 4
    assert (np.diff(found) >= 0).all()  # the larger what makes a channel and the smaller what reads it, the more


def test_a_channel_that_reached_the_bound_of_relu6_stays() -> None:
    graph = pair("RELU6")
    bound = round(6.0 / (TOP / 255))
    free = factors(graph, observed(graph, [bound - 1] * 8))
    assert free[6] > 1.0
    assert free[7] > 1.0
    held = factors(graph, observed(graph, [bound - 1] * 7 + [bound]))
    assert held[7] == 1.0
    np.testing.assert_array_equal(held[:7], free[:7])


@pytest.mark.parametrize(("activation", "top"), [("RELU", 255), ("RELU6", round(6.0 / (TOP / 255)))])
def test_a_channel_that_uses_little_of_the_range_is_lifted(activation: str, top: int) -> None:
    """The first channel's readers have the largest weights and its makers the smallest."""
    graph = pair(activation)
    low, tight = (factors(graph, observed(graph, [code, *[top - 1] * 7])) for code in (top // 10, top // 2))
    assert low[0] == pytest.approx(max(HEADROOM * (top // 10) / top, unbounded(graph)[0]))
    assert tight[0] == pytest.approx(HEADROOM * (top // 2) / top)
    assert (low[1:4] == 1.0).all()  # no room
    assert (low[4:] >= 1.0).all()


def unbounded(graph: Graph) -> np.ndarray:
    """The divisors that would serve the weights best."""
    first, last = (np.abs(graph[name].data.astype(float) - 128) for name in (f"{MIDDLE}/w", "last/w"))
    ideal = np.sqrt(first.max(axis=(1, 2, 3)) / last.max(axis=(0, 1, 2)))
    return np.asarray(ideal / np.median(ideal))


def test_relu6_of_which_nothing_is_known_stays() -> None:
    assert (factors(pair("RELU6"), {}) == 1.0).all()


def test_a_scale_for_each_channel_leaves_only_what_is_read() -> None:
    graph = pair("RELU")
    found = factors(graph, {}, per_tensor("per-channel"))
    weights = np.abs(graph["last/w"].data.astype(float) - 128).max(axis=(0, 1, 2))
    ideal = np.sqrt(1 / weights)
    np.testing.assert_allclose(found, np.clip(ideal / np.median(ideal), 1.0, LARGEST), rtol=1e-6)


@pytest.mark.parametrize("activation", ["NONE", "RELU", "RELU6"])
def test_real_numbers_stay_what_they_are(activation: str) -> None:
    """In float32 nothing is rounded, so an equalized model computes what it would otherwise."""
    graph = pair(activation)
    samples = list(data.synthetic([graph["x"]], 4))
    seen = calibration.observe(graph, samples)
    plain = scheme.find("float32")
    equal = replace(plain, layer=replace(plain.layer, recover=scheme.Recovery(equalize=True)))
    before, after = (rewrites.convert(graph, wanted, seen).graph for wanted in (plain, equal))
    assert not np.array_equal(before["last/w"].data, after["last/w"].data)
    inside = [op.inputs[0] for op in before.ops if op.mnemonic == "q.requantize"]
    assert inside
    for sample in samples:
        first, second = (reference.run_every(g, *sample) for g in (before, after))
        for name in inside:
            if first[name].dtype == np.float32:
                np.testing.assert_allclose(second[name], first[name], rtol=1e-5, atol=1e-5)


def test_weights_that_stay_the_integers_that_they_are_are_left_alone() -> None:
    graph = pair("RELU")
    kept = {f"{MIDDLE}/w", "last/w"}
    values = tuple(v.with_(constant=Constant(np.maximum(v.data, 1))) if v.name in kept else v for v in graph.values)
    assert (factors(graph.with_(values=values), {}) == 1.0).all()
