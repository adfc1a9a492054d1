"""Convolution and dense layers of 16-bit inputs as an implicit matrix product.

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
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.base import Array, Built, Conv2D, Dense, Tensor
from tflite2q.kernels.loops import ZEROS, moving_zero, padded_image
from tflite2q.kernels.product import Geometry, Section, divide, each_tile
from tflite2q.kernels.sums import Sums
from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, function, load, local, store, vector, view
from tflite2q.kernels.x86.isa import Isa
from tflite2q.kernels.x86.words import Words, as_pairs, channel_order

WIDEST = 4  # vectors of a block
UNIT = 2  # inputs of a step
FEW_PIXELS = 64


@dataclass(frozen=True)
class Plan:
    """What the text of the function depends on.

    `pieces`: into how many a run is cut whose sums need 64 bits, or 0; `weight_dtype`: of weights in memory.
    """

    inputs: Tensor
    output: Tensor
    geometry: Geometry
    fill: int
    sections: tuple[Section, ...]
    pieces: int
    weight_dtype: str
    words: Words

    @property
    def units(self) -> int:
        """Steps of a run."""
        return self.geometry.units(UNIT)

    @property
    def isa(self) -> Isa:
        return self.words.isa

    @property
    def macs(self) -> int:
        return self.output.size * len(self.geometry.runs) * self.geometry.run

    @property
    def constants(self) -> tuple[Tensor, ...]:
        lanes, steps = self.isa.lanes, len(self.geometry.runs) * self.units
        count = sum(s.blocks * s.vectors for s in self.sections)
        weights = [Tensor((s.blocks, steps, s.vectors, UNIT * lanes), self.weight_dtype) for s in self.sections]
        start = Tensor((count, lanes), "int64" if self.pieces else "int32")
        return (*weights, start, ZEROS, *self.words.tensors(count))


@dataclass(frozen=True)
class X86Conv16:
    """Conv2D and Dense contracts of int16 activations on one level of instructions."""

    isa: Isa

    @property
    def name(self) -> str:
        return f"conv2d16__{self.isa.name}"

    def refuses(self, contract: Conv2D | Dense, target: Any) -> str | None:
        lacks = self.isa.lacks(target)
        if lacks:
            return lacks
        if {contract.x_dtype, contract.rescale.dtype} != {"int16"}:
            return f"{contract.x_dtype} to {contract.rescale.dtype}"
        if isinstance(contract, Conv2D) and contract.groups != 1:
            return f"{contract.groups} groups"
        return None

    def build(self, contract: Conv2D | Dense, target: Any) -> Built:
        conv = contract.conv2d() if isinstance(contract, Dense) else contract
        sums = Sums.of(conv)
        plan = _plan(conv, sums, contract.inputs[0], contract.output, self.isa)
        s = plan.sections[0]
        operation = "dense" if isinstance(contract, Dense) else "conv2d"
        name = f"s16s16_{operation}_{conv.rescale.arithmetic}_{s.pixels}x{s.block}__{self.isa.name}"
        return Built(name, (name, plan), _function(plan), contract.inputs, _pack(conv, sums, plan), contract.output)


def _plan(conv: Conv2D, sums: Sums, inputs: Tensor, output: Tensor, isa: Isa) -> Plan:
    geometry = Geometry.of(conv)
    pieces = 0
    if sums.wide:
        pairs = np.abs(geometry.grouped(sums.weights, UNIT)).sum(axis=2)
        pieces = layout.pieces(pairs.reshape(conv.out_c, len(geometry.runs), -1), layout.code_reach(conv))
    sections = divide(conv.out_c, isa.lanes, WIDEST, lambda vectors: _pixels(vectors, geometry.width, isa))
    return Plan(
        inputs,
        output,
        geometry,
        conv.x_zero_point,
        sections,
        pieces,
        _weight_dtype(sums, geometry),
        Words(sums.epilogue, isa, sums.proven),
    )


def _weight_dtype(sums: Sums, geometry: Geometry) -> str:
    """How weights are stored: those that few pixels use come from far away, which takes longer than widening them."""
    few = geometry.rows * geometry.width <= FEW_PIXELS
    return "int8" if few and np.abs(sums.weights).max() <= 127 else "int16"


def _pixels(vectors: int, width: int, isa: Isa) -> int:
    """How many pixels a tile of so many vectors has."""
    accumulators = 24 if isa.lanes == 16 else 12
    most = max(1, min(accumulators // vectors, 14, width))

    def cycles(pixels: int) -> float:
        """Of one step over all tiles: two products a cycle, some cost of loads, an accumulator's latency of five."""
        return math.ceil(width / pixels) * max(pixels * vectors / 2 + 0.15 * (pixels + vectors), 5)

    return min(range(most, 0, -1), key=cycles)


