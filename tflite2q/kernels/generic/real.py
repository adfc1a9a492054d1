"""Convolutions, depthwise convolutions and dense layers in float32, for any LLVM target.

A tile of output pixels times a few vectors of output channels is kept in registers, as many as the target has; each
step multiplies one broadcast input by vectors of weights and adds, which LLVM makes one fused instruction where there
is one.  Where every channel is by itself, the inputs are vectors too, and all taps are unrolled so that neighbouring
pixels share their loads.  The order of summation, which nobody prescribes, is that of memory.

Multiply-adds limit the convolutions, loads the depthwise ones.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm.target import codegen

from tflite2q.kernels import layout
from tflite2q.kernels.base import Array, Built, RealConv2D, Tensor
from tflite2q.kernels.loops import padded_image, region
from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, function, load, local, store, view

FLOAT = "float32"
TILES = 16  # that one thread takes at a time
DEPTHWISE_PIXELS = 4
UNROLLED_TAPS = 25


@dataclass(frozen=True)
class Registers:
    """Vector registers of a processor: float32 lanes of each, how many, and how many one block of weights takes."""

    lanes: int
    count: int
    weights: int

    @staticmethod
    def of(target: Any) -> Registers:
        """Those of `target` (a tvm.target.Target), or few and narrow ones where they are not known."""
        for features, found in _REGISTERS:
            if codegen.llvm_cpu_has_features(features, target):
                return found
        return Registers(4, 16, 2)


_REGISTERS = (
    (("avx512f",), Registers(16, 32, 2)),
    (("avx2", "fma"), Registers(8, 16, 2)),
    (("neon",), Registers(4, 32, 4)),
)


@dataclass(frozen=True)
class Plan:
    """What the text of the function depends on: geometry as in `RealConv2D`, and how the result is tiled.

    A block is `vectors` times `lanes` output channels that share their inputs; a tile is `pixels` neighbours in a row.
    """

    inputs: Tensor
    output: Tensor
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    groups: int
    low: float | None
    high: float | None
    lanes: int
    vectors: int
    pixels: int

    @staticmethod
    def of(contract: RealConv2D, registers: Registers) -> Plan:
        x, y = contract.x, contract.output
        if contract.kernel == (1, 1) and contract.strides == (1, 1) and not any(contract.padding):
            x, y = (Tensor((1, 1, t.size // t.shape[3], t.shape[3]), FLOAT) for t in (x, y))  # rows do not matter
        plan = Plan(
            x, y, contract.kernel, contract.strides, contract.dilation, contract.padding, contract.groups,
            contract.low, contract.high, 1, 1, 1,
        )  # fmt: skip
        lanes = layout.lane_count(plan.sharing, registers.lanes)
        vectors = 1 if plan.each_by_itself else layout.lane_count(plan.sharing // lanes, registers.weights)
        most = DEPTHWISE_PIXELS if plan.each_by_itself else (registers.count - vectors - 2) // vectors
        columns = y.shape[2]
        pixels = -(-columns // -(-columns // min(most, columns)))  # as many tiles as there must be, all alike
        return replace(plan, lanes=lanes, vectors=vectors, pixels=pixels)

    @property
    def each_by_itself(self) -> bool:
        """Whether every output channel reads just the input channel of its own index."""
        return self.groups == self.inputs.shape[3] == self.output.shape[3]

    @property
    def sharing(self) -> int:
        """Output channels that a block can be cut from."""
        return self.output.shape[3] // (1 if self.each_by_itself else self.groups)

    @property
    def width(self) -> int:
        """Output channels of a block."""
        return self.lanes * self.vectors

    @property
    def depth(self) -> int:
        """Input channels that one output reads."""
        return self.inputs.shape[3] // self.groups

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def block_starts(self) -> Array:
        """First output channel of each block; blocks do not cross groups."""
        parts = self.output.shape[3] // self.sharing
        within = layout.blocks(self.sharing, self.width)
        return np.asarray((np.arange(parts)[:, None] * self.sharing + within).reshape(-1))

    @property
    def constants(self) -> tuple[Tensor, ...]:
        count = len(self.block_starts)
        return (
            Tensor((count, self.taps, self.depth, self.width), FLOAT),
            Tensor((count, self.width), FLOAT),
            Tensor((count,), "int32"),
        )


class GenericReal:
    """RealConv2D contracts; total."""

    name = "generic_real"

    def refuses(self, contract: RealConv2D, target: Any) -> str | None:
        return None

    def build(self, contract: RealConv2D, target: Any) -> Built:
        plan = Plan.of(contract, Registers.of(target))
        channels = plan.block_starts[:, None] + np.arange(plan.width)
        weights = contract.weights.reshape(plan.taps, plan.depth, -1)[:, :, channels].transpose(2, 0, 1, 3)
        bias = np.zeros(contract.output.shape[3], FLOAT) if contract.bias is None else contract.bias
        constants = (np.ascontiguousarray(weights), bias[channels], plan.block_starts.astype(np.int32))
        operation = "depthwise" if plan.each_by_itself else "conv2d"
        name = f"{FLOAT}_{operation}_{plan.pixels}x{plan.width}__generic"
        return Built(name, (name, plan), _function(plan), (plan.inputs,), constants, plan.output)


@functools.cache
def _function(plan: Plan) -> Any:
    return function([plan.inputs], plan.constants, plan.output, functools.partial(_body, plan))


def _body(plan: Plan, x: Buffer, weights: Buffer, bias: Buffer, starts: Buffer, y: Buffer) -> None:
    n, out_h, out_w, _ = plan.output.shape
    batch, h, w, c = plan.inputs.shape
    top, left, bottom, right = plan.padding
    image = view(padded_image(x, plan.inputs, plan.padding, 0), (batch, h + top + bottom, w + left + right, c))
    tiles, count = -(-out_w // plan.pixels), len(plan.block_starts)
    together = min(TILES, tiles)
    parts = -(-tiles // together)
    # The innermost loop runs over pixels, so that a block of weights stays in a near cache.
    with region(n * out_h * parts * count, plan.output.size * plan.depth * plan.taps) as i:
        row, part, block = i // (parts * count), i // count % parts, i % count
        with T.serial(together) as tile:
            column = T.Bind(T.min((part * together + tile) * plan.pixels, out_w - plan.pixels))
            tile_at = _Tile(plan, image, weights, bias, row // out_h, row % out_h, column, block, starts[block])
            tile_at.compute(y)


@dataclass(frozen=True)
class _Tile:
    """One tile: the results from (`n`, `row`, `column`) on, of the channels of `block`, the first being `start`."""

    plan: Plan
    image: Buffer
    weights: Buffer
    bias: Buffer
    n: Expr
    row: Expr
    column: Expr
    block: Expr
    start: Expr

    def compute(self, y: Buffer) -> None:
        plan, lanes = self.plan, self.plan.lanes
        sums = [[local(lanes, FLOAT) for _ in range(plan.vectors)] for _ in range(plan.pixels)]
        for pixel in sums:
            for v, each in enumerate(pixel):
                store(each, load(self.bias, self.block, v * lanes, lanes=lanes), 0, lanes=lanes)
        if plan.each_by_itself:
            self._accumulate_channels([pixel[0] for pixel in sums])
        else:
            self._accumulate(sums)
        for p, pixel in enumerate(sums):
            for v, each in enumerate(pixel):
                result = self._clamped(load(each, 0, lanes=lanes))
                store(y, result, self.n, self.row, self.column + p, self.start + v * lanes, lanes=lanes)

    def _accumulate(self, sums: list[list[Buffer]]) -> None:
        plan, lanes = self.plan, self.plan.lanes
        first = self.start // plan.sharing * plan.depth
        with T.serial(plan.taps) as tap, T.serial(plan.depth) as k:
            w = [T.Bind(load(self.weights, self.block, tap, k, v * lanes, lanes=lanes)) for v in range(plan.vectors)]
            for p, pixel in enumerate(sums):
                value = T.Bind(broadcast(load(self.image, *self._place(tap, p), first + k), lanes))
                for each, vector in zip(pixel, w, strict=True):
                    store(each, load(each, 0, lanes=lanes) + value * vector, 0, lanes=lanes)

    def _accumulate_channels(self, sums: list[Buffer]) -> None:
        lanes = self.plan.lanes
        for tap in self._each_tap():
            w = T.Bind(load(self.weights, self.block, tap, 0, 0, lanes=lanes))
            for p, each in enumerate(sums):
                value = load(self.image, *self._place(tap, p), self.start, lanes=lanes)
                store(each, load(each, 0, lanes=lanes) + value * w, 0, lanes=lanes)

    def _each_tap(self) -> Iterator[Expr]:
        if self.plan.taps <= UNROLLED_TAPS:
            yield from range(self.plan.taps)
        else:
            with T.serial(self.plan.taps) as tap:
                yield tap

    def _place(self, tap: Expr, pixel: int) -> tuple[Expr, Expr, Expr]:
        """Image, row and column that a tap of a pixel reads."""
        (down, right), (step_down, step_right) = self.plan.strides, self.plan.dilation
        width = self.plan.kernel[1]
        return (
            self.n,
            self.row * down + tap // width * step_down,
            (self.column + pixel) * right + tap % width * step_right,
        )

    def _clamped(self, value: Expr) -> Expr:
        if self.plan.low is not None:
            value = T.max(value, broadcast(T.float32(self.plan.low), self.plan.lanes))
        if self.plan.high is not None:
            value = T.min(value, broadcast(T.float32(self.plan.high), self.plan.lanes))
        return value
