"""Convolution and dense layers of 16-bit inputs on the matrix unit (AMX), whose operands are bytes.

x = 256 * high + low with high a signed and low an unsigned byte, so a sum of products is 256 times that of the high
bytes plus that of the low ones.  The image is taken apart into two planes of bytes first, of which the unit multiplies
neighbouring tiles as it does two tiles of pixels of 8 bits (`tflite2q.kernels.x86.matrix`): twice the multiplications,
with weights of the same size.  Pointwise layers of few weights take tile after tile apart, in the first-level cache,
and multiply all weights by it.

The epilogue puts both sums together.  Each of them fits 32 bits, and so does the whole where the weights prove it;
where they do not, it is put together in 64 bits.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels.base import Array, Built, Conv2D, Dense, Tensor
from tflite2q.kernels.loops import chunks, region
from tflite2q.kernels.product import Section, each_tile
from tflite2q.kernels.sums import Sums
from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, function, load, shuffle, store, vector, view, wrapping_add
from tflite2q.kernels.x86 import amx
from tflite2q.kernels.x86.isa import AVX512VNNI
from tflite2q.kernels.x86.matrix import LANES, VECTORS, Products, Tiling, configuration, pack_weights
from tflite2q.kernels.x86.words import Words, channel_order

PLANES = 2
FEW_WEIGHTS = 1 << 15  # bytes that the first-level cache holds beside a tile's inputs and sums
MOST_DEPTH = 2**31 // (255 * 128)  # products of bytes that certainly sum into 32 bits


@dataclass(frozen=True)
class Plan:
    """What the text of the function depends on.  `wide`: sums are put together in 64 bits."""

    tiling: Tiling
    wide: bool
    words: Words

    @property
    def constants(self) -> tuple[Tensor, ...]:
        start = "int64" if self.wide else "int32"
        return (*self.tiling.constants(start), *self.words.tensors(self.tiling.vectors))

    @property
    def by_tile(self) -> bool:
        """Whether inputs are taken apart tile by tile."""
        g = self.tiling.geometry
        weights = self.tiling.steps * self.tiling.unit * self.tiling.vectors * LANES
        consecutive = g.rows == 1 and g.runs == (0,) and g.run == g.pixel_step and not any(g.padding)
        return consecutive and weights <= FEW_WEIGHTS


@dataclass(frozen=True)
class X86Matrix16:
    """Conv2D and Dense contracts of int16 activations on the matrix unit."""

    @property
    def name(self) -> str:
        return f"conv2d16__{amx.NAME}"

    def refuses(self, contract: Conv2D | Dense, target: Any) -> str | None:
        lacks = amx.refuses(target)
        if lacks:
            return lacks
        if {contract.x_dtype, contract.rescale.dtype} != {"int16"}:
            return f"{contract.x_dtype} to {contract.rescale.dtype}"
        conv = contract.conv2d() if isinstance(contract, Dense) else contract
        if conv.groups != 1:
            return f"{conv.groups} groups"
        if conv.x_zero_point:
            return f"input zero point {conv.x_zero_point}"
        if conv.weights[0].size > MOST_DEPTH:
            return f"{conv.weights[0].size} products do not certainly sum into 32 bits"
        weights = Sums.of(conv).weights
        if weights.min() < -128 or weights.max() > 127:
            return "weights need nine bits"
        return None

    def build(self, contract: Conv2D | Dense, target: Any) -> Built:
        conv = contract.conv2d() if isinstance(contract, Dense) else contract
        sums = Sums.of(conv)
        tiling = Tiling.of(conv, contract.inputs[0], contract.output)
        plan = Plan(tiling, sums.wide, Words(sums.epilogue, AVX512VNNI, sums.proven))
        operation = "dense" if isinstance(contract, Dense) else "conv2d"
        tile = f"{tiling.height}x{min(VECTORS, tiling.sections[0].vectors) * LANES}"
        name = f"s16s8_{operation}_{conv.rescale.arithmetic}_{tile}__{amx.NAME}"
        return Built(name, (name, plan), _function(plan), contract.inputs, _pack(conv, sums, plan), contract.output)


def _pack(conv: Conv2D, sums: Sums, plan: Plan) -> tuple[Array, ...]:
    indices = [
        s.channel_indices()[:, channel_order(AVX512VNNI, s.vectors)].reshape(-1, LANES) for s in plan.tiling.sections
    ]
    channels = np.concatenate(indices)
    packed = pack_weights(plan.tiling, sums.weights, indices)
    return (*packed, sums.start[channels], configuration(plan.tiling), *plan.words.pack(conv, sums, channels))


@functools.cache
def _function(plan: Plan) -> Any:
    return function([plan.tiling.inputs], plan.constants, plan.tiling.output, functools.partial(_body, plan))


def _body(plan: Plan, x: Buffer, *rest: Buffer) -> None:
    *packed, y = rest
    tiling, g, count = plan.tiling, plan.tiling.geometry, len(plan.tiling.sections)
    weights, (start, shapes), constants = packed[:count], packed[count : count + 2], packed[count + 2 :]
    amx.ask()
    whole = None if plan.by_tile else _planes(tiling, x)
    y = view(y, (g.rows * g.width, tiling.output.shape[-1]))

    @contextmanager
    def scope() -> Iterator[Any]:
        amx.configure(shapes)
        image, plane = whole or _scratch(tiling)
        products = Products.of(tiling, image, [("uint8", None if plan.wide else start), ("int8", None)])
        tile = _Tile(plan, products, plane, start, tuple(constants), y)
        if plan.by_tile:
            lines = view(x, (plan.tiling.inputs.size,), "int16")
            yield lambda _number, _first, _block, t: tile.apart(lines, weights, t)
        else:
            yield lambda number, first, block, t: tile.emit(tiling.sections[number], weights[number], first, block, t)
        amx.release()

    sections = (Section(0, LANES, 1, 1, LANES),) if plan.by_tile else tiling.sections
    each_tile(sections, [tiling.tiles] * len(sections), PLANES * tiling.macs, scope)


def _scratch(tiling: Tiling) -> tuple[Buffer, int]:
    """Room for both planes of one tile, and how far one byte of an input lies behind the other."""
    plane = tiling.height * tiling.geometry.run + max(tiling.unit - tiling.geometry.run, 0)
    return T.decl_buffer((PLANES * plane,), "int8"), plane


def _planes(tiling: Tiling, x: Buffer) -> tuple[Buffer, int]:
    """The padded image's low bytes and behind them its high bytes, and how far one byte of an input lies behind the
    other.  Padding is zero, as the zero point is."""
    g = tiling.geometry
    n, h, w, c = g.image
    top, left, bottom, right = g.padding
    rows, width, row = h + top + bottom, (w + left + right) * c, w * c
    plane = n * rows * width + max(tiling.unit - g.run, 0)
    image = T.decl_buffer((PLANES * plane,), "int8")
    lines = view(x, (n * h * row,), "int16")
    with region(n * rows, n * rows * width * 16) as r:
        inside = T.And(r % rows >= top, r % rows < top + h) if top or bottom else True
        if inside is True:
            _split_row(image, plane, lines, r * width, (r // rows * h + r % rows) * row, left * c, row, right * c)
        else:
            with T.If(inside):
                with T.Then():
                    source = (r // rows * h + r % rows - top) * row
                    _split_row(image, plane, lines, r * width, source, left * c, row, right * c)
                with T.Else():
                    _clear(image, plane, r * width, width)
    return image, plane


def _split_row(
    image: Buffer, plane: int, lines: Buffer, target: Expr, source: Expr, left: int, length: int, right: int
) -> None:
    """A row of `length` inputs to both planes, between zeros."""
    _clear(image, plane, target, left)
    _split(image, plane, lines, target + left, source, length)
    _clear(image, plane, target + left + length, right)


def _split(image: Buffer, plane: int, lines: Buffer, target: Expr, source: Expr, length: int) -> None:
    """`length` consecutive inputs to both planes."""

    def emit(at: Expr, lanes: int) -> None:
        bytes_ = T.Bind(T.reinterpret(vector("int8", 2 * lanes), load(lines, source + at, lanes=lanes)))
        for p in range(PLANES):
            store(image, shuffle([bytes_], range(p, 2 * lanes, 2)), p * plane + target + at, lanes=lanes)

    chunks(length, 64, emit)


def _clear(image: Buffer, plane: int, target: Expr, length: int) -> None:
    def emit(at: Expr, lanes: int) -> None:
        for p in range(PLANES):
            store(image, broadcast(T.int8(0), lanes), p * plane + target + at, lanes=lanes)

    chunks(length, 64, emit)


@dataclass(frozen=True)
class _Tile:
    """The buffers of a function under construction."""

    plan: Plan
    products: Products
    plane: int
    start: Buffer
    constants: tuple[Buffer, ...]
    y: Buffer

    def emit(self, s: Section, weights: Buffer, first: int, block: Expr, t: Expr) -> None:
        """All vectors of a block on a tile of pixels, from bias to stored codes."""
        pixel, address = self.plan.tiling.position(t)
        self._block(s, weights, first, block, pixel, address)

    def apart(self, lines: Buffer, weights: list[Buffer], t: Expr) -> None:
        """All blocks on a tile of pixels, whose inputs in `lines` are taken apart first."""
        tiling, image = self.plan.tiling, self.products.image
        pixel, address = tiling.position(t)
        _split(image, self.plane, lines, 0, address, tiling.height * tiling.geometry.run)
        first = 0
        for s, w in zip(tiling.sections, weights, strict=True):
            with T.serial(s.blocks) as block:
                self._block(s, w, first, block, pixel, 0)
            first += s.blocks * s.vectors

    def _block(self, s: Section, weights: Buffer, first: int, block: Expr, pixel: Expr, address: Expr) -> None:
        at = T.Bind(first + block * s.vectors)
        self.products.block(s, weights, block, at, (address, address + self.plane))
        words = self.plan.words
        with T.serial(self.plan.tiling.height) as n:
            sums = [self._sum(s, n, at, v) for v in range(s.vectors)]
            codes = [words.rounded(value, self.constants, at + v) for v, value in enumerate(sums)]
            words.stored(codes, s.stored, self.y, pixel + n, s.start(block))

    def _sum(self, s: Section, pixel: Expr, at: Expr, v: int) -> Expr:
        """Both bytes' sums of a pixel's vector, put together."""
        products, wide = self.products, vector("int64", LANES)
        low, high = (load(products.scratch, products.place(s, p, pixel, v), lanes=LANES) for p in range(PLANES))
        if self.plan.wide:
            raised = T.shift_left(T.cast(high, wide), broadcast(T.int64(8), LANES))
            return raised + T.cast(low, wide) + load(self.start, at + v, 0, lanes=LANES)
        return wrapping_add(T.shift_left(high, broadcast(T.int32(8), LANES)), low, LANES)