def _channels(section: Section, isa: Isa) -> Array:
    """[blocks, vectors, lanes]: output channel of each lane."""
    return section.channel_indices()[:, channel_order(isa, section.vectors)]


def _pack(conv: Conv2D, sums: Sums, plan: Plan) -> tuple[Array, ...]:
    grouped = plan.geometry.grouped(sums.weights, UNIT)  # [out_c, steps, 2]
    indices = [_channels(s, plan.isa) for s in plan.sections]
    weights = [
        np.ascontiguousarray(grouped[index].transpose(0, 3, 1, 2, 4).reshape(tensor.shape), tensor.dtype)
        for index, tensor in zip(indices, plan.constants, strict=False)
    ]
    channels = np.concatenate([index.reshape(-1, plan.isa.lanes) for index in indices])
    zeros = np.zeros(ZEROS.shape, np.int32)
    return (*weights, sums.start[channels], zeros, *plan.words.pack(conv, sums, channels))


@functools.cache
def _function(plan: Plan) -> Any:
    return function([plan.inputs], plan.constants, plan.output, functools.partial(_body, plan))


def _body(plan: Plan, x: Buffer, *rest: Buffer) -> None:
    *packed, y = rest
    g, count = plan.geometry, len(plan.sections)
    weights, (start, zeros), constants = packed[:count], packed[count : count + 2], packed[count + 2 :]
    image = padded_image(x, Tensor(g.image, plan.inputs.dtype), g.padding, plan.fill, UNIT if g.run < UNIT else 0)
    y = view(y, (g.rows * g.width, plan.output.shape[-1]))
    tile = _Tile(plan, image, start, zeros, tuple(constants), y)
    tiles = [g.rows * math.ceil(g.width / s.pixels) for s in plan.sections]
    each_tile(
        plan.sections, tiles, plan.macs,
        lambda: nullcontext(lambda n, first, block, t: tile.emit(plan.sections[n], weights[n], first, block, t)),
    )  # fmt: skip


