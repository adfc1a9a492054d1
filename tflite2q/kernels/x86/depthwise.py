"""Depthwise convolution by packed columns.

Four vertically adjacent input rows of one column are interleaved so that each 32-bit lane holds one channel's four
bytes; one dot product then does four taps of a kernel column.  A packed column serves every output that reads it: two
output rows at stride 1 with three-row kernels (weights w0 w1 w2 0 and 0 w0 w1 w2), and neighbouring output columns.
Interleaving takes unpack instructions on 4 * lanes channels; where fewer channels are left, pixels that lie beside each
other fill the vector (`Section.pixels`).

Per vector of outputs a 3x3 kernel takes three dot products and one or two unpacks; the epilogue takes more than both.
The unpacks (one execution port) and the epilogue limit it, and the first-level cache for wide images.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.base import Array, Built, DepthwiseConv2D, Tensor
from tflite2q.kernels.line import Line, prove
from tflite2q.kernels.loops import ZEROS, moving_zero, padded_image, region
from tflite2q.kernels.tir import Buffer, Expr, T, function, load, local, shuffle, store, vector, view
from tflite2q.kernels.x86 import finish
from tflite2q.kernels.x86.finish import Finish
from tflite2q.kernels.x86.isa import Isa

NARROWEST = 8  # channels


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
    """What the text of the function depends on.  `rows`: output rows of a tile; `passes`: 2 for 9-bit weights."""

    inputs: Tensor
    output: Tensor
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    fill: int
    rows: int
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
    def macs(self) -> int:
        return self.output.size * self.kernel[0] * self.kernel[1]

    @property
    def constants(self) -> tuple[Tensor, ...]:
        isa, blocks = self.finish.isa, sum(s.blocks for s in self.sections)
        shape = (blocks, self.rows * self.kernel[1] * self.packs * self.passes * 4, 4 * isa.lanes)
        return (
            Tensor(shape, isa.weight_dtype),
            Tensor((blocks * 4, isa.lanes), "int32"),
            ZEROS,
            *self.finish.tensors(blocks * 4),
        )


@dataclass(frozen=True)
class X86Depthwise:
    """DepthwiseConv2D contracts of depth multiplier 1 on one level of instructions."""

    isa: Isa

    @property
    def name(self) -> str:
        return f"depthwise__{self.isa.name}"

    def refuses(self, contract: DepthwiseConv2D, target: Any) -> str | None:
        lacks = self.isa.lacks(target)
        if lacks:
            return lacks
        if contract.depth_multiplier != 1:
            return f"depth multiplier {contract.depth_multiplier}"
        if contract.kernel[0] * contract.kernel[1] > 25:
            return f"a {contract.kernel[0]}x{contract.kernel[1]} kernel would unroll too far"
        if contract.out_c < NARROWEST:
            return f"{contract.out_c} channels are fewer than {NARROWEST}"
        if any(contract.out_w < s.pixels for s in sections(contract, 4 * self.isa.lanes, 1)):
            return f"rows of {contract.out_w} pixels of {contract.out_c} channels do not fill a vector"
        if contract.rescale.dtype not in ("int8", "uint8") or contract.x_dtype not in ("int8", "uint8"):
            return f"{contract.x_dtype} to {contract.rescale.dtype}"
        return None

    def build(self, contract: DepthwiseConv2D, target: Any) -> Built:
        proven = prove(contract.rescale, layout.accumulator_bound(contract))
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
    fits = isa.dot_intrinsic is None or (weights.min() >= -128 and weights.max() <= 127)
    columns = 1 if kw > 3 or isa.lanes == 8 else 2
    return Plan(
        contract.inputs[0], contract.output, (kh, kw), contract.strides, contract.dilation, contract.padding,
        contract.x_zero_point, rows,
        1 if fits else 2, sections(contract, 4 * isa.lanes, columns),
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
        side = max(1, min(columns, contract.out_w // pixels))
        found.append(Section(min(first, channels - width), width, blocks, pixels, side))
        first += blocks * width
    return tuple(found)


def _channels(plan: Plan) -> Array:
    """[blocks, 4, lanes]: channel of each lane."""
    lanes = plan.finish.isa.lanes
    order = finish.channel_order(lanes, 4)
    found = [s.first + b * s.width + order % s.width for s in plan.sections for b in range(s.blocks)]
    return np.stack(found)


def _pack(contract: DepthwiseConv2D, plan: Plan, proven: Line | None) -> tuple[Array, ...]:
    (kh, kw), isa = plan.kernel, plan.finish.isa
    channels = _channels(plan)
    weights = layout.centered_weights(contract)[0]
    parts = [weights] if plan.passes == 1 else [np.clip(weights, -128, 127), weights - np.clip(weights, -128, 127)]
    # [rows, kw, packs, passes, blocks, 4, lanes, 4]: row r of a tile reads input row r * stride + i with kernel row i.
    packed = np.zeros((plan.rows, kw, plan.packs, plan.passes, *channels.shape, 4), np.int64)
    for r in range(plan.rows):
        for i in range(kh):
            pack, byte = divmod(r * plan.strides[0] + i, 4)
            for n, each in enumerate(parts):
                packed[r, :, pack, n, ..., byte] = each[i][:, channels]
    arranged = isa.arrange(np.moveaxis(packed, 4, 0)).reshape(plan.constants[0].shape)
    flat = channels.reshape(-1, isa.lanes)
    shift = 128 if contract.x_dtype == "int8" else 0
    bias = layout.folded_bias(contract, contract.x_zero_point + shift)[flat]
    return (
        arranged,
        bias,
        np.zeros(ZEROS.shape, np.int32),
        *plan.finish.pack(contract.rescale, proven, flat),
    )


@functools.cache
def _function(plan: Plan) -> Any:
    return function([plan.inputs], plan.constants, plan.output, functools.partial(_body, plan))


def _body(plan: Plan, x: Buffer, weights: Buffer, bias: Buffer, zeros: Buffer, *rest: Buffer) -> None:
    *constants, y = rest
    n, out_h, _, _ = plan.output.shape
    image = padded_image(x, plan.inputs, plan.padding, plan.fill)
    tile = _Tile(plan, image, weights, bias, zeros, tuple(constants), view(y, (plan.output.size,), plan.output.dtype))
    per_image = math.ceil(out_h / plan.rows)
    # An output costs about eight times a multiply-accumulate of a convolution.
    with region(n * per_image, plan.output.size * 64) as i:
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
    bias: Buffer
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
        plan, lanes = self.plan, self.plan.finish.isa.lanes
        _, _, out_w, c = plan.output.shape
        columns: dict[int, list[list[Any]]] = {}

        def column(at: int) -> list[list[Any]]:
            if at not in columns:
                columns[at] = [self._packed(s, source + at * c, pitch, g) for g in range(plan.packs)]
            return columns[at]

        for group in range(s.columns):
            base = group * s.pixels * plan.strides[1]
            for old in [key for key in columns if key < base]:
                del columns[old]
            rows = [local(4 * lanes, "int32") for _ in range(plan.rows)]
            for accumulators in rows:
                for v in range(4):
                    store(accumulators, load(self.bias, block * 4 + v, 0, lanes=lanes), v * lanes, lanes=lanes)
            for t in range(plan.kernel[1]):
                self._multiply(block, t, column(base + t * plan.dilation[1]), rows)
            codes = self._codes(block, rows)
            for r, code in enumerate(codes):
                self._store(s, code, target + (r * out_w + group * s.pixels) * c)

    def _multiply(self, block: Expr, t: int, packs: list[list[Any]], rows: list[Buffer]) -> None:
        plan, isa = self.plan, self.plan.finish.isa
        for r, accumulators in enumerate(rows):
            first, last = r * plan.strides[0], r * plan.strides[0] + plan.kernel[0] - 1
            for g in range(first // 4, last // 4 + 1):
                for n in range(plan.passes):
                    at = (((r * plan.kernel[1] + t) * plan.packs + g) * plan.passes + n) * 4
                    for v, packed in enumerate(packs[g]):
                        w = isa.load_weights(functools.partial(_elements, self.weights, block, at + v))
                        value = isa.dot(load(accumulators, v * isa.lanes, lanes=isa.lanes), packed, w)
                        store(accumulators, value, v * isa.lanes, lanes=isa.lanes)

    def _packed(self, s: Section, address: Expr, pitch: int, g: int) -> list[Any]:
        """Four vectors of one column's input rows 4 g to 4 g + 3, as operands of the dot product."""
        plan, isa = self.plan, self.plan.finish.isa
        rows = []
        for i in range(4 * g, 4 * g + 4):
            # Rows beyond the last have zero weights; reading the last again stays inside the image.
            rows.append(self._bytes(s, address + min(i, plan.taps - 1) * pitch))
        return [isa.operands(v) for v in isa.interleave(rows)]

    def _bytes(self, s: Section, address: Expr) -> Expr:
        """One row's 4 * lanes bytes: `pixels` pieces of `width` channels."""
        plan, size = self.plan, 4 * self.plan.finish.isa.lanes
        step = plan.strides[1] * plan.output.shape[3]
        if step == s.width or s.pixels == 1:
            value = load(self.image, address, lanes=size)
        else:
            pieces = [load(self.image, address + i * step, lanes=s.width) for i in range(s.pixels)]
            value = shuffle(pieces, range(size))
        value = T.reinterpret(vector("uint8", size), value)
        if plan.inputs.dtype == "int8":
            value = T.bitwise_xor(value, T.broadcast(T.uint8(128), size))
        return T.Bind(value)

    def _codes(self, block: Expr, rows: list[Buffer]) -> list[Expr]:
        """Bytes to store for each row.  Vector by vector, so that one's constants serve all rows from registers."""
        plan, lanes = self.plan, self.plan.finish.isa.lanes
        rounded: list[list[Expr]] = [[] for _ in rows]
        for v in range(4):
            for values, accumulators in zip(rounded, rows, strict=True):
                value = load(accumulators, v * lanes, lanes=lanes)
                values.append(T.Bind(plan.finish.rounded(value, self.constants, block * 4 + v)))
        return [plan.finish.packed(values) for values in rounded]

    def _store(self, s: Section, codes: Expr, target: Expr) -> None:
        size, channels = 4 * self.plan.finish.isa.lanes, self.plan.output.shape[3]
        if s.pixels == 1 or channels == s.width:
            store(self.y, codes, target, lanes=size)
            return
        for i in range(s.pixels):
            store(self.y, finish.part(codes, i * s.width, s.width), target + i * channels, lanes=s.width)


def _elements(weights: Buffer, block: Expr, at: int, offset: int, count: int) -> Expr:
    return load(weights, block, at, offset, lanes=count)
