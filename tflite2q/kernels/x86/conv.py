"""Convolution and dense layers as an implicit GEMM.

A tile of `pixels` output pixels times `vectors` vectors of output channels stays in registers.  A step reads four
consecutive bytes of each pixel's input, spreads them over a vector, and multiplies them into all accumulators of that
pixel; the step's weights are read once for all pixels.  What an output pixel reads is one run of consecutive bytes for
each kernel row (kernel width times input channels; one run in all for 1x1), so there is no im2col, and three-channel
inputs need no other kernel.  Runs whose length is no multiple of four end with a group that overlaps its neighbour,
with zero weights where they overlap.  Channels and pixels that fill no tile overlap likewise: no masks and no tails.

AVX2's products of bytes saturate.  Where few weights could make them, those are split, and what is left of them takes
extra steps (`tflite2q.kernels.x86.saturation`); where many could, bytes are widened to 16 bits.

Weight zero points are subtracted beforehand.  Dot products take weights of eight bits.  Where few need nine, those are
split like the ones that could saturate.  Where many do, weights keep their zero point, and the sum of the inputs that
each pixel reads is computed once for all channels and enters the accumulators' first values.

With 6 x 4 vectors of 16 the inner loop is 24 multiply instructions to 10 loads, all accumulators in registers: what
limits it is the multiplier's throughput, then weights that exceed the second-level cache.  Shallow layers (few input
channels) are limited by the epilogue.  Where weights are many, those of the next block are fetched meanwhile into the
second-level cache.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from tflite2q.kernels import gemm, layout, tiles
from tflite2q.kernels.accumulators import Accumulators
from tflite2q.kernels.contracts import Array, Conv2DContract, DenseContract, Tensor
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.gemm import GemmProgram, Geometry, Section, Span, by_section
from tflite2q.kernels.loops import ZEROS, fence, moving_zero
from tflite2q.kernels.refusals import Because, Refusal
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, prefetch
from tflite2q.kernels.x86 import epilogue, input_sums
from tflite2q.kernels.x86.epilogue import Rescaling, X86Epilogue
from tflite2q.kernels.x86.isa import LINE, UNIT, ByteProduct, Level, idle
from tflite2q.kernels.x86.saturation import MOST_EXTRA, MOST_EXTRA_DOTS, SplitWeights, in_eight_bits, unsaturated

P = TypeVar("P", bound="ByteProgram")

MOST_PIXELS = 14  # of a tile
ALL_AT_ONCE = 12  # steps that are not worth a loop
UNROLLED = 2  # steps in one go of the loop otherwise
MANY_WEIGHTS = 1 << 17  # bytes of a layer's weights: models with such layers exceed the second-level cache
MOST_FETCHED = 2  # lines that are fetched ahead in that go; more hold up the loads of its steps


class Ends(Protocol):
    """What accumulators begin with, and what follows the products, in a function under construction."""

    def start(self, index: Expr, pixel: Expr) -> Expr:
        """First values of accumulator vector `index` of an output pixel."""

    def finish(
        self, values: list[list[Expr]], vectors: list[Expr], stored: int, y: Buffer, rows: list[Expr], channel: Expr
    ) -> None:
        """Accumulators [pixels][vectors] to `rows` of y, from `channel` on, of which the first `stored` exist;
        `vectors` are the numbers of their constants."""


@dataclass(frozen=True)
class ByteProgram(GemmProgram):
    """What the text of every function of products of bytes depends on.

    `extras`: for each section, how many steps of weights it has besides those of each block, or nothing if `product`
    needs none.
    """

    level: Level
    product: ByteProduct
    extras: tuple[int, ...]

    @property
    def packed_weights(self) -> Tensors:
        """Weights, and those of extra steps."""
        lanes, dtype = self.level.lanes, f"int{self.product.bits}"

        def weights(steps: int, blocks: int, s: Section) -> Tensor:
            return Tensor((blocks, steps, s.vectors, UNIT * lanes), dtype)

        extra: dict[str, Tensor] = {}
        for number, (s, steps) in enumerate(zip(self.sections, self.extras, strict=False)):
            extra[f"extra weights {number}"] = weights(steps, 1, s)
            extra[f"extra offsets {number}"] = Tensor((steps,), "int32")
            extra[f"extra starts {number}"] = Tensor((s.blocks + 1,), "int32")
        return {**by_section(self.sections, "weights", lambda s: weights(self.steps(UNIT), s.blocks, s)), **extra}

    def emit_tiles(self, image: Buffer, constants: Buffers, y: Buffer, ends: Ends) -> None:
        """All results of the padded image, which is one axis."""
        g = self.geometry
        spans = [[Span(0, tiles.tiles(g, s.pixels), s.pixels)] for s in self.sections]
        count = gemm.pieces(self.sections, spans, self.macs)
        tile = _Tile(self, constants, image, ends, self.pixels(y), count)
        gemm.each_tile(self.sections, spans, count, lambda: nullcontext(tile.emit))


@dataclass(frozen=True)
class Program(ByteProgram):
    """What the text of the function depends on."""

    input_sums: bool
    ending: X86Epilogue

    @property
    def constants(self) -> Tensors:
        return {
            **self.packed_weights,
            "bias": Tensor((self.vectors, self.level.lanes), "int32"),
            **ZEROS,
            **({"input factor": Tensor((1,), "int32")} if self.input_sums else {}),
            **self.ending.constants(self.vectors),
        }

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        image, sums = self.image(inputs[0], UNIT), None
        if self.input_sums:
            sums = input_sums.input_sums(self.geometry, self.inputs[0].dtype, image, constants["input factor"])
        self.emit_tiles(image, constants, y, _Codes(self.ending, constants, sums))


@dataclass(frozen=True)
class _Codes:
    """Accumulators that become codes; `sums`: of the inputs of each pixel, if weights need them."""

    ending: X86Epilogue
    constants: Buffers
    sums: Buffer | None

    def start(self, index: Expr, pixel: Expr) -> Expr:
        term = None if self.sums is None else self.sums[pixel]
        return epilogue.start(self.constants["bias"], index, self.ending.level.lanes, term)

    def finish(
        self, values: list[list[Expr]], vectors: list[Expr], stored: int, y: Buffer, rows: list[Expr], channel: Expr
    ) -> None:
        gemm.finish(self.ending, values, self.constants, vectors, stored, y, rows, channel)


@dataclass(frozen=True)
class X86Conv:
    """Conv2D and Dense contracts on one level of instructions."""

    level: Level

    @property
    def name(self) -> str:
        return f"conv2d__{self.level.name}"

    def plan(self, contract: Conv2DContract | DenseContract, target: Any) -> Plan | Refusal:
        refused = self.level.lacks(target) or gemm.refusal(contract, ("uint8", "int8"))
        if refused:
            return refused
        conv = contract.conv2d()
        if idle(conv.out_c, self.level, target):
            return Refusal(Because.SPEED, f"{conv.out_c} channels: half of each vector would be idle")
        rescaling = Rescaling.of(conv.rescale, layout.largest_sum_of_codes(conv), self.level, floats=True)
        geometry = Geometry.of(conv)
        sections = gemm.divide(
            conv.out_c, self.level.lanes, epilogue.PACKED, functools.partial(tile_pixels, geometry, self.level)
        )
        program = Program(
            contract.inputs, contract.output, geometry, conv.x_zero_point, sections, self.level, self.level.bytes, (),
            False, rescaling.epilogue,
        )  # fmt: skip
        multiplied = _multiplied(conv, program)
        if isinstance(multiplied, Refusal):
            return multiplied
        program, pack_weights = multiplied
        s = sections[0]
        types = f"{contract.x_dtype[0]}8s{program.product.bits}"
        tile = f"{s.pixels}x{s.block}"
        name = Name(types, contract.operation, self.level.name, conv.rescale.arithmetic, tile)
        return Plan(name, program, functools.partial(_pack, conv, program, rescaling, pack_weights))


def tile_pixels(g: Geometry, level: Level, vectors: int) -> int:
    """How many pixels a tile of so many vectors has."""
    most = max(1, min(level.accumulators // vectors, MOST_PIXELS, g.width))
    return gemm.fastest_width(most, vectors, functools.partial(tiles.tiles, g))


Weights = Callable[[], dict[str, Array]]  # packs a layer's weights


def _multiplied(conv: Conv2DContract, program: Program) -> tuple[Program, Weights] | Refusal:
    """How a program multiplies the weights of `conv`, and what packs them."""
    channels = [epilogue.lane_channels(s) for s in program.sections]
    weights = arranged_weights(program, layout.centered_weights(conv), channels)
    if program.product.bits == 16 or layout.fits_eight_bits(conv):
        return without_saturation(program, weights)
    split = [SplitWeights.of(each, in_eight_bits) for each in weights]
    if max(each.share for each in split) <= MOST_EXTRA_DOTS:
        return with_extras(program, split)
    if len(conv.weight_zero_points) > 1:
        return Refusal(Because.NUMBERS, "weights have zero points by channel and need nine bits")
    weights = arranged_weights(program, layout.signed_weights(conv)[0], channels)
    return replace(program, input_sums=True), functools.partial(_pack_weights, program, weights)


def arranged_weights(program: ByteProgram, weights: Array, channels: Sequence[Array]) -> list[Array]:
    """Integer weights (OHWI) of each section, [blocks, steps, vectors, lanes, 4]; `channels` are those of its lanes."""
    grouped = program.geometry.grouped(weights, UNIT)
    return [
        grouped[each].reshape(s.blocks, s.vectors, s.lanes, program.steps(UNIT), UNIT).transpose(0, 3, 1, 2, 4)
        for s, each in zip(program.sections, channels, strict=True)
    ]


def without_saturation(program: P, weights: list[Array]) -> tuple[P, Weights]:
    """The same by products that saturate, with weights split until none does, if the level has them and it pays; and
    what packs the weights."""
    if program.level.unsaturated is None:
        return program, functools.partial(_pack_weights, program, weights)
    split = [SplitWeights.of(each, unsaturated) for each in weights]
    if max(each.share for each in split) > MOST_EXTRA:
        return program, functools.partial(_pack_weights, program, weights)
    return with_extras(replace(program, product=program.level.unsaturated), split)


def with_extras(program: P, split: Sequence[SplitWeights]) -> tuple[P, Weights]:
    """The same with the extra steps of weights that were split; and what packs them."""
    program = replace(program, extras=tuple(len(each.steps) for each in split))
    return program, functools.partial(_pack_split, program, split)


def _pack_weights(program: ByteProgram, weights: Sequence[Array]) -> dict[str, Array]:
    return {f"weights {number}": program.product.arrange(each) for number, each in enumerate(weights)}


def _pack_split(program: ByteProgram, split: Sequence[SplitWeights]) -> dict[str, Array]:
    packed = _pack_weights(program, [each.weights for each in split])
    for number, each in enumerate(split):
        packed[f"extra weights {number}"] = program.product.arrange(each.extra)[None]
        packed[f"extra offsets {number}"] = program.geometry.offsets(UNIT)[each.steps]
        packed[f"extra starts {number}"] = each.starts
    return packed


def _pack(conv: Conv2DContract, program: Program, rescaling: Rescaling, weights: Weights) -> Arrays:
    packed = dict(weights())
    channels = np.concatenate([epilogue.lane_channels(s) for s in program.sections])
    shift = 128 if conv.x_dtype == "int8" else 0
    packed["bias"] = layout.folded_bias(conv, conv.x_zero_point + shift, rescaling.start)[channels]
    if program.input_sums:
        packed["input factor"] = np.array([-layout.signed_weights(conv)[1]], np.int32)
    return {**packed, **rescaling.pack(channels)}


@dataclass(frozen=True)
class _Tile:
    """The buffers of a function under construction."""

    program: ByteProgram
    constants: Buffers
    image: Buffer
    ends: Ends
    y: Buffer
    pieces: int

    def emit(self, number: int, span: Span, first: int, block: Expr, t: Expr) -> None:
        """Tile `t` of a block of section `number`: `pixels` x `vectors`, from bias to stored codes."""
        s, lanes, constants = self.program.sections[number], self.program.level.lanes, self.constants
        pixel, addresses = tiles.place(self.program.geometry, s.pixels, t)
        block = T.Bind(block + moving_zero(constants, t))
        at = T.Bind(first + block * s.vectors)
        vectors = [T.Bind(at + v) for v in range(s.vectors)]
        sums = Accumulators.by_pixel(s.pixels, s.vectors, lanes)
        sums.start(lambda p, v: self.ends.start(vectors[v], pixel + p))
        weights = constants[f"weights {number}"]
        fenced = self.program.level.avx512 and s.vectors < epilogue.PACKED
        ahead = self._ahead(s, weights, block, t, span.tiles)

        def step(offset: Expr, k: Expr) -> None:
            if ahead is not None:
                ahead(k)
            with fence(constants, t + k) if fenced else nullcontext():
                self._step(weights, block, addresses, offset, k, sums)

        tiles.each_step(self.program.geometry, UNIT, ALL_AT_ONCE, UNROLLED, step)
        if self.program.extras:
            extra, offsets, starts = (constants[f"extra {name} {number}"] for name in ("weights", "offsets", "starts"))
            with T.serial(starts[block + 1] - starts[block]) as i:
                k = T.Bind(starts[block] + i)
                self._step(extra, 0, addresses, T.Bind(offsets[k]), k, sums)
        rows = [pixel + p for p in range(s.pixels)]
        self.ends.finish(sums.values(), vectors, s.stored, self.y, rows, s.start(block))

    def _ahead(self, s: Section, weights: Buffer, block: Expr, t: Expr, count: int) -> Callable[[Expr], None] | None:
        """What fetches a part of the next block's weights, at step `k` of tile `t` of the `count` of a block; None if
        that does not pay.

        It is called at every step, and fetches once in `UNROLLED` of them.
        """
        steps, turns = self.program.steps(UNIT), gemm.turns(count, self.pieces)
        each = math.ceil(UNROLLED * s.vectors / turns)
        lines = steps * s.vectors * UNIT * s.lanes * self.program.product.bits // 8 // LINE  # of a block
        if s.blocks == 1 or s.blocks * lines * LINE < MANY_WEIGHTS or steps <= ALL_AT_ONCE or each > MOST_FETCHED:
            return None
        turn, following = T.Bind(t % turns * (steps // UNROLLED)), T.Bind(T.min(block + 1, s.blocks - 1))
        called = itertools.count()

        def fetch(k: Expr) -> None:
            if next(called) % UNROLLED == 0:
                first = T.Bind(T.min((turn + k // UNROLLED) * each, lines - each))
                for i in range(each):
                    prefetch(weights[following, 0, 0, (first + i) * (8 * LINE // self.program.product.bits)])

        return fetch

    def _step(
        self, weights: Buffer, block: Expr, addresses: list[Expr], offset: Expr, k: Expr, sums: Accumulators
    ) -> None:
        """Four bytes of each pixel, `offset` behind its first one, times the weights of step `k`."""
        level, product = self.program.level, self.program.product

        def operand(v: int) -> tuple[Expr, ...]:
            return product.weights(lambda first, count: load(weights, block, k, v, first, lanes=count))

        resident = [operand(v) for v in range(sums.vectors)] if level.avx512 else []
        inputs = []
        for p, address in enumerate(addresses):
            four = T.reinterpret("int32", load(self.image, address + offset, lanes=UNIT))
            if str(self.image.dtype) == "int8":
                four = T.bitwise_xor(four, T.int32(-0x7F7F7F80))
            inputs.append(product.inputs(broadcast(four, level.lanes)))
            for v, w in enumerate(resident):
                sums[p, v] = product.add(sums[p, v], inputs[-1], w)
        if not resident:
            # Half as many registers: the inputs stay, weights come and go.
            for v in range(sums.vectors):
                w = operand(v)
                for p, x in enumerate(inputs):
                    sums[p, v] = product.add(sums[p, v], x, w)
