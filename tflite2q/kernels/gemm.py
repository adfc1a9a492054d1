"""Convolution as an implicit GEMM (matrix product): addresses, packing and loops over tiles, for every processor.

What an output pixel reads is one *run* of consecutive bytes for each kernel row (kernel width times input channels; one
run in all for 1x1), so there is no im2col.  Runs are multiplied in *units* of so many bytes, as the instruction takes
them; a run that is no multiple of the unit ends with a unit that overlaps its neighbour, with zero weights where they
overlap.  Channels and pixels that fill no tile overlap likewise: no masks and no tails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.contracts import Array, Conv2DContract, DenseContract, FloatConv2DContract, Tensor
from tflite2q.kernels.frame import Tensors
from tflite2q.kernels.loops import padded_image, pays, threads_at_once
from tflite2q.kernels.refusals import Because, Refusal, other_types
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, view

FEW_TAPS = 9  # of a dilated kernel, each of which has a text of its own
CHUNKS = 16  # pieces into which a parallel layer's pixels are cut, at most
FEWEST = 4  # pieces that threads share evenly enough
NEAR_WEIGHTS = 1 << 15  # bytes that stay in the first cache while pixels pass by
MANY_CHANNELS = 4  # times as many as pixels, so that weights are far more bytes than inputs


@dataclass(frozen=True)
class Geometry:
    """Where output pixels read.  `rows` x `width` are the output pixels as tiles see them (one row for 1x1);
    `runs` are offsets in elements from a pixel's first one, each `run` elements long."""

    image: tuple[int, int, int, int]
    padding: tuple[int, int, int, int]
    out_h: int
    rows: int
    width: int
    strides: tuple[int, int]
    runs: tuple[int, ...]
    run: int

    @staticmethod
    def of(conv: Conv2DContract | FloatConv2DContract) -> Geometry:
        kh, kw = conv.kernel
        image, (batch, out_h, out_w, _) = conv.inputs[0].shape, conv.output.shape
        _, _, in_w, pixel = image
        row = (in_w + conv.padding[1] + conv.padding[3]) * pixel
        rows, width = batch * out_h, out_w
        if (kh, kw) == (1, 1) and conv.strides == (1, 1) and not any(conv.padding):
            rows, width = 1, rows * width
        if conv.dilation[1] == 1 or kw == 1:
            runs, run = tuple(i * conv.dilation[0] * row for i in range(kh)), kw * pixel
        else:
            taps = [(i, j) for i in range(kh) for j in range(kw)]
            runs = tuple(i * conv.dilation[0] * row + j * conv.dilation[1] * pixel for i, j in taps)
            run = pixel
        return Geometry(four(image), conv.padding, out_h, rows, width, conv.strides, runs, run)

    @property
    def pixel_step(self) -> int:
        """Bytes between what two horizontally adjacent output pixels read."""
        return self.strides[1] * self.image[3]

    @property
    def pixels(self) -> int:
        """Output pixels."""
        return self.rows * self.width

    @property
    def taps(self) -> int:
        """Inputs that an output pixel reads."""
        return len(self.runs) * self.run

    def address(self, row: Expr, column: Expr) -> Expr:
        """Offset in the padded image of the first byte that output pixel (row, column) reads."""
        _, h, w, c = self.image
        h, w = h + self.padding[0] + self.padding[2], w + self.padding[1] + self.padding[3]
        if self.rows == 1:
            return column * self.pixel_step
        first = row // self.out_h * h + row % self.out_h * self.strides[0]
        return T.Bind((first * w + column * self.strides[1]) * c)

    def regular_runs(self) -> list[tuple[int, int, int]]:
        """(first run, count, distance) of loops over the runs: one, if they lie equally far apart.

        Dilated kernels of many taps, which LLVM would otherwise take long for, have one for each row.
        """
        pitch = self.runs[1] - self.runs[0] if len(self.runs) > 1 else 0
        if all(run == i * pitch for i, run in enumerate(self.runs)):
            return [(0, len(self.runs), pitch)]
        row = next(i for i, run in enumerate(self.runs) if run != i * pitch)
        if len(self.runs) > FEW_TAPS:
            return [(first, row, pitch) for first in range(0, len(self.runs), row)]
        return [(i, 1, 0) for i in range(len(self.runs))]

    def addresses(self, first: Expr, count: int) -> list[Expr]:
        """The same of `count` output pixels from number `first` on, across the ends of rows.

        Where `count` divides the width, they lie in one row: one address and constant distances.
        """
        if self.rows == 1 or self.width % count == 0:
            base = self.address(first // self.width, first % self.width)
            return [base + p * self.pixel_step for p in range(count)]
        return [T.Bind(self.address((first + p) // self.width, (first + p) % self.width)) for p in range(count)]

    def units(self, unit: int) -> int:
        """Units of `unit` bytes in a run."""
        return math.ceil(self.run / unit)

    def unit_start(self, index: int, unit: int) -> int:
        """Where in its run unit `index` begins; the last one ends with the run if the run is that long."""
        return min(index * unit, max(self.run - unit, 0))

    def offsets(self, unit: int) -> Array:
        """int32 [runs * units]: where each unit is read, behind the first byte of a pixel."""
        return np.array(
            [run + self.unit_start(u, unit) for run in self.runs for u in range(self.units(unit))], np.int32
        )

    def grouped(self, weights: Array, unit: int) -> Array:
        """Weights [out_c, kh, kw, in_c] as [out_c, runs * units, unit], zero where units overlap or overhang."""
        out_c, count = weights.shape[0], self.units(unit)
        starts = np.array([self.unit_start(i, unit) for i in range(count)])
        taps = starts[:, None] + np.arange(unit)
        fresh = (taps >= unit * np.arange(count)[:, None]) & (taps < self.run)
        by_run = weights.reshape(out_c, len(self.runs), self.run)
        grouped = by_run[:, :, np.minimum(taps, self.run - 1)] * fresh
        return grouped.reshape(out_c, len(self.runs) * count, unit)


def four(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The shape of images."""
    n, h, w, c = shape
    return n, h, w, c


@dataclass(frozen=True)
class Section:
    """Output channels [first, first + channels) in blocks of `vectors` vectors of `lanes`, on tiles of `pixels`."""

    first: int
    channels: int
    vectors: int
    pixels: int
    lanes: int

    @property
    def block(self) -> int:
        """Output channels of a block."""
        return self.vectors * self.lanes

    @property
    def blocks(self) -> int:
        return math.ceil(self.channels / self.block)

    @property
    def stored(self) -> int:
        """Channels of a block that exist."""
        return min(self.block, self.channels)

    def start(self, block: Expr) -> Expr:
        """First output channel of a block."""
        last = self.first + self.channels - self.stored
        return last if self.blocks == 1 else T.min(self.first + block * self.block, last)

    def channel_indices(self) -> Array:
        """[blocks, block]: the output channel of each lane.  Lanes beyond the last channel repeat it."""
        starts = self.first + layout.blocks(self.channels, self.stored)
        return np.minimum(starts[:, None] + np.arange(self.block), self.first + self.channels - 1)


def divide(channels: int, lanes: int, widest: int, pixels: Callable[[int], int]) -> tuple[Section, ...]:
    """Blocks of `widest` vectors of `lanes` channels as far as they go, then one narrower block for what is left.

    `pixels` says how many pixels a tile of so many vectors has.
    """

    def section(first: int, count: int, vectors: int) -> Section:
        return Section(first, count, vectors, pixels(vectors), lanes)

    rest = channels % (widest * lanes)
    if channels >= widest * lanes and (rest == 0 or rest > (widest - 1) * lanes):
        return (section(0, channels, widest),)
    whole = channels - rest
    head = (section(0, whole, widest),) if whole else ()
    vectors = math.ceil(rest / lanes)
    # With channels to spare before it, the rest starts early enough to end at the last one.
    first = max(channels - vectors * lanes, 0) if whole else 0
    return (*head, section(first, channels - first, vectors))


def fastest_width(most: int, vectors: int, tiles: Callable[[int], int]) -> int:
    """The width, up to `most` pixels, of tiles of `vectors` vectors that take the fewest cycles on x86.

    A step has two products a cycle, some cost of loads, and an accumulator's latency of five; `tiles` says how many
    tiles of a width cover all pixels.
    """
    return min(
        range(most, 0, -1),
        key=lambda pixels: tiles(pixels) * max(pixels * vectors / 2 + 0.15 * (pixels + vectors), 5),
    )


class Ending(Protocol):
    """What follows the products on a processor: from accumulators to stored codes; hashable."""

    def constants(self, vectors: int) -> Tensors:
        """The constants of so many vectors of accumulators."""

    def rounded(self, v: Expr, constants: Buffers, index: Expr) -> Expr:
        """Rescaled accumulators of vector `index` as int32."""

    def store(self, rounded: list[list[Expr]], stored: int, y: Buffer, rows: list[Expr], channel: Expr) -> None:
        """The first `stored` codes of each row's vectors to y, from `channel` on."""


def rounded(ending: Ending, values: list[list[Expr]], constants: Buffers, vectors: Sequence[Expr]) -> list[list[Expr]]:
    """Accumulators [pixels][vectors] as `ending` rounds them; `vectors` are the numbers of their constants.

    Vector by vector, so that one's constants serve all pixels from registers.
    """
    found: list[list[Expr]] = [[] for _ in values]
    for v, index in enumerate(vectors):
        for codes, pixel in zip(found, values, strict=True):
            codes.append(ending.rounded(pixel[v], constants, index))
    return found


def finish(
    ending: Ending, values: list[list[Expr]], constants: Buffers, vectors: Sequence[Expr], stored: int, y: Buffer,
    rows: list[Expr], channel: Expr,
) -> None:  # fmt: skip
    """Codes of accumulators [pixels][vectors] to `rows` of y; `vectors` are the numbers of their constants."""
    ending.store(rounded(ending, values, constants, vectors), stored, y, rows, channel)


@dataclass(frozen=True)
class GemmProgram:
    """What the text of every function of an implicit GEMM depends on; `fill`: the code of padding."""

    inputs: tuple[Tensor, ...]
    output: Tensor
    geometry: Geometry
    fill: int
    sections: tuple[Section, ...]

    @property
    def vectors(self) -> int:
        """Vectors of output channels, of all blocks."""
        return sum(s.blocks * s.vectors for s in self.sections)

    @property
    def macs(self) -> int:
        return self.output.size * self.geometry.taps

    def steps(self, unit: int) -> int:
        """Units of `unit` bytes that one output pixel takes."""
        return len(self.geometry.runs) * self.geometry.units(unit)

    def image(self, x: Buffer, unit: int, slack: int | None = None) -> Buffer:
        """The padded input on one axis, with `slack` readable elements behind it if runs are shorter than a unit."""
        g, slack = self.geometry, unit if slack is None else slack
        slack = slack if self.geometry.run < unit else 0
        return padded_image(x, Tensor(g.image, self.inputs[0].dtype), g.padding, self.fill, slack)

    def pixels(self, y: Buffer) -> Buffer:
        """The output as [pixels, channels]."""
        return view(y, (self.geometry.pixels, self.output.shape[-1]))


def refusal(contract: Conv2DContract | DenseContract, dtypes: Collection[str]) -> Refusal | None:
    """Why a kernel of one group, whose inputs and outputs have one of `dtypes`, does not take `contract`."""
    if not {contract.x_dtype, contract.rescale.dtype} <= set(dtypes):
        return other_types(contract.x_dtype, contract.rescale.dtype)
    groups = contract.conv2d().groups
    return Refusal(Because.GEOMETRY, f"{groups} groups") if groups != 1 else None


def by_section(sections: Sequence[Section], name: str, tensor: Callable[[Section], Tensor]) -> dict[str, Tensor]:
    """A constant of each section, `name` and the section's number being its name."""
    return {f"{name} {number}": tensor(section) for number, section in enumerate(sections)}


@dataclass(frozen=True)
class Span:
    """So many tiles of `pixels` output pixels, from pixel `first` on."""

    first: int
    tiles: int
    pixels: int


# Number of a section, span, index of the section's first vector among all sections', block, tile of the span.
Emit = Callable[[int, Span, int, Expr, Expr], None]
Scope = Callable[[], AbstractContextManager[Emit]]  # opens what a thread needs for itself
# Instead of a number of pieces: threads share the channels, or the pixels of one block of channels after the other.
BY_CHANNELS, BY_BLOCK = 0, -1


def pieces(sections: Sequence[Section], spans: Sequence[Sequence[Span]], macs: int) -> int:
    """Into how many pieces `each_tile` cuts the pixels on x86."""
    tiles, blocks = spans[0][0].tiles, sections[0].blocks
    pixels = tiles * spans[0][0].pixels
    weights = macs // pixels
    # Where pixels are few, reading weights takes longer than multiplying them.
    if not pays(max(macs, weights * 8)):
        return 1
    # Threads that share the pixels read all weights, and those that share the channels all inputs.
    channels = sum(s.blocks * s.block for s in sections)
    if blocks >= FEWEST and channels > MANY_CHANNELS * pixels:
        return BY_CHANNELS
    # All weights pass by each piece of the pixels, so those that leave the first cache do so once for each thread.
    if tiles >= FEWEST and weights > NEAR_WEIGHTS:
        return BY_BLOCK
    return min(CHUNKS, tiles) if tiles >= max(FEWEST, min(CHUNKS, blocks)) else BY_CHANNELS


def turns(tiles: int, count: int) -> int:
    """How often at least a thread of `each_tile` that has any of the `tiles` uses a block's weights before the next
    block's."""
    if count == BY_BLOCK:
        return max(tiles // 2, 1)  # with two threads
    return tiles if count == BY_CHANNELS else max(tiles // count, 1)


def each_tile(sections: Sequence[Section], spans: Sequence[Sequence[Span]], count: int, scope: Scope) -> None:
    """Loops over all blocks of all sections and their tiles of pixels, which are the `spans` of each section.

    A block's weights are used for all tiles of a thread, or of a piece, before the next block's.  Threads share the
    pixels, cut into `count` pieces, or the channels, or the pixels of each block.
    """
    if count == BY_BLOCK:
        with threads_at_once(), scope() as emit:
            for number in range(len(sections)):
                for span in spans[number]:
                    _shared_blocks(sections, number, span, emit)
        return
    if count != BY_CHANNELS:
        if count == 1:
            with scope() as emit:
                _piece(sections, spans, emit, 0, 1)
        else:
            with T.parallel(count) as index, scope() as emit:
                _piece(sections, spans, emit, index, count)
        return
    for number, s in enumerate(sections):
        blocks = T.parallel(s.blocks) if s.blocks > 1 else T.serial(s.blocks)
        with blocks as block, scope() as emit:
            for span in spans[number]:
                with T.serial(span.tiles) as t:
                    emit(number, span, _first_vector(sections, number), block, t)


def _shared_blocks(sections: Sequence[Section], number: int, span: Span, emit: Emit) -> None:
    """Blocks of a section one after another, the tiles of each shared by all threads.

    Where tiles cannot be cut evenly, the cut moves from block to block, so that threads have the same number in all.
    """
    s = sections[number]
    with T.serial(s.blocks) as block, T.parallel(CHUNKS) as piece:
        moved = T.Bind(block * CHUNKS // s.blocks)
        begin, end = (T.Bind((i * span.tiles + moved) // CHUNKS) for i in (piece, piece + 1))
        with T.serial(end - begin) as t:
            emit(number, span, _first_vector(sections, number), block, begin + t)


def _piece(sections: Sequence[Section], spans: Sequence[Sequence[Span]], emit: Emit, index: Expr, count: int) -> None:
    """All channels of one piece of the pixels."""
    for number, s in enumerate(sections):
        for span in spans[number]:
            begin, end = (0, span.tiles) if count == 1 else (i * span.tiles // count for i in (index, index + 1))
            with T.serial(s.blocks) as block, T.serial(end - begin) as t:
                emit(number, span, _first_vector(sections, number), block, begin + t)


def _first_vector(sections: Sequence[Section], number: int) -> int:
    return sum(s.blocks * s.vectors for s in sections[:number])
