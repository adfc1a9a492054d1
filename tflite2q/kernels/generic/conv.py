"""Convolution, depthwise convolution and dense layers for any LLVM target.

A tile of output pixels times a vector of output channels is kept in registers; each step multiplies one broadcast input
by a vector of 16-bit weights with their zero point already subtracted, so no correction terms remain.  Products of two
16-bit numbers in 32-bit lanes are what LLVM turns into vpmaddwd on x86 and smlal on ARM.  Inputs may have 16 bits
themselves; where their sums might exceed 32 bits, sums of parts of the inputs are added up in 64.

Padded inputs are copied once into a scratch image whose border holds the zero point.  What limits it: one load, one
broadcast and one widening for each `pixels` multiply-adds, and 16-bit instead of 8-bit products.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.base import Array, Built, Conv2D, Dense, DepthwiseConv2D, Tensor
from tflite2q.kernels.epilogue import Epilogue
from tflite2q.kernels.halves import HalvesEpilogue
from tflite2q.kernels.loops import padded_image, region
from tflite2q.kernels.sums import Sums
from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, function, load, local, store, vector, view

MOST_LANES = 16
PIXELS = 4


@dataclass(frozen=True)
class Plan:
    """What the text of the function depends on.

    `channels`: output channels that share their inputs (one group's, or all of a depthwise layer); `depth`: input
    channels that one output reads (1 for depthwise); `pieces`: into how many the depth of a tap is cut so that sums fit
    32 bits, 0 if all do as they are.
    """

    depthwise: bool
    inputs: Tensor
    output: Tensor
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    groups: int
    x_zero_point: int
    depth: int
    pieces: int
    epilogue: Epilogue | HalvesEpilogue

    @property
    def channels(self) -> int:
        return self.output.shape[3] // self.groups

    @property
    def lanes(self) -> int:
        return layout.lane_count(self.channels, MOST_LANES)

    @property
    def block_starts(self) -> Array:
        """First output channel of each block; blocks do not cross groups."""
        within = layout.blocks(self.channels, self.lanes)
        return (np.arange(self.groups)[:, None] * self.channels + within).reshape(-1)

    @property
    def pixels(self) -> int:
        return min(PIXELS, self.output.shape[2])

    @property
    def macs(self) -> int:
        return self.output.size * self.depth * self.kernel[0] * self.kernel[1]

    @property
    def constants(self) -> tuple[Tensor, ...]:
        count, taps = len(self.block_starts), self.kernel[0] * self.kernel[1]
        shape = (count, self.lanes)
        return (
            Tensor((count, taps, self.depth, self.lanes), "int16"),
            Tensor(shape, "int64" if self.pieces else "int32"),
            Tensor((count,), "int32"),
            *self.epilogue.tensors(shape),
        )


class GenericConv:
    """Conv2D and Dense contracts; total."""

    name = "generic_conv2d"

    def refuses(self, contract: Conv2D | Dense, target: Any) -> str | None:
        return None

    def build(self, contract: Conv2D | Dense, target: Any) -> Built:
        conv = contract.conv2d() if isinstance(contract, Dense) else contract
        built = _build(conv, conv.groups, conv.in_c // conv.groups)
        if isinstance(contract, Conv2D):
            return built
        return Built(
            built.name, (built.key, "dense"), _dense(built.key), contract.inputs, built.constants, contract.output
        )


class GenericDepthwise:
    """DepthwiseConv2D contracts, any depth multiplier; total."""

    name = "generic_depthwise"

    def refuses(self, contract: DepthwiseConv2D, target: Any) -> str | None:
        return None

    def build(self, contract: DepthwiseConv2D, target: Any) -> Built:
        return _build(contract, 1, 1)


def _build(contract: Conv2D | DepthwiseConv2D, groups: int, depth: int) -> Built:
    depthwise = isinstance(contract, DepthwiseConv2D)
    sums, taps = Sums.of(contract), contract.kernel[0] * contract.kernel[1]
    by_channel = np.moveaxis(sums.weights, layout.channel_axis(contract), 0).reshape(contract.out_c, taps, depth)
    plan = Plan(
        depthwise, contract.inputs[0], contract.output, contract.kernel, contract.strides, contract.dilation,
        contract.padding, groups, contract.x_zero_point, depth,
        layout.pieces(by_channel, layout.code_reach(contract)) if sums.wide else 0, sums.epilogue,
    )  # fmt: skip
    channels = plan.block_starts[:, None] + np.arange(plan.lanes)
    constants = (
        np.ascontiguousarray(by_channel[channels].transpose(0, 2, 3, 1), np.int16),
        sums.start[channels],
        plan.block_starts.astype(np.int32),
        *sums.pack(contract, channels),
    )
    operation = "depthwise" if depthwise else "conv2d"
    name = f"{plan.inputs.dtype}_{operation}_{contract.rescale.arithmetic}_{plan.pixels}x{plan.lanes}__generic"
    return Built(name, (name, plan), _conv(plan), contract.inputs, constants, contract.output)


@functools.cache
def _conv(plan: Plan) -> Any:
    return function([plan.inputs], plan.constants, plan.output, functools.partial(_body, plan))


@functools.cache
def _dense(key: tuple[str, Plan]) -> Any:
    """The convolution over tensors of two axes."""
    plan = key[1]
    x = Tensor(plan.inputs.shape[2:], plan.inputs.dtype)
    y = Tensor(plan.output.shape[2:], plan.output.dtype)
    return function([x], plan.constants, y, functools.partial(_body, plan))


def _body(plan: Plan, x: Buffer, weights: Buffer, bias: Buffer, starts: Buffer, *rest: Buffer) -> None:
    *constants, y = rest
    n, out_h, out_w, _ = plan.output.shape
    batch, h, w, c = plan.inputs.shape
    padded = (batch, h + plan.padding[0] + plan.padding[2], w + plan.padding[1] + plan.padding[3], c)
    image = view(padded_image(x, plan.inputs, plan.padding, plan.x_zero_point), padded, plan.inputs.dtype)
    y = view(y, plan.output.shape, plan.output.dtype)
    columns = layout.blocks(out_w, plan.pixels)
    count = len(plan.block_starts)
    # The innermost loop runs over pixels, so that a block of weights stays in the first-level cache for a row.
    with region(n * out_h * count, plan.macs) as i:
        row, block = i // count, i % count
        with T.serial(len(columns)) as tile:
            column = T.min(tile * plan.pixels, out_w - plan.pixels)
            _tile(
                plan, image, weights, bias, starts[block], tuple(constants), y, row // out_h, row % out_h, column, block
            )


def _depthwise_inputs(image: Buffer, at: tuple[Any, ...], start: Any, lanes: int, multiplier: int) -> Any:
    """The input of each of `lanes` output channels from `start` on."""
    if multiplier == 1:
        return T.cast(load(image, *at, start, lanes=lanes), vector("int32", lanes))
    if multiplier % lanes == 0:
        return broadcast(T.cast(load(image, *at, start // multiplier), "int32"), lanes)
    gathered = local(lanes, "int32")
    for i in range(lanes):
        store(gathered, T.cast(load(image, *at, (start + i) // multiplier), "int32"), i)
    return load(gathered, 0, lanes=lanes)


def _tile(
    plan: Plan, image: Buffer, weights: Buffer, bias: Buffer, start: Any, constants: tuple[Buffer, ...], y: Buffer,
    n: Any, row: Any, column: Any, block: Any,
) -> None:  # fmt: skip
    lanes, (kh, kw) = plan.lanes, plan.kernel
    multiplier = plan.channels // plan.inputs.shape[3] if plan.depthwise else 1
    wide = vector("int32", lanes)
    accumulators = [local(lanes, "int32") for _ in range(plan.pixels)]
    first = 0 if plan.depthwise else start // plan.channels * plan.depth

    def accumulate(tap: Any, k: Any) -> None:
        w = T.Bind(T.cast(load(weights, block, tap, k, 0, lanes=lanes), wide))
        for p, accumulator in enumerate(accumulators):
            at = (
                n,
                row * plan.strides[0] + tap // kw * plan.dilation[0],
                (column + p) * plan.strides[1] + tap % kw * plan.dilation[1],
            )
            if not plan.depthwise:
                value = broadcast(T.cast(load(image, *at, first + k), "int32"), lanes)
            else:
                value = _depthwise_inputs(image, at, start, lanes, multiplier)
            store(accumulator, load(accumulator, 0, lanes=lanes) + value * w, 0, lanes=lanes)

    initial = load(bias, block, 0, lanes=lanes)
    if plan.pieces:
        accumulators = _in_pieces(plan, initial, accumulators, accumulate)
    else:
        for accumulator in accumulators:
            store(accumulator, initial, 0, lanes=lanes)
        with T.serial(kh * kw) as tap, T.serial(plan.depth) as k:
            accumulate(tap, k)
    for p, accumulator in enumerate(accumulators):
        codes = plan.epilogue.codes(load(accumulator, 0, lanes=lanes), constants, (block, 0), lanes)
        store(y, T.cast(codes, vector(plan.output.dtype, lanes)), n, row, column + p, start, lanes=lanes)


def _in_pieces(
    plan: Plan, initial: Expr, accumulators: list[Buffer], accumulate: Callable[[Any, Any], None]
) -> list[Buffer]:
    """int64 sums of the pieces that `accumulate(tap, k)` sums in the int32 `accumulators`."""
    lanes, size = plan.lanes, math.ceil(plan.depth / plan.pieces)
    totals = [local(lanes, "int64") for _ in accumulators]
    for total in totals:
        store(total, initial, 0, lanes=lanes)
    with T.serial(plan.kernel[0] * plan.kernel[1]) as tap, T.serial(math.ceil(plan.depth / size)) as piece:
        for accumulator in accumulators:
            store(accumulator, broadcast(T.int32(0), lanes), 0, lanes=lanes)
        with T.serial(T.min(plan.depth - piece * size, size)) as k:
            accumulate(tap, piece * size + k)
        for total, accumulator in zip(totals, accumulators, strict=True):
            part = T.cast(load(accumulator, 0, lanes=lanes), vector("int64", lanes))
            store(total, load(total, 0, lanes=lanes) + part, 0, lanes=lanes)
    return totals
