"""Depthwise convolution by packed columns.

Four vertically adjacent input rows of one column are interleaved so that each 32-bit lane holds one channel's four
bytes; one dot product then does four taps of a kernel column.  All columns of a line are packed first, each once, into
scratch that stays in the first-level cache (`tflite2q.kernels.x86.packed`); then every output reads those of its taps.
Two output rows at stride 1 with three-row kernels share them (weights w0 w1 w2 0 and 0 w0 w1 w2).

Nothing copies the image to pad it.  Columns beyond it are vectors of the zero point in the line; rows beyond it have
zero weights, and a bias without their zero point: constants for every way in which a tile's rows may lie.

Per vector of outputs a 3x3 kernel takes three dot products, one or two unpacks and one or two stores and loads of what
is packed; the epilogue takes more than each.  The two execution ports of 512-bit arithmetic limit it.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.arithmetic.rounding import wrap32
from tflite2q.kernels import layout
from tflite2q.kernels.base import Array, Built, DepthwiseConv2D, Tensor
from tflite2q.kernels.depthwise import refusal
from tflite2q.kernels.line import Line, floating, prove
from tflite2q.kernels.loops import PARALLEL_MACS, ZEROS, moving_zero
from tflite2q.kernels.tir import Buffer, Expr, T, function, load, part, store, view
from tflite2q.kernels.x86 import finish
from tflite2q.kernels.x86.finish import Finish
from tflite2q.kernels.x86.isa import Isa
from tflite2q.kernels.x86.packed import Columns, Lines

NARROWEST = 8  # channels
MOST_TAPS = 25  # of a kernel; larger ones would unroll too far


CHUNKS = 8  # pieces into which a parallel layer's rows are cut, at most
MOST_TILES = {16: 8, 8: 4}  # vectors of outputs in a tile, by lanes: what fits in registers
MOST_COLUMNS = 4  # of them beside each other
OUTPUT_COST = 64  # multiply-accumulates of a convolution that take as long as one output


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


@dataclass(frozen=True)
class Plan:
    """What the text of the function depends on.

    `rows`: output rows of a tile; `variants`: ways in which input rows of tiles lie inside the image; `passes`:
    summands of eight bits that weights are cut into.
    """

    inputs: Tensor
    output: Tensor
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    fill: int
    rows: int
    variants: int
    passes: int
    sections: tuple[Section, ...]
    finish: Finish

    @property
    def packs(self) -> int:
        """Interleaved groups of four rows that a tile reads."""
        return math.ceil(self.taps / 4)

    @property
    def taps(self) -> int:
        """Input rows that a tile reads."""
        return self.kernel[0] + (self.rows - 1) * self.strides[0]

    @property
    def groups(self) -> int:
        """Tiles that lie below each other in an image."""
        return math.ceil(self.output.shape[1] / self.rows)

    @property
    def blocks(self) -> int:
        return sum(s.blocks for s in self.sections)

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """Variant of each group, weights, biases, zeros, and what the epilogue needs."""
        isa, each = self.finish.isa, self.variants * self.blocks
        steps = self.rows * self.kernel[1] * self.packs * self.passes
        return (
            Tensor((self.groups,), "int32"),
            Tensor((each, steps * 4, 4 * isa.lanes), isa.weight_dtype),
            Tensor((each, self.rows * 4, isa.lanes), "int32"),
            ZEROS,
            *self.finish.tensors(self.blocks * 4),
        )

    def lines(self, s: Section) -> Lines:
        """How a section's packed columns lie in scratch."""
        _, _, w, c = self.inputs.shape
        taps = tuple(t * self.dilation[1] for t in range(self.kernel[1]))
        columns = Columns(w, self.padding[1], self.strides[1], taps, self.output.shape[2])
        return Lines(self.finish.isa, columns, s.width, self.packs, c, self.inputs.dtype == "int8")


