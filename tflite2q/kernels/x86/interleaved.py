"""Interleaved input rows: what depthwise convolution multiplies, each input column interleaved once.

Four vertically adjacent input rows of one column become 32-bit lanes that hold one channel's four bytes.  Interleaving
works within 128 bits, so of a vector of bytes, vector j holds bytes 4 j to 4 j + 3 of every 16.  Where a vector holds
several pixels they lie in lanes of their own, and so vector j of all groups of pixels, one after another, is a *stream*
in which the next pixel lies a fixed distance further on: whatever pixel a tap begins with, it reads one vector.

A stream has `fill` where the image has no column.  A stride takes only some columns, so each remainder modulo the
stride has streams of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, load, shuffle, store, vector
from tflite2q.kernels.x86.isa import Level


@dataclass(frozen=True)
class Columns:
    """Which input columns streams hold: position p of phase f is column p * stride + f - left, if 0 <= it < width."""

    width: int
    left: int
    stride: int
    taps: tuple[int, ...]
    outputs: int

    @property
    def phases(self) -> tuple[int, ...]:
        return tuple(sorted({tap % self.stride for tap in self.taps}))

    @property
    def positions(self) -> int:
        """Length of a stream, in pixels."""
        return self.outputs + max(self.taps) // self.stride

    def inside(self, phase: int) -> tuple[int, int]:
        """First position of a phase that is a column of the image, and the first behind them."""
        first, end = (-(-(at - phase) // self.stride) for at in (self.left, self.left + self.width))
        return max(first, 0), min(max(end, first, 0), self.positions)


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
        """Elements of one stream, with room for a vector that hangs over."""
        length = -(-(self.columns.positions + 2 * self.pixels) * self.channels // 4)
        return -(-length // 16) * 16

    @property
    def size(self) -> int:
        return len(self.columns.phases) * self.packs * self.level.bytes.operands * 4 * self._stream

    def operands(self, buffer: Buffer, tap: int, pack: int, position: Expr, v: int) -> tuple[Expr, ...]:
        """What output `position` and its neighbours multiply: vector v of `pack`, as `ByteProduct.add` takes it."""
        phase, u = tap % self.columns.stride, position + tap // self.columns.stride
        places = self._places(phase, pack, u, v)
        return tuple(T.Bind(load(buffer, place, lanes=self.level.lanes)) for place in places)

    def fill(self, buffer: Buffer, value: int, before: bool) -> None:
        """`value` (a byte) at all positions before those inside the image, or behind them."""
        four = int.from_bytes(bytes([value] * 4), "little", signed=True)
        operands = self.level.bytes.inputs(broadcast(T.int32(four), self.level.lanes))
        for phase in self.columns.phases:
            first, end = self.columns.inside(phase)
            begin, stop = (0, first) if before else (end, self.columns.positions)
            for at in range(begin, stop, self.pixels):
                for pack in range(self.packs):
                    self._put(buffer, phase, pack, at, [operands] * 4)

    def pack(self, buffer: Buffer, image: Buffer, rows: list[list[Expr]], channel: Expr) -> None:
        """All columns inside the image.  `rows[pack]`: offsets in the image of the four rows' first bytes."""
        for phase in self.columns.phases:
            first, end = self.columns.inside(phase)
            count = end - first
            if count <= 0:
                continue
            column = first * self.columns.stride + phase - self.columns.left
            if count < self.pixels:
                self._pack_group(buffer, image, rows, (phase, first), channel + column * self.pixel_bytes, count)
                continue
            step = self.columns.stride * self.pixel_bytes
            with T.serial(-(-count // self.pixels)) as i:
                at = T.Bind(T.min(i * self.pixels, count - self.pixels))
                offset = T.Bind(channel + column * self.pixel_bytes + at * step)
                self._pack_group(buffer, image, rows, (phase, first + at), offset, self.pixels)

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
