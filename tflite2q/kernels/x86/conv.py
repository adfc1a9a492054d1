"""Convolution and dense layers as an implicit GEMM.

A tile of `pixels` output pixels times `vectors` vectors of output channels stays in registers.  A step reads four
consecutive bytes of each pixel's input, spreads them over a vector, and multiplies them into all accumulators of that
pixel; the step's weights are read once for all pixels.  What an output pixel reads is one run of consecutive bytes for
each kernel row (kernel width times input channels; one run in all for 1x1), so there is no im2col, and three-channel
inputs need no other kernel.  Runs whose length is no multiple of four end with a group that overlaps its neighbour,
with zero weights where they overlap.  Channels and pixels that fill no tile overlap likewise: no masks and no tails.

AVX2's products of bytes saturate.  Where few weights could make them, those are split, and what is left of them takes
extra steps (`tflite2q.kernels.x86.saturation`); where many could, bytes are widened to 16 bits.

Weight zero points disappear if every centered weight fits the instruction's weights (always on AVX2); otherwise the sum
of the inputs each pixel reads is computed once for all channels and enters the accumulators' first values.

With 6 x 4 vectors of 16 the inner loop is 24 multiply instructions to 10 loads, all accumulators in registers: what
limits it is the multiplier's throughput, then weights that exceed the second-level cache.  Shallow layers (few input
channels) are limited by the epilogue.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tflite2q.kernels import gemm, layout
from tflite2q.kernels.contracts import Array, Conv2DContract, DenseContract, Tensor
from tflite2q.kernels.frame import Arrays, Plan, Tensors
from tflite2q.kernels.gemm import GemmProgram, Geometry, Section, Span, by_section
from tflite2q.kernels.loops import ZEROS, moving_zero
from tflite2q.kernels.refusals import Because, Refusal
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, local, store
from tflite2q.kernels.x86 import epilogue, input_sums
from tflite2q.kernels.x86.epilogue import Rescaling, X86Epilogue
from tflite2q.kernels.x86.isa import UNIT, ByteProduct, Level
from tflite2q.kernels.x86.saturation import MOST_EXTRA, UnsaturatedWeights

MOST_PIXELS = 14  # of a tile
APART = 8  # pixels of a tile that may lie in different rows, each with an address in a register
ALL_AT_ONCE = 12  # steps that are not worth a loop
FEW_RUNS = 3  # that are not worth a loop either, in which LLVM would compute addresses anew
UNROLLED = 2  # steps in one go of the loop otherwise


@dataclass(frozen=True)
class Program(GemmProgram):
    """What the text of the function depends on.

    `extras`: for each section, how many steps of weights it has besides those of each block, or nothing if `product`
    needs none.
    """

    input_sums: bool
    product: ByteProduct
    ending: X86Epilogue
    extras: tuple[int, ...] = ()

    @property
    def level(self) -> Level:
        return self.ending.level

    @property
    def constants(self) -> Tensors:
        lanes, dtype = self.level.lanes, f"int{self.product.bits}"

        def weights(steps: int, blocks: int, s: Section) -> Tensor:
            return Tensor((blocks, steps, s.vectors, UNIT * lanes), dtype)

        extra: dict[str, Tensor] = {}
        for number, (s, steps) in enumerate(zip(self.sections, self.extras, strict=False)):
            extra[f"extra weights {number}"] = weights(steps, 1, s)
            extra[f"extra offsets {number}"] = Tensor((steps,), "int32")
            extra[f"extra starts {number}"] = Tensor((s.blocks + 1,), "int32")
        return {
            **by_section(self.sections, "weights", lambda s: weights(self.steps(UNIT), s.blocks, s)),
            **extra,
            "bias": Tensor((self.vectors, lanes), "int32"),
            "zeros": ZEROS,
            **({"input factor": Tensor((1,), "int32")} if self.input_sums else {}),
            **self.ending.constants(self.vectors),
        }

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        g, image, sums = self.geometry, self.image(inputs[0], UNIT), None
        if self.input_sums:
            sums = input_sums.input_sums(g, self.inputs[0].dtype, image, constants["input factor"])
        tile = _Tile(self, constants, image, sums, self.pixels(y))
        spans = [[Span(0, _tiles(g, s.pixels), s.pixels)] for s in self.sections]
        gemm.each_tile(
            self.sections, spans, gemm.pieces(self.sections, spans, self.macs), lambda: nullcontext(tile.emit)
        )


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
        fits = self.level.bytes.bits == 16 or layout.fits_eight_bits(conv)
        if not fits and len(conv.weight_zero_points) > 1:
            return Refusal(Because.NUMBERS, "weights have zero points by channel and need nine bits")
        rescaling = Rescaling.of(conv.rescale, layout.accumulator_bound(conv), self.level)
        geometry = Geometry.of(conv)
        sections = gemm.divide(
            conv.out_c, self.level.lanes, epilogue.PACKED, functools.partial(_tile_pixels, geometry, self.level)
        )
        program = Program(
            contract.inputs, contract.output, geometry, conv.x_zero_point, sections, not fits, self.level.bytes,
            rescaling.epilogue,
        )  # fmt: skip
        program, weights = _without_saturation(program, _weights(conv, program))
        s = sections[0]
        types = f"{contract.x_dtype[0]}8s{program.product.bits}"
        arithmetic = f"{conv.rescale.arithmetic}_{s.pixels}x{s.block}"
        name = f"{types}_{contract.operation}_{arithmetic}__{self.level.name}"
        return Plan(name, program, functools.partial(_pack, conv, program, rescaling, weights))


def _tile_pixels(g: Geometry, level: Level, vectors: int) -> int:
    """How many pixels a tile of so many vectors has."""
    most = max(1, min(level.accumulators // vectors, MOST_PIXELS, g.width))
    return gemm.fastest_width(most, vectors, functools.partial(_tiles, g))


def _across_rows(g: Geometry, pixels: int) -> bool:
    """Whether tiles of so many pixels may begin in one row and end in another."""
    return g.rows == 1 or g.width % pixels == 0 or pixels <= APART


def _tiles(g: Geometry, pixels: int) -> int:
    """Tiles that cover all pixels, the last one, or the last one of each row, overlapping its neighbour."""
    return math.ceil(g.pixels / pixels) if _across_rows(g, pixels) else g.rows * math.ceil(g.width / pixels)


def _weights(conv: Conv2DContract, program: Program) -> list[Array]:
    """Integer weights of each section, [blocks, steps, vectors, lanes, 4]."""
    weights = layout.signed_weights(conv)[0] if program.input_sums else layout.centered_weights(conv)
    grouped = program.geometry.grouped(weights, UNIT)
    return [
        grouped[epilogue.lane_channels(s)]
        .reshape(s.blocks, s.vectors, s.lanes, program.steps(UNIT), UNIT)
        .transpose(0, 3, 1, 2, 4)
        for s in program.sections
    ]


def _without_saturation(program: Program, weights: list[Array]) -> tuple[Program, list[Any]]:
    """The same by products that saturate, with weights split until none does, if the level has them and it pays."""
    if program.level.unsaturated is None:
        return program, weights
    split = [UnsaturatedWeights.of(each) for each in weights]
    if max(each.share for each in split) > MOST_EXTRA:
        return program, weights
    extras = tuple(len(each.steps) for each in split)
    return replace(program, product=program.level.unsaturated, extras=extras), split


def _pack(conv: Conv2DContract, program: Program, rescaling: Rescaling, weights: list[Any]) -> Arrays:
    packed: dict[str, Array] = {}
    for number, each in enumerate(weights):
        if isinstance(each, UnsaturatedWeights):
            packed[f"extra weights {number}"] = program.product.arrange(each.extra)[None]
            packed[f"extra offsets {number}"] = _offsets(program.geometry)[each.steps]
            packed[f"extra starts {number}"] = each.starts
            each = each.weights
        packed[f"weights {number}"] = program.product.arrange(each)
    channels = np.concatenate([epilogue.lane_channels(s) for s in program.sections])
    shift = 128 if conv.x_dtype == "int8" else 0
    packed["bias"] = layout.folded_bias(conv, conv.x_zero_point + shift)[channels]
    packed["zeros"] = np.zeros(ZEROS.shape, np.int32)
    if program.input_sums:
        packed["input factor"] = np.array([-layout.signed_weights(conv)[1]], np.int32)
    return {**packed, **rescaling.pack(channels)}


def _offsets(g: Geometry) -> Array:
    """int32 [steps]: where a step reads, behind the first byte of a pixel."""
    return np.array([run + g.unit_start(u, UNIT) for run in g.runs for u in range(g.units(UNIT))], np.int32)


@dataclass(frozen=True)
class _Tile:
    """The buffers of a function under construction; `sums`: of the inputs of each pixel, if weights need them."""

    program: Program
    constants: Buffers
    image: Buffer
    sums: Buffer | None
    y: Buffer

    def emit(self, number: int, _span: Span, first: int, block: Expr, t: Expr) -> None:
        """Tile `t` of a block of section `number`: `pixels` x `vectors`, from bias to stored codes."""
        s, lanes, constants = self.program.sections[number], self.program.level.lanes, self.constants
        pixel, addresses = self._place(s.pixels, t)
        at = T.Bind(first + block * s.vectors + moving_zero(constants["zeros"], t))
        vectors = [T.Bind(at + v) for v in range(s.vectors)]
        accumulators = [local(s.vectors * lanes, "int32") for _ in range(s.pixels)]
        for p, accumulator in enumerate(accumulators):
            term = self.sums[pixel + p] if self.sums is not None else None
            for v, index in enumerate(vectors):
                store(accumulator, epilogue.start(constants["bias"], index, lanes, term), v * lanes, lanes=lanes)
        self._multiply(s, constants[f"weights {number}"], block, addresses, accumulators)
        if self.program.extras:
            weights, offsets, starts = (
                constants[f"extra {name} {number}"] for name in ("weights", "offsets", "starts")
            )
            with T.serial(starts[block + 1] - starts[block]) as i:
                k = T.Bind(starts[block] + i)
                self._step(s, weights, 0, addresses, T.Bind(offsets[k]), k, accumulators)
        values = [[load(a, v * lanes, lanes=lanes) for v in range(s.vectors)] for a in accumulators]
        rows = [pixel + p for p in range(s.pixels)]
        gemm.finish(self.program.ending, values, constants, vectors, s.stored, self.y, rows, s.start(block))

    def _place(self, pixels: int, t: Expr) -> tuple[Expr, list[Expr]]:
        """The first output pixel of a tile, and where each of its pixels reads."""
        g = self.program.geometry
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
        g = self.program.geometry
        units = g.units(UNIT)
        if self.program.steps(UNIT) <= ALL_AT_ONCE:
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
        level, product = self.program.level, self.program.product

        def operand(v: int) -> tuple[Expr, ...]:
            return product.weights(lambda first, count: load(weights, block, k, v, first, lanes=count))

        resident = [operand(v) for v in range(s.vectors)] if level.avx512 else []
        inputs = []
        for address, accumulator in zip(addresses, accumulators, strict=True):
            four = T.reinterpret("int32", load(self.image, address + offset, lanes=UNIT))
            if self.program.inputs[0].dtype == "int8":
                four = T.bitwise_xor(four, T.int32(-0x7F7F7F80))
            inputs.append(product.inputs(broadcast(four, level.lanes)))
            for v, w in enumerate(resident):
                self._accumulate(accumulator, v, inputs[-1], w)
        if not resident:
            # Half as many registers: the inputs stay, weights come and go.
            for v in range(s.vectors):
                w = operand(v)
                for accumulator, x in zip(accumulators, inputs, strict=True):
                    self._accumulate(accumulator, v, x, w)

    def _accumulate(self, accumulator: Buffer, v: int, inputs: tuple[Expr, ...], weights: tuple[Expr, ...]) -> None:
        lanes = self.program.level.lanes
        value = self.program.product.add(load(accumulator, v * lanes, lanes=lanes), inputs, weights)
        store(accumulator, value, v * lanes, lanes=lanes)
