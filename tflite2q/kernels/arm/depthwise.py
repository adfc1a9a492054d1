"""Depthwise convolution on Arm, depth multiplier 1.

A tile is a few output pixels beside each other times eight channels, in registers.  Its input columns are taken one
after another; each serves all outputs of the tile that read it.

With plain NEON, a pixel's bytes are widened to 16 bits and multiplied by smlal; weights of nine bits fit.  With dot
products, four rows of a column are interleaved, so that each 32-bit lane holds a channel's four bytes, and one sdot (or
usdot) does four taps of a kernel column.  Four zips a column make up for it only because each column serves up to
kernel-width outputs.

Tiles are as wide as registers allow: with sixteen channels, or more columns, LLVM keeps some of them on the stack.
The weights of a 3x3 kernel stay in registers along a row.  What limits it are the widenings or zips, and the epilogue.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.accumulators import Accumulators
from tflite2q.kernels.arm import isa
from tflite2q.kernels.arm.epilogue import ArmEpilogue
from tflite2q.kernels.arm.isa import LANES, Level
from tflite2q.kernels.contracts import DepthwiseConv2DContract, Tensor
from tflite2q.kernels.depthwise import NARROWEST, Window, WindowProgram, refusal
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.loops import ZEROS, moving_zero, padded_image, region
from tflite2q.kernels.refusals import Because, Refusal
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, load, shuffle, store, view

MOST_COLUMNS = 5
MOST_TAPS = 49  # of a kernel; larger ones would unroll too far
RESIDENT_TAPS = 9  # of a kernel whose weights stay in registers
WIDTH = NARROWEST  # channels of a tile
ROWS = 4  # input rows that a dot product multiplies
ZIP = [i // 2 + 8 * (i % 2) for i in range(16)]  # of two vectors of eight bytes
LOW = [i // 2 + 16 * (i % 2) for i in range(16)]  # zip1 of two vectors of bytes
HIGH = [i + 8 for i in LOW]  # zip2


@dataclass(frozen=True)
class Program(WindowProgram):
    """What the text of the function depends on.  `dots`: dot products, of inputs less `shift`; otherwise smlal."""

    fill: int
    columns: int
    dots: bool
    shift: int
    ending: ArmEpilogue

    @property
    def blocks(self) -> int:
        return math.ceil(self.output.shape[3] / WIDTH)

    @property
    def steps(self) -> int:
        """Kernel rows, or groups of four that dot products multiply at once."""
        return math.ceil(self.window.kernel[0] / ROWS) if self.dots else self.window.kernel[0]

    @property
    def constants(self) -> Tensors:
        count, taps = self.blocks * WIDTH // LANES, self.steps * self.window.kernel[1]
        shape, dtype = ((self.blocks, taps, 4 * WIDTH), "int8") if self.dots else ((self.blocks, taps, WIDTH), "int16")
        bias = Tensor((count, LANES), "int32")
        return {"weights": Tensor(shape, dtype), "bias": bias, **ZEROS, **self.ending.constants(count)}

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        (x,), window, bias = inputs, self.window, constants["bias"]
        batch, h, w, c = window.input.shape
        _, out_h, out_w, out_c = self.output.shape
        top, left, bottom, right = window.padding
        image = padded_image(x, window.input, window.padding, self.fill)
        image = view(image, (batch * (h + top + bottom), (w + left + right) * c))
        y = view(y, (batch * out_h * out_w, out_c))
        with region(batch * out_h * self.blocks, self.output.size * window.kernel[0] * window.kernel[1]) as i:
            row, block = i // self.blocks, i % self.blocks
            first_row = T.Bind(row // out_h * (h + top + bottom) + row % out_h * window.strides[0])
            channel = T.Bind(T.min(block * WIDTH, out_c - WIDTH))
            with T.serial(math.ceil(out_w / self.columns)) as t:
                column = T.Bind(T.min(t * self.columns, out_w - self.columns))
                # Of what does not depend on the column, only a small kernel's weights may stay in registers.
                zero = moving_zero(constants, t)
                own = T.Bind(block + zero)
                offset = column * window.strides[1] * c + channel
                held = block if resident(window.kernel) else own
                tile = _Tile(self, image, constants["weights"], held, first_row, offset, zero)
                vector = T.Bind(own * (WIDTH // LANES))
                values = tile.accumulate([load(bias, vector + v, 0, lanes=LANES) for v in range(WIDTH // LANES)])
                for p, pixel in enumerate(values):
                    rounded = [self.ending.rounded(value, constants, vector + v) for v, value in enumerate(pixel)]
                    store(y, self.ending.packed(rounded), row * out_w + column + p, channel, lanes=WIDTH)


@dataclass(frozen=True)
class ArmDepthwise:
    """DepthwiseConv2D contracts of depth multiplier 1 on one level of instructions."""

    level: Level

    @property
    def name(self) -> str:
        return f"depthwise__{self.level.name}"

    def plan(self, contract: DepthwiseConv2DContract, target: Any) -> Plan | Refusal:
        refused = self.level.lacks(target) or refusal(contract, ("int8", "uint8"), MOST_TAPS)
        if refused:
            return refused
        dots = self.level.dots
        if dots and not layout.fits_eight_bits(contract):
            return Refusal(Because.NUMBERS, "weights need nine bits")

        def work(columns: int) -> float:
            """The work of a row: outputs, and the input columns that tiles have no use for but to start with."""
            return math.ceil(contract.out_w / columns) * (columns * contract.strides[1] + contract.kernel[1])

        columns = min(range(min(_most_columns(contract), contract.out_w), 0, -1), key=work)
        flips = dots and not self.level.matrix and contract.x_dtype == "uint8"
        ending = ArmEpilogue.of(contract.rescale, layout.accumulator_bound(contract))
        program = Program(Window.of(contract), contract.x_zero_point, columns, dots, 128 if flips else 0, ending)
        types, operation = f"{contract.x_dtype[0]}8s{8 if dots else 16}", f"depthwise{program.window.name}"
        name = Name(types, operation, self.level.name, contract.rescale.arithmetic, f"{columns}x{WIDTH}")
        return Plan(name, program, functools.partial(_pack, contract, program))


def resident(kernel: tuple[int, int]) -> bool:
    """Whether the kernel's weights stay in registers along a row."""
    return kernel[0] * kernel[1] <= RESIDENT_TAPS


