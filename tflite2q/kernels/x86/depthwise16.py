"""Depthwise convolution of 16-bit inputs by paired rows.

As for bytes (`tflite2q.kernels.x86.depthwise`), but two vertically adjacent input rows of a column are interleaved, and
one instruction does two taps of a kernel column.  A 3x3 kernel takes six per vector of outputs; two output rows share
their pairs (weights w0 w1, w2 0 and 0 w0, w1 w2), and neighbouring output columns theirs.

Nothing copies the image to pad it.  The zero point of 16-bit codes is 0, so what lies outside the image contributes
nothing: rows there have zero weights, constants for every way in which a tile's rows may lie, and the first and last
tiles of a row, which know their columns, leave out or replace by zeros what is not there.

The multiplications and the epilogue take about as long, and loads of weights, one for each multiplication, fill the
load ports.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import gemm
from tflite2q.kernels.accumulators import Accumulators
from tflite2q.kernels.contracts import DepthwiseConv2DContract, Tensor
from tflite2q.kernels.depthwise import InterleavingProgram, Section, Window, narrow_rows, refusal, sections
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.loops import ZEROS, moving_zero, region
from tflite2q.kernels.refusals import Because, Refusal
from tflite2q.kernels.sums import Sums
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, shuffle, store, view
from tflite2q.kernels.x86.depthwise import MOST_TAPS
from tflite2q.kernels.x86.epilogue16 import Epilogue16, channel_order, interleave
from tflite2q.kernels.x86.isa import Level

VECTORS = 2  # of accumulators for one vector of inputs
MOST_EDGES = 8  # tiles of a row that may reach beyond the image


@dataclass(frozen=True)
class Program(InterleavingProgram):
    """What the text of the function depends on."""

    group = 2

    ending: Epilogue16

    @property
    def level(self) -> Level:
        return self.ending.level

    @property
    def size(self) -> int:
        """Inputs of a vector."""
        return VECTORS * self.level.lanes

    @property
    def constants(self) -> Tensors:
        steps, count = self.rows * self.window.kernel[1] * self.groups * VECTORS, self.blocks * VECTORS
        return {
            "variants": Tensor((self.window.tiles(self.rows),), "int32"),
            "weights": Tensor((self.variants * self.blocks, steps, self.size), "int16"),
            "start": Tensor((count, self.level.lanes), "int32"),
            **ZEROS,
            **self.ending.constants(count),
        }

    def edges(self, s: Section) -> tuple[int, int]:
        """How many of the first and of the last tiles of a row read columns outside the image."""
        count = math.ceil(self.output.shape[2] / s.side)
        outside = [not self.within(s, self.column(s, t)) for t in range(count)]
        if all(outside):
            return count, 0
        return outside.index(False), outside[::-1].index(False)

    def column(self, s: Section, tile: int) -> int:
        """First output column of a tile."""
        return min(tile * s.side, self.output.shape[2] - s.side)

    def within(self, s: Section, column: int) -> bool:
        """Whether a tile from output column `column` on reads only columns of the image."""
        first = column * self.window.strides[1] - self.window.padding[1]
        last = first + (s.side - 1) * self.window.strides[1] + (self.window.kernel[1] - 1) * self.window.dilation[1]
        return first >= 0 and last < self.window.input.shape[2]

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        n, out_h, _, _ = self.output.shape
        image = view(inputs[0], (self.window.input.size,), self.window.input.dtype)
        tile = _Tile(self, image, constants, view(y, (self.output.size,), self.output.dtype))
        tiles = self.window.tiles(self.rows)
        # An output costs about sixteen times a multiply-accumulate of a convolution.
        with region(n * tiles, self.output.size * 128) as i:
            group = T.Bind(i % tiles)
            row = T.Bind(T.min(group * self.rows, out_h - self.rows))
            variant = T.Bind(constants["variants"][group] * self.blocks)
            first = 0
            for s in self.sections:
                with T.serial(s.blocks) as b:
                    tile.output_rows(s, i // tiles, row, variant, first + b, s.first + b * s.width)
                first += s.blocks


@dataclass(frozen=True)
class X86Depthwise16:
    """DepthwiseConv2D contracts of int16 activations and depth multiplier 1 on one level of instructions."""

    level: Level

    @property
    def name(self) -> str:
        return f"depthwise16__{self.level.name}"

    def plan(self, contract: DepthwiseConv2DContract, target: Any) -> Plan | Refusal:
        refused = self.level.lacks(target) or refusal(contract, ("int16",), MOST_TAPS)
        if refused:
            return refused
        if contract.x_zero_point:
            return Refusal(Because.NUMBERS, f"input zero point {contract.x_zero_point}")
        most = 2 if contract.kernel[1] <= 3 and self.level.avx512 else 1
        found = sections(contract, VECTORS * self.level.lanes, lambda vectors: max(1, min(most, vectors)))
        refused = narrow_rows(contract, found)
        if refused:
            return refused
        sums, window = Sums.of(contract), Window.of(contract)
        rows = window.shared_rows(Program.group)
        program = Program(window, rows, len(window.variants(rows)), found, Epilogue16.of(sums, self.level))
        if max(sum(program.edges(s)) for s in found) > MOST_EDGES:
            return Refusal(Because.GEOMETRY, f"padding of {contract.padding} would unroll too far")
        if sums.wide:
            return Refusal(Because.NUMBERS, "sums need 64 bits")
        tile = f"{rows}x{found[0].side}x{found[0].width}"
        name = Name("s16s16", f"depthwise{window.name}", self.level.name, contract.rescale.arithmetic, tile)
        return Plan(name, program, functools.partial(_pack, contract, sums, program))


def _pack(contract: DepthwiseConv2DContract, sums: Sums, program: Program) -> Arrays:
    (kh, kw), stride, lanes = contract.kernel, contract.strides[0], program.level.lanes
    channels, variants = program.channels(channel_order(program.level, VECTORS)), program.window.variants(program.rows)
    # [variants, rows, kw, pairs, blocks, vectors, lanes, 2]: row r of a tile reads input row r * stride + i with kernel
    # row i, unless that is outside the image.
    packed = np.zeros((len(variants), program.rows, kw, program.groups, *channels.shape, program.group), np.int16)
    for (n, inside), r, i in itertools.product(enumerate(variants), range(program.rows), range(kh)):
        if inside[r * stride + i]:
            pair, which = divmod(r * stride + i, program.group)
            packed[n, r, :, pair, ..., which] = sums.weights[0, i][:, channels]
    flat = channels.reshape(-1, lanes)
    return {
        "variants": program.variant_of_each_tile(),
        "weights": np.moveaxis(packed, 4, 1).reshape(program.constants["weights"].shape),
        "start": sums.start[flat],
        **program.ending.pack(sums, flat),
    }


@dataclass(frozen=True)
class _Rows:
    """What all tiles of some output rows have in common: offsets in the image of the input rows (of column 0 and the
    first channel), of the result, and indices of constants, with the variant's weights."""

    sources: list[Expr]
    target: Expr
    block: Expr
    variant: Expr


