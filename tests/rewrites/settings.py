"""Schemes as settings, and the small network whose conversions show what each setting does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from networks import Net

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import Constant, Value
from tflite2q.rewrites import scheme
from tflite2q.rewrites.scheme import Scheme

Array = npt.NDArray[Any]
Settings = Mapping[str, Any]

SAMPLES = 24
# The least that a scheme must say; tests add the rest.
INT8: Settings = {"activations.dtype": "int8", "weights.dtype": "int8"}
INT4: Settings = {"activations.dtype": "int8", "weights.dtype": "int4", "weights.rounding": "nearest"}
SYMMETRIC: Settings = {**INT8, "activations.symmetric": True}
UINT8: Settings = {
    "activations.dtype": "uint8", "weights.dtype": "uint8", "weights.symmetric": False,
    "weights.granularity": "per-tensor",
}  # fmt: skip
INT16: Settings = {**SYMMETRIC, "activations.dtype": "int16"}
FLOAT32: Settings = {"activations.dtype": "float32", "weights.dtype": "float32"}
DYNAMIC: Settings = {"activations.dtype": "float32", "weights.dtype": "int8"}
BLOCKS: Settings = {**DYNAMIC, "weights.dtype": "int4", "weights.rounding": "nearest"}
SHIFT: Settings = {**SYMMETRIC, "activations.scale": "power-of-two", "weights.scale": "power-of-two"}


def text(settings: Settings, rules: str = "") -> str:
    """The scheme file that says so."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()) + rules


def of(settings: Settings, rules: str = "") -> Scheme:
    return scheme.parse(text(settings, rules), "tested")


def rule(settings: Settings, match: str = '{ op = "*" }', optional: bool = False) -> str:
    """A rule that sets `settings` where `match` fits."""
    lines = ["[[rules]]", f"optional = {str(optional).lower()}", f"match = {match}"]
    return "\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]) + "\n"


@cache
def network(dtype: str = "uint8") -> Graph:
    """Convolution, depthwise convolution, 1x1 convolution, mean and dense layer; uint8 weights that int8 cannot hold.

    Codes rarely come near the ends of their ranges, and inputs have outliers, so that ranges can be narrowed.
    """
    net = Net(dtype, seed=3)
    down = 128 if dtype == "int8" else 0
    wide = 127 if dtype == "int8" else 140
    x = net.input("x", (1, 8, 8, 3), (0.02, 100 - down))
    y = net.conv(x, "first", 8, (0.05, 0 - down), size=3, spread=wide, activation="RELU")
    y = net.depthwise(y, "deep", (0.7, 131 - down), spread=wide)
    y = net.conv(y, "point", 12, (9.0, 120 - down), spread=wide)
    y = net.flatten(net.average_pool(y, "mean"), "flat")
    return net.graph(net.dense(y, "logits", 10, (11.0, 140 - down), spread=wide))


@cache
def wide() -> Graph:
    """A dense layer of 128 inputs."""
    net = Net(seed=6)
    return net.graph(net.dense(net.input("x", (1, 128), (0.02, 128)), "logits", 10, (0.5, 140)))


@cache
def uneven() -> Graph:
    """Two 1x1 convolutions whose channels in between have weights of very unlike sizes."""
    net = Net(seed=4)
    x = net.input("x", (1, 4, 4, 3), (0.02, 3))
    # The range in between is wider than what the first layer computes: nothing is cut off there.
    net.conv(net.conv(x, "first", 8, (0.5, 0), activation="RELU"), "last", 4, (0.5, 128))
    sizes = np.rint(np.linspace(12, 128, 8))  # symmetric codes do not hold 128: something has to be rounded
    for name, shape in (("first/w", (8, 1, 1, 1)), ("last/w", (1, 1, 1, 8))):
        net.values[name] = resized(net.values[name], (sizes if name == "first/w" else sizes[::-1]).reshape(shape))
    return net.graph("last")


def resized(weights: Value, sizes: Array) -> Value:
    """`weights` all as many steps from the zero point as `sizes` says, on the side where they were if
    it has so many."""
    signs = np.where((weights.data.astype(int) >= 128) & (sizes < 128), 1, -1)
    return weights.with_(constant=Constant((128 + signs * sizes).astype(np.uint8)))


def samples(graph: Graph) -> Array:
    """Inputs [samples, ...]: codes near the zero point, and one in two hundred anywhere."""
    kind = graph[graph.inputs[0]].type
    generator = np.random.default_rng(8)
    shape = (SAMPLES, *kind.shape[1:])
    low, high = kind.range
    near = generator.normal(kind.zero_point, 12, shape)
    anywhere = generator.integers(low, high + 1, shape)
    return np.clip(np.where(generator.random(shape) < 0.005, anywhere, near), low, high).astype(kind.dtype)


@dataclass(frozen=True)
class Weighted:
    """An op with weights: their codes less the zero point as rows of output channels, scales in float64, the bias."""

    rows: Array
    scales: Array
    bias: Array

    @property
    def real(self) -> Array:
        return self.rows * self.scales[:, None]


def weighted(graph: Graph, name: str) -> Weighted:
    op = graph.producers[name]
    while len(op.inputs) < 3:  # a clamp that the conversion wrote out, or a cast
        op = graph.producers[str(op.inputs[0])]
    weights, bias = (graph[str(each)] for each in op.inputs[1:3])
    codes = np.moveaxis(weights.data.astype(np.float64), op.channel_axis, 0)
    rows = codes.reshape(codes.shape[0], -1)
    if weights.type.quantization is None:
        return Weighted(rows, np.ones(len(rows)), bias.data)
    q = weights.type.parameters
    return Weighted(rows - q.zero_points(len(rows))[:, None], q.scales(len(rows)).astype(np.float64), bias.data)
