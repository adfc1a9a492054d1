"""Schemes that mix types, symmetry and arithmetic by layer: compiled code gives the reference's bits, and LiteRT's
reference kernels those of the written file."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from judge import judge
from networks import everything

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.evaluation import data
from tflite2q.execution import reference, runtime
from tflite2q.flatbuffer import reader, writer
from tflite2q.rewrites import scheme
from tflite2q.rewrites.scheme import Scheme

MIXES = {
    "int16-in-the-middle": """
        activations.dtype = "int8"
        weights.dtype = "int8"
        [[rules]]
        match.op = "*conv2d"
        match.from_input = [2, 3]
        activations.dtype = "int16"
        activations.symmetric = true
    """,
    "float32-last": """
        activations.dtype = "int8"
        weights.dtype = "int8"
        [[rules]]
        match.from_output = [1, 1]
        activations.dtype = "float32"
        weights.dtype = "float32"
    """,
    "float32-first-and-depthwise": """
        activations.dtype = "int8"
        weights.dtype = "int8"
        [[rules]]
        match.from_input = [1, 1]
        activations.dtype = "float32"
        weights.dtype = "float32"
        [[rules]]
        match.op = "depthwise_conv2d"
        activations.dtype = "float32"
        weights.dtype = "float32"
    """,
    "uint8-and-int8": """
        activations.dtype = "uint8"
        weights.dtype = "uint8"
        weights.symmetric = false
        weights.granularity = "per-tensor"
        [[rules]]
        match.op = "depthwise_conv2d"
        activations.dtype = "int8"
        weights.dtype = "int8"
        weights.symmetric = true
        weights.granularity = "per-channel"
    """,
    "int16-with-int8-and-4-bits": """
        activations.dtype = "int16"
        activations.symmetric = true
        weights.dtype = "int8"
        [[rules]]
        match.op = "conv2d"
        activations.dtype = "int8"
        activations.symmetric = false
        weights.dtype = "int4"
        weights.range = "least-squares"
    """,
    "every-arithmetic": """
        activations.dtype = "int8"
        activations.symmetric = true
        activations.scale = "power-of-two"
        weights.dtype = "int8"
        weights.scale = "power-of-two"
        rescale.arithmetic = "shift"
        [[rules]]
        match.op = "conv2d"
        rescale.arithmetic = "float32"
        activations.scale = "any"
        weights.scale = "any"
        [[rules]]
        match.op = "depthwise_conv2d"
        rescale.arithmetic = "tflite"
        activations.scale = "any"
        weights.scale = "any"
        weights.granularity = "per-tensor"
    """,
}

BY_CORE = ("int16-in-the-middle",)  # LLVM takes long for core operations

# (activations.dtype, .symmetric, weights.dtype, .symmetric, .granularity, recover.equalize)
KINDS = (
    ("int8", False, "int8", True, "per-channel", False),
    ("int8", True, "int8", True, "per-tensor", False),
    ("int8", False, "int4", True, "per-channel", True),
    ("uint8", False, "uint8", False, "per-tensor", False),
    ("int16", True, "int8", True, "per-channel", False),
    ("float32", False, "float32", True, "per-channel", False),
)


def settings(kind: tuple[str, bool, str, bool, str, bool]) -> str:
    activations, symmetric, weights, centred, granularity, equalize = kind
    return f"""
        activations.dtype = "{activations}"
        activations.symmetric = {str(symmetric).lower()}
        weights.dtype = "{weights}"
        weights.symmetric = {str(centred).lower()}
        weights.granularity = "{granularity}"
        recover.equalize = {str(equalize).lower()}
    """


def mix(name: str) -> Scheme:
    return scheme.parse("\n".join(line.strip() for line in MIXES[name].splitlines()), name)


def shuffled(graph: Graph, seed: int) -> Scheme:
    """A kind for each op, drawn."""
    draw = random.Random(seed)
    lines = [settings(draw.choice(KINDS[:5]))]
    for i in range(len(graph.ops)):
        if draw.random() < 0.7:
            lines += ["[[rules]]", f"match.index = [{i}, {i}]", settings(draw.choice(KINDS))]
    return scheme.parse("\n".join(lines), f"shuffled-{seed}")


def model(name: str, digits: Path) -> Graph:
    return tflite2q.load(digits) if name == "digits" else everything(int(name))


def check(original: Graph, mixed: Scheme, core: bool = True) -> Graph:
    """Of the conversion of `original`: kernels and, if wanted, core operations as the reference, LiteRT as the written
    file."""
    graph = tflite2q.convert(original, mixed).graph
    (inputs,) = data.synthetic([graph[n] for n in graph.inputs], 1, seed=5)
    # Sums of real numbers depend on their order, and so may the last bit of a code behind them.
    step = int(any(value.type.dtype == "float32" for value in graph.values))
    for use_kernels in (True, False) if core else (True,):
        same(runtime.compile(graph, use_kernels=use_kernels).run(*inputs), reference.run(graph, *inputs), step)
    content = writer.write(graph)
    (judged,) = judge([(content, inputs)])
    assert not isinstance(judged, str), judged
    path = reader.read(content)
    same(judged, reference.run(path, *inputs), step)
    return graph


def same(got: list[np.ndarray], want: list[np.ndarray], step: int) -> None:
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        assert np.abs(a.astype(np.int64) - b.astype(np.int64)).max() <= step


QUICK = ("int16-with-int8-and-4-bits", "float32-first-and-depthwise", "every-arithmetic")


@pytest.mark.parametrize(
    ("network", "name"),
    [
        pytest.param(network, name, marks=() if network == "digits" and name in QUICK else pytest.mark.slow)
        for network in ("digits", "7")
        for name in MIXES
    ],
)
def test_mixes_by_hand(name: str, network: str, digits: Path) -> None:
    graph = check(model(network, digits), mix(name), core=network == "7" and name in BY_CORE)
    dtypes = {value.type.dtype for op in graph.ops for value in graph.outs(op)}
    assert len(dtypes) > 1 or name == "every-arithmetic"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("network", ["digits", "7"])
def test_mixes_by_chance(seed: int, network: str, digits: Path) -> None:
    original = model(network, digits)
    check(original, shuffled(original, seed))
