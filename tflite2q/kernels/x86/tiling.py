"""What kernels on the matrix unit (AMX) share: how a convolution is cut into tiles, and the products of a block.

Four accumulator tiles, two of pixels by two of channels, take four multiplications to four loads of tiles.  A tile's
pixels lie beside each other in a row of the image and are as many as cover rows evenly; its depth is a whole run of
consecutive bytes (`tflite2q.kernels.gemm`) or an even part of one.

Weights may need nine bits once their zero point is subtracted.  They are clipped to eight, and what is left of them, a
few tiles as a rule, takes extra steps.

A block's weights are fetched into the second-level cache while the block before is multiplied: those of a whole model
exceed it, and the unit would wait for the last one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tflite2q.kernels import tiles
from tflite2q.kernels.contracts import Array, Conv2DContract, DenseContract, Tensor
from tflite2q.kernels.gemm import GemmProgram, Geometry, Section, by_section, divide
from tflite2q.kernels.tir import Buffer, Expr, T, local, prefetch
from tflite2q.kernels.x86 import amx
from tflite2q.kernels.x86.epilogue import PACKED
from tflite2q.kernels.x86.isa import AVX512VNNI, LINE
from tflite2q.kernels.x86.saturation import SplitWeights, in_eight_bits

LANES = AVX512VNNI.lanes
DEPTH = 64  # bytes of a tile's row
TALL = 16  # rows of a tile
PIXELS, VECTORS = 2, 2  # tiles of pixels and of channels that are multiplied at once
MOST_FETCHED = 16  # lines that are fetched ahead at a step; more hold up the loads of its tiles
INPUTS, WEIGHTS = PIXELS * VECTORS, PIXELS * VECTORS + PIXELS  # tile registers behind those of accumulators


Weights = Callable[[], dict[str, Array]]  # packs a layer's weights
Accumulators = Mapping[tuple[int, int], int]  # registers by tile of inputs and vector
Extra = tuple[Buffer, Buffer, Buffer]  # extra steps of a section: weights, offsets, where those of each pair start


@dataclass(frozen=True)
class Tiling(GemmProgram):
    """How a convolution is cut into tiles: `height` pixels by `unit` bytes of input, four bytes by 16 channels.

    `extras`: for each section, how many extra steps its weights take.
    """

    height: int
    unit: int
    extras: tuple[int, ...]

    @staticmethod
    def of(contract: Conv2DContract | DenseContract) -> Tiling:
        conv = contract.conv2d()
        geometry = Geometry.of(conv)
        unit = 4 * math.ceil(geometry.run / math.ceil(geometry.run / DEPTH) / 4)
        sections = divide(conv.out_c, LANES, PACKED, lambda vectors: 1)
        height, nothing = _height(geometry), (0,) * len(sections)
        return Tiling(contract.inputs, contract.output, geometry, conv.x_zero_point, sections, height, unit, nothing)

    def slow(self, step: int) -> bool:
        """Whether the vectors' dot product takes less time.

        In the time of a step of four tiles it multiplies `step` inputs for each output, and as many while the unit
        stores sums that are loaded again.
        """
        steps = self.steps(self.unit)
        return steps * self.unit < step * (steps + 1)

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
        tile = LANES * self.unit
        extra: dict[str, Tensor] = {}
        for number, (s, steps) in enumerate(zip(self.sections, self.extras, strict=True)):
            if steps:
                extra[f"extra {number}"] = Tensor((steps, VECTORS, tile), "int8")
                extra[f"extra offsets {number}"] = Tensor((steps,), "int32")
                extra[f"extra starts {number}"] = Tensor((s.blocks * _pairs(s) + 1,), "int32")
        return {
            **by_section(
                self.sections, "weights", lambda s: Tensor((s.blocks, self.steps(self.unit) * s.vectors, tile), "int8")
            ),
            **extra,
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


def _height(geometry: Geometry) -> int:
    """Pixels of a tile: those that cover all rows in the least time; a tile costs three pixels more than it has."""

    def rows(height: int) -> int:
        return math.ceil(tiles.by_row(geometry, height) / PIXELS) * PIXELS * (height + 3)

    return min(range(min(TALL, geometry.width), 0, -1), key=rows)


def with_weights(tiling: Tiling, weights: Array, indices: Sequence[Array]) -> tuple[Tiling, Weights]:
    """The tiling with the extra steps of weights [out_c, kh, kw, in_c] that need more than eight bits; and what packs
    the weights.  `indices` [blocks * vectors, lanes] of each section: the channels that lanes hold."""
    quads, steps = tiling.unit // 4, tiling.steps(tiling.unit)
    grouped = tiling.geometry.grouped(weights, tiling.unit).reshape(len(weights), steps, quads, 4)
    split = []
    for s, index in zip(tiling.sections, indices, strict=True):
        lanes = grouped[index].reshape(s.blocks, s.vectors, LANES, steps, quads, 4)
        lanes = np.pad(lanes, ((0, 0), (0, -s.vectors % VECTORS), *[(0, 0)] * 4))
        pairs = lanes.reshape(s.blocks * _pairs(s), VECTORS, LANES, steps, quads, 4).transpose(0, 3, 1, 4, 2, 5)
        split.append(SplitWeights.of(pairs.reshape(*pairs.shape[:4], 4 * LANES), in_eight_bits))
    tiling = replace(tiling, extras=tuple(len(each.steps) if each.starts[-1] else 0 for each in split))
    return tiling, functools.partial(_pack_weights, tiling, split)


def _pack_weights(tiling: Tiling, split: Sequence[SplitWeights]) -> dict[str, Array]:
    """The weights of each section as its tiles; `split`: those of each pair of vectors."""
    tile, packed = LANES * tiling.unit, dict[str, Array]()
    for number, (s, each) in enumerate(zip(tiling.sections, split, strict=True)):
        pairs = each.weights.astype(np.int8).reshape(s.blocks, _pairs(s), -1, VECTORS, tile)
        there = [pairs[:, p, :, : s.vectors - p * VECTORS].reshape(s.blocks, -1, tile) for p in range(_pairs(s))]
        packed[f"weights {number}"] = np.concatenate(there, axis=1)
        if tiling.extras[number]:
            packed[f"extra {number}"] = each.extra.astype(np.int8).reshape(-1, VECTORS, tile)
            packed[f"extra offsets {number}"] = tiling.geometry.offsets(tiling.unit)[each.steps]
            packed[f"extra starts {number}"] = each.starts
    return packed


def _pairs(s: Section) -> int:
    """Pairs of vectors in a block, the last of which may have one."""
    return math.ceil(s.vectors / VECTORS)


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
    `turns`: how often a block's weights are used before the next block's, which are fetched meanwhile.
    """

    tiling: Tiling
    image: Buffer
    inputs: tuple[tuple[str, Buffer | None], ...]
    scratch: Buffer
    turns: int

    @staticmethod
    def of(tiling: Tiling, image: Buffer, inputs: Sequence[tuple[str, Buffer | None]], turns: int = 0) -> Products:
        """With scratch for blocks of four vectors."""
        scratch = local(len(inputs) * tiling.height * PACKED * LANES, "int32")
        return Products(tiling, image, tuple(inputs), scratch, turns)

    def block(
        self, s: Section, weights: Buffer, block: Expr, at: Expr, addresses: Sequence[Expr], extra: Extra | None = None,
        turn: Expr = 0,
    ) -> None:  # fmt: skip
        """Sums of all vectors of a block, the first one's number being `at`, over inputs from `addresses` on.

        `turn` is the number of the block's use, from 0 to `turns`.
        """
        ahead = self._ahead(s, weights, block, turn)
        for pair, v in enumerate(range(0, s.vectors, VECTORS)):
            vectors = range(v, min(v + VECTORS, s.vectors))
            accumulators = {(p, v): p * VECTORS + v % VECTORS for p in range(len(addresses)) for v in vectors}
            for (p, v), register in accumulators.items():
                start = self.inputs[p][1]
                if start is None:
                    amx.zero(register)
                else:
                    amx.load(register, start[at + v, 0], 0)
            self._multiply(weights, block, addresses, accumulators, ahead)
            if extra is not None:
                self._multiply_extra(extra, block * _pairs(s) + pair, addresses, accumulators)
            for (p, v), register in accumulators.items():
                amx.store(register, self.scratch[self.place(s, p, 0, v)], 4 * LANES * s.vectors)

    def place(self, s: Section, p: int, pixel: Expr, v: int) -> Expr:
        """Where in the scratch a pixel's vector lies."""
        return ((p * self.tiling.height + pixel) * s.vectors + v) * LANES

    def _multiply(
        self, weights: Buffer, block: Expr, addresses: Sequence[Expr], accumulators: Accumulators,
        ahead: Callable[[Expr], None] | None,
    ) -> None:  # fmt: skip
        """Add the products with one block of weights."""
        tiling, g = self.tiling, self.tiling.geometry
        vectors = sorted({v for _, v in accumulators})
        first_tile = vectors[0] * tiling.steps(tiling.unit)
        for first, count, pitch in g.regular_runs():
            with T.serial(count) as r, T.serial(tiling.units) as u:
                inside = T.min(u * tiling.unit, max(g.run - tiling.unit, 0))
                offset, k = T.Bind(g.runs[first] + r * pitch + inside), T.Bind((first + r) * tiling.units + u)
                tile = T.Bind(first_tile + k * len(vectors))
                if ahead is not None:
                    ahead(tile)
                self._step([weights[block, tile + n, 0] for n in range(len(vectors))], offset, addresses, accumulators)

    def _multiply_extra(self, extra: Extra, pair: Expr, addresses: Sequence[Expr], accumulators: Accumulators) -> None:
        """Add the products of the extra steps of a pair of vectors."""
        weights, offsets, starts = extra
        vectors = len({v for _, v in accumulators})
        with T.serial(starts[pair + 1] - starts[pair]) as i:
            k = T.Bind(starts[pair] + i)
            self._step([weights[k, n, 0] for n in range(vectors)], T.Bind(offsets[k]), addresses, accumulators)

    def _step(
        self, weights: Sequence[Expr], offset: Expr, addresses: Sequence[Expr], accumulators: Accumulators
    ) -> None:
        """Add the products of inputs `offset` behind `addresses` and one tile of weights for each vector."""
        vectors = sorted({v for _, v in accumulators})
        for v, tile in zip(vectors, weights, strict=True):
            amx.load(WEIGHTS + v % VECTORS, tile, 4 * LANES)
        for p, address in enumerate(addresses):
            amx.load(INPUTS + p, self.image[address + offset], self.tiling.geometry.pixel_step)
            for v in vectors:
                amx.multiply(accumulators[p, v], INPUTS + p, WEIGHTS + v % VECTORS, self.inputs[p][0])

    def _ahead(self, s: Section, weights: Buffer, block: Expr, turn: Expr) -> Callable[[Expr], None] | None:
        """What fetches, at the step of a block that begins with tile `tile`, a part of the next block's weights."""
        lines = self.tiling.unit * LANES // LINE  # of a tile
        each = math.ceil(VECTORS * lines / max(self.turns, 1))
        tiles = s.vectors * self.tiling.steps(self.tiling.unit)
        if s.blocks == 1 or not self.turns or each > MOST_FETCHED:
            return None

        def fetch(tile: Expr) -> None:
            with T.If(block + 1 < s.blocks), T.Then():
                first = T.Bind((turn * tiles + tile) * (each * LINE // VECTORS))
                for i in range(each):
                    prefetch(weights[block + 1, 0, first + i * LINE])

        return fetch
