"""Convolutions, depthwise convolutions and dense layers in float32, for any LLVM target.

A tile of output pixels times a few vectors of output channels is kept in registers, as many as the target has; each
step multiplies one broadcast input by vectors of weights and adds, which LLVM makes one fused instruction where there
is one.  Where every channel is by itself, the inputs are vectors too, and all taps are unrolled so that neighbouring
pixels share their loads.  Sums are in the order of memory.

Multiply-adds limit the convolutions, loads the depthwise ones.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.accumulators import Accumulators
from tflite2q.kernels.contracts import Array, FloatConv2DContract, Tensor
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.loops import padded_image, region
from tflite2q.kernels.real import FLOAT, ClampedSums, Ending, Registers, bias_of
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, store, vector, view

TILES = 16  # that one thread takes at a time
DEPTHWISE_PIXELS = 4
UNROLLED_TAPS = 25


@dataclass(frozen=True)
class Program:
    """What the text of the function depends on: geometry as in `FloatConv2DContract`, and how the result is tiled.

    A block is `vectors` times `lanes` output channels that share their inputs; a tile is `pixels` neighbours in a row.
    `piece`: sums are of integers, and of so many input channels of a tap at most before they join an int32; 0: of
    everything.
    """

    inputs: tuple[Tensor, ...]
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
    piece: int = 0

    @staticmethod
    def of(contract: FloatConv2DContract, registers: Registers) -> Program:
        x, y = contract.x, contract.output
        if contract.kernel == (1, 1) and contract.strides == (1, 1) and not any(contract.padding):
            x, y = (Tensor((1, 1, t.size // t.shape[3], t.shape[3]), FLOAT) for t in (x, y))  # rows do not matter
        made = Program(
            (x,), y, contract.kernel, contract.strides, contract.dilation, contract.padding, contract.groups,
            contract.low, contract.high, 1, 1, 1,
        )  # fmt: skip
        lanes = layout.lane_count(made.sharing, registers.lanes)
        vectors = 1 if made.each_by_itself else layout.lane_count(made.sharing // lanes, registers.weights)
        most = DEPTHWISE_PIXELS if made.each_by_itself else (registers.count - vectors - 2) // vectors
        columns = y.shape[2]
        pixels = -(-columns // -(-columns // min(most, columns)))  # as many tiles as there must be, all alike
        return replace(made, lanes=lanes, vectors=vectors, pixels=pixels)

    @property
    def each_by_itself(self) -> bool:
        """Whether every output channel reads just the input channel of its own index."""
        return self.groups == self.inputs[0].shape[3] == self.output.shape[3]

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
        return self.inputs[0].shape[3] // self.groups

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
    def constants(self) -> Tensors:
        count = len(self.block_starts)
        return {
            "weights": Tensor((count, self.taps, self.depth, self.width), FLOAT),
            "bias": Tensor((count * self.vectors, self.lanes), FLOAT),
            "block starts": Tensor((count,), "int32"),
        }

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        image = padded_image(inputs[0], self.inputs[0], self.padding, 0)
        self.emit_tiles(image, constants, y, ClampedSums(constants["bias"], self.low, self.high))

    def emit_tiles(self, padded: Buffer, constants: Buffers, y: Buffer, ending: Ending) -> None:
        """All results of the padded image, which is one axis."""
        n, out_h, out_w, _ = self.output.shape
        batch, h, w, c = self.inputs[0].shape
        top, left, bottom, right = self.padding
        image = view(padded, (batch, h + top + bottom, w + left + right, c), FLOAT)
        tiles, count = -(-out_w // self.pixels), len(self.block_starts)
        together = min(TILES, tiles)
        parts = -(-tiles // together)
        # The innermost loop runs over pixels, so that a block of weights stays in a near cache.
        with region(n * out_h * parts * count, self.output.size * self.depth * self.taps) as i:
            row, part, block = i // (parts * count), i // count % parts, i % count
            with T.serial(together) as tile:
                column = T.Bind(T.min((part * together + tile) * self.pixels, out_w - self.pixels))
                tile_at = _Tile(
                    self, image, constants, ending, row // out_h, row % out_h, column, block,
                    constants["block starts"][block],
                )  # fmt: skip
                tile_at.compute(y)


class GenericFloatConv:
    """FloatConv2D contracts; total."""

    name = "generic_float_conv2d"

    def plan(self, contract: FloatConv2DContract, target: Any) -> Plan:
        program = Program.of(contract, Registers.of(target))
        operation = "depthwise" if program.each_by_itself else "conv2d"
        name = Name(FLOAT, operation, tile=f"{program.pixels}x{program.width}")
        return Plan(name, program, functools.partial(pack, contract, program))


def pack(contract: FloatConv2DContract, program: Program) -> Arrays:
    """The constants of `program`, which was made for `contract`."""
    channels = program.block_starts[:, None] + np.arange(program.width)
    weights = contract.weights.reshape(program.taps, program.depth, -1)
    return {
        "weights": weights[:, :, channels].transpose(2, 0, 1, 3),
        "bias": bias_of(contract)[channels].reshape(-1, program.lanes),
        "block starts": program.block_starts.astype(np.int32),
    }


@dataclass(frozen=True)
class _Tile:
    """One tile: the results from (`n`, `row`, `column`) on, of the channels of `block`, the first being `start`."""

    program: Program
    image: Buffer
    constants: Buffers
    ending: Ending
    n: Expr
    row: Expr
    column: Expr
    block: Expr
    start: Expr

    def compute(self, y: Buffer) -> None:
        program, lanes = self.program, self.program.lanes
        sums = Accumulators.apart(program.pixels, program.vectors, lanes, FLOAT)
        if program.piece:
            values = self._in_pieces(sums)
        else:
            self._start(sums)
            for tap in self._each_tap():
                self._accumulate(sums, tap, 0, program.depth)
            values = sums.values()
        _, out_h, out_w, _ = program.output.shape
        first = T.Bind((self.n * out_h + self.row) * out_w + self.column)
        for p, pixel in enumerate(values):
            for v, value in enumerate(pixel):
                result = self.ending.result(value, self.block * program.vectors + v, first + p, lanes)
                store(y, result, self.n, self.row, self.column + p, self.start + v * lanes, lanes=lanes)

    def _start(self, sums: Accumulators) -> None:
        first = self.block * self.program.vectors
        sums.fill([self.ending.start(first + v, sums.lanes) for v in range(sums.vectors)])

    def _in_pieces(self, sums: Accumulators) -> list[list[Expr]]:
        """Sums as real numbers, of pieces that are summed in `sums` and added up in int32."""
        program, lanes = self.program, self.program.lanes
        totals = Accumulators.apart(sums.pixels, sums.vectors, lanes)
        totals.fill([broadcast(T.int32(0), lanes)] * totals.vectors)
        size = min(program.piece, program.depth)
        with T.serial(program.taps) as tap, T.serial(-(-program.depth // size)) as piece:
            self._start(sums)
            self._accumulate(sums, tap, piece * size, T.min(program.depth - piece * size, size))
            totals.add(sums)
        return [[T.cast(total, vector(FLOAT, lanes)) for total in pixel] for pixel in totals.values()]

    def _accumulate(self, sums: Accumulators, tap: Expr, start: Expr, count: Expr) -> None:
        """Add the products of a tap with `count` input channels from `start` on."""
        if self.program.each_by_itself:
            self._accumulate_channels(sums, tap)
            return
        program, lanes = self.program, self.program.lanes
        first = self.start // program.sharing * program.depth
        with T.serial(count) as i:
            k = start + i
            w = [
                T.Bind(load(self.constants["weights"], self.block, tap, k, at * lanes, lanes=lanes))
                for at in range(program.vectors)
            ]
            for p in range(sums.pixels):
                value = T.Bind(broadcast(load(self.image, *self._place(tap, p), first + k), lanes))
                for v, weights in enumerate(w):
                    sums[p, v] = sums[p, v] + value * weights

    def _accumulate_channels(self, sums: Accumulators, tap: Expr) -> None:
        lanes = self.program.lanes
        w = T.Bind(load(self.constants["weights"], self.block, tap, 0, 0, lanes=lanes))
        for p in range(sums.pixels):
            sums[p, 0] = sums[p, 0] + load(self.image, *self._place(tap, p), self.start, lanes=lanes) * w

    def _each_tap(self) -> Iterator[Expr]:
        """The taps one by one; depthwise layers with few taps unroll them, so that neighbours share loads."""
        if self.program.each_by_itself and self.program.taps <= UNROLLED_TAPS:
            yield from range(self.program.taps)
        else:
            with T.serial(self.program.taps) as tap:
                yield tap

    def _place(self, tap: Expr, pixel: int) -> tuple[Expr, Expr, Expr]:
        """Image, row and column that a tap of a pixel reads."""
        (down, right), (step_down, step_right) = self.program.strides, self.program.dilation
        width = self.program.kernel[1]
        return (
            self.n,
            self.row * down + tap // width * step_down,
            (self.column + pixel) * right + tap % width * step_right,
        )
