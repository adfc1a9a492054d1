"""Depthwise convolution of 16-bit inputs by paired rows.

As for bytes (`tflite2q.kernels.x86.depthwise`), but two vertically adjacent input rows of a column are interleaved, and
one instruction does two taps of a kernel column.  A 3x3 kernel takes six per vector of outputs; two output rows share
their pairs (weights w0 w1, w2 0 and 0 w0, w1 w2), and neighbouring output columns theirs.

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
from tflite2q.kernels.loops import ZEROS, moving_zero, padded_image, region
from tflite2q.kernels.sums import Sums
from tflite2q.kernels.tir import Buffer, Expr, T, function, load, local, shuffle, store, view
from tflite2q.kernels.x86.depthwise import NARROWEST, Section, sections
from tflite2q.kernels.x86.isa import Isa
from tflite2q.kernels.x86.words import Words, channel_order, dot, interleave

VECTORS = 2  # of accumulators for one vector of inputs


@dataclass(frozen=True)
class Plan:
    """What the text of the function depends on.  `rows`: output rows of a tile."""

    inputs: Tensor
    output: Tensor
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    fill: int
    rows: int
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
    def size(self) -> int:
        """Inputs of a vector."""
        return VECTORS * self.words.isa.lanes

    @property
    def constants(self) -> tuple[Tensor, ...]:
        blocks = sum(s.blocks for s in self.sections)
        shape = (blocks, self.rows * self.kernel[1] * self.pairs * VECTORS, self.size)
        start = Tensor((blocks * VECTORS, self.words.isa.lanes), "int32")
        return (Tensor(shape, "int16"), start, ZEROS, *self.words.tensors(blocks * VECTORS))


@dataclass(frozen=True)
class X86Depthwise16:
    """DepthwiseConv2D contracts of int16 activations and depth multiplier 1 on one level of instructions."""

    isa: Isa

    @property
    def name(self) -> str:
        return f"depthwise16__{self.isa.name}"

    def refuses(self, contract: DepthwiseConv2D, target: Any) -> str | None:
        lacks = self.isa.lacks(target)
        if lacks:
            return lacks
        if {contract.x_dtype, contract.rescale.dtype} != {"int16"}:
            return f"{contract.x_dtype} to {contract.rescale.dtype}"
        if contract.depth_multiplier != 1:
            return f"depth multiplier {contract.depth_multiplier}"
        if contract.kernel[0] * contract.kernel[1] > 25:
            return f"a {contract.kernel[0]}x{contract.kernel[1]} kernel would unroll too far"
        if contract.out_c < NARROWEST:
            return f"{contract.out_c} channels are fewer than {NARROWEST}"
        if any(contract.out_w < s.pixels for s in sections(contract, VECTORS * self.isa.lanes, 1)):
            return f"rows of {contract.out_w} pixels of {contract.out_c} channels do not fill a vector"
        return "sums need 64 bits" if Sums.of(contract).wide else None

    def build(self, contract: DepthwiseConv2D, target: Any) -> Built:
        sums = Sums.of(contract)
        plan = _plan(contract, sums, self.isa)
        kernel = f"{plan.kernel[0]}x{plan.kernel[1]}s{plan.strides[0]}"
        tile = f"{plan.rows}x{plan.sections[0].columns * plan.sections[0].pixels}x{plan.sections[0].width}"
        name = f"s16s16_depthwise{kernel}_{contract.rescale.arithmetic}_{tile}__{self.isa.name}"
        return Built(name, (name, plan), _function(plan), contract.inputs, _pack(contract, sums, plan), contract.output)


def _plan(contract: DepthwiseConv2D, sums: Sums, isa: Isa) -> Plan:
    kh, kw = contract.kernel
    # As many output rows as share the pairs of one.
    rows = max(1, (2 * math.ceil(kh / 2) - kh) // contract.strides[0] + 1)
    rows = min(rows, contract.out_h) if contract.dilation[0] == 1 else 1
    columns = 1 if kw > 3 or isa.lanes == 8 else 2
    return Plan(
        contract.inputs[0], contract.output, (kh, kw), contract.strides, contract.dilation, contract.padding,
        contract.x_zero_point, rows, sections(contract, VECTORS * isa.lanes, columns), Words(sums.epilogue, isa),
    )  # fmt: skip


def _pack(contract: DepthwiseConv2D, sums: Sums, plan: Plan) -> tuple[Array, ...]:
    (kh, kw), isa = plan.kernel, plan.words.isa
    order = channel_order(isa, VECTORS)
    channels = np.stack([s.first + b * s.width + order % s.width for s in plan.sections for b in range(s.blocks)])
    # [rows, kw, pairs, blocks, vectors, lanes, 2]: row r of a tile reads input row r * stride + i with kernel row i.
    packed = np.zeros((plan.rows, kw, plan.pairs, *channels.shape, 2), np.int16)
    for r in range(plan.rows):
        for i in range(kh):
            pair, word = divmod(r * plan.strides[0] + i, 2)
            packed[r, :, pair, ..., word] = sums.weights[0, i][:, channels]
    weights = np.ascontiguousarray(np.moveaxis(packed, 3, 0).reshape(plan.constants[0].shape))
    flat = channels.reshape(-1, isa.lanes)
    return (weights, sums.start[flat], np.zeros(ZEROS.shape, np.int32), *plan.words.pack(contract, sums, flat))


@functools.cache
def _function(plan: Plan) -> Any:
    return function([plan.inputs], plan.constants, plan.output, functools.partial(_body, plan))


def _body(plan: Plan, x: Buffer, weights: Buffer, start: Buffer, zeros: Buffer, *rest: Buffer) -> None:
    *constants, y = rest
    n, out_h, _, _ = plan.output.shape
    image = padded_image(x, plan.inputs, plan.padding, plan.fill)
    tile = _Tile(plan, image, weights, start, zeros, tuple(constants), view(y, (plan.output.size,), plan.output.dtype))
    per_image = math.ceil(out_h / plan.rows)
    # An output costs about sixteen times a multiply-accumulate of a convolution.
    with region(n * per_image, plan.output.size * 128) as i:
        row = T.Bind(T.min(i % per_image * plan.rows, out_h - plan.rows))
        first = 0
        for s in plan.sections:
            with T.serial(s.blocks) as b:
                tile.line(s, i // per_image, row, first + b, s.first + b * s.width)
            first += s.blocks


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

    def line(self, s: Section, n: Expr, row: Expr, block: Expr, channel: Expr) -> None:
        """A block of channels of `rows` whole output rows."""
        plan = self.plan
        _, out_h, out_w, c = plan.output.shape
        _, h, w, _ = plan.inputs.shape
        h, w = h + plan.padding[0] + plan.padding[2], w + plan.padding[1] + plan.padding[3]
        side = s.columns * s.pixels
        with T.serial(math.ceil(out_w / side)) as t:
            column = T.Bind(T.min(t * side, out_w - side))
            source = ((n * h + row * plan.strides[0]) * w + column * plan.strides[1]) * c + channel
            target = ((n * out_h + row) * out_w + column) * c + channel
            moving = T.Bind(block + moving_zero(self.zeros, t))
            self.tile(s, moving, T.Bind(source), plan.dilation[0] * w * c, T.Bind(target))

    def tile(self, s: Section, block: Expr, source: Expr, pitch: int, target: Expr) -> None:
        plan, lanes = self.plan, self.plan.words.isa.lanes
        _, _, out_w, c = plan.output.shape
        columns: dict[int, list[list[Expr]]] = {}

        def column(at: int) -> list[list[Expr]]:
            if at not in columns:
                columns[at] = [self._pair(s, source + at * c, pitch, g) for g in range(plan.pairs)]
            return columns[at]

        for group in range(s.columns):
            base = group * s.pixels * plan.strides[1]
            for old in [key for key in columns if key < base]:
                del columns[old]
            rows = [local(VECTORS * lanes, "int32") for _ in range(plan.rows)]
            for accumulators in rows:
                for v in range(VECTORS):
                    first = load(self.start, block * VECTORS + v, 0, lanes=lanes)
                    store(accumulators, first, v * lanes, lanes=lanes)
            for t in range(plan.kernel[1]):
                self._multiply(block, t, column(base + t * plan.dilation[1]), rows)
            for r, codes in enumerate(self._rounded(block, rows)):
                self._store(s, codes, target + (r * out_w + group * s.pixels) * c)

    def _multiply(self, block: Expr, t: int, pairs: list[list[Expr]], rows: list[Buffer]) -> None:
        plan, isa = self.plan, self.plan.words.isa
        for r, accumulators in enumerate(rows):
            first, last = r * plan.strides[0], r * plan.strides[0] + plan.kernel[0] - 1
            for g in range(first // 2, last // 2 + 1):
                at = ((r * plan.kernel[1] + t) * plan.pairs + g) * VECTORS
                for v, pair in enumerate(pairs[g]):
                    w = T.Bind(load(self.weights, block, at + v, 0, lanes=plan.size))
                    value = dot(isa, load(accumulators, v * isa.lanes, lanes=isa.lanes), pair, w)
                    store(accumulators, value, v * isa.lanes, lanes=isa.lanes)

    def _pair(self, s: Section, address: Expr, pitch: int, g: int) -> list[Expr]:
        """One column's input rows 2 g and 2 g + 1, as operands of the multiplication."""
        # A row beyond the last has zero weights; reading the last again stays inside the image.
        rows = [self._inputs(s, address + min(i, self.plan.taps - 1) * pitch) for i in (2 * g, 2 * g + 1)]
        return interleave(self.plan.words.isa, rows[0], rows[1])

    def _inputs(self, s: Section, address: Expr) -> Expr:
        """A vector of one row's inputs: `pixels` pieces of `width` channels."""
        plan = self.plan
        step = plan.strides[1] * plan.output.shape[3]
        if step == s.width or s.pixels == 1:
            return T.Bind(load(self.image, address, lanes=plan.size))
        pieces = [load(self.image, address + i * step, lanes=s.width) for i in range(s.pixels)]
        return T.Bind(shuffle(pieces, range(plan.size)))

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
