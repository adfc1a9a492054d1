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
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels.base import Array, Built, DepthwiseConv2D, Tensor
from tflite2q.kernels.depthwise import refusal
from tflite2q.kernels.loops import ZEROS, moving_zero, region
from tflite2q.kernels.sums import Sums
from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, function, load, local, shuffle, store, view
from tflite2q.kernels.x86.depthwise import MOST_TAPS, NARROWEST
from tflite2q.kernels.x86.isa import Isa
from tflite2q.kernels.x86.words import Words, channel_order, interleave

VECTORS = 2  # of accumulators for one vector of inputs
MOST_EDGES = 8  # tiles of a row that may reach beyond the image


@dataclass(frozen=True)
class Section:
    """`blocks` blocks of `width` channels from `first` on; `pixels` neighbours fill a vector of inputs.

    `columns`: how many such groups of pixels one tile computes side by side.
    """

    first: int
    width: int
    blocks: int
    pixels: int
    columns: int

    @property
    def side(self) -> int:
        """Output pixels of a tile in a row."""
        return self.columns * self.pixels


@dataclass(frozen=True)
class Plan:
    """What the text of the function depends on.

    `rows`: output rows of a tile; `variants`: ways in which the input rows of tiles lie inside the image.
    """

    inputs: Tensor
    output: Tensor
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    rows: int
    variants: int
    sections: tuple[Section, ...]
    words: Words

    @property
    def taps(self) -> int:
        """Input rows that a tile reads."""
        return self.kernel[0] + (self.rows - 1) * self.strides[0]

    @property
    def pairs(self) -> int:
        """Interleaved pairs of rows that a tile reads."""
        return math.ceil(self.taps / 2)

    @property
    def groups(self) -> int:
        """Tiles that lie below each other in an image."""
        return math.ceil(self.output.shape[1] / self.rows)

    @property
    def blocks(self) -> int:
        return sum(s.blocks for s in self.sections)

    @property
    def size(self) -> int:
        """Inputs of a vector."""
        return VECTORS * self.words.isa.lanes

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """Variant of each group of rows, weights, first values, zeros, and what the epilogue needs."""
        shape = (self.variants * self.blocks, self.rows * self.kernel[1] * self.pairs * VECTORS, self.size)
        count = self.blocks * VECTORS
        start = Tensor((count, self.words.isa.lanes), "int32")
        return (Tensor((self.groups,), "int32"), Tensor(shape, "int16"), start, ZEROS, *self.words.tensors(count))

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
        first = column * self.strides[1] - self.padding[1]
        last = first + (s.side - 1) * self.strides[1] + (self.kernel[1] - 1) * self.dilation[1]
        return first >= 0 and last < self.inputs.shape[2]


@dataclass(frozen=True)
class X86Depthwise16:
    """DepthwiseConv2D contracts of int16 activations and depth multiplier 1 on one level of instructions."""

    isa: Isa

    @property
    def name(self) -> str:
        return f"depthwise16__{self.isa.name}"

    def refuses(self, contract: DepthwiseConv2D, target: Any) -> str | None:
        why = self.isa.lacks(target) or refusal(contract, ("int16",), NARROWEST, MOST_TAPS)
        if why:
            return why
        if contract.x_zero_point:
            return f"input zero point {contract.x_zero_point}"
        if any(contract.out_w < s.pixels for s in _sections(contract, self.isa)):
            return f"rows of {contract.out_w} pixels of {contract.out_c} channels do not fill a vector"
        sums = Sums.of(contract)
        plan = _plan(contract, sums, self.isa)
        if max(sum(plan.edges(s)) for s in plan.sections) > MOST_EDGES:
            return f"padding of {contract.padding} would unroll too far"
        return "sums need 64 bits" if sums.wide else None

    def build(self, contract: DepthwiseConv2D, target: Any) -> Built:
        sums = Sums.of(contract)
        plan = _plan(contract, sums, self.isa)
        kernel = f"{plan.kernel[0]}x{plan.kernel[1]}s{plan.strides[0]}"
        tile = f"{plan.rows}x{plan.sections[0].side}x{plan.sections[0].width}"
        name = f"s16s16_depthwise{kernel}_{contract.rescale.arithmetic}_{tile}__{self.isa.name}"
        return Built(name, (name, plan), _function(plan), contract.inputs, _pack(contract, sums, plan), contract.output)


