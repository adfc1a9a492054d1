"""Geometry of sliding windows: convolution and pooling, in TFLite's convention (eq. 13)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

from tflite2q.arithmetic.core import Core
from tflite2q.errors import InvalidGraph, UnsupportedError

T = TypeVar("T")

# Padding is written out, so it is limited: to so many times the input, beside what costs nothing anyway.
MOST_GROWTH = 64
SMALL = 1 << 24
# Each element of a window is a step of its own, so that a window is limited, too: to so many times the input's area.
MOST_OVERLAP = 64
FEW = 1 << 12


@dataclass(frozen=True)
class Window:
    """A window moved over height and width; sizes in elements, `before`/`after` the padding on each side."""

    size: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]
    out: tuple[int, int]

    @property
    def padded(self) -> bool:
        return any(self.before) or any(self.after)

    def pad(self, core: Core[T], x: T, value: float) -> T:
        """x [N,H,W,C] with the padding filled with `value`; also crops what no window reaches."""
        if not self.padded:
            return x
        return core.pad(x, (0, *self.before, 0), (0, *self.after, 0), value)

    def tap(self, core: Core[T], padded: T, row: int, column: int) -> T:
        """Element (row, column) of every window over `padded`, [N,out_h,out_w,C]."""
        begin = (row * self.dilation[0], column * self.dilation[1])
        end = [b + (n - 1) * s + 1 for b, n, s in zip(begin, self.out, self.strides, strict=True)]
        return core.strided_slice(padded, (1, 2), begin, end, self.strides)


def window(
    shape: tuple[int, ...],
    size: tuple[int, int],
    strides: tuple[int, int],
    padding: str,
    dilation: tuple[int, int] = (1, 1),
) -> Window:
    """The window over an input of `shape` [N,H,W,C].

    Raises InvalidGraph if it does not fit, UnsupportedError if it needs padding far larger than the input.
    """
    before, after, out = [], [], []
    for extent, k, stride, step in zip(shape[1:3], size, strides, dilation, strict=True):
        reach = (k - 1) * step + 1
        if stride < 1 or step < 1 or k < 1:
            raise InvalidGraph(f"window {k} with stride {stride} and dilation {step} must be positive")
        count = -(-extent // stride) if padding == "SAME" else (extent - reach + stride) // stride
        if count < 1:
            raise InvalidGraph(f"a window of {reach} does not fit an extent of {extent}")
        total = max(0, (count - 1) * stride + reach - extent) if padding == "SAME" else 0
        before.append(total // 2)
        after.append(total - total // 2)
        out.append(count)
    height, width = (n + b + a for n, b, a in zip(shape[1:3], before, after, strict=True))
    if math.prod(size) > MOST_OVERLAP * shape[1] * shape[2] + FEW:
        raise UnsupportedError(f"a window of {size[0]} x {size[1]} over {list(shape)} is not supported")
    padded = shape[0] * height * width * shape[3]
    if padded > MOST_GROWTH * math.prod(shape) + SMALL:
        raise UnsupportedError(f"a window that needs {list(shape)} padded to {height} x {width} is not supported")
    return Window(
        size,
        strides,
        dilation,
        (before[0], before[1]),
        (after[0], after[1]),
        (out[0], out[1]),
    )
