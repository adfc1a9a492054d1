"""Convolution and dense layers on the matrix unit (AMX): an implicit GEMM in tiles of up to 16 x 16 outputs.

One instruction multiplies up to 16 pixels by 16 channels and 64 bytes deep, so an output costs an eighth of what the
vector dot product takes.  How a layer is cut into tiles and multiplied is told in `tflite2q.kernels.x86.tiling`.
Tiles of accumulators begin as the bias, one row loaded sixteen times, and end in scratch, from where the epilogue takes
them as vectors.

What limits it are the instructions around the multiplications.  A tile takes 8 cycles to load and 16 to store, in
which hardly anything else begins, and while the unit is in use only one port computes with 512-bit real numbers: the
epilogue takes two to three cycles for each vector of 16 outputs.  The multiplications limit deep layers only, memory
those whose weights exceed the caches.  Linux grants the matrix unit to a process that asks.  The function of a layer
asks in a tenth of a microsecond; that of a whole model asks for all its layers.
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
from tflite2q.kernels.contracts import Conv2DContract, DenseContract
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.gemm import Section, Span, each_tile, pieces, refusal, turns
from tflite2q.kernels.refusals import Because, Refusal
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, load
from tflite2q.kernels.x86 import amx
from tflite2q.kernels.x86.epilogue import PACKED, Rescaling, X86Epilogue, lane_channels
from tflite2q.kernels.x86.isa import AVX512VNNI, idle
from tflite2q.kernels.x86.tiling import (
    LANES,
    PIXELS,
    VECTORS,
    Products,
    Tiling,
    TilingProgram,
    Weights,
    configuration,
    with_weights,
)

STEP = 11  # bytes that the dot product multiplies in the time of a step of four tiles (measured on Sapphire Rapids)


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
            **self.ending.constants(self.tiling.vectors),
        }

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        tiling, dtype = self.tiling, self.tiling.inputs[0].dtype
        amx.ask()
        slack = tiling.unit - tiling.geometry.run
        image, y = tiling.image(inputs[0], tiling.unit, slack), tiling.pixels(y)
        groups = math.ceil(tiling.tiles / self.together)
        spans = [[Span(0, groups, self.together * tiling.height)]] * len(tiling.sections)
        count = pieces(tiling.sections, spans, tiling.macs)

        @contextmanager
        def scope() -> Iterator[Any]:
            amx.configure(constants["configuration"])
            start = constants["start"]
            products = Products.of(tiling, image, [(dtype, start)] * self.together, turns(groups, count))
            yield _Tile(self, products, constants, y).emit
            amx.release()

        each_tile(tiling.sections, spans, count, scope)


@dataclass(frozen=True)
class X86Matrix:
    """Conv2D and Dense contracts on the matrix unit.

    `slow_too`: also those that other kernels compute faster.
    """

    slow_too: bool = False

    @property
    def name(self) -> str:
        return f"conv2d__{amx.NAME}"

    def plan(self, contract: Conv2DContract | DenseContract, target: Any) -> Plan | Refusal:
        refused = amx.lacks(target) or refusal(contract, ("uint8", "int8"))
        if refused:
            return refused
        conv, tiling = contract.conv2d(), Tiling.of(contract)
        refused = None if self.slow_too else _slow(tiling, conv.out_c, target)
        if refused:
            return refused
        rescaling = Rescaling.of(conv.rescale, layout.largest_sum_of_codes(conv), AVX512VNNI, floats=True)
        indices = [lane_channels(s) for s in tiling.sections]
        tiling, weights = with_weights(tiling, layout.centered_weights(conv), indices)
        program = Program(tiling, rescaling.epilogue)
        tile = f"{program.together * tiling.height}x{min(VECTORS, tiling.sections[0].vectors) * LANES}"
        name = Name(f"{contract.x_dtype[0]}8s8", contract.operation, amx.NAME, conv.rescale.arithmetic, tile)
        return Plan(name, program, functools.partial(_pack, conv, tiling, rescaling, weights))


def _slow(tiling: Tiling, channels: int, target: Any) -> Refusal | None:
    """Why another kernel of `target` is faster."""
    if tiling.geometry.pixels == 1:
        return Refusal(Because.SPEED, "one output pixel fills one of the unit's sixteen rows")
    if tiling.slow(STEP) or idle(channels, AVX512VNNI, target):
        return Refusal(Because.SPEED, "few products for each output: vectors take less time")
    return None


def _pack(conv: Conv2DContract, tiling: Tiling, rescaling: Rescaling, weights: Weights) -> Arrays:
    channels = np.concatenate([lane_channels(s) for s in tiling.sections])
    return {
        **weights(),
        "start": layout.folded_bias(conv, conv.x_zero_point, rescaling.start)[channels],
        "configuration": configuration(tiling),
        **rescaling.pack(channels),
    }


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
        weights, extra = self.constants[f"weights {number}"], None
        if tiling.extras[number]:
            extra = tuple(self.constants[f"extra{name} {number}"] for name in ("", " offsets", " starts"))
        turn = T.Bind(t % self.products.turns)
        self.products.block(s, weights, block, at, addresses, extra, turn)
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
