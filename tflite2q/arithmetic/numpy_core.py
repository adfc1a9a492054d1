"""The core vocabulary in NumPy: what `execution.reference` runs.

Integer results wrap at their own width, as in Relax.  Convolutions and matrix products of integers go through BLAS in
float32 or float64 when every partial sum provably stays exactly representable, else through int64; the result is the
same, only faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.core import ENDLESS, MOST_ITERATIONS
from tflite2q.arithmetic.rounding import code_range
from tflite2q.errors import DataError

Array = npt.NDArray[Any]
Run = Callable[[Any, Sequence[Array]], Sequence[Array]]  # the results of a graph

BLOCK = 1 << 17  # numbers worked on at a time: with what comes between, they stay in the cache (measured: 2^13 to 2^17)


class NumpyCore:
    """Implements `tflite2q.arithmetic.core.Core` for ndarrays; see there for what each operation means.

    `run` gives the results of a graph, for the operations that have graphs.
    """

    def __init__(self, run: Run | None = None) -> None:
        self._run = run or _no_graphs

    def const(self, array: npt.NDArray[np.generic]) -> Array:
        return array

    def astype(self, x: Array, dtype: str) -> Array:
        return x.astype(dtype)

    def add(self, a: Array, b: Array) -> Array:
        return np.add(a, b)

    def subtract(self, a: Array, b: Array) -> Array:
        return np.subtract(a, b)

    def multiply(self, a: Array, b: Array) -> Array:
        return np.multiply(a, b)

    def divide(self, a: Array, b: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.divide(a, b)

    def floor_divide(self, a: Array, b: Array) -> Array:
        if a.dtype.kind == "f":
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.floor(np.divide(a, b))
        return np.floor_divide(a, b)

    def left_shift(self, a: Array, b: Array) -> Array:
        return np.left_shift(a, b)

    def right_shift(self, a: Array, b: Array) -> Array:
        return np.right_shift(a, b)

    def bitwise_and(self, a: Array, b: Array) -> Array:
        return np.bitwise_and(a, b)

    def minimum(self, a: Array, b: Array) -> Array:
        return np.minimum(a, b)

    def maximum(self, a: Array, b: Array) -> Array:
        return np.maximum(a, b)

    def clip(self, x: Array, low: float, high: float) -> Array:
        if x.dtype.kind == "f":
            return np.asarray(np.fmin(np.fmax(x, x.dtype.type(low)), x.dtype.type(high)))
        return np.clip(x, x.dtype.type(low), x.dtype.type(high))

    def abs(self, x: Array) -> Array:
        return np.abs(x)

    def negative(self, x: Array) -> Array:
        return np.negative(x)

    def floor(self, x: Array) -> Array:
        return np.floor(x)

    def trunc(self, x: Array) -> Array:
        return np.trunc(x)

    def sqrt(self, x: Array) -> Array:
        return np.sqrt(x)

    def exp(self, x: Array) -> Array:
        return np.exp(x.astype(np.float64)).astype(x.dtype)

    def log(self, x: Array) -> Array:
        return np.log(x.astype(np.float64)).astype(x.dtype)

    def tanh(self, x: Array) -> Array:
        return np.tanh(x.astype(np.float64)).astype(x.dtype)

    def libm(self, name: str, *operands: Array) -> Array:
        function = {"atan2": np.arctan2, "pow": np.power}.get(name) or getattr(np, name)
        return np.asarray(function(*(x.astype(np.float64) for x in operands)).astype(operands[0].dtype))

    def by_rows(self, function: Callable[..., Array], *operands: Array) -> Array:
        shape = operands[0].shape
        if any(x.shape != shape for x in operands) or operands[0].size <= BLOCK or len(shape) < 2:
            return function(*operands)
        rows = [x.reshape(-1, shape[-1]) for x in operands]
        step = max(BLOCK // shape[-1], 1)
        parts = (function(*(x[start : start + step] for x in rows)) for start in range(0, len(rows[0]), step))
        first = next(parts)
        result = np.empty(rows[0].shape, first.dtype)
        result[:step] = first
        for number, part in enumerate(parts, 1):
            result[number * step : (number + 1) * step] = part
        return result.reshape(shape)

    def equal(self, a: Array, b: Array) -> Array:
        return np.equal(a, b)

    def less(self, a: Array, b: Array) -> Array:
        return np.less(a, b)

    def less_equal(self, a: Array, b: Array) -> Array:
        return np.less_equal(a, b)

    def demand(self, x: Array, holds: Array, message: str) -> Array:
        if not holds.all():
            raise DataError(message)
        return x

    def where(self, condition: Array, a: Array, b: Array) -> Array:
        return np.where(condition, a, b)

    def take(self, table: Array, indices: Array, axis: int = 0) -> Array:
        return np.take(table, indices, axis=axis)

    def scatter(self, x: Array, indices: Array, updates: Array, reduction: str) -> Array:
        y = np.array(x)
        if reduction == "update":
            y[indices] = updates
        else:
            getattr(np, reduction).at(y, indices, updates)
        return y

    def reinterpret(self, x: Array, dtype: str) -> Array:
        return np.ascontiguousarray(x).reshape(x.shape).view(dtype)

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        return np.reshape(x, shape)

    def permute_dims(self, x: Array, axes: Sequence[int]) -> Array:
        return np.transpose(x, axes)

    def broadcast_to(self, x: Array, shape: Sequence[int]) -> Array:
        return np.broadcast_to(x, shape)

    def concat(self, parts: Sequence[Array], axis: int) -> Array:
        return np.concatenate(parts, axis=axis)

    def pad(self, x: Array, before: Sequence[int], after: Sequence[int], value: float) -> Array:
        if not x.ndim:  # which NumPy refuses
            return x
        return np.pad(x, list(zip(before, after, strict=True)), constant_values=value)

    def strided_slice(
        self, x: Array, axes: Sequence[int], begin: Sequence[int], end: Sequence[int], strides: Sequence[int]
    ) -> Array:
        index = [slice(None)] * x.ndim
        for axis, first, last, step in zip(axes, begin, end, strides, strict=True):
            index[axis] = slice(first, None if step < 0 and last < 0 else last, step)
        return x[tuple(index)]

    def sum(self, x: Array, axis: Sequence[int], keepdims: bool = False) -> Array:
        return np.asarray(np.sum(x, axis=tuple(axis), keepdims=keepdims, dtype=x.dtype))

    def max(self, x: Array, axis: Sequence[int], keepdims: bool = False) -> Array:
        return np.asarray(np.max(x, axis=tuple(axis), keepdims=keepdims, **_of_nothing(x, largest=True)))

    def min(self, x: Array, axis: Sequence[int], keepdims: bool = False) -> Array:
        return np.asarray(np.min(x, axis=tuple(axis), keepdims=keepdims, **_of_nothing(x, largest=False)))

    def argmax(self, x: Array, axis: int) -> Array:
        return np.asarray(np.argmax(x, axis=axis), np.int64)

    def argsort(self, x: Array, axis: int) -> Array:
        # A stable ascending sort of the reversed row, reversed again, is a stable descending sort.
        backwards = np.argsort(np.flip(x, axis), axis=axis, kind="stable")
        return np.asarray(x.shape[axis] - 1 - np.flip(backwards, axis), np.int32)

    def matmul(self, a: Array, b: Array, out_dtype: str) -> Array:
        wide = _carrier(a, b, a.shape[-1], out_dtype)
        return _wrapped(np.asarray(np.matmul(a.astype(wide), b.astype(wide))), out_dtype)

    def conv2d(
        self,
        x: Array,
        weights: Array,
        strides: tuple[int, int],
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        out_dtype: str = "int32",
    ) -> Array:
        kernel_h, kernel_w, group_in, out_channels = weights.shape
        patches = _windows(x, (kernel_h, kernel_w), strides, dilation)
        n, out_h, out_w = patches.shape[:3]
        wide = _carrier(x, weights, kernel_h * kernel_w * group_in, out_dtype)
        kernel = weights.astype(wide).reshape(kernel_h * kernel_w, group_in, groups, out_channels // groups)
        sums = _depthwise if group_in == 1 else _products
        # Bands of rows: what is between the image and the sums stays in the cache.
        row = out_w * max(kernel_h * kernel_w * x.shape[3], out_channels)
        band = max(BLOCK // max(row, 1), 1)
        acc = np.empty((n, out_h, out_w, out_channels), out_dtype)
        for image in range(n):
            for top in range(0, out_h, band):
                part = acc[image, top : top + band]
                part[...] = _wrapped(sums(patches[image, top : top + band], kernel), out_dtype).reshape(part.shape)
        return acc

    def max_pool2d(self, x: Array, window: tuple[int, int], strides: tuple[int, int]) -> Array:
        result: Array = _windows(x, window, strides, (1, 1)).max(axis=(3, 4))
        return result

    def branch(self, condition: Array, then: Any, otherwise: Any, operands: Sequence[Array]) -> tuple[Array, ...]:
        return self._results(then if np.all(condition) else otherwise, operands)

    def loop(self, condition: Any, body: Any, operands: Sequence[Array]) -> tuple[Array, ...]:
        carried = tuple(operands)
        for _ in range(MOST_ITERATIONS):
            if not np.all(self._results(condition, carried)[0]):
                return carried
            carried = self._results(body, carried)
        if np.all(self._results(condition, carried)[0]):
            raise DataError(ENDLESS)
        return carried

    def _results(self, graph: Any, operands: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(self._run(graph, operands))


def _no_graphs(graph: Any, operands: Sequence[Array]) -> Sequence[Array]:
    raise TypeError("graphs are run by who made a NumpyCore with a function for them")


NUMPY = NumpyCore()


def _products(patches: Array, kernel: Array) -> Array:
    """Sums [rows * columns, channels] of patches [rows, columns, kh, kw, C] times kernel [kh * kw, C / groups, groups,
    channels / groups]."""
    taps, group_in, groups, group_out = kernel.shape
    count = patches.shape[0] * patches.shape[1]
    parts = []
    for group in range(groups):
        part = patches[..., group * group_in : (group + 1) * group_in].astype(kernel.dtype)
        parts.append(part.reshape(count, -1) @ kernel[:, :, group].reshape(taps * group_in, group_out))
    return parts[0] if groups == 1 else np.concatenate(parts, axis=1)


def _depthwise(patches: Array, kernel: Array) -> Array:
    """As `_products`, for one channel in each group: one tap at a time beats many tiny matrix products."""
    rows, columns, kernel_h, kernel_w, groups = patches.shape
    acc = np.zeros((rows, columns, groups, kernel.shape[3]), kernel.dtype)
    for tap in range(kernel_h * kernel_w):
        column = patches[:, :, tap // kernel_w, tap % kernel_w]
        acc += column[..., None].astype(kernel.dtype) * kernel[tap, 0]
    return acc


def _windows(x: Array, window: tuple[int, int], strides: tuple[int, int], dilation: tuple[int, int]) -> Array:
    """View of x [N,H,W,C] as patches [N,out_h,out_w,kh,kw,C]."""
    reach = tuple((size - 1) * step + 1 for size, step in zip(window, dilation, strict=True))
    slide: Any = np.lib.stride_tricks.sliding_window_view  # its stubs know no tuple of sizes for a tuple of axes
    view = slide(x, reach, axis=(1, 2))
    view = view[:, :: strides[0], :: strides[1], :, :: dilation[0], :: dilation[1]]
    return np.moveaxis(view, 3, 5)


def _carrier(a: Array, b: Array, terms: int, out_dtype: str) -> str:
    """A dtype in which a sum of `terms` products of entries of a and b is exact, the fastest first.

    Floating-point results keep their own dtype, because they are not exact anyway.
    """
    if out_dtype.startswith("float"):
        return out_dtype
    bound = float(terms) * _largest(a) * _largest(b)
    if bound < 2**24:
        return "float32"
    return "float64" if bound < 2**53 else "int64"


def _wrapped(total: Array, out_dtype: str) -> Array:
    """Exact sums as `out_dtype`; values outside int32 wrap; a cast from float64 would be undefined."""
    if total.dtype == np.float64 and out_dtype == "int32":
        total = total.astype(np.int64)
    return total.astype(out_dtype)


def _largest(x: Array) -> float:
    """A bound on max|x|: the dtype's for 8-bit arrays, else that of the elements."""
    if x.dtype.name in ("int8", "uint8"):
        low, high = code_range(x.dtype.name)
        return float(max(-low, high))
    return float(max(-float(x.min()), float(x.max()), 1.0)) if x.size else 1.0


def _of_nothing(x: Array, largest: bool) -> dict[str, Any]:
    """What the largest or the smallest of no elements is, for arrays without any: the other end of the type."""
    if x.size:
        return {}
    if x.dtype.kind == "f":
        return {"initial": -np.inf if largest else np.inf}
    ends = np.iinfo(x.dtype)
    return {"initial": ends.min if largest else ends.max}
