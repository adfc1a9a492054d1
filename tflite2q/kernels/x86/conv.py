"""Convolution and dense layers as an implicit matrix product.

A tile of `pixels` output pixels times `vectors` vectors of output channels stays in registers.  A step reads four
consecutive bytes of each pixel's input, spreads them over a vector, and multiplies them into all accumulators of that
pixel; the step's weights are read once for all pixels.  What an output pixel reads is one run of consecutive bytes for
each kernel row (kernel width times input channels; one run in all for 1x1), so there is no im2col, and three-channel
inputs need no other kernel.  Runs whose length is no multiple of four end with a group that overlaps its neighbour,
with zero weights where they overlap.  Channels and pixels that fill no tile overlap likewise: no masks and no tails.

Weight zero points disappear if every centered weight fits the instruction's weights (always on AVX2); otherwise the sum
of the inputs each pixel reads is computed once for all channels and enters the accumulators' first values.

With 6 x 4 vectors of 16 the inner loop is 24 multiply instructions to 10 loads, all accumulators in registers: what
limits it is the multiplier's throughput, then weights that exceed the second-level cache.  Shallow layers (few input
channels) are limited by the epilogue.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.base import Array, Built, Conv2D, Dense, Tensor
from tflite2q.kernels.line import Line, prove
from tflite2q.kernels.loops import PARALLEL_MACS, ZEROS, moving_zero, padded_image
from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, function, load, local, store, view
from tflite2q.kernels.x86 import finish, rowsum
from tflite2q.kernels.x86.finish import Finish
from tflite2q.kernels.x86.isa import Isa

CHUNKS = 16  # pieces into which a parallel layer's pixels are cut, at most


@dataclass(frozen=True)
class Section:
    """Output channels [first, first + channels) in blocks of `vectors` vectors, on tiles of `pixels`."""

    first: int
    channels: int
    vectors: int
    pixels: int
    lanes: int

    @property
    def blocks(self) -> int:
        return math.ceil(self.channels / (self.vectors * self.lanes))

    def starts(self) -> Array:
        """[blocks]: first channel of each block (packed), or [blocks * vectors] of each vector."""
        width = self.vectors * self.lanes
        if self.vectors == 4:
            return self.first + layout.blocks(self.channels, width)
        last = max(self.channels - self.lanes, 0)
        return self.first + np.minimum(np.arange(self.blocks * self.vectors) * self.lanes, last)


@dataclass(frozen=True)
class Plan:
    """What the text of the function depends on.  `rows` x `width` are the output pixels as tiles see them."""

    inputs: Tensor
    output: Tensor
    image: tuple[int, int, int, int]
    padding: tuple[int, int, int, int]
    fill: int
    rows: int
    width: int
    strides: tuple[int, int]
    runs: tuple[int, ...]
    run: int
    sections: tuple[Section, ...]
    row_sums: bool
    finish: Finish

    @property
    def groups(self) -> int:
        """Groups of four bytes in a run."""
        return math.ceil(self.run / 4)

    @property
    def steps(self) -> int:
        return len(self.runs) * self.groups

    @property
    def macs(self) -> int:
        return self.output.size * len(self.runs) * self.run

    @property
    def isa(self) -> Isa:
        return self.finish.isa

    @property
    def constants(self) -> tuple[Tensor, ...]:
        isa = self.isa
        count = sum(s.blocks * s.vectors for s in self.sections)
        weights = [
            Tensor((s.blocks, self.steps, s.vectors, 4 * isa.lanes), isa.weight_dtype) for s in self.sections
        ]  # fmt: skip
        sums = (Tensor((1,), "int32"),) if self.row_sums else ()
        return (*weights, Tensor((count, isa.lanes), "int32"), ZEROS, *sums, *self.finish.tensors(count))


@dataclass(frozen=True)
class X86Conv:
    """Conv2D and Dense contracts on one level of instructions."""

    isa: Isa

    @property
    def name(self) -> str:
        return f"conv2d__{self.isa.name}"

    def refuses(self, contract: Conv2D | Dense, target: Any) -> str | None:
        lacks = self.isa.lacks(target)
        if lacks:
            return lacks
        if not {contract.x_dtype, contract.rescale.dtype} <= {"uint8", "int8"}:
            return f"{contract.x_dtype} to {contract.rescale.dtype}"
        if isinstance(contract, Dense):
            contract = contract.conv2d()
        if contract.groups != 1:
            return f"{contract.groups} groups"
        if not _fits(contract, self.isa) and len(contract.weight_zero_points) > 1:
            return "weights have zero points by channel and need nine bits"
        return None

    def build(self, contract: Conv2D | Dense, target: Any) -> Built:
        conv = contract.conv2d() if isinstance(contract, Dense) else contract
        proven = prove(conv.rescale, layout.accumulator_bound(conv))
        plan = _plan(conv, contract.inputs[0], contract.output, self.isa, proven)
        constants = _pack(conv, plan, proven)
        s = plan.sections[0]
        types = f"{contract.x_dtype[0]}8s{8 if self.isa.dot_intrinsic else 16}"
        operation = "dense" if isinstance(contract, Dense) else "conv2d"
        tile = f"{s.pixels}x{s.vectors * s.lanes}"
        name = f"{types}_{operation}_{conv.rescale.arithmetic}_{tile}__{self.isa.name}"
        return Built(name, (name, plan), _function(plan), contract.inputs, constants, contract.output)


def _fits(conv: Conv2D, isa: Isa) -> bool:
    """Whether centered weights fit the instruction's weight operand."""
    if isa.dot_intrinsic is None:
        return True
    weights = layout.centered_weights(conv)
    return bool(weights.min() >= -128 and weights.max() <= 127)