@dataclass(frozen=True)
class _Tile:
    """The buffers of a function under construction."""

    plan: Plan
    image: Buffer
    start: Buffer
    zeros: Buffer
    constants: tuple[Buffer, ...]
    y: Buffer

    def emit(self, s: Section, weights: Buffer, first: int, block: Expr, t: Expr) -> None:
        """`pixels` x `vectors`, from bias to stored codes."""
        g, lanes = self.plan.geometry, self.plan.isa.lanes
        per_row = math.ceil(g.width / s.pixels)
        row = t // per_row
        column = T.Bind(T.min(t % per_row * s.pixels, g.width - s.pixels))
        pixel = T.Bind(row * g.width + column)
        at = T.Bind(first + block * s.vectors + moving_zero(self.zeros, t))
        starts = [T.Bind(load(self.start, at + v, 0, lanes=lanes)) for v in range(s.vectors)]
        accumulators = [local(s.vectors * lanes, "int32") for _ in range(s.pixels)]
        address = g.address(row, column)
        if self.plan.pieces:
            accumulators = self._in_pieces(s, weights, block, address, starts, accumulators)
        else:
            _fill(accumulators, starts, lanes)
            for first_run, count, pitch in g.regular_runs():
                with T.serial(count) as r, T.serial(self.plan.units) as u:
                    run = address + g.runs[first_run] + r * pitch
                    self._step(s, weights, block, run, first_run + r, u, accumulators)
        self._finish(s, pixel, block, at, accumulators)

    def _in_pieces(
        self, s: Section, weights: Buffer, block: Expr, address: Expr, starts: list[Expr], accumulators: list[Buffer]
    ) -> list[Buffer]:
        """int64 sums of pieces of runs, each of which `accumulators` sum in 32 bits."""
        g, lanes, units = self.plan.geometry, self.plan.isa.lanes, self.plan.units
        totals = [local(s.vectors * lanes, "int64") for _ in accumulators]
        _fill(totals, starts, lanes)
        size = math.ceil(units / self.plan.pieces)
        zero = broadcast(T.int32(0), lanes)
        for first_run, count, pitch in g.regular_runs():
            with T.serial(count) as r, T.serial(math.ceil(units / size)) as piece:
                _fill(accumulators, [zero] * s.vectors, lanes)
                with T.serial(T.min(size, units - piece * size)) as u:
                    run = address + g.runs[first_run] + r * pitch
                    self._step(s, weights, block, run, first_run + r, piece * size + u, accumulators)
                for total, line in zip(totals, accumulators, strict=True):
                    for v in range(s.vectors):
                        part = T.cast(load(line, v * lanes, lanes=lanes), vector("int64", lanes))
                        store(total, load(total, v * lanes, lanes=lanes) + part, v * lanes, lanes=lanes)
        return totals

    def _step(
        self, s: Section, weights: Buffer, block: Expr, start: Expr, run: Expr, unit: Expr, accumulators: list[Buffer]
    ) -> None:
        """Two inputs of each pixel: unit `unit` of run number `run`, which begins at `start`."""
        g, isa = self.plan.geometry, self.plan.isa
        inside = T.min(unit * UNIT, g.run - UNIT) if g.run % UNIT and g.run > UNIT else unit * UNIT
        offset, k = T.Bind(start + inside), T.Bind(run * self.plan.units + unit)
        w = [functools.partial(_weights, weights, block, k, v, UNIT * isa.lanes) for v in range(s.vectors)]
        x = [functools.partial(self._pair, offset + p * g.pixel_step) for p in range(s.pixels)]

        def accumulate(p: int, v: int, pair: Expr, operand: Expr) -> None:
            old = load(accumulators[p], v * isa.lanes, lanes=isa.lanes)
            store(accumulators[p], self.plan.words.add(old, pair, operand), v * isa.lanes, lanes=isa.lanes)

        if isa.lanes == 16:
            operands = [T.Bind(each()) for each in w]
            for p, each in enumerate(x):
                pair = T.Bind(each())
                for v, operand in enumerate(operands):
                    accumulate(p, v, pair, operand)
            return
        # Half as many registers: the inputs stay, weights come and go.
        pairs = [T.Bind(each()) for each in x]
        for v, each in enumerate(w):
            operand = T.Bind(each())
            for p, pair in enumerate(pairs):
                accumulate(p, v, pair, operand)

    def _pair(self, offset: Expr) -> Expr:
        """Two consecutive inputs in every lane."""
        lanes = self.plan.isa.lanes
        two = T.reinterpret("int32", load(self.image, offset, lanes=UNIT))
        return as_pairs(self.plan.isa, broadcast(two, lanes))

    def _finish(self, s: Section, pixel: Expr, block: Expr, at: Expr, accumulators: list[Buffer]) -> None:
        lanes, words = s.lanes, self.plan.words
        rounded: list[list[Expr]] = [[] for _ in accumulators]
        # Vector by vector, so that one's constants serve all pixels from registers.
        for v in range(s.vectors):
            for values, line in zip(rounded, accumulators, strict=True):
                values.append(words.rounded(load(line, v * lanes, lanes=lanes), self.constants, at + v))
        for p, values in enumerate(rounded):
            words.stored(values, s.stored, self.y, pixel + p, s.start(block))


def _weights(weights: Buffer, block: Expr, k: Expr, v: int, count: int) -> Expr:
    return T.cast(load(weights, block, k, v, 0, lanes=count), vector("int16", count))


def _fill(accumulators: list[Buffer], values: list[Expr], lanes: int) -> None:
    for line in accumulators:
        for v, value in enumerate(values):
            store(line, value, v * lanes, lanes=lanes)
