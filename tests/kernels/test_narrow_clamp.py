"""A narrow block of channels with a fused clamp compiles in time and computes the reference's bits.

LLVM 22 once simplified such code endlessly, so it is compiled in a process that can be ended.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SLOW = pytest.mark.slow
CHILD = """
import numpy as np, tflite2q
from networks import Net
from tflite2q.execution import reference

net = Net(dtype="int8", seed=1)
x = net.input("x", (1, 8, 8, 3), (0.02, 0))
graph = net.graph(net.conv(x, "y", {filters}, (6 / 127, 0), size=3, activation="{activation}"))
codes = np.random.default_rng(0).integers(-128, 128, (1, 8, 8, 3), np.int8)
assert np.array_equal(tflite2q.compile(graph).run(codes)[0], reference.run(graph, codes)[0])
"""


@pytest.mark.parametrize("activation", ["NONE", "RELU", "RELU6"])
@pytest.mark.parametrize("filters", [8, *(pytest.param(filters, marks=SLOW) for filters in (24, 28, 56))])
def test_narrow_blocks_with_a_clamp(filters: int, activation: str) -> None:
    script = CHILD.format(filters=filters, activation=activation)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300, cwd=Path(__file__).parents[1])
