"""Convolutions and dense layers in float32 as an implicit GEMM, for any LLVM target.

A tile of output pixels times a few vectors of output channels stays in registers.  A step reads one input of each
pixel, spreads it over a vector and multiplies it by the step's weights, which are read once for all pixels; LLVM makes
one fused instruction of each product and sum where there is one.  Inputs are read where they are, as runs of
consecutive elements (`tflite2q.kernels.gemm`); only images with padding are copied once.  Layers of few pixels take
more vectors instead, so that as many sums are under way.  Sums are in the order of
memory.

With 6 x 2 vectors of 8 the inner loop is 12 multiply-adds to 8 loads, all sums in registers: what limits it is the
multiplier's throughput, and memory where weights are many and pixels few.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import gemm, layout, tiles
from tflite2q.kernels.accumulators import Accumulators
from tflite2q.kernels.contracts import Array, FloatConv2DContract, Tensor
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.gemm import GemmProgram, Geometry, Section, Span, by_section
from tflite2q.kernels.loops import ZEROS, moving_zero, pays
from tflite2q.kernels.real import FLOAT, ClampedSums, Ending, Registers, bias_of, finish
from tflite2q.kernels.refusals import Because, Refusal
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load

WIDEST = 8  # vectors of a block of layers with few pixels
ALL_AT_ONCE = 32  # steps that are not worth a loop
UNROLLED = 4  # steps in one go of the loop otherwise
BYTES = 4  # of a number
NEAR = 1 << 18  # bytes of inputs that stay in a near cache
FEWEST = 4  # pieces or blocks that threads share


@dataclass(frozen=True)
class Program(GemmProgram):
    """What the text of the function depends on."""

    lanes: int
    low: float | None
    high: float | None

    @staticmethod
    def of(contract: FloatConv2DContract, registers: Registers) -> Program:
        geometry, out_c = Geometry.of(contract), contract.output.shape[3]
        lanes = layout.lane_count(max(out_c, 2), registers.lanes)
        sections = gemm.divide(
            out_c, lanes, _widest(geometry, registers), functools.partial(_tile_pixels, geometry, registers)
        )
        return Program(contract.inputs, contract.output, geometry, 0, sections, lanes, contract.low, contract.high)

    @property
    def constants(self) -> Tensors:
        def weights(s: Section) -> Tensor:
            return Tensor((s.blocks, self.steps(1), s.block), FLOAT)

        return {
            **by_section(self.sections, "weights", weights),
            "bias": Tensor((self.vectors, self.lanes), FLOAT),
            **ZEROS,
        }

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        ending = ClampedSums(constants["bias"], self.low, self.high)
        self.emit_tiles(self.image(inputs[0], 1), constants, y, ending)

    def emit_tiles(self, image: Buffer, constants: Buffers, y: Buffer, ending: Ending) -> None:
        """All results of the padded image, which is one axis."""
        tile = _Tile(self, constants, image, self.pixels(y), ending)
        spans = [[Span(0, tiles.tiles(self.geometry, s.pixels), s.pixels)] for s in self.sections]
        gemm.each_tile(self.sections, spans, self._pieces(spans[0][0].tiles), lambda: nullcontext(tile.emit))

    def _pieces(self, count: int) -> int:
        """Into how many pieces the pixels, which are so many tiles, are cut.

        All weights pass by each of them, so they are as large as a near cache holds; threads share the channels of
        images that it holds.
        """
        blocks = sum(s.blocks for s in self.sections)
        weights = self.macs // self.geometry.pixels
        if not pays(max(self.macs, weights * BYTES * 8)):
            return 1
        near = math.ceil(math.prod(self.geometry.image) * BYTES / NEAR)
        if near < FEWEST and blocks >= FEWEST:
            return gemm.BY_CHANNELS
        return min(max(near, FEWEST), count)


class FloatGemm:
    """FloatConv2D contracts without groups."""

    name = "float_gemm"

    def plan(self, contract: FloatConv2DContract, target: Any) -> Plan | Refusal:
        if contract.groups != 1:
            return Refusal(Because.GEOMETRY, f"{contract.groups} groups")
        program = Program.of(contract, Registers.of(target))
        s = program.sections[0]
        name = Name(FLOAT, "conv2d", tile=f"{s.pixels}x{s.block}")
        return Plan(name, program, functools.partial(pack, contract, program))


def _widest(g: Geometry, registers: Registers) -> int:
    """How many vectors the blocks of a layer have: more than usual only where there are few pixels."""
    most = min(WIDEST, registers.count - 4)
    return max(registers.weights, min(most, -(-registers.sums // g.pixels)))


def _tile_pixels(g: Geometry, registers: Registers, vectors: int) -> int:
    """How many pixels a tile of so many vectors has."""
    most = max(1, min(registers.pixels(vectors), tiles.APART, g.width if g.rows > 1 else g.pixels))
    return gemm.fastest_width(most, vectors, functools.partial(tiles.tiles, g))


def pack(contract: FloatConv2DContract, program: Program) -> Arrays:
    """The constants of `program`, which was made for `contract`."""
    grouped = program.geometry.grouped(contract.weights.transpose(3, 0, 1, 2), 1)[:, :, 0]  # [out_c, steps]
    indices = [s.channel_indices() for s in program.sections]
    packed: dict[str, Array] = {
        f"weights {number}": grouped[index].transpose(0, 2, 1).astype(FLOAT) for number, index in enumerate(indices)
    }
    channels = np.concatenate([index.reshape(-1, program.lanes) for index in indices])
    return {**packed, "bias": bias_of(contract)[channels]}


@dataclass(frozen=True)
class _Tile:
    """The buffers of a function under construction."""

    program: Program
    constants: Buffers
    image: Buffer
    y: Buffer
    ending: Ending

    def emit(self, number: int, _span: Span, first: int, block: Expr, t: Expr) -> None:
        """Tile `t` of a block of section `number`: `pixels` x `vectors`, from bias to stored results."""
        program, s, lanes = self.program, self.program.sections[number], self.program.lanes
        pixel, addresses = tiles.place(program.geometry, s.pixels, t)
        at = T.Bind(first + block * s.vectors + moving_zero(self.constants, t))
        vectors = [T.Bind(at + v) for v in range(s.vectors)]
        starts = [T.Bind(self.ending.start(index, lanes)) for index in vectors]
        sums = Accumulators.by_pixel(s.pixels, s.vectors, lanes, FLOAT)
        sums.fill(starts)
        weights = self.constants[f"weights {number}"]

        def step(offset: Expr, k: Expr) -> None:
            w = [T.Bind(load(weights, block, k, v * lanes, lanes=lanes)) for v in range(s.vectors)]
            for p, address in enumerate(addresses):
                x = T.Bind(broadcast(load(self.image, address + offset), lanes))
                for v, operand in enumerate(w):
                    sums[p, v] = sums[p, v] + x * operand

        tiles.each_step(program.geometry, 1, ALL_AT_ONCE, UNROLLED, step)
        rows = [pixel + p for p in range(s.pixels)]
        finish(self.ending, sums.values(), vectors, lanes, s.stored, self.y, rows, s.start(block))