@dataclass(frozen=True)
class X86Depthwise:
    """DepthwiseConv2D contracts of depth multiplier 1 on one level of instructions."""

    isa: Isa

    @property
    def name(self) -> str:
        return f"depthwise__{self.isa.name}"

    def refuses(self, contract: DepthwiseConv2D, target: Any) -> str | None:
        why = self.isa.lacks(target) or refusal(contract, ("int8", "uint8"), NARROWEST, MOST_TAPS)
        if why:
            return why
        if any(contract.out_w < s.pixels for s in sections(contract, 4 * self.isa.lanes, 1)):
            return f"rows of {contract.out_w} pixels of {contract.out_c} channels do not fill a vector"
        return None

    def build(self, contract: DepthwiseConv2D, target: Any) -> Built:
        bound = layout.accumulator_bound(contract)
        proven = prove(contract.rescale, bound)
        proven = (proven and floating(proven, contract.rescale, bound)) or proven
        plan = _plan(contract, self.isa, proven)
        types = f"{contract.x_dtype[0]}8s{8 if self.isa.dot_intrinsic else 16}"
        kernel = f"{plan.kernel[0]}x{plan.kernel[1]}s{plan.strides[0]}"
        tile = f"{plan.rows}x{plan.sections[0].columns * plan.sections[0].pixels}x{plan.sections[0].width}"
        name = f"{types}_depthwise{kernel}_{contract.rescale.arithmetic}_{tile}__{self.isa.name}"
        return Built(
            name, (name, plan), _function(plan), contract.inputs, _pack(contract, plan, proven), contract.output
        )


