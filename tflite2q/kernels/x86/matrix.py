"""Convolution and dense layers on the matrix unit (AMX): an implicit GEMM in tiles of up to 16 x 16 outputs.

One instruction multiplies up to 16 pixels by 16 channels and 64 bytes deep, so an output costs an eighth of what the
vector dot product takes.  Four accumulator tiles, two of pixels by two of channels, take four multiplications to four
loads of tiles.  A tile's pixels lie beside each other in a row of the image and are as many as cover rows evenly; its
depth is a whole run of consecutive bytes (`tflite2q.kernels.gemm`) or an even part of one.  Tiles of accumulators
begin as the bias, one row loaded sixteen times, and end in scratch, from where the epilogue takes them as vectors.
Weights that need nine bits once their zero point is subtracted are multiplied in two parts, block by block.

What limits it is the epilogue, two to three cycles for each vector of 16 outputs, and memory for weights that exceed
the caches; the multiplications only where layers are deep.  Linux grants the matrix unit to a process that asks, so
every call asks; the answer after the first takes a tenth of a microsecond.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import layout, tiles
from tflite2q.kernels.contracts import Array, Conv2DContract, DenseContract, Tensor
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.gemm import GemmProgram, Geometry, Section, Span, by_section, divide, each_tile, pieces, refusal
from tflite2q.kernels.refusals import Because, Refusal
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, load, local
from tflite2q.kernels.x86 import amx
from tflite2q.kernels.x86.epilogue import PACKED, Rescaling, X86Epilogue, lane_channels
from tflite2q.kernels.x86.isa import AVX512VNNI

LANES = AVX512VNNI.lanes
DEPTH = 64  # bytes of a tile's row
TALL = 16  # rows of a tile
PIXELS, VECTORS = 2, 2  # tiles of pixels and of channels that are multiplied at once
INPUTS, WEIGHTS = PIXELS * VECTORS, PIXELS * VECTORS + PIXELS  # tile registers behind those of accumulators


@dataclass(frozen=True)
class Tiling(GemmProgram):
    """How a convolution is cut into tiles: `height` pixels by `unit` bytes of input, four bytes by 16 channels.

    `parts`: for each section, how many blocks of weights there are, those counted twice that need nine bits.
    """

    height: int
    unit: int
    parts: tuple[int, ...]

    @staticmethod
    def of(contract: Conv2DContract | DenseContract) -> Tiling:
        conv = contract.conv2d()
        geometry = Geometry.of(conv)
        unit = 4 * math.ceil(geometry.run / math.ceil(geometry.run / DEPTH) / 4)
        sections = divide(conv.out_c, LANES, PACKED, lambda vectors: 1)
        counts = tuple(int(starts[-1]) for starts in map(functools.partial(_part_starts, conv), sections))
        return Tiling(
            contract.inputs, contract.output, geometry, conv.x_zero_point, sections, _height(geometry), unit, counts
        )

    @property
    def units(self) -> int:
        """Tiles of input along a run."""
        return self.geometry.units(self.unit)

    @property
    def per_row(self) -> int:
        return math.ceil(self.geometry.width / self.height)

    @property
    def tiles(self) -> int:
        """Tiles of pixels; the last one of a row overlaps its neighbour."""
        return tiles.by_row(self.geometry, self.height)

    def constants(self, start: str) -> dict[str, Tensor]:
        """Weights, what sums start with, of dtype `start`, and the configuration of the unit."""
        parts = dict(zip(self.sections, self.parts, strict=True))

        def weights(s: Section) -> Tensor:
            return Tensor((parts[s], self.steps(self.unit), s.vectors, LANES * self.unit), "int8")

        return {
            **by_section(self.sections, "weights", weights),
            "start": Tensor((self.vectors, LANES), start),
            "configuration": Tensor((64,), "uint8"),
        }

    def position(self, tile: Expr) -> tuple[Expr, Expr]:
        """First output pixel of a tile, and the offset in the image of what it reads."""
        row = T.Bind(tile // self.per_row)
        column = T.Bind(T.min(tile % self.per_row * self.height, self.geometry.width - self.height))
        return T.Bind(row * self.geometry.width + column), T.Bind(self.geometry.address(row, column))


@dataclass(frozen=True)
class TilingProgram:
    """What the text of every function on the matrix unit depends on."""

    tiling: Tiling

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.tiling.inputs

    @property
    def output(self) -> Tensor:
        return self.tiling.output


@dataclass(frozen=True)
class Program(TilingProgram):
    """The same where inputs are bytes."""

    ending: X86Epilogue

    @property
    def together(self) -> int:
        """Tiles of pixels that share the weights."""
        return min(PIXELS, self.tiling.tiles)

    @property
    def constants(self) -> Tensors:
        return {
            **self.tiling.constants("int32"),
            **by_section(self.tiling.sections, "parts", lambda s: Tensor((s.blocks + 1,), "int32")),
            **self.ending.constants(self.tiling.vectors),
        }

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        tiling, dtype = self.tiling, self.tiling.inputs[0].dtype
        amx.ask()
        slack = tiling.unit - tiling.geometry.run
        image, y = tiling.image(inputs[0], tiling.unit, slack), tiling.pixels(y)

        @contextmanager
        def scope() -> Iterator[Any]:
            amx.configure(constants["configuration"])
            products = Products.of(tiling, image, [(dtype, constants["start"])] * self.together)
            yield _Tile(self, products, constants, y).emit
            amx.release()

        spans = [[Span(0, math.ceil(tiling.tiles / self.together), tiling.height)]] * len(tiling.sections)
        each_tile(tiling.sections, spans, pieces(tiling.sections, spans, tiling.macs), scope)


@dataclass(frozen=True)
class X86Matrix:
    """Conv2D and Dense contracts on the matrix unit."""

    @property
    def name(self) -> str:
        return f"conv2d__{amx.NAME}"

    def plan(self, contract: Conv2DContract | DenseContract, target: Any) -> Plan | Refusal:
        refused = amx.lacks(target) or refusal(contract, ("uint8", "int8"))
        if refused:
            return refused
        if math.prod(contract.output.shape[:-1]) == 1:
            return Refusal(Because.SPEED, "one output pixel fills one of the unit's sixteen rows")
        conv = contract.conv2d()
        rescaling = Rescaling.of(conv.rescale, layout.accumulator_bound(conv), AVX512VNNI)
        tiling = Tiling.of(contract)
        program = Program(tiling, rescaling.epilogue)
        tile = f"{program.together * tiling.height}x{min(VECTORS, tiling.sections[0].vectors) * LANES}"
        name = Name(f"{contract.x_dtype[0]}8s8", contract.operation, amx.NAME, conv.rescale.arithmetic, tile)
        return Plan(name, program, functools.partial(_pack, conv, tiling, rescaling))


def _height(geometry: Geometry) -> int:
    """Pixels of a tile: those that cover all rows in the least time; a tile costs three pixels more than it has."""

    def rows(height: int) -> int:
        return math.ceil(tiles.by_row(geometry, height) / PIXELS) * PIXELS * (height + 3)

    return min(range(min(TALL, geometry.width), 0, -1), key=rows)


def _pack(conv: Conv2DContract, tiling: Tiling, rescaling: Rescaling) -> Arrays:
    indices = [lane_channels(s) for s in tiling.sections]
    channels = np.concatenate(indices)
    return {
        **pack_weights(tiling, layout.centered_weights(conv), indices),
        "start": layout.folded_bias(conv, conv.x_zero_point)[channels],
        "configuration": configuration(tiling),
        **{f"parts {number}": _part_starts(conv, s) for number, s in enumerate(tiling.sections)},
        **rescaling.pack(channels),
    }


def _part_starts(conv: Conv2DContract, s: Section) -> Array:
    """int32 [blocks + 1]: of the blocks of weights as packed, those from [i] to [i + 1] are parts of block i.

    Weights that fit eight bits after their zero point is subtracted are one part.  A block with others is the sum of
    two, or of three if some weight is 255 above its zero point.
    """
    weights = layout.centered_weights(conv).reshape(conv.out_c, -1)
    needed = np.maximum(1, np.maximum(-(-weights.max(axis=1) // 127), -(-weights.min(axis=1) // -128)))
    return np.cumsum([0, *needed[lane_channels(s)].reshape(s.blocks, -1).max(axis=1)], dtype=np.int32)


def pack_weights(tiling: Tiling, weights: Array, indices: Sequence[Array]) -> dict[str, Array]:
    """Weights [out_c, kh, kw, in_c] of each section as its tiles, whose lanes hold channels as `indices` [blocks *
    vectors, lanes] say, in parts of eight bits."""
    quads = tiling.unit // 4
    grouped = tiling.geometry.grouped(weights, tiling.unit).reshape(len(weights), tiling.steps(tiling.unit), quads, 4)
    packed = {}
    for number, (s, index) in enumerate(zip(tiling.sections, indices, strict=True)):
        lanes = grouped[index].reshape(s.blocks, s.vectors, LANES, tiling.steps(tiling.unit), quads, 4)
        blocks = lanes.transpose(0, 3, 1, 4, 2, 5).reshape(s.blocks, tiling.steps(tiling.unit), s.vectors, -1)
        packed[f"weights {number}"] = np.concatenate([layout.byte_parts(block) for block in blocks])
    return packed


def configuration(tiling: Tiling) -> Array:
    """The 64 bytes that tell the matrix unit rows and bytes of a row of each tile register (palette 1)."""
    shapes = {
        **dict.fromkeys(range(INPUTS), (tiling.height, 4 * LANES)),
        **dict.fromkeys(range(INPUTS, WEIGHTS), (tiling.height, tiling.unit)),
        **dict.fromkeys(range(WEIGHTS, WEIGHTS + VECTORS), (tiling.unit // 4, 4 * LANES)),
    }
    encoded = np.zeros(64, np.uint8)
    encoded[0] = 1
    for register, (rows, row) in shapes.items():
        encoded[16 + 2 * register] = row
        encoded[48 + register] = rows
    return encoded


@dataclass(frozen=True)
class Products:
    """Up to two tiles of inputs times a block's tiles of weights, into scratch.

    `inputs`: the type of each tile of inputs, and the buffer [vectors, lanes] that its sums start with, None for zero.
    """

    tiling: Tiling
    image: Buffer
    inputs: tuple[tuple[str, Buffer | None], ...]
    scratch: Buffer

    @staticmethod
    def of(tiling: Tiling, image: Buffer, inputs: Sequence[tuple[str, Buffer | None]]) -> Products:
        """With scratch for blocks of four vectors."""
        scratch = local(len(inputs) * tiling.height * PACKED * LANES, "int32")
        return Products(tiling, image, tuple(inputs), scratch)

    def block(
        self, s: Section, weights: Buffer, block: Expr, at: Expr, addresses: Sequence[Expr],
        starts: Buffer | None = None,
    ) -> None:  # fmt: skip
        """Sums of all vectors of a block, the first one's number being `at`, over inputs from `addresses` on.

        `starts` says where the block's parts begin in `weights`; without it every block is one part.
        """
        for v in range(0, s.vectors, VECTORS):
            vectors = range(v, min(v + VECTORS, s.vectors))
            accumulators = {(p, v): p * VECTORS + v % VECTORS for p in range(len(addresses)) for v in vectors}
            for (p, v), register in accumulators.items():
                start = self.inputs[p][1]
                if start is None:
                    amx.zero(register)
                else:
                    amx.load(register, start[at + v, 0], 0)
            if starts is None or weights.shape[0] == s.blocks:
                self._multiply(weights, block, addresses, accumulators)
            else:
                with T.serial(starts[block + 1] - starts[block]) as part:
                    self._multiply(weights, T.Bind(starts[block] + part), addresses, accumulators)
            for (p, v), register in accumulators.items():
                amx.store(register, self.scratch[self.place(s, p, 0, v)], 4 * LANES * s.vectors)

    def place(self, s: Section, p: int, pixel: Expr, v: int) -> Expr:
        """Where in the scratch a pixel's vector lies."""
        return ((p * self.tiling.height + pixel) * s.vectors + v) * LANES

    def _multiply(
        self, weights: Buffer, block: Expr, addresses: Sequence[Expr], accumulators: dict[tuple[int, int], int]
    ) -> None:
        """Add the products with one block of weights; `accumulators`: registers by tile of inputs and vector."""
        tiling, g = self.tiling, self.tiling.geometry
        vectors = sorted({v for _, v in accumulators})

        def step(offset: Expr, k: Expr) -> None:
            for v in vectors:
                amx.load(WEIGHTS + v % VECTORS, weights[block, k, v, 0], 4 * LANES)
            for p, address in enumerate(addresses):
                amx.load(INPUTS + p, self.image[address + offset], g.pixel_step)
                for v in vectors:
                    amx.multiply(accumulators[p, v], INPUTS + p, WEIGHTS + v % VECTORS, self.inputs[p][0])

        for first, count, pitch in g.regular_runs():
            with T.serial(count) as r, T.serial(tiling.units) as u:
                inside = T.min(u * tiling.unit, max(g.run - tiling.unit, 0))
                step(T.Bind(g.runs[first] + r * pitch + inside), T.Bind((first + r) * tiling.units + u))


