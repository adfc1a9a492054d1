"""Convolution and dense layers on the matrix unit (AMX): an implicit matrix product in tiles of up to 16 x 16 outputs.

One instruction multiplies up to 16 pixels by 16 channels and 64 bytes deep, so an output costs an eighth of what the
vector dot product takes.  Four accumulator tiles, two of pixels by two of channels, take four multiplications to four
loads of tiles.  A tile's pixels lie beside each other in a row of the image and are as many as cover rows evenly; its
depth is a whole run of consecutive bytes (`tflite2q.kernels.product`) or an even part of one.  Tiles of accumulators
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

from tflite2q.kernels import layout
from tflite2q.kernels.base import Array, Built, Conv2D, Dense, Tensor
from tflite2q.kernels.line import Line, prove
from tflite2q.kernels.loops import padded_image
from tflite2q.kernels.product import Geometry, Section, divide, each_tile
from tflite2q.kernels.tir import Buffer, Expr, T, function, load, local, view
from tflite2q.kernels.x86 import amx, finish
from tflite2q.kernels.x86.finish import Finish
from tflite2q.kernels.x86.isa import AVX512VNNI

LANES = AVX512VNNI.lanes
DEPTH = 64  # bytes of a tile's row
TALL = 16  # rows of a tile
PIXELS, VECTORS = 2, 2  # tiles of pixels and of channels that are multiplied at once
INPUTS, WEIGHTS = PIXELS * VECTORS, PIXELS * VECTORS + PIXELS  # tile registers behind those of accumulators


@dataclass(frozen=True)
class Tiling:
    """How a convolution is cut into tiles: `height` pixels by `unit` bytes of input, four bytes by 16 channels.

    `parts`: for each section, how many blocks of weights there are, those counted twice that need nine bits.
    """

    inputs: Tensor
    output: Tensor
    geometry: Geometry
    fill: int
    height: int
    unit: int
    sections: tuple[Section, ...]
    parts: tuple[int, ...]

    @staticmethod
    def of(conv: Conv2D, inputs: Tensor, output: Tensor) -> Tiling:
        geometry = Geometry.of(conv)
        unit = 4 * math.ceil(geometry.run / math.ceil(geometry.run / DEPTH) / 4)
        sections = divide(conv.out_c, LANES, finish.PACKED, lambda vectors: 1)
        counts = tuple(int(starts[-1]) for starts in map(functools.partial(_part_starts, conv), sections))
        return Tiling(inputs, output, geometry, conv.x_zero_point, _height(geometry), unit, sections, counts)

    @property
    def units(self) -> int:
        """Tiles of input along a run."""
        return self.geometry.units(self.unit)

    @property
    def steps(self) -> int:
        return len(self.geometry.runs) * self.units

    @property
    def per_row(self) -> int:
        return math.ceil(self.geometry.width / self.height)

    @property
    def tiles(self) -> int:
        """Tiles of pixels; the last one of a row overlaps its neighbour."""
        return self.geometry.rows * self.per_row

    @property
    def macs(self) -> int:
        return self.output.size * len(self.geometry.runs) * self.geometry.run

    @property
    def vectors(self) -> int:
        """Of output channels, of all blocks."""
        return sum(s.blocks * s.vectors for s in self.sections)

    def constants(self, start: str) -> tuple[Tensor, ...]:
        """Weights, what sums start with, of dtype `start`, and the configuration of the unit."""
        weights = [
            Tensor((parts, self.steps, s.vectors, LANES * self.unit), "int8")
            for s, parts in zip(self.sections, self.parts, strict=True)
        ]
        return (*weights, Tensor((self.vectors, LANES), start), Tensor((64,), "uint8"))

    def position(self, tile: Expr) -> tuple[Expr, Expr]:
        """First output pixel of a tile, and the offset in the image of what it reads."""
        row = T.Bind(tile // self.per_row)
        column = T.Bind(T.min(tile % self.per_row * self.height, self.geometry.width - self.height))
        return T.Bind(row * self.geometry.width + column), T.Bind(self.geometry.address(row, column))


@dataclass(frozen=True)
class Plan:
    """What the text of the function depends on."""

    tiling: Tiling
    finish: Finish

    @property
    def together(self) -> int:
        """Tiles of pixels that share the weights."""
        return min(PIXELS, self.tiling.tiles)

    @property
    def constants(self) -> tuple[Tensor, ...]:
        starts = [Tensor((s.blocks + 1,), "int32") for s in self.tiling.sections]
        return (*self.tiling.constants("int32"), *starts, *self.finish.tensors(self.tiling.vectors))


@dataclass(frozen=True)
class X86Matrix:
    """Conv2D and Dense contracts on the matrix unit."""

    @property
    def name(self) -> str:
        return f"conv2d__{amx.NAME}"

    def refuses(self, contract: Conv2D | Dense, target: Any) -> str | None:
        lacks = amx.refuses(target)
        if lacks:
            return lacks
        if not {contract.x_dtype, contract.rescale.dtype} <= {"uint8", "int8"}:
            return f"{contract.x_dtype} to {contract.rescale.dtype}"
        conv = contract.conv2d() if isinstance(contract, Dense) else contract
        if math.prod(contract.output.shape[:-1]) == 1:
            return "one output pixel fills one of the unit's sixteen rows"
        return f"{conv.groups} groups" if conv.groups != 1 else None

    def build(self, contract: Conv2D | Dense, target: Any) -> Built:
        conv = contract.conv2d() if isinstance(contract, Dense) else contract
        bound = layout.accumulator_bound(conv)
        proven = prove(conv.rescale, bound)
        tiling = Tiling.of(conv, contract.inputs[0], contract.output)
        plan = Plan(tiling, Finish.of(conv.rescale, bound, AVX512VNNI, proven))
        operation = "dense" if isinstance(contract, Dense) else "conv2d"
        tile = f"{plan.together * tiling.height}x{min(VECTORS, tiling.sections[0].vectors) * LANES}"
        name = f"{contract.x_dtype[0]}8s8_{operation}_{conv.rescale.arithmetic}_{tile}__{amx.NAME}"
        constants = _pack(conv, plan, proven)
        return Built(name, (name, plan), _function(plan), contract.inputs, constants, contract.output)


def _height(geometry: Geometry) -> int:
    """Pixels of a tile: those that cover all rows in the least time; a tile costs three pixels more than it has."""

    def rows(height: int) -> int:
        tiles = geometry.rows * math.ceil(geometry.width / height)
        return math.ceil(tiles / PIXELS) * PIXELS * (height + 3)

    return min(range(min(TALL, geometry.width), 0, -1), key=rows)


def _pack(conv: Conv2D, plan: Plan, proven: Line | None) -> tuple[Array, ...]:
    indices = [finish.lane_channels(s) for s in plan.tiling.sections]
    packed = pack_weights(plan.tiling, layout.centered_weights(conv), indices)
    channels = np.concatenate(indices)
    bias = layout.folded_bias(conv, conv.x_zero_point)[channels]
    starts = [_part_starts(conv, s) for s in plan.tiling.sections]
    return (*packed, bias, configuration(plan.tiling), *starts, *plan.finish.pack(conv.rescale, proven, channels))


def _part_starts(conv: Conv2D, s: Section) -> Array:
    """int32 [blocks + 1]: of the blocks of weights as packed, those from [i] to [i + 1] are parts of block i.

    Weights that fit eight bits after their zero point is subtracted are one part.  A block with others is the sum of
    two, or of three if some weight is 255 above its zero point.
    """
    weights = layout.centered_weights(conv).reshape(conv.out_c, -1)
    needed = np.maximum(1, np.maximum(-(-weights.max(axis=1) // 127), -(-weights.min(axis=1) // -128)))
    return np.cumsum([0, *needed[finish.lane_channels(s)].reshape(s.blocks, -1).max(axis=1)], dtype=np.int32)


def pack_weights(tiling: Tiling, weights: Array, indices: Sequence[Array]) -> list[Array]:
    """Weights [out_c, kh, kw, in_c] of each section as its tiles, whose lanes hold channels as `indices` [blocks *
    vectors, lanes] say, in parts of eight bits."""
    quads = tiling.unit // 4
    grouped = tiling.geometry.grouped(weights, tiling.unit).reshape(len(weights), tiling.steps, quads, 4)
    packed = []
    for s, index in zip(tiling.sections, indices, strict=True):
        lanes = grouped[index].reshape(s.blocks, s.vectors, LANES, tiling.steps, quads, 4)
        blocks = lanes.transpose(0, 3, 1, 4, 2, 5).reshape(s.blocks, tiling.steps, s.vectors, -1)
        packed.append(np.concatenate([layout.byte_parts(block) for block in blocks]))
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


@functools.cache
def _function(plan: Plan) -> Any:
    return function([plan.tiling.inputs], plan.constants, plan.tiling.output, functools.partial(_body, plan))


def _body(plan: Plan, x: Buffer, *rest: Buffer) -> None:
    *packed, y = rest
    tiling, g, count = plan.tiling, plan.tiling.geometry, len(plan.tiling.sections)
    weights, (bias, shapes), packed = packed[:count], packed[count : count + 2], packed[count + 2 :]
    starts, constants = packed[:count], packed[count:]
    amx.ask()
    slack = tiling.unit - g.run if g.run < tiling.unit else 0
    dtype = tiling.inputs.dtype
    image = padded_image(x, Tensor(g.image, dtype), g.padding, tiling.fill, slack)
    y = view(y, (g.rows * g.width, tiling.output.shape[-1]))

    @contextmanager
    def scope() -> Iterator[Any]:
        amx.configure(shapes)
        products = Products.of(tiling, image, [(dtype, bias)] * plan.together)
        tile = _Tile(plan, products, tuple(constants), y)
        yield lambda number, first, block, t: tile.emit(
            tiling.sections[number], (weights[number], starts[number]), first, block, t
        )
        amx.release()

    pairs = math.ceil(tiling.tiles / plan.together)
    each_tile(tiling.sections, [pairs] * count, tiling.macs, scope)


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
        scratch = local(len(inputs) * tiling.height * finish.PACKED * LANES, "int32")
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

    plan: Plan
    products: Products
    constants: tuple[Buffer, ...]
    y: Buffer

    def emit(self, s: Section, weights: tuple[Buffer, Buffer], first: int, block: Expr, t: Expr) -> None:
        """All vectors of a block on neighbouring tiles of pixels, from bias to stored codes."""
        plan, tiling = self.plan, self.plan.tiling
        at = T.Bind(first + block * s.vectors)
        tiles = [T.min(t * plan.together + p, tiling.tiles - 1) for p in range(plan.together)]
        pixels, addresses = zip(*(tiling.position(tile) for tile in tiles), strict=True)
        self.products.block(s, weights[0], block, at, addresses, weights[1])
        for p, pixel in enumerate(pixels):
            self._finish(s, p, pixel, block, at)

    def _finish(self, s: Section, p: int, pixel: Expr, block: Expr, at: Expr) -> None:
        """A tile's pixels, as many at a time as packing takes."""
        height, ending = self.plan.tiling.height, self.plan.finish
        group, products = min(height, finish.PACKED // s.vectors), self.products
        with T.serial(math.ceil(height / group)) as i:
            start = T.Bind(T.min(i * group, height - group))
            values = [
                [load(products.scratch, products.place(s, p, start + n, v), lanes=LANES) for v in range(s.vectors)]
                for n in range(group)
            ]
            rounded = [
                [T.Bind(ending.rounded(x, self.constants, at + v)) for v, x in enumerate(line)] for line in values
            ]
            ending.stored(rounded, s, self.y, pixel + start, block)