def _most_columns(contract: DepthwiseConv2DContract) -> int:
    """The widest tile that registers allow; the weights of a kernel row stay in some."""
    spread = max(contract.strides[1], contract.dilation[1])
    return max(2, min(MOST_COLUMNS - 2 * (spread > 1), 9 - contract.kernel[1]))


def _pack(contract: DepthwiseConv2DContract, program: Program) -> Arrays:
    channels = layout.blocks(contract.out_c, WIDTH)[:, None] + np.arange(WIDTH)
    weights = layout.centered_weights(contract)[0][:, :, channels]  # [kh, kw, blocks, width]
    if program.dots:
        padded = np.zeros((program.steps * ROWS, *weights.shape[1:]), np.int64)
        padded[: contract.kernel[0]] = weights
        # [blocks, groups, kw, width, rows]
        weights = padded.reshape(program.steps, ROWS, *weights.shape[1:]).transpose(3, 0, 2, 4, 1)
    else:
        weights = weights.transpose(2, 0, 1, 3)
    declared, vectors = program.constants["weights"], channels.reshape(-1, LANES)
    return {
        "weights": weights.reshape(declared.shape).astype(declared.dtype),
        "bias": layout.folded_bias(contract, contract.x_zero_point - program.shift)[vectors],
        **program.ending.rounding.pack(contract.rescale, vectors),
    }


@dataclass(frozen=True)
class _Tile:
    """`columns` outputs times `WIDTH` channels; `offset` is the first byte of the tile's input in each row."""

    program: Program
    image: Buffer
    weights: Buffer
    block: Expr
    row: Expr
    offset: Expr
    zero: Expr

    def accumulate(self, biases: list[Expr]) -> list[list[Expr]]:
        """int32x4 accumulators [columns][vectors]."""
        program = self.program
        sums = Accumulators.apart(program.columns, len(biases), LANES)
        sums.fill(biases)
        readers: dict[int, list[tuple[int, int]]] = {}  # of an input column: the tile's outputs, and kernel columns
        for p, kx in itertools.product(range(program.columns), range(program.window.kernel[1])):
            position = p * program.window.strides[1] + kx * program.window.dilation[1]
            readers.setdefault(position, []).append((p, kx))

        # Rows outside, columns within: few weights are then in use at a time.
        def row(step: Expr) -> None:
            for position in sorted(readers):
                (self._dots if program.dots else self._products)(sums, step, position, readers[position])

        if resident(program.window.kernel):
            for step in range(program.steps):
                row(step)
        else:  # LLVM is kept from unrolling the loop, and from loading everything ahead then
            with T.serial(program.steps + self.zero) as step:
                row(step)
        return sums.values()

    def _read(self, ky: int, position: int) -> Expr:
        at = self.offset + position * self.program.window.input.shape[3]
        return load(self.image, self.row + ky * self.program.window.dilation[0], at, lanes=WIDTH)

    def _products(self, sums: Accumulators, ky: int, position: int, readers: list[tuple[int, int]]) -> None:
        x = T.Bind(T.cast(self._read(ky, position), "int16x8"))
        halves = [shuffle([x], [0, 1, 2, 3]), shuffle([x], [4, 5, 6, 7])]
        for p, kx in readers:
            w = T.Bind(load(self.weights, self.block, ky * self.program.window.kernel[1] + kx, 0, lanes=WIDTH))
            parts = [shuffle([w], [0, 1, 2, 3]), shuffle([w], [4, 5, 6, 7])]
            for v, (a, b) in enumerate(zip(halves, parts, strict=True)):
                sums[p, v] = isa.widening(sums[p, v], a, b)

    def _dots(self, sums: Accumulators, group: int, position: int, readers: list[tuple[int, int]]) -> None:
        program = self.program
        name = "usdot" if program.window.input.dtype == "uint8" and not program.shift else "sdot"
        halves = self._interleaved(group, position)
        for p, kx in readers:
            for v, x in enumerate(halves):
                w = T.Bind(load(self.weights, self.block, group * program.window.kernel[1] + kx, v * 16, lanes=16))
                sums[p, v] = isa.intrinsic(name, sums[p, v], x, w)

    def _interleaved(self, group: int, position: int) -> list[Expr]:
        """Two vectors of four channels times four rows; rows that the kernel lacks have weights of zero."""
        kh = self.program.window.kernel[0]
        rows = []
        for r in range(ROWS):
            if r < kh:
                ky = T.min(group * ROWS + r, kh - 1)
                x = T.reinterpret("int32x2", self._read(ky, position))
                rows.append(T.Bind(T.reinterpret("int8x8", isa.flipped(x, 2) if self.program.shift else x)))
            else:
                rows.append(rows[-1])
        even, odd = (T.Bind(shuffle(pair, ZIP)) for pair in (rows[0::2], rows[1::2]))
        return [T.Bind(shuffle([even, odd], order)) for order in (LOW, HIGH)]