@dataclass(frozen=True)
class _Tile:
    """The buffers of a function under construction."""

    program: Program
    image: Buffer
    constants: Buffers
    y: Buffer

    def output_rows(self, s: Section, n: Expr, row: Expr, variant: Expr, block: Expr, channel: Expr) -> None:
        """A block of channels of `rows` whole output rows."""
        program = self.program
        _, out_h, out_w, c = program.output.shape
        _, h, w, _ = program.window.input.shape
        top = row * program.window.strides[0] - program.window.padding[0]
        # Rows outside the image have zero weights; what is read there is the nearest row.
        inputs = [T.min(T.max(top + i * program.window.dilation[0], 0), h - 1) for i in range(program.taps)]
        sources = [T.Bind((n * h + i) * (w * c) + channel) for i in inputs]
        shared = _Rows(sources, T.Bind((n * out_h + row) * (out_w * c) + channel), block, variant)
        count = math.ceil(out_w / s.side)
        before, after = program.edges(s)
        for t in range(before):
            self.tile(s, shared, program.column(s, t), t)
        if count > before + after:
            with T.serial(count - before - after) as t:
                column = T.Bind(T.min((before + t) * s.side, out_w - s.side))
                self.tile(s, shared, column, t)
        for t in range(count - after, count):
            self.tile(s, shared, program.column(s, t), t)

    def tile(self, s: Section, shared: _Rows, column: Expr, t: Expr) -> None:
        """Output columns from `column` on, a number where input columns may lie outside the image; `t` counts tiles."""
        program, lanes = self.program, self.program.level.lanes
        _, _, out_w, c = program.output.shape
        first = column * program.window.strides[1] - program.window.padding[1]
        columns: dict[int, list[list[Expr]]] = {}

        def pairs(at: int) -> list[list[Expr]]:
            if at not in columns:
                columns[at] = [self._pair(s, shared.sources, first + at, g) for g in range(program.groups)]
            return columns[at]

        for group in range(s.columns):
            base = group * s.pixels * program.window.strides[1]
            for old in [key for key in columns if key < base]:
                del columns[old]
            # Each group of pixels reads constants anew, or LLVM would keep them for the next, on the stack.
            zero = moving_zero(self.constants, t + group)
            block, variant = T.Bind(shared.block + zero), T.Bind(shared.variant + shared.block + zero)
            sums = Accumulators.by_pixel(program.rows, VECTORS, lanes)
            sums.fill([load(self.constants["start"], block * VECTORS + v, 0, lanes=lanes) for v in range(VECTORS)])
            for t in range(program.window.kernel[1]):
                self._multiply(variant, t, pairs(base + t * program.window.dilation[1]), sums)
            for r, codes in enumerate(self._rounded(block, sums)):
                self._store(s, codes, shared.target + (r * out_w + column + group * s.pixels) * c)

    def _multiply(self, block: Expr, t: int, pairs: list[list[Expr]], sums: Accumulators) -> None:
        program = self.program
        for r in range(program.rows):
            first, last = r * program.window.strides[0], r * program.window.strides[0] + program.window.kernel[0] - 1
            for g in range(first // 2, last // 2 + 1):
                at = ((r * program.window.kernel[1] + t) * program.groups + g) * VECTORS
                for v, pair in enumerate(pairs[g]):
                    w = T.Bind(load(self.constants["weights"], block, at + v, 0, lanes=program.size))
                    sums[r, v] = program.ending.add(sums[r, v], pair, w)

    def _pair(self, s: Section, sources: list[Expr], column: Expr, g: int) -> list[Expr]:
        """One column's input rows 2 g and 2 g + 1, as operands of the multiplication."""
        # A row beyond the last has zero weights; the last is read again.
        rows = [self._inputs(s, sources[min(i, self.program.taps - 1)], column) for i in (2 * g, 2 * g + 1)]
        return interleave(self.program.level, rows[0], rows[1])

    def _inputs(self, s: Section, source: Expr, column: Expr) -> Expr:
        """A vector of one row's inputs: `pixels` pieces of `width` channels, zero outside the image."""
        program = self.program
        _, _, w, c = program.window.input.shape
        places = [column + i * program.window.strides[1] for i in range(s.pixels)]
        inside = [not isinstance(place, int) or 0 <= place < w for place in places]
        if all(inside) and (program.window.strides[1] * c == s.width or s.pixels == 1):
            return T.Bind(load(self.image, source + column * c, lanes=program.size))
        nothing = broadcast(T.int16(0), s.width)
        pieces = [
            T.Bind(load(self.image, source + place * c, lanes=s.width)) if there else nothing
            for place, there in zip(places, inside, strict=True)
        ]
        return T.Bind(shuffle(pieces, range(program.size)) if len(pieces) > 1 else pieces[0])

    def _rounded(self, block: Expr, sums: Accumulators) -> list[list[Expr]]:
        """Codes of each row."""
        vectors = [block * VECTORS + v for v in range(VECTORS)]
        return gemm.rounded(self.program.ending, sums.values(), self.constants, vectors)

    def _store(self, s: Section, rounded: list[Expr], target: Expr) -> None:
        program, channels = self.program, self.program.output.shape[3]
        if s.pixels == 1 or channels == s.width:
            program.ending.store_row(rounded, program.size, self.y, target)
            return
        codes = program.ending.codes(rounded, whole=False)
        for i in range(s.pixels):
            piece = shuffle([codes], range(i * s.width, (i + 1) * s.width))
            store(self.y, piece, target + i * channels, lanes=s.width)
