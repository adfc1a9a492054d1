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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.accumulators import Accumulators
from tflite2q.kernels.contracts import (
    Array,
    Conv2DContract,
    ConvolutionContract,
    DenseContract,
    DepthwiseConv2DContract,
    Tensor,
)
from tflite2q.kernels.depthwise import Window
from tflite2q.kernels.epilogue import Epilogue
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.loops import padded_image, region
from tflite2q.kernels.split_rescale import SplitEpilogue
from tflite2q.kernels.sums import Sums
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, local, store, vector, view

MOST_LANES = 16
PIXELS = 4


@dataclass(frozen=True)
class Program:
    """What the text of the function depends on.

    `inputs`, `output`: as the contract has them; `channels`: output channels that share their inputs (one group's, or
    all of a depthwise layer); `depth`: input channels that one output reads (1 for depthwise); `pieces`: into how many
    the depth of a tap is cut so that sums fit 32 bits, 0 if all do as they are.
    """

    inputs: tuple[Tensor, ...]
    output: Tensor
    window: Window
    depthwise: bool
    groups: int
    x_zero_point: int
    depth: int
    pieces: int
    epilogue: Epilogue | SplitEpilogue

    @property
    def channels(self) -> int:
        return self.window.output.shape[3] // self.groups

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
        return min(PIXELS, self.window.output.shape[2])

    @property
    def macs(self) -> int:
        return self.window.output.size * self.depth * self.window.kernel[0] * self.window.kernel[1]

    @property
    def constants(self) -> Tensors:
        count, taps = len(self.block_starts), self.window.kernel[0] * self.window.kernel[1]
        shape = (count, self.lanes)
        return {
            "weights": Tensor((count, taps, self.depth, self.lanes), "int16"),
            "bias": Tensor(shape, "int64" if self.pieces else "int32"),
            "block starts": Tensor((count,), "int32"),
            **{name: Tensor(shape, dtype) for name, dtype in self.epilogue.constants.items()},
        }

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        x, padding = self.window.input, self.window.padding
        n, out_h, out_w, _ = self.window.output.shape
        batch, h, w, c = x.shape
        padded = (batch, h + padding[0] + padding[2], w + padding[1] + padding[3], c)
        image = view(padded_image(inputs[0], x, padding, self.x_zero_point), padded, x.dtype)
        y = view(y, self.window.output.shape, self.output.dtype)
        count = len(self.block_starts)
        # The innermost loop runs over pixels, so that a block of weights stays in the first-level cache for a row.
        with region(n * out_h * count, self.macs) as i:
            row, block = i // count, i % count
            with T.serial(math.ceil(out_w / self.pixels)) as tile:
                column = T.min(tile * self.pixels, out_w - self.pixels)
                start = constants["block starts"][block]
                _Tile(self, image, constants, block, start, row // out_h, row % out_h, column).compute(y)


class GenericConv:
    """Conv2D and Dense contracts; total."""

    name = "generic_conv2d"

    def plan(self, contract: Conv2DContract | DenseContract, target: Any) -> Plan:
        conv = contract.conv2d()
        return _plan(conv, contract.inputs, contract.output, conv.groups, conv.in_c // conv.groups)


class GenericDepthwise:
    """DepthwiseConv2D contracts, any depth multiplier; total."""

    name = "generic_depthwise"

    def plan(self, contract: DepthwiseConv2DContract, target: Any) -> Plan:
        return _plan(contract, contract.inputs, contract.output, 1, 1)


def _plan(contract: ConvolutionContract, inputs: tuple[Tensor, ...], output: Tensor, groups: int, depth: int) -> Plan:
    sums, taps = Sums.of(contract), contract.kernel[0] * contract.kernel[1]
    weights = np.moveaxis(sums.weights, contract.channel_axis, 0).reshape(contract.out_c, taps, depth)
    pieces = layout.pieces(weights, layout.code_reach(contract)) if sums.wide else 0
    depthwise = isinstance(contract, DepthwiseConv2DContract)
    program = Program(
        inputs, output, Window.of(contract), depthwise, groups, contract.x_zero_point, depth, pieces, sums.epilogue
    )
    tile, arithmetic = f"{program.pixels}x{program.lanes}", contract.rescale.arithmetic
    name = Name(contract.x_dtype, contract.operation, arithmetic=arithmetic, tile=tile)
    return Plan(name, program, functools.partial(_pack, sums, weights, program))


def _pack(sums: Sums, weights: Array, program: Program) -> Arrays:
    channels = program.block_starts[:, None] + np.arange(program.lanes)
    return {
        "weights": weights[channels].transpose(0, 2, 3, 1).astype(np.int16),
        "bias": sums.start[channels],
        "block starts": program.block_starts.astype(np.int32),
        **sums.pack(channels),
    }


@dataclass(frozen=True)
class _Tile:
    """One tile: the results from (`n`, `row`, `column`) on, of the channels of `block`, the first being `start`."""

    program: Program
    image: Buffer
    constants: Buffers
    block: Expr
    start: Expr
    n: Expr
    row: Expr
    column: Expr

    def compute(self, y: Buffer) -> None:
        p, lanes, (kh, kw) = self.program, self.program.lanes, self.program.window.kernel
        sums = Accumulators.apart(p.pixels, 1, lanes)
        first = 0 if p.depthwise else self.start // p.channels * p.depth
        accumulate = functools.partial(self._accumulate, sums, first)
        initial = load(self.constants["bias"], self.block, 0, lanes=lanes)
        if p.pieces:
            sums = self._in_pieces(initial, sums, accumulate)
        else:
            sums.fill([initial])
            with T.serial(kh * kw) as tap, T.serial(p.depth) as k:
                accumulate(tap, k)
        for i, (value,) in enumerate(sums.values()):
            codes = p.epilogue.codes(value, self.constants, (self.block, 0), lanes)
            codes = T.cast(codes, vector(p.output.dtype, lanes))
            store(y, codes, self.n, self.row, self.column + i, self.start, lanes=lanes)

    def _accumulate(self, sums: Accumulators, first: Expr, tap: Expr, k: Expr) -> None:
        """Add the products of one tap and input channel."""
        lanes, window = self.program.lanes, self.program.window
        kw = window.kernel[1]
        w = T.Bind(T.cast(load(self.constants["weights"], self.block, tap, k, 0, lanes=lanes), vector("int32", lanes)))
        for p in range(sums.pixels):
            at = (
                self.n,
                self.row * window.strides[0] + tap // kw * window.dilation[0],
                (self.column + p) * window.strides[1] + tap % kw * window.dilation[1],
            )
            if self.program.depthwise:
                value = self._own_inputs(at)
            else:
                value = broadcast(T.cast(load(self.image, *at, first + k), "int32"), lanes)
            sums[p, 0] = sums[p, 0] + value * w

    def _own_inputs(self, at: tuple[Expr, ...]) -> Expr:
        """The input of each output channel of a depthwise layer."""
        lanes, multiplier = self.program.lanes, self.program.channels // self.program.window.input.shape[3]
        if multiplier == 1:
            return T.cast(load(self.image, *at, self.start, lanes=lanes), vector("int32", lanes))
        if multiplier % lanes == 0:
            return broadcast(T.cast(load(self.image, *at, self.start // multiplier), "int32"), lanes)
        gathered = local(lanes, "int32")
        for i in range(lanes):
            store(gathered, T.cast(load(self.image, *at, (self.start + i) // multiplier), "int32"), i)
        return load(gathered, 0, lanes=lanes)

    def _in_pieces(self, initial: Expr, sums: Accumulators, accumulate: Callable[[Expr, Expr], None]) -> Accumulators:
        """int64 sums of the pieces that `accumulate(tap, k)` sums in the int32 `sums`."""
        p, (kh, kw), lanes = self.program, self.program.window.kernel, self.program.lanes
        size = math.ceil(p.depth / p.pieces)
        totals = Accumulators.apart(sums.pixels, 1, lanes, "int64")
        totals.fill([initial])
        with T.serial(kh * kw) as tap, T.serial(math.ceil(p.depth / size)) as piece:
            sums.fill([broadcast(T.int32(0), lanes)])
            with T.serial(T.min(p.depth - piece * size, size)) as k:
                accumulate(tap, piece * size + k)
            totals.add(sums)
        return totals
