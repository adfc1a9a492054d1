"""Limits of layers: what they read, where it lies, and how long that takes at least."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import tflite2q
from benchmarks import roofline
from benchmarks.memory import Memory
from benchmarks.peak import Peaks
from benchmarks.roofline import MATRIX, VECTOR, Limits, Work
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.text import parse_graph
from tflite2q.execution import reference

NEAR, FAR = Memory("near", 1000, read=100.0, store=50.0, copy=40.0), Memory("far", None, read=10.0, store=8.0, copy=5.0)
LIMITS = Limits(Peaks(vector=2.0, matrix=16.0), (NEAR, FAR))


def ms(nanoseconds: Fraction | int) -> float:
    return float(Fraction(nanoseconds) / 10**6)


def test_products_take_the_time_of_the_unit_that_can_do_them() -> None:
    assert LIMITS.of(Work(3200, True, (), 0)) == (ms(200), MATRIX)
    assert LIMITS.of(Work(3200, False, (), 0)) == (ms(1600), VECTOR)
    without = Limits(Peaks(2.0, None), LIMITS.memories)
    assert without.of(Work(3200, True, (), 0)) == (ms(1600), VECTOR)


@pytest.mark.parametrize(
    ("reads", "stored", "near", "far"),
    [
        (((800, 800),), 0, Fraction(800, 100), None),
        (((800, 1001),), 0, 0, Fraction(800, 10)),  # little, beside more than the near memory holds
        (((500, 500), (200, 5000)), 0, 5, 20),
        (((800, 800),), 800, Fraction(800, 40), None),  # a copy
        (((800, 800),), 300, 8 + 300 * (Fraction(1, 40) - Fraction(1, 100)), None),
        (((200, 200),), 600, Fraction(200, 40) + Fraction(400, 50), None),  # a copy, then only storing
        (((200, 200),), 2000, 2, 200 * (Fraction(1, 5) - Fraction(1, 10)) + Fraction(1800, 8)),
        ((), 400, Fraction(400, 50), None),
    ],
)  # fmt: skip
def test_bytes_take_the_time_of_loops_that_do_nothing_else(
    reads: tuple[tuple[int, int], ...], stored: int, near: Fraction | int, far: Fraction | int | None
) -> None:
    work = Work(0, True, reads, stored)
    found = LIMITS.by_bytes(work)
    assert found.get("near", 0.0) == pytest.approx(ms(near))
    assert found.get("far", 0.0) == pytest.approx(ms(far or 0))
    limit, bound = LIMITS.of(work)
    assert limit == pytest.approx(ms(near + (far or 0)))
    assert bound == ("far" if far is not None and far > near else "near")


def test_the_longer_of_products_and_bytes_is_the_limit() -> None:
    assert LIMITS.of(Work(160, True, ((1000, 1000),), 0)) == (ms(10), MATRIX)
    assert LIMITS.of(Work(159, True, ((1000, 1000),), 0)) == (ms(10), "near")


def test_of_two_measurements_the_faster_counts() -> None:
    slower = Limits(Peaks(1.0, 17.0), (Memory("near", 1000, 90.0, 60.0, 30.0), FAR))
    both = slower.or_faster(LIMITS)
    assert both == LIMITS.or_faster(slower)
    assert both == Limits(Peaks(2.0, 17.0), (Memory("near", 1000, 100.0, 60.0, 40.0), FAR))


GRAPH = """
graph "example" {
  inputs (%x)
  outputs (%y)
  values {
    %x : uint8[1, 4, 4, 2] <0.5:0>
    %filters : int8[3, 1, 1, 2] <0.5:0> = [1, 2, 3, 4, 5, 6]
    %taps : int8[1, 3, 3, 3] <0.5:0> = [1,2,3,4,5,6,7,8,9, 1,2,3,4,5,6,7,8,9, 1,2,3,4,5,6,7,8,9]
    %paddings : int32[4, 2] = [0, 0, 1, 1, 1, 1, 0, 0]
    %a : uint8[1, 4, 4, 3] <0.5:0>
    %flat : uint8[1, 4, 4, 3] <0.5:0>
    %b : uint8[1, 4, 4, 3] <0.5:0>
    %c : uint8[1, 4, 4, 3] <0.5:0>
    %padded : uint8[1, 6, 6, 3] <0.5:0>
    %y : uint8[1, 2, 2, 3] <0.5:0>
  }
  ops {
    %a = q.conv2d(%x, %filters, _)
    %flat = q.reshape(%a, _) {new_shape = [1, 4, 4, 3]}
    %b = q.depthwise_conv2d(%flat, %taps, _) {depth_multiplier = 1}
    %c = q.add(%flat, %b)
    %padded = q.pad(%c, %paddings)
    %y = q.max_pool2d(%padded) {filter_h = 1, filter_w = 2, stride_h = 3, stride_w = 3}
  }
}
"""


@pytest.fixture(scope="module")
def graph() -> Graph:
    return parse_graph(GRAPH)


def test_what_ops_read_and_where_it_lies(graph: Graph) -> None:
    """By hand: a, b and c have 48 bytes, padded 108, y 12; all constants have 6 + 27 + 4 * 8."""
    found = roofline.work(graph, {"flat"})
    constants, run = 6 + 27 + 32, 32 + 3 * 48 + 108 + 12
    assert list(found) == ["a", "b", "c", "padded", "y"]
    assert found["a"] == Work(16 * 3 * 2, True, ((32, run), (6, constants)), 48)
    assert found["b"] == Work(48 * 9, False, ((48, 48), (27, constants)), 48)
    assert found["c"] == Work(0, True, ((48, 96), (48, 48)), 48)  # the reshaped is `a`, from before b was written
    assert found["padded"].reads[0] == (48, 48)
    # Windows of 1 x 2 at rows 0 and 3, columns 0, 1, 3 and 4 of 6 x 6.
    assert found["y"] == Work(0, True, ((2 * 4 * 3, 108),), 12)


def test_an_op_that_is_left_out_costs_nothing_and_its_reader_reads_its_operand(graph: Graph) -> None:
    found = roofline.work(graph, {"flat", "padded"})
    assert "padded" not in found
    assert found["y"].reads == ((24, 48),)  # of 48 bytes, those that windows over the 6 x 6 can need


@pytest.mark.parametrize(("stride", "kernel", "dilation"), [(1, 3, 1), (2, 3, 1), (2, 1, 1), (3, 2, 1), (1, 2, 3)])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("size", [7, 8])
def test_windows_read_what_changes_their_result(
    stride: int, kernel: int, dilation: int, padding: str, size: int
) -> None:
    """Against the reference: an input that some window reaches changes the result when it changes."""
    out = -(-size // stride) if padding == "SAME" else -(-(size - (kernel - 1) * dilation) // stride)
    graph = parse_graph(f"""
    graph "" {{
      inputs (%x) outputs (%y)
      values {{
        %x : uint8[1, {size}, {size}, 1] <1.0:0>
        %w : int8[1, {kernel}, {kernel}, 1] <1.0:0> = {[1] * kernel**2}
        %y : uint8[1, {out}, {out}, 1] <1.0:0>
      }}
      ops {{ %y = q.conv2d(%x, %w, _) {{padding = {padding}, stride_h = {stride}, stride_w = {stride},
             dilation_h = {dilation}, dilation_w = {dilation}}} }}
    }}""")
    before = reference.run(graph, np.zeros((1, size, size, 1), np.uint8))[0]
    reached = 0
    for place in range(size * size):
        image = np.zeros(size * size, np.uint8)
        image[place] = 1
        reached += bool((reference.run(graph, image.reshape(1, size, size, 1))[0] != before).any())
    assert roofline.needed_bytes(graph, graph.ops[0], graph["x"]) == reached


def test_rows_add_up_and_no_limit_is_below_its_bytes(digits: Path) -> None:
    graph = tflite2q.load(digits)
    times = tflite2q.compile(graph).profile(repeat=2)
    rows = roofline.rows("digits", graph, times, LIMITS)
    needed = roofline.work(graph, {time.op for time in times if time.kernel == roofline.NOTHING})
    timed = {time.op: time.ms for time in times if time.op in needed and time.ms}
    assert sum(row.layers for row in rows) == len(timed) > 3
    assert sum(row.ms for row in rows) == pytest.approx(sum(timed.values()))
    limits = {name: LIMITS.of(needed[name])[0] for name in timed}
    assert sum(row.limit_ms for row in rows) == pytest.approx(sum(limits.values()))
    for name, limit in limits.items():
        size = sum(size for size, _ in needed[name].reads)
        assert limit >= size / NEAR.read / 1e6
        assert limit >= needed[name].macs / LIMITS.peaks.of(needed[name].matrix) / 1e6
    bounds = {VECTOR, MATRIX, *(memory.name for memory in LIMITS.memories)}
    assert {row.bound for row in rows} <= bounds
    assert any(row.kind.startswith("conv2d") for row in rows)


@pytest.mark.parametrize(
    ("op", "channels", "depth", "matrix"),
    [
        ("conv2d", 4, 4, True),
        ("conv2d", 4, 2, True),
        ("conv2d", 4, 1, False),  # groups of one channel, as depthwise
        ("depthwise_conv2d", 4, 4, False),
        ("depthwise_conv2d", 1, 4, True),  # one input channel: the same sums as an ordinary convolution
    ],
)
def test_a_matrix_unit_needs_sums_over_channels_or_weights_that_share_one(
    op: str, channels: int, depth: int, matrix: bool
) -> None:
    weights = [4, 1, 1, depth] if op == "conv2d" else [1, 1, 1, 4]
    graph = parse_graph(f"""
    graph "" {{
      inputs (%x) outputs (%y)
      values {{
        %x : uint8[1, 3, 3, {channels}] <1.0:0>
        %w : int8{weights} <1.0:0> = {[1] * (weights[0] * weights[3])}
        %y : uint8[1, 3, 3, 4] <1.0:0>
      }}
      ops {{ %y = q.{op}(%x, %w, _) }}
    }}""")
    assert roofline.work(graph)["y"].matrix == matrix
