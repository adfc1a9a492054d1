"""Depthwise convolution in float32, depth multiplier 1, for any LLVM target.

A tile is a few output pixels beside each other times one or two vectors of channels, in registers; neighbouring pixels
share their loads.  Tiles follow the channels of their pixels before the next pixels, so that memory is read and written
in order.

Nothing copies the image to pad it.  Kernel rows outside the image are left out by the bounds of a loop.  The tiles at
the ends of a row know their columns, and what lies outside the image is no part of their text; the others, in a loop,
read nothing outside.

Loads and multiply-adds take about as long; large images are limited by memory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.accumulators import Accumulators
from tflite2q.kernels.contracts import FloatConv2DContract, Tensor
from tflite2q.kernels.depthwise import Window, WindowProgram
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.gemm import Section
from tflite2q.kernels.loops import region
from tflite2q.kernels.real import FLOAT, ClampedSums, Ending, Registers, bias_of, finish
from tflite2q.kernels.refusals import Because, Refusal
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, load, view

PIXELS = 4  # of a tile, at most
MOST_COLUMNS = 9  # of a kernel; wider ones would unroll too far
MOST_ENDS = 6  # tiles of a row that know their columns
VECTORS = 2  # of a tile


@dataclass(frozen=True)
class Row:
    """How tiles cover a row of outputs: `ends` are the first columns of tiles that know them; `count` tiles from
    column `first` on, of which the last may overlap the one before it so that it ends at `last`, lie inside."""

    pixels: int
    ends: tuple[int, ...]
    first: int
    count: int
    last: int

    @staticmethod
    def of(window: Window) -> Row:
        width = window.output.shape[2]
        pixels = math.ceil(width / math.ceil(width / PIXELS))
        inside = [all(0 <= c < window.input.shape[2] for c in _columns(window, column)) for column in range(width)]
        begin = next((i for i, yes in enumerate(inside) if yes), width)
        end = width - next((i for i, yes in enumerate(reversed(inside)) if yes), width)
        left, right = math.ceil(begin / pixels), math.ceil((width - end) / pixels)
        between = width - (left + right) * pixels
        if between < pixels or begin >= end:
            starts = tuple(min(i * pixels, width - pixels) for i in range(math.ceil(width / pixels)))
            return Row(pixels, starts, 0, 0, 0)
        ends = (*(i * pixels for i in range(left)), *(width - (i + 1) * pixels for i in reversed(range(right))))
        return Row(pixels, ends, left * pixels, math.ceil(between / pixels), width - right * pixels)


def _columns(window: Window, column: int) -> list[int]:
    """Input columns that an output column reads, those outside the image included."""
    first = column * window.strides[1] - window.padding[1]
    return [first + j * window.dilation[1] for j in range(window.kernel[1])]


@dataclass(frozen=True)
class Program(WindowProgram):
    """What the text of the function depends on."""

    lanes: int
    sections: tuple[Section, ...]
    low: float | None
    high: float | None

    @staticmethod
    def of(contract: FloatConv2DContract, registers: Registers) -> Program:
        window, channels = Window.of(contract), contract.output.shape[3]
        lanes = layout.lane_count(channels, registers.lanes)
        row = Row.of(window)
        return Program(window, lanes, _sections(channels, lanes, row.pixels), contract.low, contract.high)

    @property
    def vectors(self) -> int:
        return sum(s.blocks * s.vectors for s in self.sections)

    @property
    def constants(self) -> Tensors:
        kh, kw = self.window.kernel
        return {
            "weights": Tensor((self.vectors, kh * kw, self.lanes), FLOAT),
            "bias": Tensor((self.vectors, self.lanes), FLOAT),
        }

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        self.emit_tiles(inputs[0], constants, y, ClampedSums(constants["bias"], self.low, self.high))

    def emit_tiles(self, x: Buffer, constants: Buffers, y: Buffer, ending: Ending) -> None:
        """All results of the images `x`."""
        n, out_h, out_w, channels = self.output.shape
        image = view(x, self.window.input.shape, FLOAT)
        flat = view(y, (n * out_h * out_w, channels))
        row, taps = Row.of(self.window), self.window.kernel[0] * self.window.kernel[1]
        with region(n * out_h, self.output.size * taps) as index:
            tile = _Tile(self, image, constants, ending, flat, T.Bind(index // out_h), T.Bind(index % out_h))
            for column in row.ends:
                tile.all_channels(column, row.pixels)
            if row.count:
                with T.serial(row.count) as t:
                    column = T.min(row.first + t * row.pixels, row.last - row.pixels)
                    tile.all_channels(T.Bind(column), row.pixels)


def _sections(channels: int, lanes: int, pixels: int) -> tuple[Section, ...]:
    """Blocks of two vectors as far as they go, then one vector; the last block overlaps its neighbour if it must."""
    block = VECTORS * lanes
    rest = channels % block
    if channels < block:
        return (Section(0, channels, 1, pixels, lanes),)
    if rest == 0 or rest > lanes:
        return (Section(0, channels, VECTORS, pixels, lanes),)
    return (
        Section(0, channels - rest, VECTORS, pixels, lanes),
        Section(channels - lanes, lanes, 1, pixels, lanes),
    )


class FloatDepthwise:
    """FloatConv2D contracts in which each channel is by itself."""

    name = "float_depthwise"

    def plan(self, contract: FloatConv2DContract, target: Any) -> Plan | Refusal:
        refused = refusal(contract)
        if refused:
            return refused
        program = Program.of(contract, Registers.of(target))
        s = program.sections[0]
        name = Name(FLOAT, f"depthwise{program.window.name}", tile=f"{s.pixels}x{s.block}")
        return Plan(name, program, functools.partial(pack, contract, program))


def refusal(contract: FloatConv2DContract) -> Refusal | None:
    """Why channels cannot be taken one by one, or rows not in tiles."""
    if not contract.each_by_itself:
        return Refusal(Because.GEOMETRY, f"{contract.groups} groups")
    if contract.kernel[1] > MOST_COLUMNS:
        kh, kw = contract.kernel
        return Refusal(Because.GEOMETRY, f"a {kh}x{kw} kernel would unroll too far")
    if len(Row.of(Window.of(contract)).ends) > MOST_ENDS:
        return Refusal(Because.GEOMETRY, "most columns read beyond the image")
    return None


def pack(contract: FloatConv2DContract, program: Program) -> Arrays:
    """The constants of `program`, which was made for `contract`."""
    channels = np.concatenate([s.channel_indices().reshape(-1, program.lanes) for s in program.sections])
    weights = contract.weights.reshape(-1, contract.output.shape[3]).astype(FLOAT)
    return {"weights": weights[:, channels].transpose(1, 0, 2), "bias": bias_of(contract)[channels]}


@dataclass(frozen=True)
class _Tile:
    """The buffers of a function under construction, and the row (`n`, `row`) of outputs."""

    program: Program
    image: Buffer
    constants: Buffers
    ending: Ending
    y: Buffer
    n: Expr
    row: Expr

    def all_channels(self, column: Expr, pixels: int) -> None:
        """All channels of `pixels` outputs from `column` on, which is a number where they may read outside."""
        first = 0
        for s in self.program.sections:
            with T.serial(s.blocks) as block:
                self._block(s, T.Bind(first + block * s.vectors), T.Bind(s.start(block)), column, pixels)
            first += s.blocks * s.vectors

    def _block(self, s: Section, vector: Expr, channel: Expr, column: Expr, pixels: int) -> None:
        lanes = self.program.lanes
        _, out_h, out_w, _ = self.program.output.shape
        vectors = [T.Bind(vector + v) for v in range(s.vectors)]
        sums = Accumulators.apart(pixels, s.vectors, lanes, FLOAT)
        sums.fill([self.ending.start(index, lanes) for index in vectors])
        begin, count = self._rows_inside()
        with T.serial(count) as i:
            self._kernel_row(sums, vectors, T.Bind(begin + i), column, channel)
        at = T.Bind((self.n * out_h + self.row) * out_w + column)
        rows = [at + p for p in range(pixels)]
        finish(self.ending, sums.values(), vectors, lanes, s.block, self.y, rows, channel)

    def _rows_inside(self) -> tuple[Expr, Expr]:
        """The first kernel row inside the image, and how many there are."""
        window = self.program.window
        kh, step, in_h = window.kernel[0], window.dilation[0], window.input.shape[1]
        top = self.row * window.strides[0] - window.padding[0]
        begin = T.min((T.max(-top, 0) + step - 1) // step, kh) if window.padding[0] else 0
        end = T.min((T.max(in_h - top, 0) + step - 1) // step, kh) if window.padding[2] else kh
        return T.Bind(begin), T.Bind(T.max(end - begin, 0))

    def _kernel_row(self, sums: Accumulators, vectors: list[Expr], i: Expr, column: Expr, channel: Expr) -> None:
        """The products of kernel row `i`."""
        window, lanes = self.program.window, self.program.lanes
        width, step = window.input.shape[2], window.dilation[1]
        source = T.Bind(self.row * window.strides[0] - window.padding[0] + i * window.dilation[0])
        left = column * window.strides[1] - window.padding[1]
        left = left if isinstance(column, int) else T.Bind(left)
        for v, index in enumerate(vectors):
            for j in range(window.kernel[1]):
                w = T.Bind(load(self.constants["weights"], index, i * window.kernel[1] + j, 0, lanes=lanes))
                for p in range(sums.pixels):
                    at = left + p * window.strides[1] + j * step
                    if isinstance(at, int) and not 0 <= at < width:
                        continue
                    x = load(self.image, self.n, source, at, channel + v * lanes, lanes=lanes)
                    sums[p, v] = sums[p, v] + x * w