def _plan(conv: Conv2D, inputs: Tensor, output: Tensor, isa: Isa, proven: Line | None) -> Plan:
    kh, kw = conv.kernel
    image = (conv.batch, conv.in_h, conv.in_w, conv.in_c)
    width = conv.in_w + conv.padding[1] + conv.padding[3]
    line, pixel = width * conv.in_c, conv.in_c
    rows, columns, strides = conv.batch * conv.out_h, conv.out_w, conv.strides
    if (kh, kw) == (1, 1) and strides == (1, 1) and not any(conv.padding):
        rows, columns = 1, rows * columns
    if conv.dilation[1] == 1 or kw == 1:
        runs, run = tuple(i * conv.dilation[0] * line for i in range(kh)), kw * pixel
    else:
        taps = [(i, j) for i in range(kh) for j in range(kw)]
        runs, run = tuple(i * conv.dilation[0] * line + j * conv.dilation[1] * pixel for i, j in taps), pixel
    bound = layout.accumulator_bound(conv)
    return Plan(
        inputs, output, image, conv.padding, conv.x_zero_point, rows, columns, strides, runs, run,
        _sections(conv.out_c, columns, isa), not _fits(conv, isa), Finish.of(conv.rescale, bound, isa, proven),
    )  # fmt: skip


def _sections(channels: int, width: int, isa: Isa) -> tuple[Section, ...]:
    """Blocks of four vectors as far as they go, then one narrower block for what is left."""
    wide = 4 * isa.lanes
    rest = channels % wide
    if channels >= wide and (rest == 0 or rest > 3 * isa.lanes):
        return (_section(0, channels, 4, width, isa),)
    whole = channels - rest
    head = (_section(0, whole, 4, width, isa),) if whole else ()
    # With vectors to spare before it, the rest starts early enough to end at the last channel.
    vectors = math.ceil(rest / isa.lanes)
    first = max(channels - vectors * isa.lanes, 0) if whole else 0
    return (*head, _section(first, channels - first, vectors, width, isa))


