"""Models on emulated microcontrollers compute what the reference computes, and touch no memory but theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from surroundings import SHARED

from tflite2q import convert, load
from tflite2q.dialect.graph import Graph
from tflite2q.errors import Unchanged
from tflite2q.execution import reference
from tflite2q.micro import boards, emulator

pytestmark = [
    pytest.mark.micro,
    pytest.mark.skipif(boards.missing() is not None, reason=str(boards.missing())),
]

DIGITS = Path(__file__).parent.parent.parent / "models" / "digits_uint8.tflite"
TARGETS = ("cortex-m3", "cortex-m4", "cortex-m33", "cortex-m55")
SCHEMES = ("int8", "symmetric-int8", "int16x8", "int8-w4", "power-of-two", "asymmetric-uint8")
MODELS = ("kws_ref_model", "ad01_int8", "vww_96_int8", "pretrainedResnet_quant", "mobilenet_v1_0.25_128_quant")
MOST_STACK = 2048


def converted(path: Path, scheme: str) -> Graph:
    try:
        return convert(load(path), scheme).graph
    except Unchanged:
        return load(path)


def check(graph: Graph, target: str, by: str, samples: int = 2) -> None:
    """Random samples, one after the other; the program itself looks at the guards around arena and outputs."""
    rng = np.random.default_rng(3)
    kinds = [graph[name].type for name in graph.inputs]
    given = [
        [rng.integers(*k.range, size=k.shape, endpoint=True).astype(k.dtype) for k in kinds] for _ in range(samples)
    ]
    ran = emulator.run(graph, target, given, by)
    assert ran.stack <= MOST_STACK
    for sample, outputs in zip(given, ran.outputs, strict=True):
        for got, want in zip(outputs, reference.run(graph, *sample), strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.micro_quick
@pytest.mark.parametrize(("target", "scheme", "by"), [
    ("cortex-m3", "power-of-two", "a"), ("cortex-m4", "int8", "a"), ("cortex-m4", "int16x8", "c"),
    ("cortex-m33", "int8-w4", "a"), ("cortex-m55", "int8", "a"), ("cortex-m55", "symmetric-int8", "c"),
    ("cortex-m4", "asymmetric-uint8", "c"), ("cortex-m55", "asymmetric-uint8", "a"),
])  # fmt: skip
def test_digits_on_each_kind_of_processor(target: str, scheme: str, by: str) -> None:
    check(converted(DIGITS, scheme), target, by)


@pytest.mark.parametrize("by", ["a", "c"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("target", ["cortex-m0plus", *TARGETS, "cortex-m7"])
def test_digits(target: str, scheme: str, by: str) -> None:
    check(converted(DIGITS, scheme), target, by)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", TARGETS)
def test_shared_models(target: str, name: str, scheme: str) -> None:
    path = Path(SHARED) / "models" / f"{name}.tflite"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    check(converted(path, scheme), target, "a", samples=1)
