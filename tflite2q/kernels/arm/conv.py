"""Convolution and dense layers as an implicit matrix product on Arm.

A tile of `pixels` output pixels times up to sixteen output channels stays in registers.  Each pixel's next bytes are
loaded once; their units multiply all accumulators of the pixel, and a unit's weights are read once for all pixels.
With 5 x 16 tiles the inner loop of the dot product level is 80 multiplications to 21 loads of a register; that of the
matrix level is 24 to 10, with 12 x 8 tiles of inputs brought together in pairs, and 24 to 14 without.  What limits it
is the multiplier's throughput, and memory for weights that exceed the caches.

Weights that do not fit in eight bits after their zero point is subtracted take the sum of each pixel's inputs, which is
computed once for all channels; at the NEON level they fit the sixteen bits that its weights have.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.arm import isa
from tflite2q.kernels.arm.finish import PACKED, Finish
from tflite2q.kernels.arm.isa import LANES, Form, Level
from tflite2q.kernels.arm.pairs import first_pixel, paired, pixel_pairs
from tflite2q.kernels.arm.sums import row_sums
from tflite2q.kernels.base import Array, Built, Conv2D, Dense, Tensor
from tflite2q.kernels.loops import PARALLEL_MACS, ZEROS, moving_zero, padded_image
from tflite2q.kernels.product import Geometry, Section
from tflite2q.kernels.tir import Buffer, Expr, T, function, load, store, view, wrapping_add

CHUNKS = 16  # pieces into which a parallel layer's pixels are cut, at most


@dataclass(frozen=True)
class Plan:
    """What the text of the function depends on."""

    inputs: Tensor
    output: Tensor
    geometry: Geometry
    fill: int
    sections: tuple[Section, ...]
    row_sums: bool
    form: Form
    finish: Finish

    @property
    def source(self) -> Geometry:
        """Where tiles read."""
        return paired(self.geometry) if self.form.pairs else self.geometry

    @property
    def steps(self) -> int:
        """Units that one output pixel takes."""
        return len(self.geometry.runs) * self.geometry.units(self.form.unit)

    @property
    def macs(self) -> int:
        return self.output.size * len(self.geometry.runs) * self.geometry.run

    @property
    def constants(self) -> tuple[Tensor, ...]:
        count = sum(s.blocks * s.vectors for s in self.sections)
        weights = [
            Tensor((s.blocks, self.steps, s.block * self.form.unit), self.form.weight_dtype) for s in self.sections
        ]  # fmt: skip
        sums = (Tensor((1,), "int32"),) if self.row_sums else ()
        return (*weights, Tensor((count, LANES), "int32"), ZEROS, *sums, *self.finish.tensors(count))


@dataclass(frozen=True)
class ArmConv:
    """Conv2D and Dense contracts on one level of instructions."""

    level: Level

    @property
    def name(self) -> str:
        return f"conv2d__{self.level.name}"

    def refuses(self, contract: Conv2D | Dense, target: Any) -> str | None:
        lacks = self.level.lacks(target)
        if lacks:
            return lacks
        if contract.x_dtype not in ("uint8", "int8"):
            return f"inputs are {contract.x_dtype}"
        if isinstance(contract, Conv2D) and contract.groups != 1:
            return f"{contract.groups} groups"
        conv = contract.conv2d() if isinstance(contract, Dense) else contract
        if self.level != isa.NEON and not _fits(conv) and len(conv.weight_zero_points) > 1:
            return "weights have zero points by channel and need nine bits"
        return None

    def build(self, contract: Conv2D | Dense, target: Any) -> Built:
        conv = contract.conv2d() if isinstance(contract, Dense) else contract
        plan = _plan(conv, contract.inputs[0], contract.output, self.level)
        s = plan.sections[0]
        types = f"{contract.x_dtype[0]}8s{plan.form.weight_dtype.removeprefix('int')}"
        operation = "dense" if isinstance(contract, Dense) else "conv2d"
        arithmetic = f"{conv.rescale.arithmetic}_{s.pixels}x{s.block}"
        name = f"{types}_{operation}_{arithmetic}__{self.level.name}_{plan.form.name}"
        return Built(name, (name, plan), _function(plan), contract.inputs, _pack(conv, plan), contract.output)


def _fits(conv: Conv2D) -> bool:
    """Whether centered weights fit in eight bits."""
    weights = layout.centered_weights(conv)
    return bool(weights.min() >= -128 and weights.max() <= 127)


def _form(conv: Conv2D, level: Level, g: Geometry) -> Form:
    """Matrix products take two pixels beside each other; a single one, as in most dense layers, takes dot products.

    Pairs are made where that copies no input twice and more than one block of channels reads them.
    """
    if level == isa.NEON:
        return isa.widen(conv.x_dtype)
    if level == isa.DOTPROD or g.rows * g.width < 2:
        return isa.dot(conv.x_dtype, mixed=level == isa.I8MM)
    pairs = isa.pairs(conv.x_dtype)
    if len(g.runs) == 1 and g.run <= g.pixel_step and conv.out_c > pairs.vectors * LANES:
        return pairs
    return isa.matrix(conv.x_dtype) if g.width >= 2 else isa.dot(conv.x_dtype, mixed=True)


def _plan(conv: Conv2D, inputs: Tensor, output: Tensor, level: Level) -> Plan:
    geometry = Geometry.of(conv)
    form = _form(conv, level, geometry)
    sums = form.weight_dtype == "int8" and not _fits(conv)
    finish = Finish.of(conv.rescale, layout.accumulator_bound(conv))
    width = 2 * paired(geometry).width if form.pairs else geometry.width
    sections = _sections(conv.out_c, width, form)
    return Plan(inputs, output, geometry, conv.x_zero_point, sections, sums, form, finish)


def _sections(channels: int, width: int, form: Form) -> tuple[Section, ...]:
    """Blocks of the widest kind as far as they go, then one narrower block for what is left."""
    wide = form.vectors * LANES
    rest = channels % wide
    if channels >= wide and (rest == 0 or rest > wide - LANES):
        return (_section(0, channels, form.vectors, width, form),)
    whole = channels - rest
    head = (_section(0, whole, form.vectors, width, form),) if whole else ()
    vectors = math.ceil(rest / LANES)
    # With channels to spare before it, the rest starts early enough to end at the last one.
    first = max(channels - vectors * LANES, 0) if whole else 0
    return (*head, _section(first, channels - first, vectors, width, form))


def _section(first: int, channels: int, vectors: int, width: int, form: Form) -> Section:
    most = min(form.accumulators // vectors, form.most_pixels, width)
    choices = range(max(most - most % form.pixels, form.pixels), 0, -form.pixels)

    def work(pixels: int) -> float:
        """Of one step over all tiles: multiplications, loads of inputs (one a chunk) and of weights."""
        loads = pixels * form.unit / form.chunk + vectors
        return math.ceil(width / pixels) * (pixels * vectors + loads)

    # Where the last tile is as narrow as what is left, the widest tiles load least.
    return Section(first, channels, vectors, choices[0] if form.pairs else min(choices, key=work), LANES)


def _pack(conv: Conv2D, plan: Plan) -> tuple[Array, ...]:
    form = plan.form
    weights = layout.signed_weights(conv)[0] if plan.row_sums else layout.centered_weights(conv)
    grouped = plan.geometry.grouped(weights, form.unit)  # [channels, steps, unit]
    indices = [s.channel_indices() for s in plan.sections]
    packed = [
        np.ascontiguousarray(
            grouped[index].transpose(0, 2, 1, 3).reshape(len(index), plan.steps, -1), form.weight_dtype
        )
        for index in indices
    ]
    channels = np.concatenate([index.reshape(-1, LANES) for index in indices])
    bias = layout.folded_bias(conv, conv.x_zero_point - form.shift)
    sums: tuple[Array, ...] = ()
    if plan.row_sums:
        sums = (np.array([-layout.signed_weights(conv)[1]], np.int32),)
    zeros = np.zeros(ZEROS.shape, np.int32)
    return (*packed, bias[channels], zeros, *sums, *plan.finish.pack(conv.rescale, channels))


@functools.cache
def _function(plan: Plan) -> Any:
    return function([plan.inputs], plan.constants, plan.output, functools.partial(_body, plan))


def _body(plan: Plan, x: Buffer, *rest: Buffer) -> None:
    *packed, y = rest
    g, count = plan.geometry, len(plan.sections)
    weights, (bias, zeros), packed = packed[:count], packed[count : count + 2], packed[count + 2 :]
    slack = plan.form.unit if g.run < plan.form.unit else 0
    image = padded_image(x, Tensor(g.image, plan.inputs.dtype), g.padding, plan.fill, slack)
    sums = None
    if plan.row_sums:
        sums = row_sums(g, plan.form, image, packed[0])
        packed = packed[1:]
    if plan.form.pairs:
        image = pixel_pairs(g, image)
    y = view(y, (g.rows * g.width, plan.output.shape[-1]))
    loops = _Loops(plan, image, bias, zeros, tuple(packed), sums, y)
    pixels = g.rows * g.width
    if plan.macs < PARALLEL_MACS:
        loops.chunk(weights, 0, 1)
    elif pixels >= 4 * plan.sections[0].pixels:
        chunks = min(CHUNKS, math.ceil(pixels / plan.sections[0].pixels))
        with T.parallel(chunks) as i:
            loops.chunk(weights, i, chunks)
    else:
        loops.by_block(weights)


@dataclass(frozen=True)
class _Span:
    """So many tiles of `pixels` output pixels, from pixel `first` on."""

    first: int
    tiles: int
    pixels: int


@dataclass(frozen=True)
class _Loops:
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
            for span in self._spans(s):
                pieces = [i * span.tiles // chunks for i in (index, index + 1)]
                begin, end = (0, span.tiles) if chunks == 1 else pieces
                with T.serial(s.blocks) as block, T.serial(end - begin) as t:
                    self.tile(s, span, w, first, block, begin + t)
            first += s.blocks * s.vectors

    def by_block(self, weights: list[Buffer]) -> None:
        """Few pixels: threads share the channels instead."""
        first = 0
        for s, w in zip(self.plan.sections, weights, strict=True):
            blocks = T.parallel(s.blocks) if s.blocks > 1 else T.serial(s.blocks)
            with blocks as block:
                for span in self._spans(s):
                    with T.serial(span.tiles) as t:
                        self.tile(s, span, w, first, block, t)
            first += s.blocks * s.vectors

    def _spans(self, s: Section) -> list[_Span]:
        g = self.plan.geometry
        if not self.plan.form.pairs:
            return [_Span(0, g.rows * math.ceil(g.width / s.pixels), s.pixels)]
        pixels = 2 * self.plan.source.width
        whole = pixels // s.pixels
        spans = [_Span(0, whole, s.pixels), _Span(whole * s.pixels, 1, pixels % s.pixels)]
        return [span for span in spans if span.tiles and span.pixels]

    def tile(self, s: Section, span: _Span, weights: Buffer, first: int, block: Expr, t: Expr) -> None:
        """`span.pixels` x `s.vectors`, from bias to stored codes."""
        address, pixels = self._place(span, t)
        zero = moving_zero(self.zeros, t)
        own = T.Bind(block + zero)
        at = T.Bind(first + own * s.vectors)
        tile = self.plan.form.open(span.pixels, s.vectors)
        biases = [load(self.bias, at + v, 0, lanes=LANES) for v in range(s.vectors)]
        tile.start([[self._first(b, pixel) for b in biases] for pixel in pixels])
        self._multiply(weights, own, address, tile, zero)
        self._finish(s, pixels, block, at, tile.values())

    def _place(self, span: _Span, t: Expr) -> tuple[Expr, list[Expr]]:
        """Where tile `t` reads, and the output pixels it computes."""
        g = self.plan.geometry
        if self.plan.form.pairs:
            pair = T.Bind(span.first // 2 + t * (span.pixels // 2))
            last = T.Bind(first_pixel(g, pair + (span.pixels // 2 - 1)))
            pixels = [2 * pair + p for p in range(span.pixels - 2)]
            return self.plan.source.address(0, pair), [*pixels, last, last + 1]
        per_row = math.ceil(g.width / span.pixels)
        row = t // per_row
        column = T.Bind(T.min(t % per_row * span.pixels, g.width - span.pixels))
        pixel = T.Bind(row * g.width + column)
        return g.address(row, column), [pixel + p for p in range(span.pixels)]

    def _first(self, bias: Expr, pixel: Expr) -> Expr:
        """An accumulator's first value: the bias, and the sum of the pixel's inputs if it is needed."""
        if self.sums is None:
            return bias
        return wrapping_add(bias, T.Broadcast(self.sums[pixel], LANES), LANES)

    def _multiply(self, weights: Buffer, block: Expr, address: Expr, tile: isa.Tile, zero: Expr) -> None:
        """Add all products.  Were the loops' lengths known, LLVM would unroll them and load ahead, to the stack."""
        g, form = self.plan.source, self.plan.form
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

    def _finish(self, s: Section, pixels: list[Expr], block: Expr, at: Expr, values: list[list[Expr]]) -> None:
        finish = self.plan.finish
        rounded: list[list[Expr]] = [[] for _ in values]
        # Vector by vector, so that one's constants serve all pixels from registers.
        for v in range(s.vectors):
            for found, line in zip(rounded, values, strict=True):
                found.append(finish.rounded(line[v], self.constants, at + v))
        start = s.start(block)
        for pixel, found in zip(pixels, rounded, strict=True):
            if s.stored in PACKED and finish.packable:
                store(self.y, finish.packed(found), pixel, start, lanes=s.block)
                continue
            for v, value in enumerate(found):
                count = min(LANES, s.stored - v * LANES)
                finish.store_plain(value, count, self.y, pixel, start + v * LANES)
