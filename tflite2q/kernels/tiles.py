"""Tiles of an implicit GEMM: which output pixels they have, and the loops over what those read.

Shared by kernels of bytes and of real numbers, whose steps multiply units of so many elements of each pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tflite2q.kernels.gemm import Geometry
from tflite2q.kernels.tir import Expr, T

APART = 8  # pixels of a tile that may lie in different rows, each with an address in a register
WORTH = 1.1  # times as many tiles as there could be, which take longer than addresses of all pixels
FEW_RUNS = 3  # that are not worth a loop, in which LLVM would compute addresses anew


def tiles(g: Geometry, pixels: int) -> int:
    """Tiles that cover all pixels, the last one, or the last one of each row, overlapping its neighbour."""
    return math.ceil(g.pixels / pixels) if _across_rows(g, pixels) else by_row(g, pixels)


def by_row(g: Geometry, pixels: int) -> int:
    """The same of tiles that do not leave their row."""
    return g.rows * math.ceil(g.width / pixels)


def in_row(g: Geometry, pixels: int, t: Expr) -> tuple[Expr, Expr]:
    """Row and first column of tile `t` of those."""
    per_row = math.ceil(g.width / pixels)
    return t // per_row, T.Bind(T.min(t % per_row * pixels, g.width - pixels))


def _across_rows(g: Geometry, pixels: int) -> bool:
    """Whether tiles of so many pixels may begin in one row and end in another.

    Where no row is full of tiles each pixel has an address of its own, which only pays if it saves many tiles.
    """
    saves = by_row(g, pixels) > WORTH * math.ceil(g.pixels / pixels)
    return g.rows == 1 or g.width % pixels == 0 or (pixels <= APART and saves)


def place(g: Geometry, pixels: int, t: Expr) -> tuple[Expr, list[Expr]]:
    """The first output pixel of tile `t`, and where each of its `pixels` pixels reads."""
    if _across_rows(g, pixels):
        pixel = T.Bind(T.min(t * pixels, g.pixels - pixels))
        return pixel, g.addresses(pixel, pixels)
    row, column = in_row(g, pixels, t)
    address = g.address(row, column)
    return T.Bind(row * g.width + column), [address + p * g.pixel_step for p in range(pixels)]


def each_step(g: Geometry, unit: int, at_once: int, unrolled: int, step: Callable[[Expr, Expr], None]) -> None:
    """`step(offset, k)` for step k, which reads `unit` elements `offset` behind a pixel's first one.

    Up to `at_once` steps have no loop; others have one over each run, `unrolled` of them in one go.
    """
    units = g.units(unit)
    if len(g.runs) * units <= at_once:
        for i, run in enumerate(g.runs):
            for u in range(units):
                step(run + g.unit_start(u, unit), i * units + u)
        return
    whole = g.run // unit // unrolled
    runs = [(i, 1, 0) for i in range(len(g.runs))] if len(g.runs) <= FEW_RUNS else g.regular_runs()
    for first, count, pitch in runs:
        with T.serial(count) as r:
            base, k = T.Bind(g.runs[first] + r * pitch), T.Bind((first + r) * units)
            with T.serial(whole) as i:
                for j in range(unrolled):
                    u = i * unrolled + j
                    step(base + u * unit, k + u)
            for u in range(whole * unrolled, units):
                step(base + g.unit_start(u, unit), k + u)
