"""Convolution as an implicit matrix product: the arithmetic of addresses and packing, the same for every processor.

What an output pixel reads is one *run* of consecutive bytes for each kernel row (kernel width times input channels; one
run in all for 1x1), so there is no im2col.  Runs are multiplied in *units* of so many bytes, as the instruction takes
them; a run that is no multiple of the unit ends with a unit that overlaps its neighbour, with zero weights where they
overlap.  Channels and pixels that fill no tile overlap likewise: no masks and no tails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.base import Array, Conv2D
from tflite2q.kernels.loops import PARALLEL_MACS
from tflite2q.kernels.tir import Expr, T

CHUNKS = 16  # pieces into which a parallel layer's pixels are cut, at most


@dataclass(frozen=True)
class Geometry:
    """Where output pixels read.  `rows` x `width` are the output pixels as tiles see them (one row for 1x1);
    `runs` are offsets in bytes from a pixel's first one, each `run` bytes long."""

    image: tuple[int, int, int, int]
    padding: tuple[int, int, int, int]
    out_h: int
    rows: int
    width: int
    strides: tuple[int, int]
    runs: tuple[int, ...]
    run: int

    @staticmethod
    def of(conv: Conv2D) -> Geometry:
        kh, kw = conv.kernel
        line, pixel = (conv.in_w + conv.padding[1] + conv.padding[3]) * conv.in_c, conv.in_c
        rows, width = conv.batch * conv.out_h, conv.out_w
        if (kh, kw) == (1, 1) and conv.strides == (1, 1) and not any(conv.padding):
            rows, width = 1, rows * width
        if conv.dilation[1] == 1 or kw == 1:
            runs, run = tuple(i * conv.dilation[0] * line for i in range(kh)), kw * pixel
        else:
            taps = [(i, j) for i in range(kh) for j in range(kw)]
            runs = tuple(i * conv.dilation[0] * line + j * conv.dilation[1] * pixel for i, j in taps)
            run = pixel
        image = (conv.batch, conv.in_h, conv.in_w, conv.in_c)
        return Geometry(image, conv.padding, conv.out_h, rows, width, conv.strides, runs, run)

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
        line = row // self.out_h * h + row % self.out_h * self.strides[0]
        return T.Bind((line * w + column * self.strides[1]) * c)

    def regular_runs(self) -> list[tuple[int, int, int]]:
        """(first run, count, distance) of loops over the runs: one, if they lie equally far apart."""
        pitch = self.runs[1] - self.runs[0] if len(self.runs) > 1 else 0
        if all(run == i * pitch for i, run in enumerate(self.runs)):
            return [(0, len(self.runs), pitch)]
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

    def grouped(self, weights: Array, unit: int) -> Array:
        """Weights [out_c, kh, kw, in_c] as [out_c, runs * units, unit], zero where units overlap or overhang."""
        out_c, count = weights.shape[0], self.units(unit)
        starts = np.array([self.unit_start(i, unit) for i in range(count)])
        taps = starts[:, None] + np.arange(unit)
        fresh = (taps >= unit * np.arange(count)[:, None]) & (taps < self.run)
        by_run = weights.reshape(out_c, len(self.runs), self.run)
        grouped = by_run[:, :, np.minimum(taps, self.run - 1)] * fresh
        return grouped.reshape(out_c, len(self.runs) * count, unit)


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


# Number of a section, index of its first vector among all sections', block, tile.
Emit = Callable[[int, int, Expr, Expr], None]


def each_tile(
    sections: Sequence[Section], tiles: Sequence[int], macs: int, scope: Callable[[], AbstractContextManager[Emit]]
) -> None:
    """Loops over all blocks of all sections and their tiles of pixels, `tiles` for each section.

    `scope` opens what a thread needs for itself and gives the function that emits a tile.  A block's weights are used
    for all tiles of a thread before the next block's.  Threads share the pixels, or the channels where pixels are few.
    """
    # Where pixels are few, reading weights takes longer than multiplying them.
    weights = macs // (tiles[0] * sections[0].pixels)
    if max(macs, weights * 8) < PARALLEL_MACS:
        with scope() as emit:
            _piece(sections, tiles, emit, 0, 1)
    elif tiles[0] >= max(4, min(CHUNKS, sections[0].blocks)):
        chunks = min(CHUNKS, tiles[0])
        with T.parallel(chunks) as index, scope() as emit:
            _piece(sections, tiles, emit, index, chunks)
    else:
        for number, (s, count) in enumerate(zip(sections, tiles, strict=True)):
            blocks = T.parallel(s.blocks) if s.blocks > 1 else T.serial(s.blocks)
            with blocks as block, scope() as emit, T.serial(count) as t:
                emit(number, _first_vector(sections, number), block, t)


def _piece(sections: Sequence[Section], tiles: Sequence[int], emit: Emit, index: Expr, chunks: int) -> None:
    """All channels of one piece of the pixels."""
    for number, (s, count) in enumerate(zip(sections, tiles, strict=True)):
        begin, end = (0, count) if chunks == 1 else (index * count // chunks, (index + 1) * count // chunks)
        with T.serial(s.blocks) as block, T.serial(end - begin) as t:
            emit(number, _first_vector(sections, number), block, begin + t)


def _first_vector(sections: Sequence[Section], number: int) -> int:
    return sum(s.blocks * s.vectors for s in sections[:number])