@dataclass(frozen=True)
class _Tile:
    """The buffers of a function under construction."""

    program: Program
    products: Products
    constants: Buffers
    y: Buffer

    def emit(self, number: int, _span: Span, first: int, block: Expr, t: Expr) -> None:
        """All vectors of a block on neighbouring tiles of pixels, from bias to stored codes."""
        together, tiling, s = self.program.together, self.program.tiling, self.program.tiling.sections[number]
        at = T.Bind(first + block * s.vectors)
        numbers = [T.min(t * together + p, tiling.tiles - 1) for p in range(together)]
        pixels, addresses = zip(*(tiling.position(number) for number in numbers), strict=True)
        weights, parts = self.constants[f"weights {number}"], self.constants[f"parts {number}"]
        self.products.block(s, weights, block, at, addresses, parts)
        for p, pixel in enumerate(pixels):
            self._finish(s, p, pixel, block, at)

    def _finish(self, s: Section, p: int, pixel: Expr, block: Expr, at: Expr) -> None:
        """A tile's pixels, as many at a time as packing takes."""
        height, ending, products = self.program.tiling.height, self.program.ending, self.products
        group, vectors = min(height, PACKED // s.vectors), range(s.vectors)
        with T.serial(math.ceil(height / group)) as i:
            start = T.Bind(T.min(i * group, height - group))
            values = [
                [load(products.scratch, products.place(s, p, start + n, v), lanes=LANES) for v in vectors]
                for n in range(group)
            ]
            rounded = [[ending.rounded(x[v], self.constants, at + v) for v in vectors] for x in values]
            rows = [pixel + start + n for n in range(group)]
            ending.store(rounded, s.stored, self.y, rows, s.start(block))
