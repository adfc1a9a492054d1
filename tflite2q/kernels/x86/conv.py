"""Convolution and dense layers as an implicit matrix product.

A tile of `pixels` output pixels times `vectors` vectors of output channels stays in registers.  A step reads four
consecutive bytes of each pixel's input, spreads them over a vector, and multiplies them into all accumulators of that
pixel; the step's weights are read once for all pixels.  What an output pixel reads is one run of consecutive bytes for
each kernel row (kernel width times input channels; one run in all for 1x1), so there is no im2col, and three-channel
inputs need no other kernel.  Runs whose length is no multiple of four end with a group that overlaps its neighbour,
with zero weights where they overlap.  Channels and pixels that fill no tile overlap likewise: no masks and no tails.

AVX2's products of bytes saturate.  Where few weights could make them, those are split, and what is left of them takes
extra steps (`tflite2q.kernels.x86.pairs`); where many could, bytes are widened to 16 bits.

Weight zero points disappear if every centered weight fits the instruction's weights (always on AVX2); otherwise the sum
of the inputs each pixel reads is computed once for all channels and enters the accumulators' first values.

With 6 x 4 vectors of 16 the inner loop is 24 multiply instructions to 10 loads, all accumulators in registers: what
limits it is the multiplier's throughput, then weights that exceed the second-level cache.  Shallow layers (few input
channels) are limited by the epilogue.
"""

from __future__ import annotations

import functools
import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.base import Array, Built, Conv2D, Dense, Tensor
from tflite2q.kernels.line import Line, prove
from tflite2q.kernels.loops import ZEROS, moving_zero, padded_image
from tflite2q.kernels.product import Geometry, Section, divide, each_tile
from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, function, load, local, store, view
from tflite2q.kernels.x86 import finish, rowsum
from tflite2q.kernels.x86.finish import Finish
from tflite2q.kernels.x86.isa import AVX2, AVX2_PAIRS, Isa
from tflite2q.kernels.x86.pairs import MOST_EXTRA, Pairs

UNIT = 4  # bytes of a step
MOST_PIXELS = 14  # of a tile
APART = 8  # pixels of a tile that may lie in different rows, each with an address in a register
ALL_AT_ONCE = 12  # steps that are not worth a loop
FEW_RUNS = 3  # that are not worth a loop either, in which LLVM would compute addresses anew
UNROLLED = 2  # steps in one go of the loop otherwise


@dataclass(frozen=True)
class Plan:
    """What the text of the function depends on.

    `extras`: for each section, how many steps of weights it has besides those of each block, or nothing if the level
    needs none.
    """

    inputs: Tensor
    output: Tensor
    geometry: Geometry
    fill: int
    sections: tuple[Section, ...]
    row_sums: bool
    finish: Finish
    extras: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        """Groups of four bytes that one output pixel takes."""
        return len(self.geometry.runs) * self.geometry.units(UNIT)

    @property
    def macs(self) -> int:
        return self.output.size * self.geometry.taps

    @property
    def isa(self) -> Isa:
        return self.finish.isa

    @property
    def constants(self) -> tuple[Tensor, ...]:
        isa = self.isa
        count = sum(s.blocks * s.vectors for s in self.sections)
        weights = [
            Tensor((s.blocks, self.steps, s.vectors, UNIT * isa.lanes), isa.weight_dtype) for s in self.sections
        ]  # fmt: skip
        for s, extra in zip(self.sections, self.extras, strict=False):
            weights.append(Tensor((1, extra, s.vectors, UNIT * isa.lanes), isa.weight_dtype))
            weights += [Tensor((extra,), "int32"), Tensor((s.blocks + 1,), "int32")]
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
        weights = _weights(conv, plan)
        if self.isa == AVX2:
            plan, weights = _in_pairs(plan, weights)
        constants = _pack(conv, plan, proven, weights)
        s = plan.sections[0]
        types = f"{contract.x_dtype[0]}8s{8 if plan.isa.dot_intrinsic else 16}"
        operation = "dense" if isinstance(contract, Dense) else "conv2d"
        tile = f"{s.pixels}x{s.block}"
        name = f"{types}_{operation}_{conv.rescale.arithmetic}_{tile}__{self.isa.name}"
        return Built(name, (name, plan), _function(plan), contract.inputs, constants, contract.output)


def _fits(conv: Conv2D, isa: Isa) -> bool:
    """Whether centered weights fit the instruction's weight operand."""
    if isa.dot_intrinsic is None:
        return True
    weights = layout.centered_weights(conv)
    return bool(weights.min() >= -128 and weights.max() <= 127)


def _plan(conv: Conv2D, inputs: Tensor, output: Tensor, isa: Isa, proven: Line | None) -> Plan:
    geometry = Geometry.of(conv)
    sections = divide(conv.out_c, isa.lanes, finish.PACKED, functools.partial(_tile_pixels, geometry, isa))
    ending = Finish.of(conv.rescale, layout.accumulator_bound(conv), isa, proven)
    return Plan(inputs, output, geometry, conv.x_zero_point, sections, not _fits(conv, isa), ending)


