"""Layers that are worth several threads: the pieces into which they are cut stay within their buffers, too."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from emulate import levels
from emulate.graphs import Growth

from tflite2q.dialect import ops
from tflite2q.dialect.graph import Graph, verify


def _pointwise(d: Growth) -> str:
    return d.product(ops.Conv2D, d.source((1, 29, 31, 67)), (121, 1, 1, 67), 0, 67)


def _many_weights(d: Growth) -> str:
    return d.product(ops.Conv2D, d.source((1, 13, 15, 257)), (203, 1, 1, 257), 0, 257)


def _convolution(d: Growth) -> str:
    return d.product(ops.Conv2D, d.source((2, 27, 29, 13)), (56, 3, 3, 13), 0, 117, padding="SAME", stride_w=1)


def _few_pixels(d: Growth) -> str:
    return d.product(ops.Dense, d.source((2, 1201)), (2001, 1201), 0, 1201)


def _depthwise(d: Growth) -> str:
    x = d.source((1, 37, 39, 76))
    return d.product(ops.DepthwiseConv2D, x, (1, 3, 3, 76), 3, 9, padding="SAME", stride_h=1, stride_w=1)


def _elements(d: Growth) -> str:
    return d.resize(d.pool(d.function(d.binary(d.source((1, 91, 83, 79))))))


LARGE: dict[str, Callable[[Growth], str]] = {
    "pointwise": _pointwise,
    "many weights": _many_weights,
    "convolution": _convolution,
    "few pixels": _few_pixels,
    "depthwise": _depthwise,
    "elements": _elements,
}
WHERE = {"int8": ("amx", "avx2", "i8mm"), "uint8": ("avx512vnni", "dotprod"), "int16": ("sapphirerapids", "neon")}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("dtype", WHERE)
def test_pieces_stay_within_their_buffers(name: str, dtype: str) -> None:
    d = Growth(np.random.default_rng([*name.encode()]))
    d.dtype = dtype
    last = LARGE[name](d)
    graph = verify(Graph(tuple(d.inputs), (last,), tuple(d.values), tuple(d.ops)))
    texts = []
    for level in WHERE[dtype]:
        assert levels.check_bounds(graph, level)
        texts += [step.built.func.script() for step in levels.kernels(graph, levels.target(level))]
    assert any("T.parallel" in text for text in texts)
