"""Convolution and dense layers of 16-bit inputs on the matrix unit (AMX), whose operands are bytes.

x = 256 * high + low with high a signed and low an unsigned byte, so a sum of products is 256 times that of the high
bytes plus that of the low ones.  The image is taken apart into two planes of bytes first, of which the unit multiplies
neighbouring tiles as it does two tiles of pixels of 8 bits (`tflite2q.kernels.x86.matrix`): twice the multiplications,
with weights of the same size.  Pointwise layers of few weights take tile after tile apart, in the first-level cache,
and multiply all weights by it.  Layers of few products for each output, or of one pixel, are left to the vectors.

The epilogue puts both sums together.  Each of them fits 32 bits, and so does the whole where the weights prove it;
where they do not, it is put together in 64 bits.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels.contracts import Conv2DContract, DenseContract
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.gemm import Section, Span, each_tile, pieces, refusal
from tflite2q.kernels.loops import chunks, region
from tflite2q.kernels.refusals import Because, Refusal
from tflite2q.kernels.sums import Sums
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, shuffle, store, vector, view, wrapping_add
from tflite2q.kernels.x86 import amx
from tflite2q.kernels.x86.epilogue16 import Epilogue16, channel_order
from tflite2q.kernels.x86.isa import AVX512VNNI
from tflite2q.kernels.x86.tiling import LANES, VECTORS, Products, Tiling, TilingProgram, configuration, with_weights

PLANES = 2
FEW_WEIGHTS = 1 << 15  # bytes that the first-level cache holds beside a tile's inputs and sums
STEP = 17  # inputs that the dot product multiplies in the time of a step of four tiles (measured on Sapphire Rapids)
MOST_DEPTH = 2**31 // (255 * 128)  # products of bytes that certainly sum into 32 bits


@dataclass(frozen=True)
class Program(TilingProgram):
    """What the text of the function depends on.  `wide`: sums are put together in 64 bits."""

    wide: bool
    ending: Epilogue16

    @property
    def constants(self) -> Tensors:
        start = "int64" if self.wide else "int32"
        return {**self.tiling.constants(start), **self.ending.constants(self.tiling.vectors)}

    @property
    def by_tile(self) -> bool:
        """Whether inputs are taken apart tile by tile."""
        g = self.tiling.geometry
        weights = self.tiling.steps(self.tiling.unit) * self.tiling.unit * self.tiling.vectors * LANES
        consecutive = g.rows == 1 and g.runs == (0,) and g.run == g.pixel_step and not any(g.padding)
        return consecutive and weights <= FEW_WEIGHTS

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        (x,), tiling, start = inputs, self.tiling, constants["start"]
        amx.ask()
        whole = None if self.by_tile else _planes(tiling, x)
        y = tiling.pixels(y)

        @contextmanager
        def scope() -> Iterator[Any]:
            amx.configure(constants["configuration"])
            image, plane = whole or _scratch(tiling)
            products = Products.of(tiling, image, [("uint8", None if self.wide else start), ("int8", None)])
            tile = _Tile(self, products, plane, constants, y)
            if self.by_tile:
                flat = view(x, (tiling.inputs[0].size,), "int16")
                yield lambda _number, _span, _first, _block, t: tile.apart(flat, t)
            else:
                yield tile.emit
            amx.release()

        sections = (Section(0, LANES, 1, 1, LANES),) if self.by_tile else tiling.sections
        spans = [[Span(0, tiling.tiles, tiling.height)]] * len(sections)
        each_tile(sections, spans, pieces(sections, spans, PLANES * tiling.macs), scope)


@dataclass(frozen=True)
class X86Matrix16:
    """Conv2D and Dense contracts of int16 activations on the matrix unit.

    `slow_too`: also those that other kernels compute faster.
    """

    slow_too: bool = False

    @property
    def name(self) -> str:
        return f"conv2d16__{amx.NAME}"

    def plan(self, contract: Conv2DContract | DenseContract, target: Any) -> Plan | Refusal:
        refused = amx.lacks(target) or refusal(contract, ("int16",))
        if refused:
            return refused
        conv = contract.conv2d()
        if conv.x_zero_point:
            return Refusal(Because.NUMBERS, f"input zero point {conv.x_zero_point}")
        if conv.weights[0].size > MOST_DEPTH:
            return Refusal(Because.GEOMETRY, f"{conv.weights[0].size} products do not certainly sum into 32 bits")
        tiling = Tiling.of(contract)
        if not self.slow_too and (tiling.geometry.pixels == 1 or tiling.slow(STEP)):
            return Refusal(Because.SPEED, "few products for each output: vectors take less time")
        sums = Sums.of(conv)
        if sums.weights.min() < -128 or sums.weights.max() > 127:
            return Refusal(Because.NUMBERS, "weights need nine bits")
        program = Program(tiling, sums.wide, Epilogue16.of(sums, AVX512VNNI))
        tile = f"{tiling.height}x{min(VECTORS, tiling.sections[0].vectors) * LANES}"
        name = Name("s16s8", contract.operation, amx.NAME, conv.rescale.arithmetic, tile)
        return Plan(name, program, functools.partial(_pack, sums, program))


def _pack(sums: Sums, program: Program) -> Arrays:
    tiling = program.tiling
    indices = [s.channel_indices()[:, channel_order(AVX512VNNI, s.vectors)].reshape(-1, LANES) for s in tiling.sections]
    channels = np.concatenate(indices)
    _, weights = with_weights(tiling, sums.weights, indices)  # which need eight bits
    return {
        **weights(),
        "start": sums.start[channels],
        "configuration": configuration(tiling),
        **program.ending.pack(sums, channels),
    }


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
    flat = view(x, (n * h * row,), "int16")
    with region(n * rows, n * rows * width * 16) as r:
        inside = T.And(r % rows >= top, r % rows < top + h) if top or bottom else True
        if inside is True:
            _split_row(image, plane, flat, r * width, (r // rows * h + r % rows) * row, left * c, row, right * c)
        else:
            with T.If(inside):
                with T.Then():
                    source = (r // rows * h + r % rows - top) * row
                    _split_row(image, plane, flat, r * width, source, left * c, row, right * c)
                with T.Else():
                    _clear(image, plane, r * width, width)
    return image, plane


def _split_row(
    image: Buffer, plane: int, x: Buffer, target: Expr, source: Expr, left: int, length: int, right: int
) -> None:
    """A row of `length` inputs to both planes, between zeros."""
    _clear(image, plane, target, left)
    _split(image, plane, x, target + left, source, length)
    _clear(image, plane, target + left + length, right)


def _split(image: Buffer, plane: int, x: Buffer, target: Expr, source: Expr, length: int) -> None:
    """`length` consecutive inputs to both planes."""

    def emit(at: Expr, lanes: int) -> None:
        bytes_ = T.Bind(T.reinterpret(vector("int8", 2 * lanes), load(x, source + at, lanes=lanes)))
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
    """The buffers of a function under construction; `plane`: how far an input's high byte lies behind its low one."""

    program: Program
    products: Products
    plane: int
    constants: Buffers
    y: Buffer

    def emit(self, number: int, _span: Span, first: int, block: Expr, t: Expr) -> None:
        """All vectors of a block on a tile of pixels, from bias to stored codes."""
        pixel, address = self.program.tiling.position(t)
        self._block(number, first, block, pixel, address)

    def apart(self, x: Buffer, t: Expr) -> None:
        """All blocks on a tile of pixels, whose inputs in `x` are taken apart first."""
        tiling, image = self.program.tiling, self.products.image
        pixel, address = tiling.position(t)
        _split(image, self.plane, x, 0, address, tiling.height * tiling.geometry.run)
        first = 0
        for number, s in enumerate(tiling.sections):
            with T.serial(s.blocks) as block:
                self._block(number, first, block, pixel, 0)
            first += s.blocks * s.vectors

    def _block(self, number: int, first: int, block: Expr, pixel: Expr, address: Expr) -> None:
        s, weights, ending = (
            self.program.tiling.sections[number],
            self.constants[f"weights {number}"],
            self.program.ending,
        )
        at = T.Bind(first + block * s.vectors)
        self.products.block(s, weights, block, at, (address, address + self.plane))
        with T.serial(self.program.tiling.height) as n:
            sums = [self._sum(s, n, at, v) for v in range(s.vectors)]
            codes = [ending.rounded(value, self.constants, at + v) for v, value in enumerate(sums)]
            ending.store([codes], s.stored, self.y, [pixel + n], s.start(block))

    def _sum(self, s: Section, pixel: Expr, at: Expr, v: int) -> Expr:
        """Both bytes' sums of a pixel's vector, put together."""
        products, wide = self.products, vector("int64", LANES)
        low, high = (load(products.scratch, products.place(s, p, pixel, v), lanes=LANES) for p in range(PLANES))
        if self.program.wide:
            raised = T.shift_left(T.cast(high, wide), broadcast(T.int64(8), LANES))
            return raised + T.cast(low, wide) + load(self.constants["start"], at + v, 0, lanes=LANES)
        return wrapping_add(T.shift_left(high, broadcast(T.int32(8), LANES)), low, LANES)