def _plan(contract: DepthwiseConv2D, isa: Isa, proven: Line | None) -> Plan:
    kh, kw = contract.kernel
    # As many output rows as share one group of four input rows, or two groups of a taller kernel.
    rows = max(1, (4 * math.ceil(kh / 4) - kh) // contract.strides[0] + 1)
    rows = min(rows, contract.out_h) if contract.dilation[0] == 1 else 1
    weights = layout.centered_weights(contract)
    passes = 1 if isa.dot_intrinsic is None else len(layout.byte_parts(weights))
    return Plan(
        contract.inputs[0], contract.output, (kh, kw), contract.strides, contract.dilation, contract.padding,
        contract.x_zero_point, rows, len(_insides(contract, rows)),
        passes, sections(contract, 4 * isa.lanes, max(1, min(MOST_COLUMNS, MOST_TILES[isa.lanes] // rows))),
        Finish.of(contract.rescale, layout.accumulator_bound(contract), isa, proven),
    )  # fmt: skip


def sections(contract: DepthwiseConv2D, full: int, columns: int) -> tuple[Section, ...]:
    """Vectors of `full` channels, then halves, quarters, ... of what is left; the last may overlap its neighbour."""
    found: list[Section] = []
    channels = contract.out_c
    first, width = 0, full
    while first < channels:
        left = channels - first
        if width > NARROWEST and left < width:
            width //= 2
            continue
        blocks = max(left // width, 1)
        pixels = full // width
        side = _side(contract.out_w // pixels, columns)
        found.append(Section(min(first, channels - width), width, blocks, pixels, side))
        first += blocks * width
    return tuple(found)


def _side(vectors: int, most: int) -> int:
    """Vectors side by side in a tile: more share constants, but the last tile of a row computes some of them again."""
    return min(range(max(1, min(most, vectors)), 0, -1), key=lambda n: math.ceil(vectors / n) * (n + 0.5))


def _rows_inside(contract: DepthwiseConv2D, rows: int) -> list[tuple[bool, ...]]:
    """For each tile down the image, which of the input rows that it reads are inside."""
    reach = range(contract.kernel[0] + (rows - 1) * contract.strides[0])
    starts = [min(g * rows, contract.out_h - rows) for g in range(math.ceil(contract.out_h / rows))]
    tops = [start * contract.strides[0] - contract.padding[0] for start in starts]
    return [tuple(0 <= top + i * contract.dilation[0] < contract.in_h for i in reach) for top in tops]


def _insides(contract: DepthwiseConv2D, rows: int) -> tuple[tuple[bool, ...], ...]:
    """The different ones of `_rows_inside`."""
    return tuple(dict.fromkeys(_rows_inside(contract, rows)))


def _channels(plan: Plan) -> Array:
    """[blocks, 4, lanes]: channel of each lane."""
    lanes = plan.finish.isa.lanes
    order = finish.channel_order(lanes, 4)
    found = [s.first + b * s.width + order % s.width for s in plan.sections for b in range(s.blocks)]
    return np.stack(found)


def _pack(contract: DepthwiseConv2D, plan: Plan, proven: Line | None) -> tuple[Array, ...]:
    channels = _channels(plan)
    insides = _insides(contract, plan.rows)
    numbers = [insides.index(inside) for inside in _rows_inside(contract, plan.rows)]
    each = [_pack_variant(contract, plan, proven, channels, inside) for inside in insides]
    weights, biases = (np.concatenate(arrays) for arrays in zip(*each, strict=True))
    return (
        np.array(numbers, np.int32),
        weights,
        biases,
        np.zeros(ZEROS.shape, np.int32),
        *plan.finish.pack(contract.rescale, proven, channels.reshape(-1, plan.finish.isa.lanes)),
    )


def _pack_variant(
    contract: DepthwiseConv2D, plan: Plan, proven: Line | None, channels: Array, inside: tuple[bool, ...]
) -> tuple[Array, Array]:
    """Weights [blocks, steps * 4, elements] and biases [blocks, rows * 4, lanes] where those input rows are inside."""
    (kh, kw), isa = plan.kernel, plan.finish.isa
    weights = layout.centered_weights(contract)[0]
    parts = [weights] if plan.passes == 1 else layout.byte_parts(weights)
    # [rows, kw, packs, passes, blocks, 4, lanes, 4]: row r of a tile reads input row r * stride + i with kernel row i.
    packed = np.zeros((plan.rows, kw, plan.packs, plan.passes, *channels.shape, 4), np.int64)
    outside = np.zeros((plan.rows, contract.out_c), np.int64)  # sums of the weights that are missing
    for r in range(plan.rows):
        for i in range(kh):
            row = r * plan.strides[0] + i
            if not inside[row]:
                outside[r] += weights[i].sum(axis=0)
                continue
            for n, each in enumerate(parts):
                packed[r, :, row // 4, n, ..., row % 4] = each[i][:, channels]
    zero_point = contract.x_zero_point + (128 if contract.x_dtype == "int8" else 0)
    start = 0 if proven is None or proven.start is None else proven.start.astype(np.int64)
    bias = wrap32(layout.folded_bias(contract, zero_point) + start + zero_point * outside).astype(np.int32)
    blocks = len(channels)
    return (
        isa.arrange(np.moveaxis(packed, 4, 0)).reshape(blocks, *plan.constants[1].shape[1:]),
        np.moveaxis(bias[:, channels], 0, 1).reshape(blocks, *plan.constants[2].shape[1:]),
    )


@functools.cache
def _function(plan: Plan) -> Any:
    return function([plan.inputs], plan.constants, plan.output, functools.partial(_body, plan))


def _body(plan: Plan, x: Buffer, variants: Buffer, weights: Buffer, bias: Buffer, zeros: Buffer, *rest: Buffer) -> None:
    *constants, y = rest
    flat = [view(buffer, (t.size,), t.dtype) for buffer, t in ((x, plan.inputs), (y, plan.output))]
    total = plan.output.shape[0] * plan.groups
    parallel = plan.output.size * OUTPUT_COST >= PARALLEL_MACS and total > 1
    chunks = min(CHUNKS, total) if parallel else 1
    with T.parallel(chunks) if parallel else T.serial(1) as chunk:
        scratch = T.decl_buffer((max(plan.lines(s).size for s in plan.sections),), "int32")
        tile = _Tile(plan, flat[0], variants, weights, bias, zeros, tuple(constants), scratch, flat[1])
        begin, end = T.Bind(chunk * total // chunks), T.Bind((chunk + 1) * total // chunks)
        first = 0
        for s in plan.sections:
            with T.serial(s.blocks) as b, T.serial(end - begin) as i:
                tile.line(s, begin + i, first + b, s.first + b * s.width)
            first += s.blocks


@dataclass(frozen=True)
class _Tile:
    """The buffers of a function under construction."""

    plan: Plan
    image: Buffer
    variants: Buffer
    weights: Buffer
    bias: Buffer
    zeros: Buffer
    constants: tuple[Buffer, ...]
    scratch: Buffer
    y: Buffer

    def line(self, s: Section, index: Expr, block: Expr, channel: Expr) -> None:
        """A block of channels of `rows` whole output rows, the `index`-th of all images."""
        plan, lines = self.plan, self.plan.lines(s)
        _, out_h, out_w, c = plan.output.shape
        n, group = index // plan.groups, T.Bind(index % plan.groups)
        row = T.Bind(T.min(group * plan.rows, out_h - plan.rows))
        shift = 128 if plan.inputs.dtype == "int8" else 0
        lines.fill(self.scratch, plan.fill + shift, before=True)
        lines.pack(self.scratch, self.image, self._rows(n, row), channel)
        lines.fill(self.scratch, plan.fill + shift, before=False)
        variant = T.Bind(self.variants[group] * plan.blocks)
        side = s.columns * s.pixels
        with T.serial(math.ceil(out_w / side)) as t:
            column = T.Bind(T.min(t * side, out_w - side))
            target = T.Bind(((n * out_h + row) * out_w + column) * c + channel)
            self.tile(s, lines, variant, T.Bind(block + moving_zero(self.zeros, t)), column, target)

    def _rows(self, n: Expr, row: Expr) -> list[list[Expr]]:
        """Where the rows that a tile packs begin in the image.

        Rows outside the image, and those that fill up a group of four, have zero weights: any row will do.
        """
        plan = self.plan
        _, h, w, c = plan.inputs.shape
        top = row * plan.strides[0] - plan.padding[0]
        inside = [T.max(T.min(top + i * plan.dilation[0], h - 1), 0) for i in range(plan.taps)]
        starts = [T.Bind((n * h + each) * (w * c)) for each in inside]
        return [[starts[min(4 * g + i, plan.taps - 1)] for i in range(4)] for g in range(plan.packs)]

    def tile(self, s: Section, lines: Lines, variant: Expr, block: Expr, column: Expr, target: Expr) -> None:
        """`rows` times `columns` vectors of outputs, a quarter of each vector's bytes after the other."""
        plan = self.plan
        _, _, out_w, c = plan.output.shape
        places = [(r, g) for r in range(plan.rows) for g in range(s.columns)]
        rounded: dict[tuple[int, int], list[Expr]] = {place: [] for place in places}
        for v in range(4):
            sums = self._sums(s, lines, T.Bind(variant + block), column, v)
            for place in places:
                value = plan.finish.rounded(sums[place], self.constants, block * 4 + v)
                rounded[place].append(T.Bind(value))
        for r, g in places:
            self._store(s, plan.finish.packed(rounded[r, g]), target + (r * out_w + g * s.pixels) * c)

    def _sums(self, s: Section, lines: Lines, at: Expr, column: Expr, v: int) -> dict[tuple[int, int], Expr]:
        """Accumulators of vector v of each row and group of pixels."""
        plan, isa = self.plan, self.plan.finish.isa
        shape = itertools.product(range(plan.rows), range(s.columns))
        sums = {(r, g): load(self.bias, at, r * 4 + v, 0, lanes=isa.lanes) for r, g in shape}
        found: dict[tuple[int, int, int], tuple[Expr, ...]] = {}

        def operands(tap: int, pack: int, g: int) -> tuple[Expr, ...]:
            key = pack, tap % plan.strides[1], g * s.pixels + tap // plan.strides[1]
            if key not in found:
                found[key] = lines.operands(self.scratch, tap, pack, column + g * s.pixels, v)
            return found[key]

        taps = enumerate(lines.columns.taps)
        for (t, tap), pack, r, n in itertools.product(taps, range(plan.packs), range(plan.rows), range(plan.passes)):
            first, last = r * plan.strides[0], r * plan.strides[0] + plan.kernel[0] - 1
            if not first // 4 <= pack <= last // 4:
                continue
            step = (((r * plan.kernel[1] + t) * plan.packs + pack) * plan.passes + n) * 4 + v
            w = isa.load_weights(functools.partial(_elements, self.weights, at, step))
            for g in range(s.columns):
                sums[r, g] = T.Bind(isa.dot(sums[r, g], operands(tap, pack, g), w))
        return sums

    def _store(self, s: Section, codes: Expr, target: Expr) -> None:
        size, channels = 4 * self.plan.finish.isa.lanes, self.plan.output.shape[3]
        if s.pixels == 1 or channels == s.width:
            store(self.y, codes, target, lanes=size)
            return
        for i in range(s.pixels):
            store(self.y, part(codes, i * s.width, s.width), target + i * channels, lanes=s.width)


def _elements(weights: Buffer, at: Expr, step: int, offset: int, count: int) -> Expr:
    return load(weights, at, step, offset, lanes=count)