def _tile_pixels(g: Geometry, isa: Isa, vectors: int) -> int:
    """How many pixels a tile of so many vectors has."""

    def cycles(pixels: int) -> float:
        """Of one step over all tiles: two products a cycle, some cost of loads, an accumulator's latency of five."""
        return _tiles(g, pixels) * max(pixels * vectors / 2 + 0.15 * (pixels + vectors), 5)

    most = max(1, min(isa.most_accumulators // vectors, MOST_PIXELS, g.width))
    return min(range(most, 0, -1), key=cycles)


def _across_rows(g: Geometry, pixels: int) -> bool:
    """Whether tiles of so many pixels may begin in one row and end in another."""
    return g.rows == 1 or g.width % pixels == 0 or pixels <= APART


def _tiles(g: Geometry, pixels: int) -> int:
    """Tiles that cover all pixels, the last one, or the last one of each row, overlapping its neighbour."""
    return math.ceil(g.pixels / pixels) if _across_rows(g, pixels) else g.rows * math.ceil(g.width / pixels)


def _weights(conv: Conv2D, plan: Plan) -> list[Array]:
    """Integer weights of each section, [blocks, steps, vectors, lanes, 4]."""
    weights = layout.signed_weights(conv)[0] if plan.row_sums else layout.centered_weights(conv)
    grouped = plan.geometry.grouped(weights, UNIT)
    return [
        grouped[finish.lane_channels(s)]
        .reshape(s.blocks, s.vectors, s.lanes, plan.steps, UNIT)
        .transpose(0, 3, 1, 2, 4)
        for s in plan.sections
    ]


def _in_pairs(plan: Plan, weights: list[Array]) -> tuple[Plan, list[Any]]:
    """The same by exact pairs of bytes, if that pays."""
    pairs = [Pairs.of(each) for each in weights]
    if max(each.share for each in pairs) > MOST_EXTRA:
        return plan, weights
    extras = tuple(len(each.steps) for each in pairs)
    return replace(plan, finish=replace(plan.finish, isa=AVX2_PAIRS), extras=extras), pairs


def _pack(conv: Conv2D, plan: Plan, proven: Line | None, weights: list[Any]) -> tuple[Array, ...]:
    packed, extra = [], []
    for each in weights:
        if isinstance(each, Pairs):
            packed.append(plan.isa.arrange(each.weights))
            extra += [plan.isa.arrange(each.extra)[None], _offsets(plan.geometry)[each.steps], each.starts]
        else:
            packed.append(plan.isa.arrange(each))
    channels = np.concatenate([finish.lane_channels(s) for s in plan.sections])
    shift = 128 if conv.x_dtype == "int8" else 0
    bias = layout.folded_bias(conv, conv.x_zero_point + shift)[channels]
    sums = (np.array([-layout.signed_weights(conv)[1]], np.int32),) if plan.row_sums else ()
    zeros = np.zeros(ZEROS.shape, np.int32)
    return (*packed, *extra, bias, zeros, *sums, *plan.finish.pack(conv.rescale, proven, channels))


def _offsets(g: Geometry) -> Array:
    """int32 [steps]: where a step reads, behind the first byte of a pixel."""
    return np.array([run + g.unit_start(u, UNIT) for run in g.runs for u in range(g.units(UNIT))], np.int32)


@functools.cache
def _function(plan: Plan) -> Any:
    return function([plan.inputs], plan.constants, plan.output, functools.partial(_body, plan))


def _body(plan: Plan, x: Buffer, *rest: Buffer) -> None:
    *packed, y = rest
    g, count = plan.geometry, len(plan.sections)
    extras = len(plan.extras)
    weights, packed = packed[:count], packed[count:]
    extra, packed = [tuple(packed[3 * i : 3 * i + 3]) for i in range(extras)], packed[3 * extras :]
    (bias, zeros), packed = packed[:2], packed[2:]
    slack = UNIT if g.run < UNIT else 0
    image = padded_image(x, Tensor(g.image, plan.inputs.dtype), g.padding, plan.fill, slack)
    sums = None
    if plan.row_sums:
        sums = rowsum.row_sums(g, plan.inputs.dtype, image, packed[0])
        packed = packed[1:]
    y = view(y, (g.pixels, plan.output.shape[-1]))
    tile = _Tile(plan, weights, extra, image, bias, zeros, tuple(packed), sums, y)
    tiles = [_tiles(g, s.pixels) for s in plan.sections]
    each_tile(plan.sections, tiles, plan.macs, lambda: nullcontext(tile.emit))


@dataclass(frozen=True)
class _Tile:
    """The buffers of a function under construction."""

    plan: Plan
    weights: list[Buffer]
    extra: list[tuple[Buffer, ...]]
    image: Buffer
    bias: Buffer
    zeros: Buffer
    constants: tuple[Buffer, ...]
    sums: Buffer | None
    y: Buffer

    def emit(self, number: int, first: int, block: Expr, t: Expr) -> None:
        """Tile `t` of a block of section `number`: `pixels` x `vectors`, from bias to stored codes."""
        s, isa = self.plan.sections[number], self.plan.isa
        pixel, addresses = self._place(s.pixels, t)
        at = T.Bind(first + block * s.vectors + moving_zero(self.zeros, t))
        vectors = [T.Bind(at + v) for v in range(s.vectors)]
        accumulators = [local(s.vectors * isa.lanes, "int32") for _ in range(s.pixels)]
        for p, line in enumerate(accumulators):
            term = self.sums[pixel + p] if self.sums is not None else None
            for v, index in enumerate(vectors):
                store(line, finish.start(self.bias, index, isa, term), v * isa.lanes, lanes=isa.lanes)
        self._multiply(s, self.weights[number], block, addresses, accumulators)
        if self.extra:
            weights, offsets, starts = self.extra[number]
            with T.serial(starts[block + 1] - starts[block]) as i:
                k = T.Bind(starts[block] + i)
                self._step(s, weights, 0, addresses, T.Bind(offsets[k]), k, accumulators)
        self._finish(s, pixel, block, vectors, accumulators)

    def _place(self, pixels: int, t: Expr) -> tuple[Expr, list[Expr]]:
        """The first output pixel of a tile, and where each of its pixels reads."""
        g = self.plan.geometry
        if _across_rows(g, pixels):
            pixel = T.Bind(T.min(t * pixels, g.pixels - pixels))
            return pixel, g.addresses(pixel, pixels)
        per_row = math.ceil(g.width / pixels)
        row, column = t // per_row, T.Bind(T.min(t % per_row * pixels, g.width - pixels))
        address = g.address(row, column)
        return T.Bind(row * g.width + column), [address + p * g.pixel_step for p in range(pixels)]

    def _multiply(
        self, s: Section, weights: Buffer, block: Expr, addresses: list[Expr], accumulators: list[Buffer]
    ) -> None:
        """Add all products: short ones without a loop, others with a loop over each run."""
        g = self.plan.geometry
        units = g.units(UNIT)
        if self.plan.steps <= ALL_AT_ONCE:
            for i, run in enumerate(g.runs):
                for u in range(units):
                    self._step(s, weights, block, addresses, run + g.unit_start(u, UNIT), i * units + u, accumulators)
            return
        whole = g.run // UNIT // UNROLLED
        runs = [(i, 1, 0) for i in range(len(g.runs))] if len(g.runs) <= FEW_RUNS else g.regular_runs()
        for first, count, pitch in runs:
            with T.serial(count) as r:
                base, k = T.Bind(g.runs[first] + r * pitch), T.Bind((first + r) * units)
                with T.serial(whole) as i:
                    for j in range(UNROLLED):
                        u = i * UNROLLED + j
                        self._step(s, weights, block, addresses, base + u * UNIT, k + u, accumulators)
                for u in range(whole * UNROLLED, units):
                    self._step(s, weights, block, addresses, base + g.unit_start(u, UNIT), k + u, accumulators)

    def _step(
        self, s: Section, weights: Buffer, block: Expr, addresses: list[Expr], offset: Expr, k: Expr,
        accumulators: list[Buffer],
    ) -> None:  # fmt: skip
        """Four bytes of each pixel, `offset` behind its first one, times the weights of step `k`."""
        isa = self.plan.isa
        w = [functools.partial(_elements, weights, block, k, v) for v in range(s.vectors)]
        loaded = [isa.load_weights(each) for each in w] if isa.lanes == 16 else []
        inputs = []
        for address, line in zip(addresses, accumulators, strict=True):
            four = T.reinterpret("int32", load(self.image, address + offset, lanes=UNIT))
            if self.plan.inputs.dtype == "int8":
                four = T.bitwise_xor(four, T.int32(-0x7F7F7F80))
            inputs.append(isa.operands(broadcast(four, isa.lanes)))
            for v, operand in enumerate(loaded):
                self._accumulate(line, v, inputs[-1], operand)
        if not loaded:
            # Half as many registers: the inputs stay, weights come and go.
            for v, each in enumerate(w):
                operand = isa.load_weights(each)
                for line, x in zip(accumulators, inputs, strict=True):
                    self._accumulate(line, v, x, operand)

    def _accumulate(self, line: Buffer, v: int, inputs: tuple[Expr, ...], weights: tuple[Expr, ...]) -> None:
        isa = self.plan.isa
        value = isa.dot(load(line, v * isa.lanes, lanes=isa.lanes), inputs, weights)
        store(line, value, v * isa.lanes, lanes=isa.lanes)

    def _finish(self, s: Section, pixel: Expr, block: Expr, vectors: list[Expr], accumulators: list[Buffer]) -> None:
        ending, lanes = self.plan.finish, s.lanes
        rounded: list[list[Expr]] = [[] for _ in accumulators]
        # Vector by vector, so that one's constants serve all pixels from registers.
        for v, index in enumerate(vectors):
            for values, line in zip(rounded, accumulators, strict=True):
                value = load(line, v * lanes, lanes=lanes)
                values.append(T.Bind(ending.rounded(value, self.constants, index)))
        ending.stored(rounded, s, self.y, pixel, block)


def _elements(weights: Buffer, block: Expr, k: Expr, v: int, offset: int, count: int) -> Expr:
    return load(weights, block, k, v, offset, lanes=count)
