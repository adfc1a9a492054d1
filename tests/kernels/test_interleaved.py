"""Rows of depthwise layers in strips."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tflite2q.kernels.x86.interleaved import Columns


@given(
    row=st.integers(1, 300), stride=st.integers(1, 3), kernel=st.integers(1, 7), dilation=st.integers(1, 4),
    left=st.integers(0, 20), right=st.integers(0, 20), most=st.integers(2, 80), tile=st.integers(1, 16),
)  # fmt: skip
def test_strips_cover_the_row_and_only_its_ends_leave_the_image(
    row: int, stride: int, kernel: int, dilation: int, left: int, right: int, most: int, tile: int
) -> None:
    taps = tuple(i * dilation for i in range(kernel))
    width = max((row - 1) * stride + taps[-1] + 1 - left - right, 1)
    most = max(most, 2 * tile)
    found = Columns(width, left, stride, taps, row, row).in_strips(most, tile)
    starts = [min(strip * found.outputs, found.last) for strip in range(found.strips)]
    assert {start + n for start in starts for n in range(found.outputs)} == set(range(row))
    assert found.outputs == row or (found.outputs <= most and found.outputs % tile == 0)
    assert row > most or found.strips == 1
    # What a strip reads: from its first output's first column to its last output's last tap, in each phase.
    for start in starts[1:]:
        assert start * stride - left >= 0
    for start in starts[:-1] if found.strips > 1 else []:
        assert (start + found.outputs - 1) * stride + taps[-1] - left < width