def _plan(contract: DepthwiseConv2D, sums: Sums, isa: Isa) -> Plan:
    kh, kw = contract.kernel
    # As many output rows as share the pairs of one.
    rows = max(1, (2 * math.ceil(kh / 2) - kh) // contract.strides[0] + 1)
    rows = min(rows, contract.out_h) if contract.dilation[0] == 1 else 1
    return Plan(
        contract.inputs[0], contract.output, (kh, kw), contract.strides, contract.dilation, contract.padding, rows,
        len(set(_rows_inside(contract, rows))), _sections(contract, isa), Words(sums.epilogue, isa, sums.proven),
    )  # fmt: skip


def _sections(contract: DepthwiseConv2D, isa: Isa) -> tuple[Section, ...]:
    """Full vectors of channels, then halves, quarters, ... of what is left; the last may overlap its neighbour."""
    sections: list[Section] = []
    columns = 1 if contract.kernel[1] > 3 or isa.lanes == 8 else 2
    full = VECTORS * isa.lanes
    first, width = 0, full
    while first < contract.out_c:
        left = contract.out_c - first
        if width > NARROWEST and left < width:
            width //= 2
            continue
        blocks, pixels = max(left // width, 1), full // width
        side = max(1, min(columns, contract.out_w // pixels))
        sections.append(Section(min(first, contract.out_c - width), width, blocks, pixels, side))
        first += blocks * width
    return tuple(sections)


def _rows_inside(contract: DepthwiseConv2D, rows: int) -> list[tuple[bool, ...]]:
    """For each tile down the image, which of the input rows that it reads are inside."""
    reach = range(contract.kernel[0] + (rows - 1) * contract.strides[0])
    starts = [min(g * rows, contract.out_h - rows) for g in range(math.ceil(contract.out_h / rows))]
    tops = [start * contract.strides[0] - contract.padding[0] for start in starts]
    return [tuple(0 <= top + i * contract.dilation[0] < contract.in_h for i in reach) for top in tops]


def _pack(contract: DepthwiseConv2D, sums: Sums, plan: Plan) -> tuple[Array, ...]:
    (kh, kw), isa = plan.kernel, plan.words.isa
    order = channel_order(isa, VECTORS)
    channels = np.stack([s.first + b * s.width + order % s.width for s in plan.sections for b in range(s.blocks)])
    lies = _rows_inside(contract, plan.rows)
    variants = list(dict.fromkeys(lies))
    # [variants, rows, kw, pairs, blocks, vectors, lanes, 2]: row r of a tile reads input row r * stride + i with kernel
    # row i, unless that is outside the image.
    packed = np.zeros((len(variants), plan.rows, kw, plan.pairs, *channels.shape, 2), np.int16)
    for n, inside in enumerate(variants):
        for r in range(plan.rows):
            for i in range(kh):
                pair, word = divmod(r * plan.strides[0] + i, 2)
                if inside[r * plan.strides[0] + i]:
                    packed[n, r, :, pair, ..., word] = sums.weights[0, i][:, channels]
    weights = np.ascontiguousarray(np.moveaxis(packed, 4, 1).reshape(plan.constants[1].shape))
    flat = channels.reshape(-1, isa.lanes)
    numbers = np.array([variants.index(inside) for inside in lies], np.int32)
    zeros = np.zeros(ZEROS.shape, np.int32)
    return (numbers, weights, sums.start[flat], zeros, *plan.words.pack(contract, sums, flat))


@functools.cache
def _function(plan: Plan) -> Any:
    return function([plan.inputs], plan.constants, plan.output, functools.partial(_body, plan))


def _body(
    plan: Plan, x: Buffer, variants: Buffer, weights: Buffer, start: Buffer, zeros: Buffer, *rest: Buffer
) -> None:
    *constants, y = rest
    n, out_h, _, _ = plan.output.shape
    image = view(x, (plan.inputs.size,), plan.inputs.dtype)
    tile = _Tile(plan, image, weights, start, zeros, tuple(constants), view(y, (plan.output.size,), plan.output.dtype))
    # An output costs about sixteen times a multiply-accumulate of a convolution.
    with region(n * plan.groups, plan.output.size * 128) as i:
        group = T.Bind(i % plan.groups)
        row = T.Bind(T.min(group * plan.rows, out_h - plan.rows))
        variant = T.Bind(variants[group] * plan.blocks)
        first = 0
        for s in plan.sections:
            with T.serial(s.blocks) as b:
                tile.line(s, i // plan.groups, row, variant, first + b, s.first + b * s.width)
            first += s.blocks


@dataclass(frozen=True)
class _Line:
    """What a line of tiles has in common: offsets in the image of the input rows (of column 0 and the first channel),
    of the result, and indices of constants, with the variant's weights."""

    sources: list[Expr]
    target: Expr
    block: Expr
    variant: Expr


@dataclass(frozen=True)
class _Tile:
    """The buffers of a function under construction."""

    plan: Plan
    image: Buffer
    weights: Buffer
    start: Buffer
    zeros: Buffer
    constants: tuple[Buffer, ...]
    y: Buffer

    def line(self, s: Section, n: Expr, row: Expr, variant: Expr, block: Expr, channel: Expr) -> None:
        """A block of channels of `rows` whole output rows."""
        plan = self.plan
        _, out_h, out_w, c = plan.output.shape
        _, h, w, _ = plan.inputs.shape
        top = row * plan.strides[0] - plan.padding[0]
        # Rows outside the image have zero weights; what is read there is the nearest row.
        inputs = [T.min(T.max(top + i * plan.dilation[0], 0), h - 1) for i in range(plan.taps)]
        sources = [T.Bind((n * h + i) * (w * c) + channel) for i in inputs]
        line = _Line(sources, T.Bind((n * out_h + row) * (out_w * c) + channel), block, variant)
        count = math.ceil(out_w / s.side)
        before, after = plan.edges(s)
        for t in range(before):
            self.tile(s, line, plan.column(s, t), t)
        if count > before + after:
            with T.serial(count - before - after) as t:
                column = T.Bind(T.min((before + t) * s.side, out_w - s.side))
                self.tile(s, line, column, t)
        for t in range(count - after, count):
            self.tile(s, line, plan.column(s, t), t)

    def tile(self, s: Section, line: _Line, column: Expr, t: Expr) -> None:
        """Output columns from `column` on, a number where input columns may lie outside the image; `t` counts tiles."""
        plan, lanes = self.plan, self.plan.words.isa.lanes
        _, _, out_w, c = plan.output.shape
        first = column * plan.strides[1] - plan.padding[1]
        columns: dict[int, list[list[Expr]]] = {}

        def pairs(at: int) -> list[list[Expr]]:
            if at not in columns:
                columns[at] = [self._pair(s, line.sources, first + at, g) for g in range(plan.pairs)]
            return columns[at]

        for group in range(s.columns):
            base = group * s.pixels * plan.strides[1]
            for old in [key for key in columns if key < base]:
                del columns[old]
            # Each group of pixels reads constants anew, or LLVM would keep them for the next, on the stack.
            zero = moving_zero(self.zeros, t + group)
            block, variant = T.Bind(line.block + zero), T.Bind(line.variant + line.block + zero)
            rows = [local(VECTORS * lanes, "int32") for _ in range(plan.rows)]
            for accumulators in rows:
                for v in range(VECTORS):
                    value = load(self.start, block * VECTORS + v, 0, lanes=lanes)
                    store(accumulators, value, v * lanes, lanes=lanes)
            for t in range(plan.kernel[1]):
                self._multiply(variant, t, pairs(base + t * plan.dilation[1]), rows)
            for r, codes in enumerate(self._rounded(block, rows)):
                self._store(s, codes, line.target + (r * out_w + column + group * s.pixels) * c)

    def _multiply(self, block: Expr, t: int, pairs: list[list[Expr]], rows: list[Buffer]) -> None:
        plan, isa = self.plan, self.plan.words.isa
        for r, accumulators in enumerate(rows):
            first, last = r * plan.strides[0], r * plan.strides[0] + plan.kernel[0] - 1
            for g in range(first // 2, last // 2 + 1):
                at = ((r * plan.kernel[1] + t) * plan.pairs + g) * VECTORS
                for v, pair in enumerate(pairs[g]):
                    w = T.Bind(load(self.weights, block, at + v, 0, lanes=plan.size))
                    value = plan.words.add(load(accumulators, v * isa.lanes, lanes=isa.lanes), pair, w)
                    store(accumulators, value, v * isa.lanes, lanes=isa.lanes)

    def _pair(self, s: Section, sources: list[Expr], column: Expr, g: int) -> list[Expr]:
        """One column's input rows 2 g and 2 g + 1, as operands of the multiplication."""
        # A row beyond the last has zero weights; the last is read again.
        rows = [self._inputs(s, sources[min(i, self.plan.taps - 1)], column) for i in (2 * g, 2 * g + 1)]
        return interleave(self.plan.words.isa, rows[0], rows[1])

    def _inputs(self, s: Section, source: Expr, column: Expr) -> Expr:
        """A vector of one row's inputs: `pixels` pieces of `width` channels, zero outside the image."""
        plan = self.plan
        _, _, w, c = plan.inputs.shape
        places = [column + i * plan.strides[1] for i in range(s.pixels)]
        inside = [not isinstance(place, int) or 0 <= place < w for place in places]
        if all(inside) and (plan.strides[1] * c == s.width or s.pixels == 1):
            return T.Bind(load(self.image, source + column * c, lanes=plan.size))
        nothing = broadcast(T.int16(0), s.width)
        pieces = [
            T.Bind(load(self.image, source + place * c, lanes=s.width)) if there else nothing
            for place, there in zip(places, inside, strict=True)
        ]
        return T.Bind(shuffle(pieces, range(plan.size)) if len(pieces) > 1 else pieces[0])

    def _rounded(self, block: Expr, rows: list[Buffer]) -> list[list[Expr]]:
        """Codes of each row.  Vector by vector, so that one's constants serve all rows from registers."""
        words, lanes = self.plan.words, self.plan.words.isa.lanes
        rounded: list[list[Expr]] = [[] for _ in rows]
        for v in range(VECTORS):
            for values, accumulators in zip(rounded, rows, strict=True):
                value = load(accumulators, v * lanes, lanes=lanes)
                values.append(words.rounded(value, self.constants, block * VECTORS + v))
        return rounded

    def _store(self, s: Section, rounded: list[Expr], target: Expr) -> None:
        plan, channels = self.plan, self.plan.output.shape[3]
        if s.pixels == 1 or channels == s.width:
            plan.words.stored(rounded, plan.size, self.y, target)
            return
        codes = plan.words.codes(rounded, whole=False)
        for i in range(s.pixels):
            piece = shuffle([codes], range(i * s.width, (i + 1) * s.width))
            store(self.y, piece, target + i * channels, lanes=s.width)
