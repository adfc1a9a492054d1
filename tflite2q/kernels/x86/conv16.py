"""Convolution and dense layers of 16-bit inputs as an implicit GEMM.

As for bytes (`tflite2q.kernels.x86.conv`), but a step reads two consecutive inputs of each pixel, and weights have 16
bits with their zero point already subtracted: twice the multiply instructions and memory of 8 bits.  Weights that few
pixels use are stored in 8 bits and widened on the way: memory is what limits such layers.

Sums stay in 32 bits where the weights prove that they fit.  Deeper layers are cut into pieces that do, whose sums are
added up in 64 bits.  What limits it is the multiplier's throughput, and memory where weights exceed the second-level
cache.
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
from tflite2q.kernels.contracts import Conv2DContract, DenseContract, Tensor
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.gemm import GemmProgram, Geometry, Section, Span, by_section
from tflite2q.kernels.loops import ZEROS, moving_zero
from tflite2q.kernels.refusals import Refusal
from tflite2q.kernels.sums import Sums
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, vector
from tflite2q.kernels.x86.epilogue16 import Epilogue16, channel_order
from tflite2q.kernels.x86.isa import Level

WIDEST = 4  # vectors of a block
UNIT = 2  # inputs of a step
MOST_PIXELS = 14  # of a tile
FEW_PIXELS = 64


@dataclass(frozen=True)
class Program(GemmProgram):
    """What the text of the function depends on.

    `pieces`: into how many a run is cut whose sums need 64 bits, or 0; `weight_dtype`: of weights in memory.
    """

    pieces: int
    weight_dtype: str
    ending: Epilogue16

    @property
    def units(self) -> int:
        """Steps of a run."""
        return self.geometry.units(UNIT)

    @property
    def level(self) -> Level:
        return self.ending.level

    @property
    def constants(self) -> Tensors:
        lanes = self.level.lanes

        def weights(s: Section) -> Tensor:
            return Tensor((s.blocks, self.steps(UNIT), s.vectors, UNIT * lanes), self.weight_dtype)

        return {
            **by_section(self.sections, "weights", weights),
            "start": Tensor((self.vectors, lanes), "int64" if self.pieces else "int32"),
            **ZEROS,
            **self.ending.constants(self.vectors),
        }

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        tile = _Tile(self, constants, self.image(inputs[0], UNIT), self.pixels(y))
        g = self.geometry
        spans = [[Span(0, tiles.by_row(g, s.pixels), s.pixels)] for s in self.sections]
        gemm.each_tile(
            self.sections, spans, gemm.pieces(self.sections, spans, self.macs), lambda: nullcontext(tile.emit)
        )


@dataclass(frozen=True)
class X86Conv16:
    """Conv2D and Dense contracts of int16 activations on one level of instructions."""

    level: Level

    @property
    def name(self) -> str:
        return f"conv2d16__{self.level.name}"

    def plan(self, contract: Conv2DContract | DenseContract, target: Any) -> Plan | Refusal:
        refused = self.level.lacks(target) or gemm.refusal(contract, ("int16",))
        if refused:
            return refused
        conv, level = contract.conv2d(), self.level
        sums, geometry = Sums.of(conv), Geometry.of(conv)
        pieces = 0
        if sums.wide:
            pairs = np.abs(geometry.grouped(sums.weights, UNIT)).sum(axis=2)
            pieces = layout.pieces(pairs.reshape(conv.out_c, len(geometry.runs), -1), layout.code_reach(conv))
        sections = gemm.divide(conv.out_c, level.lanes, WIDEST, functools.partial(_tile_pixels, geometry, level))
        program = Program(
            contract.inputs, contract.output, geometry, conv.x_zero_point, sections, pieces,
            _weight_dtype(sums, geometry), Epilogue16.of(sums, level),
        )  # fmt: skip
        tile = f"{sections[0].pixels}x{sections[0].block}"
        name = Name("s16s16", contract.operation, level.name, conv.rescale.arithmetic, tile)
        return Plan(name, program, functools.partial(_pack, sums, program))


def _weight_dtype(sums: Sums, geometry: Geometry) -> str:
    """How weights are stored: those that few pixels use come from far away, which takes longer than widening them."""
    return "int8" if geometry.pixels <= FEW_PIXELS and np.abs(sums.weights).max() <= 127 else "int16"


def _tile_pixels(g: Geometry, level: Level, vectors: int) -> int:
    """How many pixels a tile of so many vectors has."""
    most = max(1, min(level.accumulators16 // vectors, MOST_PIXELS, g.width))
    return gemm.fastest_width(most, vectors, lambda pixels: math.ceil(g.width / pixels))


def _pack(sums: Sums, program: Program) -> Arrays:
    grouped = program.geometry.grouped(sums.weights, UNIT)  # [out_c, steps, 2]
    packed, indices = {}, []
    for number, s in enumerate(program.sections):
        index = s.channel_indices()[:, channel_order(program.level, s.vectors)]
        tensor = program.constants[f"weights {number}"]
        packed[f"weights {number}"] = grouped[index].transpose(0, 3, 1, 2, 4).reshape(tensor.shape).astype(tensor.dtype)
        indices.append(index.reshape(-1, program.level.lanes))
    channels = np.concatenate(indices)
    epilogue = program.ending.pack(sums, channels)
    return {**packed, "start": sums.start[channels], **epilogue}


@dataclass(frozen=True)
class _Tile:
    """The buffers of a function under construction."""

    program: Program
    constants: Buffers
    image: Buffer
    y: Buffer

    def emit(self, number: int, _span: Span, first: int, block: Expr, t: Expr) -> None:
        """Tile `t` of a block of section `number`: `pixels` x `vectors`, from bias to stored codes."""
        program, s, weights = self.program, self.program.sections[number], self.constants[f"weights {number}"]
        g, lanes = program.geometry, program.level.lanes
        row, column = tiles.in_row(g, s.pixels, t)
        pixel = T.Bind(row * g.width + column)
        at = T.Bind(first + block * s.vectors + moving_zero(self.constants, t))
        starts = [T.Bind(load(self.constants["start"], at + v, 0, lanes=lanes)) for v in range(s.vectors)]
        sums = Accumulators.by_pixel(s.pixels, s.vectors, lanes)
        address = g.address(row, column)
        if program.pieces:
            sums = self._in_pieces(weights, block, address, starts, sums)
        else:
            sums.fill(starts)
            for first_run, count, pitch in g.regular_runs():
                with T.serial(count) as r, T.serial(program.units) as u:
                    run = address + g.runs[first_run] + r * pitch
                    self._step(weights, block, run, first_run + r, u, sums)
        vectors, rows = [at + v for v in range(s.vectors)], [pixel + p for p in range(s.pixels)]
        gemm.finish(program.ending, sums.values(), self.constants, vectors, s.stored, self.y, rows, s.start(block))

    def _in_pieces(
        self, weights: Buffer, block: Expr, address: Expr, starts: list[Expr], sums: Accumulators
    ) -> Accumulators:
        """int64 sums of pieces of runs, each of which `sums` holds in 32 bits."""
        g, lanes, units = self.program.geometry, self.program.level.lanes, self.program.units
        totals = Accumulators.by_pixel(sums.pixels, sums.vectors, lanes, "int64")
        totals.fill(starts)
        size = math.ceil(units / self.program.pieces)
        zero = broadcast(T.int32(0), lanes)
        for first_run, count, pitch in g.regular_runs():
            with T.serial(count) as r, T.serial(math.ceil(units / size)) as piece:
                sums.fill([zero] * sums.vectors)
                with T.serial(T.min(size, units - piece * size)) as u:
                    run = address + g.runs[first_run] + r * pitch
                    self._step(weights, block, run, first_run + r, piece * size + u, sums)
                totals.add(sums)
        return totals

    def _step(self, weights: Buffer, block: Expr, start: Expr, run: Expr, unit: Expr, sums: Accumulators) -> None:
        """Two inputs of each pixel: unit `unit` of run number `run`, which begins at `start`."""
        g, level, ending = self.program.geometry, self.program.level, self.program.ending
        inside = T.min(unit * UNIT, g.run - UNIT) if g.run % UNIT and g.run > UNIT else unit * UNIT
        offset, k = T.Bind(start + inside), T.Bind(run * self.program.units + unit)
        w = [functools.partial(_weights, weights, block, k, v, UNIT * level.lanes) for v in range(sums.vectors)]
        x = [functools.partial(self._pair, offset + p * g.pixel_step) for p in range(sums.pixels)]

        if level.avx512:
            operands = [T.Bind(each()) for each in w]
            for p, each in enumerate(x):
                pair = T.Bind(each())
                for v, operand in enumerate(operands):
                    sums[p, v] = ending.add(sums[p, v], pair, operand)
            return
        # Half as many registers: the inputs stay, weights come and go.
        pairs = [T.Bind(each()) for each in x]
        for v, each in enumerate(w):
            operand = T.Bind(each())
            for p, pair in enumerate(pairs):
                sums[p, v] = ending.add(sums[p, v], pair, operand)

    def _pair(self, offset: Expr) -> Expr:
        """Two consecutive inputs in every lane."""
        lanes = self.program.level.lanes
        two = T.reinterpret("int32", load(self.image, offset, lanes=UNIT))
        return self.program.level.as_pairs(broadcast(two, lanes))


def _weights(weights: Buffer, block: Expr, k: Expr, v: int, count: int) -> Expr:
    return T.cast(load(weights, block, k, v, 0, lanes=count), vector("int16", count))
