"""Depthwise convolution by interleaved rows.

Four vertically adjacent input rows of one column are interleaved so that each 32-bit lane holds one channel's four
bytes; one dot product then does four taps of a kernel column.  All columns of a strip of a row are interleaved first,
each once, into scratch (`tflite2q.kernels.x86.interleaved`); then every output reads those of its taps.  Strips are as
long as the first-level cache holds, with what they are made of and what they become.
Two output rows at stride 1 with three-row kernels share them (weights w0 w1 w2 0 and 0 w0 w1 w2).

Nothing copies the image to pad it.  Columns beyond it are vectors of the zero point in the scratch; rows beyond it have
zero weights, and a bias without their zero point: constants for every way in which a tile's rows may lie.

Weights that need nine bits without their zero point are two summands, in blocks of channels that have some.

Per vector of outputs a 3x3 kernel takes three dot products, one or two unpacks and one or two stores and loads
of what is interleaved; the epilogue takes more than each.  The two execution ports of 512-bit arithmetic limit it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tflite2q.arithmetic.rounding import wrap32
from tflite2q.kernels import layout
from tflite2q.kernels.contracts import Array, DepthwiseConv2DContract, Tensor
from tflite2q.kernels.depthwise import InterleavingProgram, Section, Window, narrow_rows, refusal, sections
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.loops import ZEROS, moving_zero, pays
from tflite2q.kernels.refusals import Refusal
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, load, part, store, view
from tflite2q.kernels.x86 import epilogue
from tflite2q.kernels.x86.epilogue import Rescaling, X86Epilogue
from tflite2q.kernels.x86.interleaved import Columns, InterleavedRows
from tflite2q.kernels.x86.isa import LINE, Level

MOST_TAPS = 25  # of a kernel; larger ones would unroll too far
CHUNKS = 8  # pieces into which a parallel layer's rows are cut, at most
MOST_TILES = {16: 8, 8: 4}  # vectors of outputs in a tile, by lanes: what fits in registers
MOST_COLUMNS = 4  # of them beside each other
STRIP = 40960  # bytes that a strip reads and writes in the first-level cache
OUTPUT_COST = 64  # multiply-accumulates of a convolution that take as long as one output


@dataclass(frozen=True)
class Program(InterleavingProgram):
    """What the text of the function depends on.

    `passes`: summands of eight bits that weights are cut into; `mixed`: some blocks of channels need only one.
    """

    group = 4

    fill: int
    passes: int
    mixed: bool
    ending: X86Epilogue

    @property
    def level(self) -> Level:
        return self.ending.level

    @property
    def constants(self) -> Tensors:
        lanes, each = self.level.lanes, self.variants * self.blocks
        steps = self.rows * self.window.kernel[1] * self.groups * self.passes
        return {
            "variants": Tensor((self.window.tiles(self.rows),), "int32"),
            "weights": Tensor((each, steps * 4, 4 * lanes), f"int{self.level.bytes.bits}"),
            "bias": Tensor((each, self.rows * 4, lanes), "int32"),
            **({"whole": Tensor((self.blocks,), "int32")} if self.mixed else {}),
            **ZEROS,
            **self.ending.constants(self.blocks * 4),
        }

    def interleaved(self, s: Section) -> InterleavedRows:
        """How a section's interleaved rows lie in scratch."""
        _, _, w, c = self.window.input.shape
        taps = tuple(t * self.window.dilation[1] for t in range(self.window.kernel[1]))
        row = self.output.shape[2]
        columns = Columns(w, self.window.padding[1], self.window.strides[1], taps, row, row)
        found = InterleavedRows(self.level, columns, s.width, self.groups, c, self.window.input.dtype == "int8")
        pixel = s.width + (LINE if c % LINE and c > s.width else 0)  # bytes of the lines that it lies in, at most
        output = 4 * found.pixel_size + (self.taps * self.window.strides[1] + self.rows) * pixel
        return replace(found, columns=columns.in_strips(max(STRIP // output, 2 * s.side), s.side))

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        image = view(inputs[0], (self.window.input.size,), self.window.input.dtype)
        y = view(y, (self.output.size,), self.output.dtype)
        total = self.output.shape[0] * self.window.tiles(self.rows)
        parallel = total > 1 and pays(self.output.size * OUTPUT_COST)
        chunks = min(CHUNKS, total) if parallel else 1
        with T.parallel(chunks) if parallel else T.serial(1) as chunk:
            scratch = T.decl_buffer((max(self.interleaved(s).size for s in self.sections),), "int32")
            tile = _Tile(self, image, constants, scratch, y)
            begin, end = T.Bind(chunk * total // chunks), T.Bind((chunk + 1) * total // chunks)
            first = 0
            for s in self.sections:
                with T.serial(s.blocks) as b, T.serial(end - begin) as i:
                    tile.output_rows(s, begin + i, first + b, s.first + b * s.width)
                first += s.blocks


@dataclass(frozen=True)
class X86Depthwise:
    """DepthwiseConv2D contracts of depth multiplier 1 on one level of instructions."""

    level: Level

    @property
    def name(self) -> str:
        return f"depthwise__{self.level.name}"

    def plan(self, contract: DepthwiseConv2DContract, target: Any) -> Plan | Refusal:
        refused = self.level.lacks(target) or refusal(contract, ("int8", "uint8"), MOST_TAPS)
        if refused:
            return refused
        lanes, window = self.level.lanes, Window.of(contract)
        rows = window.shared_rows(Program.group)
        most = max(1, min(MOST_COLUMNS, MOST_TILES[lanes] // rows))
        found = sections(contract, 4 * lanes, functools.partial(_columns, most))
        refused = narrow_rows(contract, found)
        if refused:
            return refused
        rescaling = Rescaling.of(contract.rescale, layout.largest_sum_of_codes(contract), self.level, floats=True)
        passes = 1 if self.level.bytes.bits == 16 else len(layout.byte_parts(layout.centered_weights(contract)))
        program = Program(
            window, rows, len(window.variants(rows)), found, contract.x_zero_point, passes, False, rescaling.epilogue
        )
        program = replace(program, mixed=passes > 1 and bool(_whole(contract, program).any()))
        types, tile = f"{contract.x_dtype[0]}8s{self.level.bytes.bits}", f"{rows}x{found[0].side}x{found[0].width}"
        name = Name(types, f"depthwise{window.name}", self.level.name, contract.rescale.arithmetic, tile)
        return Plan(name, program, functools.partial(_pack, contract, program, rescaling))


def _whole(contract: DepthwiseConv2DContract, program: Program) -> Array:
    """Whether each block's weights are whole in eight bits."""
    weights = layout.centered_weights(contract)[0].reshape(-1, contract.out_c)
    fits = ((weights >= -128) & (weights <= 127)).all(axis=0)
    return np.asarray(fits[program.channels(np.arange(4 * program.level.lanes))].all(axis=1))


def _columns(most: int, vectors: int) -> int:
    """Vectors side by side in a tile: more share constants, but the last tile of a row computes some of them again."""
    return min(range(max(1, min(most, vectors)), 0, -1), key=lambda n: math.ceil(vectors / n) * (n + 0.5))


def _pack(contract: DepthwiseConv2DContract, program: Program, rescaling: Rescaling) -> Arrays:
    channels = program.channels(epilogue.channel_order(program.level.lanes, 4))
    variants = program.window.variants(program.rows)
    each = [_pack_variant(contract, program, rescaling, channels, inside) for inside in variants]
    weights, biases = (np.concatenate(arrays) for arrays in zip(*each, strict=True))
    return {
        "variants": program.variant_of_each_tile(),
        **({"whole": _whole(contract, program).astype(np.int32)} if program.mixed else {}),
        "weights": weights,
        "bias": biases,
        **rescaling.pack(channels.reshape(-1, program.level.lanes)),
    }


def _pack_variant(
    contract: DepthwiseConv2DContract, program: Program, rescaling: Rescaling, channels: Array,
    inside: tuple[bool, ...],
) -> tuple[Array, Array]:  # fmt: skip
    """Weights [blocks, steps * 4, elements] and biases [blocks, rows * 4, lanes] where those input rows are inside."""
    (kh, kw), stride = contract.kernel, contract.strides[0]
    weights = layout.centered_weights(contract)[0]
    parts = [weights] if program.passes == 1 else layout.byte_parts(weights)
    # [rows, kw, packs, passes, blocks, 4, lanes, 4]: row r of a tile reads input row r * stride + i with kernel row i.
    packed = np.zeros((program.rows, kw, program.groups, program.passes, *channels.shape, program.group), np.int64)
    outside = np.zeros((program.rows, contract.out_c), np.int64)  # sums of the weights that are missing
    for r, i in itertools.product(range(program.rows), range(kh)):
        row = r * stride + i
        if not inside[row]:
            outside[r] += weights[i].sum(axis=0)
            continue
        for n, each in enumerate(parts):
            packed[r, :, row // program.group, n, ..., row % program.group] = each[i][:, channels]
    zero_point = contract.x_zero_point + (128 if contract.x_dtype == "int8" else 0)
    bias = layout.folded_bias(contract, zero_point) + rescaling.start + zero_point * outside
    bias = wrap32(bias).astype(np.int32)
    blocks, declared = len(channels), program.constants
    return (
        program.level.bytes.arrange(np.moveaxis(packed, 4, 0)).reshape(blocks, *declared["weights"].shape[1:]),
        np.moveaxis(bias[:, channels], 0, 1).reshape(blocks, *declared["bias"].shape[1:]),
    )


@dataclass(frozen=True)
class _Tile:
    """The buffers of a function under construction."""

    program: Program
    image: Buffer
    constants: Buffers
    scratch: Buffer
    y: Buffer

    def output_rows(self, s: Section, index: Expr, block: Expr, channel: Expr) -> None:
        """A block of channels of `rows` whole output rows, the `index`-th of all images."""
        program, source = self.program, self.program.interleaved(s)
        _, out_h, out_w, c = program.output.shape
        n, group = index // program.window.tiles(program.rows), T.Bind(index % program.window.tiles(program.rows))
        row = T.Bind(T.min(group * program.rows, out_h - program.rows))
        shift = 128 if program.window.input.dtype == "int8" else 0
        variant = T.Bind(self.constants["variants"][group] * program.blocks)
        rows, columns, side = self._rows(n, row), source.columns, s.side
        with T.serial(columns.strips) as strip:
            start = T.Bind(T.min(strip * columns.outputs, columns.last))
            source.pack(self.scratch, self.image, rows, channel, start, program.fill + shift)
            with T.serial(math.ceil(columns.outputs / side)) as t:
                column = T.Bind(T.min(t * side, columns.outputs - side))
                target = T.Bind(((n * out_h + row) * out_w + start + column) * c + channel)
                at = T.Bind(block + moving_zero(self.constants, t))
                emit = functools.partial(self.tile, s, source, variant, at, column, target)
                if program.mixed:
                    with T.If(T.EQ(self.constants["whole"][block], 1)):
                        with T.Then():
                            emit(1)
                        with T.Else():
                            emit(program.passes)
                else:
                    emit(program.passes)

    def _rows(self, n: Expr, row: Expr) -> list[list[Expr]]:
        """Where the rows that a tile packs begin in the image.

        Rows outside the image, and those that fill up a group of four, have zero weights: any row will do.
        """
        program = self.program
        _, h, w, c = program.window.input.shape
        top = row * program.window.strides[0] - program.window.padding[0]
        inside = [T.max(T.min(top + i * program.window.dilation[0], h - 1), 0) for i in range(program.taps)]
        starts = [T.Bind((n * h + each) * (w * c)) for each in inside]
        return [[starts[min(4 * g + i, program.taps - 1)] for i in range(4)] for g in range(program.groups)]

    def tile(
        self, s: Section, source: InterleavedRows, variant: Expr, block: Expr, column: Expr, target: Expr, passes: int
    ) -> None:
        """`rows` times `columns` vectors of outputs, a quarter of each vector's bytes after the other."""
        program = self.program
        _, _, out_w, c = program.output.shape
        places = [(r, g) for r in range(program.rows) for g in range(s.columns)]
        rounded: dict[tuple[int, int], list[Expr]] = {place: [] for place in places}
        for v in range(4):
            sums = self._sums(s, source, T.Bind(variant + block), column, v, passes)
            for place in places:
                value = program.ending.rounded(sums[place], self.constants, block * 4 + v)
                rounded[place].append(value)
        for r, g in places:
            self._store(s, program.ending.packed(rounded[r, g]), target + (r * out_w + g * s.pixels) * c)

    def _sums(
        self, s: Section, source: InterleavedRows, at: Expr, column: Expr, v: int, passes: int
    ) -> dict[tuple[int, int], Expr]:
        """Accumulators of vector v of each row and group of pixels, by the first `passes` summands of weights."""
        program, level = self.program, self.program.level
        shape = itertools.product(range(program.rows), range(s.columns))
        sums = {(r, g): load(self.constants["bias"], at, r * 4 + v, 0, lanes=level.lanes) for r, g in shape}
        found: dict[tuple[int, int, int], tuple[Expr, ...]] = {}

        def operands(tap: int, pack: int, g: int) -> tuple[Expr, ...]:
            key = pack, tap % program.window.strides[1], g * s.pixels + tap // program.window.strides[1]
            if key not in found:
                found[key] = source.operands(self.scratch, tap, pack, column + g * s.pixels, v)
            return found[key]

        taps = enumerate(source.columns.taps)
        for (t, tap), pack, r, n in itertools.product(taps, range(program.groups), range(program.rows), range(passes)):
            first, last = r * program.window.strides[0], r * program.window.strides[0] + program.window.kernel[0] - 1
            if not first // 4 <= pack <= last // 4:
                continue
            step = (((r * program.window.kernel[1] + t) * program.groups + pack) * program.passes + n) * 4 + v
            w = level.bytes.weights(functools.partial(_elements, self.constants["weights"], at, step))
            for g in range(s.columns):
                sums[r, g] = T.Bind(level.bytes.add(sums[r, g], operands(tap, pack, g), w))
        return sums

    def _store(self, s: Section, codes: Expr, target: Expr) -> None:
        size, channels = 4 * self.program.level.lanes, self.program.output.shape[3]
        if s.pixels == 1 or channels == s.width:
            store(self.y, codes, target, lanes=size)
            return
        for i in range(s.pixels):
            store(self.y, part(codes, i * s.width, s.width), target + i * channels, lanes=s.width)


def _elements(weights: Buffer, at: Expr, step: int, offset: int, count: int) -> Expr:
    return load(weights, at, step, offset, lanes=count)
