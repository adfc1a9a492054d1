"""Convolutions and dense layers of every number of channels, where blocks of vectors end in all ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from draw import Case
from emulate import levels
from emulate.graphs import Growth

from tflite2q.dialect import ops
from tflite2q.dialect.graph import Graph, verify

MOST = 200
ENDS = (3, 15, 28, 49, 63, 65, 130)
FOLLOWED = ("conv2d", "depthwise", "dense")

can_run = pytest.mark.skipif(not levels.can_emulate(), reason="needs an x86 with AVX2 and FMA")


def layer(kind: str, channels: int, dtype: str, followed: bool = False) -> Case:
    """One layer of so many output channels, perhaps followed by what else reads and adds it."""
    d = Growth(np.random.default_rng([channels, *kind.encode(), *dtype.encode()]))
    d.dtype = dtype
    made: dict[str, Any] = {
        "conv2d": lambda: d.product(ops.Conv2D, d.source((2, 3, 5, 7)), (channels, 2, 3, 7), 0, 42, padding="SAME"),
        "depthwise": lambda: d.product(
            ops.DepthwiseConv2D, d.source((2, 5, 9, channels)), (1, 3, 3, channels), 3, 9, padding="SAME"
        ),
        "dense": lambda: d.product(ops.Dense, d.source((3, 21)), (channels, 21), 0, 21),
    }
    last = made[kind]()
    if followed:
        last = d.concat(d.function(d.binary(last)))
    read = {name for op in d.ops for name in op.inputs}
    ends = tuple(v.name for v in d.values if v.name not in read and v.constant is None)
    return Case(verify(Graph(tuple(d.inputs), ends, tuple(d.values), tuple(d.ops))), tuple(d.arrays), "")


@pytest.mark.parametrize("channels", ENDS)
def test_no_kernel_leaves_its_buffers(channels: int) -> None:
    for level in ("avx2", "avx512vnni", "amx", "neon", "dotprod", "i8mm"):
        levels.check_bounds(layer("conv2d", channels, "int8").graph, level)
    for level in ("avx2", "amx"):
        levels.check_bounds(layer("conv2d", channels, "int16").graph, level)


@can_run
@pytest.mark.parametrize(
    ("level", "channels"), [("avx2", 28), ("avxvnni", 31), ("avx512vnni", 49), ("amx", 56), ("amx", 63)]
)
def test_blocks_with_fewer_channels_are_right(level: str, channels: int) -> None:
    levels.check(layer("conv2d", channels, "int8", followed=True), level)


@pytest.mark.slow
@pytest.mark.parametrize("channels", range(1, MOST + 1))
def test_every_number_of_channels(channels: int) -> None:
    for kind in FOLLOWED:
        for dtype in ("int8", "uint8", "int16"):
            case = layer(kind, channels, dtype)
            for level in levels.LEVELS:
                levels.check_bounds(case.graph, level)
    if levels.can_emulate():
        for number, level in enumerate(levels.X86):
            kind, dtype = FOLLOWED[(channels + number) % 3], ("int8", "int8", "uint8", "int16")[(channels + number) % 4]
            levels.check(layer(kind, channels, dtype, followed=True), level)
