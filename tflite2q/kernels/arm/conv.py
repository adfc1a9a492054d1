"""Convolution and dense layers as an implicit GEMM on Arm.

A tile of `pixels` output pixels times up to sixteen output channels stays in registers.  Each pixel's next bytes are
loaded once; their units multiply all accumulators of the pixel, and a unit's weights are read once for all pixels.
With 5 x 16 tiles the inner loop of the dot product level is 80 multiplications to 21 loads of a register; that of the
matrix level is 24 to 10, with 12 x 8 tiles of inputs brought together in pairs, and 24 to 14 without.  What limits it
is the multiplier's throughput, and memory for weights that exceed the caches.

Weights that do not fit in eight bits after their zero point is subtracted take the sum of each pixel's inputs, which is
computed once for all channels; at the NEON level sixteen bits hold them, in a slower form.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import layout, tiles
from tflite2q.kernels.arm import isa
from tflite2q.kernels.arm.epilogue import ArmEpilogue
from tflite2q.kernels.arm.input_sums import input_sums
from tflite2q.kernels.arm.isa import LANES, Form, Level
from tflite2q.kernels.arm.pixel_pairs import first_pixel, paired, pixel_pairs
from tflite2q.kernels.contracts import Array, Conv2DContract, DenseContract, Tensor
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.gemm import (
    BY_CHANNELS,
    CHUNKS,
    GemmProgram,
    Geometry,
    Section,
    Span,
    by_section,
    divide,
    each_tile,
    finish,
    refusal,
)
from tflite2q.kernels.loops import ZEROS, moving_zero, pays
from tflite2q.kernels.refusals import Because, Refusal
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, load, wrapping_add


@dataclass(frozen=True)
class Program(GemmProgram):
    """What the text of the function depends on."""

    input_sums: bool
    form: Form
    ending: ArmEpilogue

    @property
    def source(self) -> Geometry:
        """Where tiles read."""
        return paired(self.geometry) if self.form.pairs else self.geometry

    @property
    def constants(self) -> Tensors:
        def weights(s: Section) -> Tensor:
            return Tensor((s.blocks, self.steps(self.form.unit), s.block * self.form.unit), self.form.weight_dtype)

        return {
            **by_section(self.sections, "weights", weights),
            "bias": Tensor((self.vectors, LANES), "int32"),
            **ZEROS,
            **({"input factor": Tensor((1,), "int32")} if self.input_sums else {}),
            **self.ending.constants(self.vectors),
        }

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        g, image = self.geometry, self.image(inputs[0], self.form.unit)
        sums = input_sums(g, self.form, image, constants["input factor"]) if self.input_sums else None
        if self.form.pairs:
            image = pixel_pairs(g, image)
        tile = _Tile(self, constants, image, sums, self.pixels(y))
        pieces, pixels = 1, self.sections[0].pixels
        if pays(self.macs):
            pieces = min(CHUNKS, math.ceil(g.pixels / pixels)) if g.pixels >= 4 * pixels else BY_CHANNELS
        each_tile(self.sections, [self._spans(s) for s in self.sections], pieces, lambda: nullcontext(tile.emit))

    def _spans(self, s: Section) -> list[Span]:
        if not self.form.pairs:
            return [Span(0, tiles.by_row(self.geometry, s.pixels), s.pixels)]
        pixels = 2 * self.source.width
        whole = pixels // s.pixels
        spans = [Span(0, whole, s.pixels), Span(whole * s.pixels, 1, pixels % s.pixels)]
        return [span for span in spans if span.tiles and span.pixels]


@dataclass(frozen=True)
class ArmConv:
    """Conv2D and Dense contracts on one level of instructions."""

    level: Level

    @property
    def name(self) -> str:
        return f"conv2d__{self.level.name}"

    def plan(self, contract: Conv2DContract | DenseContract, target: Any) -> Plan | Refusal:
        refused = self.level.lacks(target) or refusal(contract, ("uint8", "int8"))
        if refused:
            return refused
        conv = contract.conv2d()
        fits = not self.level.dots or layout.fits_eight_bits(conv)
        if not fits and len(conv.weight_zero_points) > 1:
            return Refusal(Because.NUMBERS, "weights have zero points by channel and need nine bits")
        geometry = Geometry.of(conv)
        form = _form(conv, self.level, geometry)
        ending = ArmEpilogue.of(conv.rescale, layout.accumulator_bound(conv))
        width = 2 * paired(geometry).width if form.pairs else geometry.width
        sections = divide(conv.out_c, LANES, form.vectors, functools.partial(_tile_pixels, width, form))
        program = Program(
            contract.inputs, contract.output, geometry, conv.x_zero_point, sections, not fits, form, ending
        )
        types = f"{contract.x_dtype[0]}8s{form.weight_dtype.removeprefix('int')}"
        instructions, tile = f"{self.level.name}_{form.name}", f"{sections[0].pixels}x{sections[0].block}"
        name = Name(types, contract.operation, instructions, conv.rescale.arithmetic, tile)
        return Plan(name, program, functools.partial(_pack, conv, program))


def _form(conv: Conv2DContract, level: Level, g: Geometry) -> Form:
    """Matrix products take two pixels beside each other; a single one, as in most dense layers, takes dot products.

    Pairs are made where that copies no input twice and more than one block of channels reads them.
    """
    if not level.dots:
        halves = isa.halves(conv.x_dtype)
        return halves if _fits_halves(conv, g, halves) else isa.widen(conv.x_dtype)
    if not level.matrix or g.pixels < 2:
        return isa.dot(conv.x_dtype, mixed=level.matrix)
    pairs = isa.pairs(conv.x_dtype)
    if len(g.runs) == 1 and g.run <= g.pixel_step and conv.out_c > pairs.vectors * LANES:
        return pairs
    return isa.matrix(conv.x_dtype) if g.width >= 2 else isa.dot(conv.x_dtype, mixed=True)


def _fits_halves(conv: Conv2DContract, g: Geometry, form: Form) -> bool:
    """Whether two products of every weight that are added in 16 bits fit there."""
    if not layout.fits_eight_bits(conv):
        return False
    weights = g.grouped(layout.centered_weights(conv), form.unit)
    return not bool((weights.reshape(*weights.shape[:-1], form.parts, -1) == -128).all(axis=-2).any())


def _tile_pixels(width: int, form: Form, vectors: int) -> int:
    """How many pixels a tile of so many vectors has."""
    most = min(form.accumulators // vectors, form.most_pixels, width)
    choices = range(max(most - most % form.pixels, form.pixels), 0, -form.pixels)

    def work(pixels: int) -> float:
        """The instructions of one step over all tiles: multiplications, loads of inputs (one a chunk) and weights."""
        loads = pixels * form.unit / form.chunk + vectors
        return math.ceil(width / pixels) * (pixels * vectors + loads)

    # Where the last tile is as narrow as what is left, the widest tiles load least.
    return choices[0] if form.pairs else min(choices, key=work)


def _pack(conv: Conv2DContract, program: Program) -> Arrays:
    form = program.form
    weights = layout.signed_weights(conv)[0] if program.input_sums else layout.centered_weights(conv)
    grouped = program.geometry.grouped(weights, form.unit)  # [channels, steps, unit]
    indices = [s.channel_indices() for s in program.sections]
    packed = {f"weights {number}": _in_steps(grouped[index], form) for number, index in enumerate(indices)}
    channels = np.concatenate([index.reshape(-1, LANES) for index in indices])
    packed["bias"] = layout.folded_bias(conv, conv.x_zero_point - form.shift)[channels]
    if program.input_sums:
        packed["input factor"] = np.array([-layout.signed_weights(conv)[1]], np.int32)
    return {**packed, **program.ending.rounding.pack(conv.rescale, channels)}


def _in_steps(weights: Array, form: Form) -> Array:
    """Weights [blocks, channels, steps, unit] in the order of tiles: [blocks, steps, channels * unit]."""
    blocks, channels, steps, unit = weights.shape
    vectors = weights.transpose(0, 2, 1, 3).reshape(blocks, steps, channels // LANES, LANES, form.parts, -1)
    ordered: Array = vectors.swapaxes(3, 4).reshape(blocks, steps, channels * unit)
    return ordered.astype(form.weight_dtype)


@dataclass(frozen=True)
class _Tile:
    """The buffers of a function under construction; `sums`: of the inputs of each pixel, if weights need them."""

    program: Program
    constants: Buffers
    image: Buffer
    sums: Buffer | None
    y: Buffer

    def emit(self, number: int, span: Span, first: int, block: Expr, t: Expr) -> None:
        """Tile `t` of a block of section `number`: `span.pixels` x `vectors`, from bias to stored codes."""
        s, weights = self.program.sections[number], self.constants[f"weights {number}"]
        address, pixels = self._place(span, t)
        zero = moving_zero(self.constants, t)
        own = T.Bind(block + zero)
        at = T.Bind(first + own * s.vectors)
        tile = self.program.form.open(span.pixels, s.vectors)
        biases = [load(self.constants["bias"], at + v, 0, lanes=LANES) for v in range(s.vectors)]
        tile.start([[self._first(b, pixel) for b in biases] for pixel in pixels])
        self._multiply(weights, own, address, tile, zero)
        vectors = [at + v for v in range(s.vectors)]
        finish(self.program.ending, tile.values(), self.constants, vectors, s.stored, self.y, pixels, s.start(block))

    def _place(self, span: Span, t: Expr) -> tuple[Expr, list[Expr]]:
        """Where tile `t` reads, and the output pixels it computes."""
        g = self.program.geometry
        if self.program.form.pairs:
            pair = T.Bind(span.first // 2 + t * (span.pixels // 2))
            last = T.Bind(first_pixel(g, pair + (span.pixels // 2 - 1)))
            pixels = [2 * pair + p for p in range(span.pixels - 2)]
            return self.program.source.address(0, pair), [*pixels, last, last + 1]
        row, column = tiles.in_row(g, span.pixels, t)
        pixel = T.Bind(row * g.width + column)
        return g.address(row, column), [pixel + p for p in range(span.pixels)]

    def _first(self, bias: Expr, pixel: Expr) -> Expr:
        """An accumulator's first value: the bias, and the sum of the pixel's inputs if it is needed."""
        if self.sums is None:
            return bias
        return wrapping_add(bias, T.Broadcast(self.sums[pixel], LANES), LANES)

    def _multiply(self, weights: Buffer, block: Expr, address: Expr, tile: isa.Tile, zero: Expr) -> None:
        """Add all products.  Were the loops' lengths known, LLVM would unroll them and load ahead, to the stack."""
        g, form = self.program.source, self.program.form
        units, per_chunk = g.units(form.operand), form.chunk // form.operand

        def reader(offset: Expr) -> isa.InputReader:
            return lambda p, count: load(self.image, offset + p * g.pixel_step, lanes=count)

        def weight_reader(step: Expr) -> isa.WeightReader:
            return lambda start, count: load(weights, block, step, start, lanes=count)

        whole = g.run // form.chunk
        rest = units - whole * per_chunk
        for first, count, pitch in g.regular_runs():
            with T.serial(count + zero if count > 1 else 1) as r:
                base = T.Bind(address + g.runs[first] + r * pitch)
                step = T.Bind((first + r) * units)
                with T.serial(whole + zero if whole else 0) as c:
                    inputs = tile.chunk(reader(T.Bind(base + c * form.chunk)))
                    for index in range(per_chunk):
                        tile.multiply(inputs, index, weight_reader(step + c * per_chunk + index))
                with T.serial(rest + zero if rest else 0) as u:
                    unit = T.Bind(u + whole * per_chunk)
                    start = T.min(unit * form.operand, max(g.run - form.operand, 0))
                    inputs = tile.rest(reader(T.Bind(base + start)))
                    tile.multiply(inputs, 0, weight_reader(step + unit))
