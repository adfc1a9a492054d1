"""Interleaved input rows: what depthwise convolution multiplies, each input column interleaved once.

Four vertically adjacent input rows of one column become 32-bit lanes that hold one channel's four bytes.  Interleaving
works within 128 bits, so of a vector of bytes, vector j holds bytes 4 j to 4 j + 3 of every 16.  Where a vector holds
several pixels they lie in lanes of their own, and so vector j of all groups of pixels, one after another, is a *stream*
in which the next pixel lies a fixed distance further on: whatever pixel a tap begins with, it reads one vector.

A stream has `fill` where the image has no column.  A stride takes only some columns, so each remainder modulo the
stride has streams of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, load, shuffle, store, vector
from tflite2q.kernels.x86.isa import Level

# int32 in 4 KiB.  A load waits for an earlier store at the same place of another page, so streams begin at other ones.
PAGE = 1024
BEGINNING = 1.5  # tiles that take as long as the beginning of a strip


@dataclass(frozen=True)
class Columns:
    """Which input columns streams hold: from output column `start` on, position p of phase f is column
    (start + p) * stride + f - left, if 0 <= it < width.

    A row of `row` outputs is taken in strips of `outputs`, the last of which may overlap its neighbour.
    """

    width: int
    left: int
    stride: int
    taps: tuple[int, ...]
    row: int
    outputs: int

    @property
    def phases(self) -> tuple[int, ...]:
        return tuple(sorted({tap % self.stride for tap in self.taps}))

    @property
    def positions(self) -> int:
        """Length of a stream, in pixels."""
        return self.outputs + max(self.taps) // self.stride

    @property
    def strips(self) -> int:
        return math.ceil(self.row / self.outputs)

    @property
    def last(self) -> int:
        """Where the last strip starts."""
        return self.row - self.outputs

    def in_strips(self, most: int, tile: int) -> Columns:
        """The same in strips of at most `most` outputs, computed `tile` at a time; in one, if more than the first would
        begin, or more than the last end, outside the image."""
        if self.row <= most:
            return replace(self, outputs=self.row)
        lengths = [replace(self, outputs=outputs) for outputs in range(tile, most + 1, tile)]
        found = min(lengths, key=lambda each: each.strips * (each.outputs / tile + BEGINNING))
        starts = [min(strip * found.outputs, found.last) for strip in range(found.strips)]
        begin = all(found._inside(phase, start)[0] == 0 for phase in found.phases for start in starts[1:])
        end = all(found._inside(phase, start)[1] == found.positions for phase in found.phases for start in starts[:-1])
        return found if begin and end else replace(self, outputs=self.row)

    def before(self, phase: int) -> int:
        """First position of the first strip that is a column of the image."""
        return self._inside(phase, 0)[0]

    def behind(self, phase: int) -> int:
        """First position of the last strip behind those that are columns of the image."""
        return self._inside(phase, self.last)[1]

    def _inside(self, phase: int, start: int) -> tuple[int, int]:
        """First position of a phase that is a column of the image, and the first behind them."""
        first, end = (-(-(at - phase) // self.stride) - start for at in (self.left, self.left + self.width))
        return min(max(first, 0), self.positions), min(max(end, first, 0), self.positions)


@dataclass(frozen=True)
class InterleavedRows:
    """Lines in a buffer of int32, for vectors of `pixels` pixels of `channels` channels.

    `packs`: groups of four input rows; `pixel_bytes`: between neighbouring columns in the image.
    """

    level: Level
    columns: Columns
    channels: int
    packs: int
    pixel_bytes: int
    signed: bool

    @property
    def pixels(self) -> int:
        return 4 * self.level.lanes // self.channels

    @property
    def _stream(self) -> int:
        """Elements of one stream, with room for a vector that hangs over; a page's quarter beyond whole pages."""
        length = -(-(self.columns.positions + 2 * self.pixels) * self.channels // 4)
        return -(-(length - PAGE // 4) // PAGE) * PAGE + PAGE // 4

    @property
    def pixel_size(self) -> int:
        """Elements of a pixel, in all its streams."""
        return len(self.columns.phases) * self.packs * self.level.bytes.operands * self.channels

    @property
    def size(self) -> int:
        return len(self.columns.phases) * self.packs * self.level.bytes.operands * 4 * self._stream

    def operands(self, buffer: Buffer, tap: int, pack: int, position: Expr, v: int) -> tuple[Expr, ...]:
        """What output `position` and its neighbours multiply: vector v of `pack`, as `ByteProduct.add` takes it."""
        phase, u = tap % self.columns.stride, position + tap // self.columns.stride
        places = self._places(phase, pack, u, v)
        return tuple(T.Bind(load(buffer, place, lanes=self.level.lanes)) for place in places)

    def pack(
        self, buffer: Buffer, image: Buffer, rows: list[list[Expr]], channel: Expr, start: Expr, fill: int
    ) -> None:
        """All columns of the strip from output column `start` on; `fill` (a byte) where the image has none.

        `rows[pack]`: offsets in the image of the four rows' first bytes.
        """
        columns = self.columns
        with T.If(T.EQ(start, 0)), T.Then():
            self._fill(buffer, fill, lambda phase: (0, columns.before(phase)))
        for phase in columns.phases:
            self._pack_phase(buffer, image, rows, channel, start, phase)
        with T.If(T.EQ(start, columns.last)), T.Then():
            self._fill(buffer, fill, lambda phase: (columns.behind(phase), columns.positions))

    def _fill(self, buffer: Buffer, value: int, places: Callable[[int], tuple[int, int]]) -> None:
        """`value` at the positions of each phase from the first to the one before the second of `places`."""
        four = int.from_bytes(bytes([value] * 4), "little", signed=True)
        operands = self.level.bytes.inputs(broadcast(T.int32(four), self.level.lanes))
        for phase in self.columns.phases:
            for at in range(*places(phase), self.pixels):
                for pack in range(self.packs):
                    self._put(buffer, phase, pack, at, [operands] * 4)

    def _pack_phase(
        self, buffer: Buffer, image: Buffer, rows: list[list[Expr]], channel: Expr, start: Expr, phase: int
    ) -> None:
        columns, (first, end) = self.columns, (self.columns.before(phase), self.columns.behind(phase))
        if columns.strips > 1:
            first = T.Bind(T.max(first - start, 0))
            end = T.Bind(T.min(end + columns.last - start, columns.positions))
        elif end - first <= 0:
            return
        count, step = end - first, columns.stride * self.pixel_bytes
        offset = channel + ((start + first) * columns.stride + phase - columns.left) * self.pixel_bytes
        if columns.strips == 1 and count < self.pixels:
            self._pack_group(buffer, image, rows, (phase, first), offset, count)
            return
        with T.serial((count + self.pixels - 1) // self.pixels) as i:
            at = T.Bind(T.min(i * self.pixels, count - self.pixels))
            self._pack_group(buffer, image, rows, (phase, first + at), T.Bind(offset + at * step), self.pixels)

    def _pack_group(
        self, buffer: Buffer, image: Buffer, rows: list[list[Expr]], place: tuple[int, Expr], offset: Expr, count: int
    ) -> None:
        """The vector of pixels from `place` (phase, position) on, of which `count` are inside the image."""
        phase, position = place
        for pack, four in enumerate(rows):
            loaded = [self._bytes(image, row + offset, count) for row in four]
            packed = [self.level.bytes.inputs(v) for v in self.level.interleave(loaded)]
            self._put(buffer, phase, pack, position, packed)

    def _bytes(self, image: Buffer, address: Expr, count: int) -> Expr:
        """One row's pixels as a vector; those behind the last of `count` repeat it."""
        size, step = 4 * self.level.lanes, self.columns.stride * self.pixel_bytes
        if self.pixels == 1 or (count == self.pixels and step == self.channels):
            value = load(image, address, lanes=size)
        else:
            places = [address + min(i, count - 1) * step for i in range(self.pixels)]
            value = shuffle([load(image, place, lanes=self.channels) for place in places], range(size))
        value = T.reinterpret(vector("uint8", size), value)
        if self.signed:
            value = T.bitwise_xor(value, T.broadcast(T.uint8(128), size))
        return T.Bind(value)

    def _put(self, buffer: Buffer, phase: int, pack: int, position: Expr, vectors: list[tuple[Any, ...]]) -> None:
        for v, operands in enumerate(vectors):
            for place, operand in zip(self._places(phase, pack, position, v), operands, strict=True):
                store(buffer, operand, place, lanes=self.level.lanes)

    def _places(self, phase: int, pack: int, position: Expr, v: int) -> Iterator[Expr]:
        """Element of the buffer where each operand of vector v begins."""
        first = (self.columns.phases.index(phase) * self.packs + pack) * self.level.bytes.operands
        if self.channels >= 16:
            stream, at = v, position * (self.channels // 4)
        else:  # two pixels in 128 bits: even and odd ones have streams of their own
            pixel = position + v // 2
            stream, at = pixel % 2 * 2 + v % 2, pixel // 2 * 4
        for operand in range(self.level.bytes.operands):
            yield ((first + operand) * 4 + stream) * self._stream + at
