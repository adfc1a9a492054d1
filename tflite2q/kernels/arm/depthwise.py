"""Depthwise convolution on Arm, depth multiplier 1.

A tile is a few output pixels beside each other times eight or sixteen channels, in registers.  Its input columns are
taken one after another; each serves all outputs of the tile that read it.

NEON     eight channels: a pixel's bytes are widened to 16 bits and multiplied by smlal; weights of nine bits fit.
dotprod  sixteen channels: four rows of a column are interleaved, so that each 32-bit lane holds a channel's four bytes,
         and one sdot (or usdot) does four taps of a kernel column.  Eight zips a column make up for it only because
         each column serves up to kernel-width outputs.

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
from tflite2q.kernels.loops import ZEROS, moving_zero, padded_image, region
from tflite2q.kernels.tir import Buffer, Expr, T, function, load, local, shuffle, store, view

MOST_COLUMNS = 4
MOST_TAPS = 49  # of a kernel; larger ones would unroll too far
RESIDENT_TAPS = 9  # of a kernel whose weights stay in registers
ROWS = 4  # input rows that a dot product multiplies
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
    def width(self) -> int:
        """Channels of a tile."""
        return 16 if self.dots else 8

    @property
    def blocks(self) -> int:
        return math.ceil(self.output.shape[3] / self.width)

    @property
    def groups(self) -> int:
        """Groups of four kernel rows."""
        return math.ceil(self.kernel[0] / ROWS)

    @property
    def macs(self) -> int:
        return self.output.size * self.kernel[0] * self.kernel[1]

    @property
    def constants(self) -> tuple[Tensor, ...]:
        kh, kw = self.kernel
        count = self.blocks * self.width // LANES
        weights = (
            Tensor((self.blocks, self.groups * kw, 4 * self.width), "int8")
            if self.dots
            else Tensor((self.blocks, kh * kw, self.width), "int16")
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
        lacks = self.level.lacks(target)
        if lacks:
            return lacks
        width = 8 if self.level == isa.NEON else 16
        if contract.depth_multiplier != 1:
            return f"depth multiplier {contract.depth_multiplier}"
        if contract.kernel[0] * contract.kernel[1] > MOST_TAPS:
            return f"a {contract.kernel[0]}x{contract.kernel[1]} kernel would unroll too far"
        if contract.out_c < width:
            return f"{contract.out_c} channels are fewer than {width}"
        if contract.rescale.dtype not in ("int8", "uint8") or contract.x_dtype not in ("int8", "uint8"):
            return f"{contract.x_dtype} to {contract.rescale.dtype}"
        weights = layout.centered_weights(contract)
        if self.level != isa.NEON and (weights.min() < -128 or weights.max() > 127):
            return "weights need nine bits"
        return None

    def build(self, contract: DepthwiseConv2D, target: Any) -> Built:
        plan = _plan(contract, self.level)
        types = f"{contract.x_dtype[0]}8s{8 if plan.dots else 16}"
        kernel = f"{plan.kernel[0]}x{plan.kernel[1]}s{plan.strides[0]}"
        tile = f"{plan.columns}x{plan.width}"
        name = f"{types}_depthwise{kernel}_{contract.rescale.arithmetic}_{tile}__{self.level.name}"
        return Built(name, (name, plan), _function(plan), contract.inputs, _pack(contract, plan), contract.output)


def _plan(contract: DepthwiseConv2D, level: Level) -> Plan:
    def work(columns: int) -> float:
        """Of a row: outputs, and the input columns that tiles have no use for but to start with."""
        return math.ceil(contract.out_w / columns) * (columns * contract.strides[1] + contract.kernel[1])

    columns = min(range(min(MOST_COLUMNS, contract.out_w), 0, -1), key=work)
    dots = level != isa.NEON
    flips = level == isa.DOTPROD and contract.x_dtype == "uint8"
    return Plan(
        contract.inputs[0], contract.output, contract.kernel, contract.strides, contract.dilation, contract.padding,
        contract.x_zero_point, columns, dots, 128 if flips else 0,
        Finish.of(contract.rescale, layout.accumulator_bound(contract)),
    )  # fmt: skip


def _pack(contract: DepthwiseConv2D, plan: Plan) -> tuple[Array, ...]:
    kh = plan.kernel[0]
    starts = layout.blocks(contract.out_c, plan.width)
    channels = starts[:, None] + np.arange(plan.width)
    weights = layout.centered_weights(contract)[0][:, :, channels]  # [kh, kw, blocks, width]
    if plan.dots:
        padded = np.zeros((plan.groups * ROWS, *weights.shape[1:]), np.int64)
        padded[:kh] = weights
        # [blocks, groups, kw, width, rows]
        weights = padded.reshape(plan.groups, ROWS, *weights.shape[1:]).transpose(3, 0, 2, 4, 1)
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
        channel = T.Bind(T.min(block * plan.width, out_c - plan.width))
        with T.serial(math.ceil(out_w / plan.columns)) as t:
            column = T.Bind(T.min(t * plan.columns, out_w - plan.columns))
            resident = plan.kernel[0] * plan.kernel[1] <= RESIDENT_TAPS
            own = block if resident else T.Bind(block + moving_zero(zeros, t))
            tile = _Tile(plan, image, weights, own, first_line, column * plan.strides[1] * c + channel)
            vector = T.Bind(own * (plan.width // LANES))
            values = tile.accumulate([load(bias, vector + v, 0, lanes=LANES) for v in range(plan.width // LANES)])
            for p, line in enumerate(values):
                rounded = [plan.finish.rounded(value, tuple(constants), vector + v) for v, value in enumerate(line)]
                store(y, plan.finish.packed(rounded), row * out_w + column + p, channel, lanes=plan.width)


@dataclass(frozen=True)
class _Tile:
    """`columns` outputs times `width` channels; `offset` is the first byte of the tile's input in each line."""

    plan: Plan
    image: Buffer
    weights: Buffer
    block: Expr
    line: Expr
    offset: Expr

    def accumulate(self, biases: list[Expr]) -> list[list[Expr]]:
        """int32x4 accumulators [columns][vectors]."""
        plan = self.plan
        accumulators = [[local(LANES, "int32") for _ in biases] for _ in range(plan.columns)]
        for line in accumulators:
            for accumulator, value in zip(line, biases, strict=True):
                store(accumulator, value, 0, lanes=LANES)
        readers: dict[int, list[tuple[int, int]]] = {}
        for p in range(plan.columns):
            for kx in range(plan.kernel[1]):
                readers.setdefault(p * plan.strides[1] + kx * plan.dilation[1], []).append((p, kx))
        for position in sorted(readers):
            pairs = [(accumulators[p], kx) for p, kx in readers[position]]
            (self._dots if plan.dots else self._products)(position, pairs)
        return [[load(a, 0, lanes=LANES) for a in line] for line in accumulators]

    def _read(self, ky: int, position: int) -> Expr:
        at = self.offset + position * self.plan.inputs.shape[3]
        return load(self.image, self.line + ky * self.plan.dilation[0], at, lanes=self.plan.width)

    def _products(self, position: int, readers: list[tuple[list[Buffer], int]]) -> None:
        kh, kw = self.plan.kernel
        for ky in range(kh):
            x = T.Bind(T.cast(self._read(ky, position), "int16x8"))
            halves = [shuffle([x], [0, 1, 2, 3]), shuffle([x], [4, 5, 6, 7])]
            for accumulators, kx in readers:
                w = T.Bind(load(self.weights, self.block, ky * kw + kx, 0, lanes=8))
                parts = [shuffle([w], [0, 1, 2, 3]), shuffle([w], [4, 5, 6, 7])]
                for accumulator, a, b in zip(accumulators, halves, parts, strict=True):
                    store(accumulator, isa.widening(load(accumulator, 0, lanes=LANES), a, b), 0, lanes=LANES)

    def _dots(self, position: int, readers: list[tuple[list[Buffer], int]]) -> None:
        plan = self.plan
        mixed = plan.inputs.dtype == "uint8" and not plan.shift
        for group in range(plan.groups):
            quarters = self._interleaved(group, position)
            for accumulators, kx in readers:
                for v, (accumulator, x) in enumerate(zip(accumulators, quarters, strict=True)):
                    w = T.Bind(load(self.weights, self.block, group * plan.kernel[1] + kx, v * 16, lanes=16))
                    value = isa.intrinsic("usdot" if mixed else "sdot", load(accumulator, 0, lanes=LANES), x, w)
                    store(accumulator, value, 0, lanes=LANES)

    def _interleaved(self, group: int, position: int) -> list[Expr]:
        """Four vectors of four channels times four rows; rows that the kernel lacks have weights of zero."""
        kh = self.plan.kernel[0]
        rows = []
        for ky in range(group * ROWS, group * ROWS + ROWS):
            if ky < kh:
                x = T.reinterpret("int32x4", self._read(ky, position))
                rows.append(T.Bind(T.reinterpret("int8x16", isa.flipped(x) if self.plan.shift else x)))
            else:
                rows.append(rows[-1])
        even = [T.Bind(shuffle([rows[0], rows[2]], order)) for order in (LOW, HIGH)]
        odd = [T.Bind(shuffle([rows[1], rows[3]], order)) for order in (LOW, HIGH)]
        pairs = zip(even, odd, strict=True)
        return [T.Bind(shuffle([a, b], order)) for a, b in pairs for order in (LOW, HIGH)]
