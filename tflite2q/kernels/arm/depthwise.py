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
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.arm import isa
from tflite2q.kernels.arm.finish import Finish
from tflite2q.kernels.arm.isa import LANES, Level
from tflite2q.kernels.base import Array, Built, DepthwiseConv2D, Tensor
from tflite2q.kernels.depthwise import refusal
from tflite2q.kernels.loops import ZEROS, moving_zero, padded_image, region
from tflite2q.kernels.tir import Buffer, Expr, T, function, load, local, shuffle, store, view

MOST_COLUMNS = 5
MOST_TAPS = 49  # of a kernel; larger ones would unroll too far
RESIDENT_TAPS = 9  # of a kernel whose weights stay in registers
WIDTH = 8  # channels of a tile
ROWS = 4  # input rows that a dot product multiplies
ZIP = [i // 2 + 8 * (i % 2) for i in range(16)]  # of two vectors of eight bytes
LOW = [i // 2 + 16 * (i % 2) for i in range(16)]  # zip1 of two vectors of bytes
HIGH = [i + 8 for i in LOW]  # zip2


@dataclass(frozen=True)
class Plan:
    """What the text of the function depends on.  `dots`: dot products, of inputs less `shift`; otherwise smlal."""

    inputs: Tensor
    output: Tensor
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    fill: int
    columns: int
    dots: bool
    shift: int
    finish: Finish

    @property
    def blocks(self) -> int:
        return math.ceil(self.output.shape[3] / WIDTH)

    @property
    def steps(self) -> int:
        """Kernel rows, or groups of four that dot products multiply at once."""
        return math.ceil(self.kernel[0] / ROWS) if self.dots else self.kernel[0]

    @property
    def macs(self) -> int:
        return self.output.size * self.kernel[0] * self.kernel[1]

    @property
    def constants(self) -> tuple[Tensor, ...]:
        kh, kw = self.kernel
        count = self.blocks * WIDTH // LANES
        weights = (
            Tensor((self.blocks, self.steps * kw, 4 * WIDTH), "int8")
            if self.dots
            else Tensor((self.blocks, kh * kw, WIDTH), "int16")
        )
        return (weights, Tensor((count, LANES), "int32"), ZEROS, *self.finish.tensors(count))


@dataclass(frozen=True)
class ArmDepthwise:
    """DepthwiseConv2D contracts of depth multiplier 1 on one level of instructions."""

    level: Level

    @property
    def name(self) -> str:
        return f"depthwise__{self.level.name}"

    def refuses(self, contract: DepthwiseConv2D, target: Any) -> str | None:
        why = self.level.lacks(target) or refusal(contract, ("int8", "uint8"), WIDTH, MOST_TAPS)
        if why:
            return why
        weights = layout.centered_weights(contract)
        if self.level != isa.NEON and (weights.min() < -128 or weights.max() > 127):
            return "weights need nine bits"
        return None

    def build(self, contract: DepthwiseConv2D, target: Any) -> Built:
        plan = _plan(contract, self.level)
        types = f"{contract.x_dtype[0]}8s{8 if plan.dots else 16}"
        kernel = f"{plan.kernel[0]}x{plan.kernel[1]}s{plan.strides[0]}"
        tile = f"{plan.columns}x{WIDTH}"
        name = f"{types}_depthwise{kernel}_{contract.rescale.arithmetic}_{tile}__{self.level.name}"
        return Built(name, (name, plan), _function(plan), contract.inputs, _pack(contract, plan), contract.output)


def resident(kernel: tuple[int, int]) -> bool:
    """Whether the kernel's weights stay in registers along a row."""
    return kernel[0] * kernel[1] <= RESIDENT_TAPS


def _most_columns(contract: DepthwiseConv2D) -> int:
    """As many as registers allow; the weights of a kernel row stay in some."""
    spread = max(contract.strides[1], contract.dilation[1])
    return max(2, min(MOST_COLUMNS - 2 * (spread > 1), 9 - contract.kernel[1]))


def _plan(contract: DepthwiseConv2D, level: Level) -> Plan:
    def work(columns: int) -> float:
        """Of a row: outputs, and the input columns that tiles have no use for but to start with."""
        return math.ceil(contract.out_w / columns) * (columns * contract.strides[1] + contract.kernel[1])

    columns = min(range(min(_most_columns(contract), contract.out_w), 0, -1), key=work)
    dots = level != isa.NEON
    flips = level == isa.DOTPROD and contract.x_dtype == "uint8"
    return Plan(
        contract.inputs[0], contract.output, contract.kernel, contract.strides, contract.dilation, contract.padding,
        contract.x_zero_point, columns, dots, 128 if flips else 0,
        Finish.of(contract.rescale, layout.accumulator_bound(contract)),
    )  # fmt: skip


def _pack(contract: DepthwiseConv2D, plan: Plan) -> tuple[Array, ...]:
    kh = plan.kernel[0]
    starts = layout.blocks(contract.out_c, WIDTH)
    channels = starts[:, None] + np.arange(WIDTH)
    weights = layout.centered_weights(contract)[0][:, :, channels]  # [kh, kw, blocks, width]
    if plan.dots:
        padded = np.zeros((plan.steps * ROWS, *weights.shape[1:]), np.int64)
        padded[:kh] = weights
        # [blocks, groups, kw, width, rows]
        weights = padded.reshape(plan.steps, ROWS, *weights.shape[1:]).transpose(3, 0, 2, 4, 1)
    else:
        weights = weights.transpose(2, 0, 1, 3)
    expected = plan.constants[0]
    vectors = channels.reshape(-1, LANES)
    return (
        np.ascontiguousarray(weights.reshape(expected.shape), expected.dtype),
        layout.folded_bias(contract, contract.x_zero_point - plan.shift)[vectors],
        np.zeros(ZEROS.shape, np.int32),
        *plan.finish.pack(contract.rescale, vectors),
    )


@functools.cache
def _function(plan: Plan) -> Any:
    return function([plan.inputs], plan.constants, plan.output, functools.partial(_body, plan))


def _body(plan: Plan, x: Buffer, weights: Buffer, bias: Buffer, zeros: Buffer, *rest: Buffer) -> None:
    *constants, y = rest
    batch, h, w, c = plan.inputs.shape
    _, out_h, out_w, out_c = plan.output.shape
    top, left, bottom, right = plan.padding
    image = padded_image(x, plan.inputs, plan.padding, plan.fill)
    image = view(image, (batch * (h + top + bottom), (w + left + right) * c))
    y = view(y, (batch * out_h * out_w, out_c))
    with region(batch * out_h * plan.blocks, plan.macs) as i:
        row, block = i // plan.blocks, i % plan.blocks
        first_line = T.Bind(row // out_h * (h + top + bottom) + row % out_h * plan.strides[0])
        channel = T.Bind(T.min(block * WIDTH, out_c - WIDTH))
        with T.serial(math.ceil(out_w / plan.columns)) as t:
            column = T.Bind(T.min(t * plan.columns, out_w - plan.columns))
            # Of what does not depend on the column, only a small kernel's weights may stay in registers.
            zero = moving_zero(zeros, t)
            own = T.Bind(block + zero)
            offset = column * plan.strides[1] * c + channel
            tile = _Tile(plan, image, weights, block if resident(plan.kernel) else own, first_line, offset, zero)
            vector = T.Bind(own * (WIDTH // LANES))
            values = tile.accumulate([load(bias, vector + v, 0, lanes=LANES) for v in range(WIDTH // LANES)])
            for p, line in enumerate(values):
                rounded = [plan.finish.rounded(value, tuple(constants), vector + v) for v, value in enumerate(line)]
                store(y, plan.finish.packed(rounded), row * out_w + column + p, channel, lanes=WIDTH)


@dataclass(frozen=True)
class _Tile:
    """`columns` outputs times `WIDTH` channels; `offset` is the first byte of the tile's input in each line."""

    plan: Plan
    image: Buffer
    weights: Buffer
    block: Expr
    line: Expr
    offset: Expr
    zero: Expr

    def accumulate(self, biases: list[Expr]) -> list[list[Expr]]:
        """int32x4 accumulators [columns][vectors]."""
        plan = self.plan
        accumulators = [[local(LANES, "int32") for _ in biases] for _ in range(plan.columns)]
        for line in accumulators:
            for accumulator, value in zip(line, biases, strict=True):
                store(accumulator, value, 0, lanes=LANES)
        readers: dict[int, list[tuple[list[Buffer], int]]] = {}
        for p, line in enumerate(accumulators):
            for kx in range(plan.kernel[1]):
                readers.setdefault(p * plan.strides[1] + kx * plan.dilation[1], []).append((line, kx))

        # Rows outside, columns within: few weights are then in use at a time.
        def row(step: Expr) -> None:
            for position in sorted(readers):
                (self._dots if plan.dots else self._products)(step, position, readers[position])

        if resident(plan.kernel):
            for step in range(plan.steps):
                row(step)
        else:  # LLVM is kept from unrolling the loop, and from loading everything ahead then
            with T.serial(plan.steps + self.zero) as step:
                row(step)
        return [[load(a, 0, lanes=LANES) for a in line] for line in accumulators]

    def _read(self, ky: int, position: int) -> Expr:
        at = self.offset + position * self.plan.inputs.shape[3]
        return load(self.image, self.line + ky * self.plan.dilation[0], at, lanes=WIDTH)

    def _products(self, ky: int, position: int, readers: list[tuple[list[Buffer], int]]) -> None:
        x = T.Bind(T.cast(self._read(ky, position), "int16x8"))
        halves = [shuffle([x], [0, 1, 2, 3]), shuffle([x], [4, 5, 6, 7])]
        for accumulators, kx in readers:
            w = T.Bind(load(self.weights, self.block, ky * self.plan.kernel[1] + kx, 0, lanes=WIDTH))
            parts = [shuffle([w], [0, 1, 2, 3]), shuffle([w], [4, 5, 6, 7])]
            for accumulator, a, b in zip(accumulators, halves, parts, strict=True):
                store(accumulator, isa.widening(load(accumulator, 0, lanes=LANES), a, b), 0, lanes=LANES)

    def _dots(self, group: int, position: int, readers: list[tuple[list[Buffer], int]]) -> None:
        plan = self.plan
        name = "usdot" if plan.inputs.dtype == "uint8" and not plan.shift else "sdot"
        halves = self._interleaved(group, position)
        for accumulators, kx in readers:
            for v, (accumulator, x) in enumerate(zip(accumulators, halves, strict=True)):
                w = T.Bind(load(self.weights, self.block, group * plan.kernel[1] + kx, v * 16, lanes=16))
                store(accumulator, isa.intrinsic(name, load(accumulator, 0, lanes=LANES), x, w), 0, lanes=LANES)

    def _interleaved(self, group: int, position: int) -> list[Expr]:
        """Two vectors of four channels times four rows; rows that the kernel lacks have weights of zero."""
        kh = self.plan.kernel[0]
        rows = []
        for r in range(ROWS):
            if r < kh:
                ky = T.min(group * ROWS + r, kh - 1)
                x = T.reinterpret("int32x2", self._read(ky, position))
                rows.append(T.Bind(T.reinterpret("int8x8", isa.flipped(x, 2) if self.plan.shift else x)))
            else:
                rows.append(rows[-1])
        even, odd = (T.Bind(shuffle(pair, ZIP)) for pair in (rows[0::2], rows[1::2]))
        return [T.Bind(shuffle([even, odd], order)) for order in (LOW, HIGH)]
