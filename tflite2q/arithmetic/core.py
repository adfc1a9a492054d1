"""The core vocabulary: the few array operations in which every dialect op is written.

An op's meaning is a function over `Core`.  `execution.reference` runs it with NumPy and `lower` builds Relax from it,
so the two cannot drift apart.  Operations are named and behave as in Relax: operands broadcast, dtypes do not mix,
right shifts are arithmetic, division by constants is written as multiplication and shift, layouts are NHWC.

A tensor of the implementation (an ndarray, a Relax variable) is an opaque `T` here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")

MOST_ITERATIONS = 1 << 20  # of a loop: one that takes more is refused while it runs
ENDLESS = f"a loop has not ended after {MOST_ITERATIONS} iterations"


class Core(Protocol[T]):
    """The operations.  `dtype` arguments are strings such as "int32"; axes may be negative."""

    def const(self, array: npt.NDArray[np.generic]) -> T:
        """A constant with exactly the array's dtype and shape."""

    def astype(self, x: T, dtype: str) -> T:
        """Convert; float to integer truncates toward zero (values must fit), integers wrap."""

    def add(self, a: T, b: T) -> T: ...

    def subtract(self, a: T, b: T) -> T: ...

    def multiply(self, a: T, b: T) -> T: ...

    def divide(self, a: T, b: T) -> T:
        """Floating point only."""

    def floor_divide(self, a: T, b: T) -> T:
        """Rounds toward minus infinity, integers and floats.  An integer b of 0 must not occur, nor the quotient of the
        least integer and -1: processors end the process there."""

    def left_shift(self, a: T, b: T) -> T:
        """b is at least 0 and less than the width, as for right shifts."""

    def right_shift(self, a: T, b: T) -> T: ...

    def bitwise_and(self, a: T, b: T) -> T: ...

    def minimum(self, a: T, b: T) -> T: ...

    def maximum(self, a: T, b: T) -> T: ...

    def clip(self, x: T, low: float, high: float) -> T:
        """NaN becomes `low`."""

    def abs(self, x: T) -> T: ...

    def negative(self, x: T) -> T: ...

    def floor(self, x: T) -> T: ...

    def trunc(self, x: T) -> T: ...

    def sqrt(self, x: T) -> T: ...

    def exp(self, x: T) -> T:
        """Like log and tanh: evaluated in float64, then rounded to x's dtype, so that float32 results are portable."""

    def log(self, x: T) -> T: ...

    def tanh(self, x: T) -> T: ...

    def libm(self, name: str, *operands: T) -> T:
        """A function of C's library (sin, cos, atan2, pow, fmod, cbrt), evaluated in float64 like exp.

        Operands broadcast.
        """

    def equal(self, a: T, b: T) -> T: ...

    def less(self, a: T, b: T) -> T: ...

    def less_equal(self, a: T, b: T) -> T: ...

    def demand(self, x: T, holds: T, message: str) -> T:
        """x, if every element of the boolean `holds` is true; else running raises DataError(message).

        `holds` has x's shape; for a scalar x, one element.
        """

    def where(self, condition: T, a: T, b: T) -> T: ...

    def take(self, table: T, indices: T, axis: int = 0) -> T:
        """Slices of `table` along `axis`; `indices` (int32, any shape, in range) replaces that axis."""

    def scatter(self, x: T, indices: T, updates: T, reduction: str) -> T:
        """x with updates[i] worked into x[indices[i]], one i after the other; `indices` (int32, one axis, in range).

        `reduction` is "update" (the last one stays), "add", "multiply", "minimum" or "maximum".
        """

    def reinterpret(self, x: T, dtype: str) -> T:
        """The same bits as a dtype of the same width."""

    def reshape(self, x: T, shape: Sequence[int]) -> T: ...

    def permute_dims(self, x: T, axes: Sequence[int]) -> T: ...

    def broadcast_to(self, x: T, shape: Sequence[int]) -> T: ...

    def concat(self, parts: Sequence[T], axis: int) -> T: ...

    def pad(self, x: T, before: Sequence[int], after: Sequence[int], value: float) -> T:
        """Constant padding, one count per axis on each side."""

    def strided_slice(
        self, x: T, axes: Sequence[int], begin: Sequence[int], end: Sequence[int], strides: Sequence[int]
    ) -> T:
        """Python's `x[begin:end:stride]` on each named axis, begin and end already normalized: 0 <= begin, and for a
        negative stride `end` may be -1, meaning past the first element."""

    def sum(self, x: T, axis: Sequence[int], keepdims: bool = False) -> T:
        """In x's own dtype."""

    def max(self, x: T, axis: Sequence[int], keepdims: bool = False) -> T: ...

    def min(self, x: T, axis: Sequence[int], keepdims: bool = False) -> T: ...

    def argmax(self, x: T, axis: int) -> T:
        """int64 index of the first largest element; the axis disappears."""

    def argsort(self, x: T, axis: int) -> T:
        """int32 indices that put x in descending order along `axis`; equal elements keep their order."""

    def matmul(self, a: T, b: T, out_dtype: str) -> T:
        """Batched matrix product of the last two axes, accumulated in `out_dtype`."""

    def conv2d(
        self,
        x: T,
        weights: T,
        strides: tuple[int, int],
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        out_dtype: str = "int32",
    ) -> T:
        """x [N,H,W,C], weights [kh,kw,C/groups,O] (HWIO), no padding (pad first), accumulated in `out_dtype`."""

    def max_pool2d(self, x: T, window: tuple[int, int], strides: tuple[int, int]) -> T:
        """x [N,H,W,C], no padding (pad first)."""

    def branch(self, condition: T, then: Any, otherwise: Any, operands: Sequence[T]) -> tuple[T, ...]:
        """The results of one of two graphs on `operands`: of `then` where the one element of `condition` is true."""

    def loop(self, condition: Any, body: Any, operands: Sequence[T]) -> tuple[T, ...]:
        """`operands` after the graph `body` has been run on them for as long as the graph `condition` holds.

        More than MOST_ITERATIONS raise DataError while running.
        """


def by_rows(core: Core[T], function: Callable[..., T], *operands: T) -> T:
    """`function(*operands)`, where each row (along the last axis) of the result depends on the same row of operands of
    one shape, or of one operand.

    A core whose class has a `by_rows` may work through the rows piece by piece.
    """
    pieces: Callable[..., T] | None = getattr(type(core), "by_rows", None)
    return function(*operands) if pieces is None else pieces(core, function, *operands)