def _section(first: int, channels: int, vectors: int, width: int, isa: Isa) -> Section:
    most = max(1, min(isa.most_accumulators // vectors, 14, width))

    def cycles(pixels: int) -> float:
        """Of one step over all tiles: two products a cycle, some cost of loads, an accumulator's latency of five."""
        return math.ceil(width / pixels) * max(pixels * vectors / 2 + 0.15 * (pixels + vectors), 5)

    pixels = min(range(most, 0, -1), key=cycles)
    return Section(first, channels, vectors, pixels, isa.lanes)


def _channels(section: Section) -> Array:
    """[blocks * vectors, lanes]: output channel of each lane."""
    if section.vectors == 4:
        isa_order = finish.channel_order(section.lanes, 4)
        return (section.starts()[:, None, None] + isa_order).reshape(-1, section.lanes)
    return section.starts()[:, None] + np.arange(section.lanes)


def _pack(conv: Conv2D, plan: Plan, proven: Line | None) -> tuple[Array, ...]:
    isa = plan.isa
    channels = np.concatenate([_channels(s) for s in plan.sections])
    # Lanes beyond the last channel (fewer channels than lanes) repeat it; they are not stored.
    channels = np.minimum(channels, conv.out_c - 1)
    weights = layout.centered_weights(conv) if not plan.row_sums else conv.weights.astype(np.int64) - 128
    by_run = weights.reshape(conv.out_c, len(plan.runs), plan.run)
    starts = layout.blocks(max(plan.run, 4), 4)
    taps = starts[:, None] + np.arange(4)
    fresh = (taps >= 4 * np.arange(plan.groups)[:, None]) & (taps < plan.run)
    grouped = by_run[:, :, np.minimum(taps, plan.run - 1)] * fresh
    grouped = grouped.reshape(conv.out_c, plan.steps, 4)
    packed = []
    first = 0
    for s in plan.sections:
        count = s.blocks * s.vectors
        lanes = grouped[channels[first : first + count]]  # [vectors, lanes, steps, 4]
        blocks = lanes.reshape(s.blocks, s.vectors, isa.lanes, plan.steps, 4).transpose(0, 3, 1, 2, 4)
        packed.append(isa.arrange(blocks))
        first += count
    shift = 128 if conv.x_dtype == "int8" else 0
    bias = layout.folded_bias(conv, conv.x_zero_point + shift)[channels]
    sums = (np.array([128 - conv.weight_zero_points[0]], np.int32),) if plan.row_sums else ()
    return (
        *packed,
        bias,
        np.zeros(ZEROS.shape, np.int32),
        *sums,
        *plan.finish.pack(conv.rescale, proven, channels),
    )


@functools.cache
def _function(plan: Plan) -> Any:
    return function([plan.inputs], plan.constants, plan.output, functools.partial(_body, plan))


def _body(plan: Plan, x: Buffer, *rest: Buffer) -> None:
    *packed, y = rest
    count = len(plan.sections)
    weights, (bias, zeros), packed = packed[:count], packed[count : count + 2], packed[count + 2 :]
    slack = 4 if plan.run < 4 else 0
    image = padded_image(x, Tensor(plan.image, plan.inputs.dtype), plan.padding, plan.fill, slack)
    sums = None
    if plan.row_sums:
        sums = rowsum.row_sums(plan, image, packed[0])
        packed = packed[1:]
    tile = _Tile(
        plan, image, bias, zeros, tuple(packed), sums, view(y, (plan.rows * plan.width, plan.output.shape[-1]))
    )
    if plan.macs < PARALLEL_MACS:
        tile.chunk(weights, 0, 1)
    elif plan.rows * plan.width >= 4 * plan.sections[0].pixels:
        chunks = min(CHUNKS, math.ceil(plan.rows * plan.width / plan.sections[0].pixels))
        with T.parallel(chunks) as i:
            tile.chunk(weights, i, chunks)
    else:
        tile.by_block(weights)


@dataclass(frozen=True)
class _Tile:
    """The buffers of a function under construction, and the loops over them."""

    plan: Plan
    image: Buffer
    bias: Buffer
    zeros: Buffer
    constants: tuple[Buffer, ...]
    sums: Buffer | None
    y: Buffer

    def chunk(self, weights: list[Buffer], index: Expr, chunks: int) -> None:
        """All channels of one piece of the pixels.  A block's weights are used for the whole piece before the next."""
        first = 0
        for s, w in zip(self.plan.sections, weights, strict=True):
            tiles = self.plan.rows * math.ceil(self.plan.width / s.pixels)
            begin, end = (0, tiles) if chunks == 1 else (index * tiles // chunks, (index + 1) * tiles // chunks)
            with T.serial(s.blocks) as block:
                with T.serial(end - begin) as t:
                    self.tile(s, w, first, block, begin + t)
            first += s.blocks * s.vectors

    def by_block(self, weights: list[Buffer]) -> None:
        """Few pixels: threads share the channels instead."""
        first = 0
        for s, w in zip(self.plan.sections, weights, strict=True):
            tiles = self.plan.rows * math.ceil(self.plan.width / s.pixels)
            with T.parallel(s.blocks) if s.blocks > 1 else T.serial(s.blocks) as block:
                with T.serial(tiles) as t:
                    self.tile(s, w, first, block, t)
            first += s.blocks * s.vectors

    def tile(self, s: Section, weights: Buffer, first: int, block: Expr, t: Expr) -> None:
        """`pixels` x `vectors`, from bias to stored codes."""
        plan, isa = self.plan, self.plan.isa
        per_row = math.ceil(plan.width / s.pixels)
        row = t // per_row
        column = T.Bind(T.min(t % per_row * s.pixels, plan.width - s.pixels))
        pixel = T.Bind(row * plan.width + column)
        at = T.Bind(first + block * s.vectors + moving_zero(self.zeros, t))
        vectors = [T.Bind(at + v) for v in range(s.vectors)]
        accumulators = [local(s.vectors * isa.lanes, "int32") for _ in range(s.pixels)]
        for p, line in enumerate(accumulators):
            term = self.sums[pixel + p] if self.sums is not None else None
            for v, index in enumerate(vectors):
                store(line, finish.start(self.bias, index, isa, term), v * isa.lanes, lanes=isa.lanes)
        self._multiply(s, weights, block, self._address(row, column), accumulators)
        self._finish(s, pixel, block, vectors, accumulators)

    def _address(self, row: Expr, column: Expr) -> Expr:
        """Offset in the image of the first byte that output pixel (row, column) reads."""
        plan = self.plan
        _, h, w, c = plan.image
        h, w = h + plan.padding[0] + plan.padding[2], w + plan.padding[1] + plan.padding[3]
        if plan.rows == 1:
            return column * (plan.strides[1] * c)
        out_h = plan.output.shape[1]
        line = row // out_h * h + row % out_h * plan.strides[0]
        return T.Bind((line * w + column * plan.strides[1]) * c)

    def _multiply(self, s: Section, weights: Buffer, block: Expr, address: Expr, accumulators: list[Buffer]) -> None:
        plan, isa = self.plan, self.plan.isa
        step_bytes = plan.strides[1] * plan.image[3]

        def step(offset: Expr, k: Expr) -> None:
            w = [functools.partial(_elements, weights, block, k, v) for v in range(s.vectors)]
            loaded = [isa.load_weights(each) for each in w] if isa.lanes == 16 else []
            inputs = []
            for p in range(s.pixels):
                four = T.reinterpret("int32", load(self.image, offset + p * step_bytes, lanes=4))
                if plan.inputs.dtype == "int8":
                    four = T.bitwise_xor(four, T.int32(-0x7F7F7F80))
                inputs.append(isa.operands(broadcast(four, isa.lanes)))
                for v, operand in enumerate(loaded):
                    self._accumulate(accumulators[p], v, inputs[p], operand)
            if not loaded:
                # Half as many registers: the inputs stay, weights come and go.
                for v, each in enumerate(w):
                    operand = isa.load_weights(each)
                    for line, x in zip(accumulators, inputs, strict=True):
                        self._accumulate(line, v, x, operand)

        pitch = plan.runs[1] - plan.runs[0] if len(plan.runs) > 1 else 0
        regular = all(r == i * pitch for i, r in enumerate(plan.runs))
        for base, count in [(0, len(plan.runs))] if regular else [(r, 1) for r in plan.runs]:
            first = 0 if regular else plan.runs.index(base) * plan.groups
            with T.serial(count) as r, T.serial(plan.groups) as g:
                inside = g * 4 if plan.run % 4 == 0 or plan.run < 4 else T.min(g * 4, plan.run - 4)
                step(T.Bind(address + base + r * pitch + inside), first + r * plan.groups + g)

    def _accumulate(self, line: Buffer, v: int, inputs: tuple[Expr, ...], weights: tuple[Expr, ...]) -> None:
        isa = self.plan.isa
        value = isa.dot(load(line, v * isa.lanes, lanes=isa.lanes), inputs, weights)
        store(line, value, v * isa.lanes, lanes=isa.lanes)

    def _finish(self, s: Section, pixel: Expr, block: Expr, vectors: list[Expr], accumulators: list[Buffer]) -> None:
        lanes, end = s.lanes, s.first + s.channels
        rounded: list[list[Expr]] = [[] for _ in accumulators]
        # Vector by vector, so that one's constants serve all pixels from registers.
        for v, index in enumerate(vectors):
            for values, line in zip(rounded, accumulators, strict=True):
                value = load(line, v * lanes, lanes=lanes)
                values.append(T.Bind(self.plan.finish.rounded(value, self.constants, index)))
        if s.vectors == 4:
            start = T.min(s.first + block * (4 * lanes), end - 4 * lanes)
            for p, values in enumerate(rounded):
                store(self.y, self.plan.finish.packed(values), pixel + p, start, lanes=4 * lanes)
            return
        codes = iter(self.plan.finish.pieces([value for values in rounded for value in values]))
        for p in range(s.pixels):
            for v in range(s.vectors):
                start = T.min(s.first + (block * s.vectors + v) * lanes, max(end - lanes, s.first))
                self.plan.finish.store_first(next(codes), min(lanes, s.channels), self.y, pixel + p, start)


def _elements(weights: Buffer, block: Expr, k: Expr, v: int, offset: int, count: int) -> Expr:
    return load(weights, block, k, v, offset, lanes=count)
