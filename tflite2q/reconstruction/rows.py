"""A layer with weights as matrix products: rows of inputs [groups, rows, inputs] times [groups, inputs, channels].

A depthwise convolution has a group for each channel of its operand.  Rows are real numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.numpy_core import NUMPY
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.conv import Convolution, DepthwiseConv2D
from tflite2q.dialect.ops.dense import Dense
from tflite2q.dialect.types import TensorType, Value
from tflite2q.dialect.window import Window
from tflite2q.reconstruction.grid import Reals

Array = npt.NDArray[Any]

# Positions of an image that are looked at: neighbours say much the same.
LEAST_POSITIONS = 512
POSITIONS_PER_INPUT = 4


class Rows:
    """The rows of one layer; `x` and `weights` are its operands."""

    def __init__(self, op: Op, x: Value, weights: Value) -> None:
        self.op, self.x, self.shape = op, x, weights.type.shape
        self.geometry: Window | None = op.window(x, weights) if isinstance(op, Convolution) else None
        self.depthwise = isinstance(op, DepthwiseConv2D)
        if isinstance(op, DepthwiseConv2D):
            self.groups = x.type.shape[3]
            self.inputs, self.channels = self.shape[1] * self.shape[2], self.shape[3] // self.groups
        elif isinstance(op, Convolution):
            self.groups = op.groups(x.type, weights.type)
            self.inputs, self.channels = int(np.prod(self.shape[1:])), self.shape[0] // self.groups
        else:
            self.groups, self.inputs, self.channels = 1, self.shape[1], self.shape[0]

    @staticmethod
    def possible(op: Op) -> bool:
        """Whether an op is a product of rows."""
        return isinstance(op, Convolution | Dense)

    def matrix(self, weights: Array) -> Array:
        """Weights in their own layout as [groups, inputs, channels]."""
        if self.depthwise:
            return np.asarray(weights.reshape(self.inputs, self.groups, self.channels).transpose(1, 0, 2))
        return np.asarray(weights.reshape(self.groups, self.channels, self.inputs).transpose(0, 2, 1))

    def layout(self, matrix: Array) -> Array:
        """The inverse of `matrix`."""
        order = (1, 0, 2) if self.depthwise else (0, 2, 1)
        return np.asarray(matrix.transpose(order).reshape(self.shape))

    def per_channel(self, values: Array) -> Array:
        """One number for each output channel as [groups, channels]."""
        return values.reshape(self.groups, self.channels)

    def per_part(self, values: Array) -> Array:
        """Numbers for each output channel, as many for each, as [groups, parts, channels]."""
        return np.ascontiguousarray(values.reshape(self.groups, self.channels, -1).swapaxes(1, 2))

    def positions(self, random: np.random.Generator) -> npt.NDArray[np.intp]:
        """Places in the result to look at, in order; all of them where there are few."""
        count = self.x.type.size // self.inputs if self.geometry is None else int(np.prod(self.geometry.out))
        most = max(LEAST_POSITIONS, POSITIONS_PER_INPUT * self.inputs)
        return np.arange(count) if count <= most else np.sort(random.choice(count, most, replace=False))

    def of(self, x: Array, kind: TensorType, positions: npt.NDArray[np.intp]) -> Reals:
        """The rows [groups, rows, inputs] at `positions` of each image in `x`, which is of type `kind`."""
        if self.geometry is None:
            return real(x.reshape(-1, self.inputs)[positions], kind)[None]
        image = self.geometry.pad(NUMPY, x, kind.zero_point if kind.quantized else 0)
        patches = _patches(image, self.geometry)
        row, column = np.divmod(positions, self.geometry.out[1])
        taken = real(patches[:, row, column], kind)  # [n, rows, kh, kw, c]
        n, count, height, width, channels = taken.shape
        if self.depthwise:
            return np.ascontiguousarray(taken.reshape(n * count, height * width, channels).transpose(2, 0, 1))
        split = taken.reshape(n * count, height, width, self.groups, channels // self.groups)
        return np.ascontiguousarray(split.transpose(3, 0, 1, 2, 4).reshape(self.groups, n * count, self.inputs))

    def results(self, y: Array, kind: TensorType, positions: npt.NDArray[np.intp]) -> Reals:
        """The values at `positions` of each result in `y`, [groups, rows, channels]."""
        taken = real(y.reshape(-1 if self.geometry is None else len(y), *self._places(), y.shape[-1]), kind)
        taken = taken[positions] if self.geometry is None else taken[:, positions].reshape(-1, y.shape[-1])
        return np.ascontiguousarray(taken.reshape(len(taken), self.groups, self.channels).swapaxes(0, 1))

    def _places(self) -> tuple[int, ...]:
        return () if self.geometry is None else (int(np.prod(self.geometry.out)),)


def _patches(image: Array, geometry: Window) -> Array:
    """What each position of the result reads of the padded images: [n, rows, columns, kh, kw, c]."""
    slide: Any = np.lib.stride_tricks.sliding_window_view
    size, strides, dilation = geometry.size, geometry.strides, geometry.dilation
    reach = tuple((k - 1) * d + 1 for k, d in zip(size, dilation, strict=True))
    view = slide(image, reach, axis=(1, 2))[:, :: strides[0], :: strides[1], :, :: dilation[0], :: dilation[1]]
    return np.moveaxis(view, 3, 5)


def real(codes: Array, kind: TensorType) -> Reals:
    """The real numbers of codes of type `kind`; real numbers stay as they are."""
    if not kind.quantized:
        return codes.astype(np.float32)
    centred = codes.astype(np.float32)
    centred -= np.float32(kind.zero_point)
    centred *= np.float32(kind.scale)
    return centred
