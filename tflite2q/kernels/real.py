"""What kernels of real numbers have in common: vector registers, and how sums begin and end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tflite2q.kernels.contracts import Array, FloatConv2DContract
from tflite2q.kernels.features import has
from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, load, store_first

FLOAT = "float32"


@dataclass(frozen=True)
class Registers:
    """Vector registers of a processor: float32 lanes of each, how many, and how many one block of weights takes.

    `sums`: how many sums keep the multipliers busy, each of which waits for the one before it.
    """

    lanes: int
    count: int
    weights: int
    sums: int = 8

    @staticmethod
    def of(target: Any) -> Registers:
        """Those of `target` (a tvm.target.Target), or few and narrow ones where they are not known."""
        for features, found in _REGISTERS:
            if has(target, *features):
                return found
        return Registers(4, 16, 2)

    def pixels(self, vectors: int) -> int:
        """How many pixels a tile of so many vectors can have: sums, weights and one input are in registers at once."""
        return max(1, (self.count - 1 - min(vectors, self.weights)) // vectors)


_REGISTERS = (
    (("avx512f",), Registers(16, 32, 4)),
    (("avx2", "fma"), Registers(8, 16, 2)),
    (("neon",), Registers(4, 32, 4)),
)


class Ending(Protocol):
    """What sums begin with, and what follows them, in a function under construction."""

    def start(self, index: Expr, lanes: int) -> Expr:
        """First values of the sums of vector `index` of output channels."""

    def result(self, value: Expr, index: Expr, pixel: Expr, lanes: int) -> Expr:
        """The results of sums `value` of that vector; `pixel`: number of the output pixel."""


@dataclass(frozen=True)
class ClampedSums:
    """Sums that begin with the bias [vectors, lanes] and are clamped."""

    bias: Buffer
    low: float | None
    high: float | None

    def start(self, index: Expr, lanes: int) -> Expr:
        return load(self.bias, index, 0, lanes=lanes)

    def result(self, value: Expr, index: Expr, pixel: Expr, lanes: int) -> Expr:
        return clamped(value, self.low, self.high, lanes)


def finish(
    ending: Ending, sums: Sequence[Sequence[Expr]], vectors: Sequence[Expr], lanes: int, stored: int, y: Buffer,
    rows: Sequence[Expr], channel: Expr,
) -> None:  # fmt: skip
    """Results of sums [pixels][vectors] to `rows` of y, of which the first `stored` from `channel` on exist; `vectors`
    are the numbers of their constants."""
    for row, values in zip(rows, sums, strict=True):
        for v, (value, index) in enumerate(zip(values, vectors, strict=True)):
            result = T.Bind(ending.result(value, index, row, lanes))
            store_first(result, lanes, stored - v * lanes, y, row, channel + v * lanes)


def clamped(value: Expr, low: float | None, high: float | None, lanes: int) -> Expr:
    """A vector clamped to [low, high] where they are not None; NaN stays NaN."""
    if low is not None:
        value, bound = T.Bind(value), broadcast(T.float32(low), lanes)
        value = T.Select(value < bound, bound, value)
    if high is not None:
        value, bound = T.Bind(value), broadcast(T.float32(high), lanes)
        value = T.Select(bound < value, bound, value)
    return value


def bias_of(contract: FloatConv2DContract) -> Array:
    """float32 [out_c]."""
    return np.zeros(contract.output.shape[3], FLOAT) if contract.bias is None else contract.bias
