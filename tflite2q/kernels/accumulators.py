"""Sums in registers: the vectors of a tile, which kernels fill, add to and read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tflite2q.kernels.tir import Buffer, Expr, T, load, local, store, vector


@dataclass(frozen=True)
class Accumulators:
    """Vectors [pixels, vectors] of `lanes` numbers; each lies in one of `buffers`, from some element on."""

    lanes: int
    dtype: str
    pixels: int
    vectors: int
    buffers: tuple[Buffer, ...]

    @staticmethod
    def by_pixel(pixels: int, vectors: int, lanes: int, dtype: str = "int32") -> Accumulators:
        """With one buffer for all vectors of a pixel."""
        buffers = tuple(local(vectors * lanes, dtype) for _ in range(pixels))
        return Accumulators(lanes, dtype, pixels, vectors, buffers)

    @staticmethod
    def apart(pixels: int, vectors: int, lanes: int, dtype: str = "int32") -> Accumulators:
        """With a buffer for each vector."""
        buffers = tuple(local(lanes, dtype) for _ in range(pixels * vectors))
        return Accumulators(lanes, dtype, pixels, vectors, buffers)

    def __getitem__(self, place: tuple[int, int]) -> Expr:
        buffer, at = self._cell(place)
        return load(buffer, at, lanes=self.lanes)

    def __setitem__(self, place: tuple[int, int], value: Expr) -> None:
        buffer, at = self._cell(place)
        store(buffer, value, at, lanes=self.lanes)

    def fill(self, values: Sequence[Expr]) -> None:
        """Set the vectors of each pixel to `values`."""
        self.start(lambda p, v: values[v])

    def start(self, value: Callable[[int, int], Expr]) -> None:
        """Set vector v of each pixel p to `value(p, v)`."""
        for p in range(self.pixels):
            for v in range(self.vectors):
                self[p, v] = value(p, v)

    def add(self, others: Accumulators) -> None:
        """Add the numbers of `others`, which may have another type."""
        wide = vector(self.dtype, self.lanes)
        for p in range(self.pixels):
            for v in range(self.vectors):
                self[p, v] = self[p, v] + T.cast(others[p, v], wide)

    def values(self) -> list[list[Expr]]:
        """What they hold now, [pixels][vectors]."""
        return [[self[p, v] for v in range(self.vectors)] for p in range(self.pixels)]

    def _cell(self, place: tuple[int, int]) -> tuple[Buffer, int]:
        p, v = place
        if len(self.buffers) == self.pixels:
            return self.buffers[p], v * self.lanes
        return self.buffers[p * self.vectors + v], 0
