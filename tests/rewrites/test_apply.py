"""Constants that several layers share, where the layers come to need different ones."""

from __future__ import annotations

import numpy as np
import pytest
from networks import Net

from tflite2q import convert
from tflite2q.execution import reference


@pytest.mark.parametrize("scheme", ["asymmetric-uint8", "symmetric-int8", "int8-w4", "float32", "dynamic-range"])
def test_two_convolutions_with_one_filter(scheme: str) -> None:
    net = Net(dtype="int8", seed=3)
    x = net.input("x", (1, 6, 6, 4), (0.02, 3))
    first = net.conv(x, "a", 4, (0.05, 0), size=3)
    graph = net.graph(net.conv(first, "b", 4, (0.3, -7), size=3))
    one, two = graph.ops
    shared = graph.with_(ops=(one, two.with_(inputs=(two.inputs[0], one.inputs[1], *two.inputs[2:]))))
    codes = np.random.default_rng(0).integers(-128, 128, (1, 6, 6, 4), np.int8)
    new = convert(shared, scheme, "keep").graph
    (want,), (got,) = reference.run(shared, codes), reference.run(new, codes)
    noise = np.mean((got.astype(float) - want) ** 2)
    assert noise < 0.1 * np.var(want.astype(float)) + 1
