"""Pixels in pairs, as 8-bit matrix products take them: eight bytes of one beside the same eight of the next.

In an image, what a matrix product multiplies lies in two places, and takes a load and an insertion (a vector
instruction) each time that a block of channels reads it.  Where pixels share no input, as in a 1x1 convolution, they
are brought together once: one load then gives an operand to every block of channels.
"""

from __future__ import annotations

import math
from dataclasses import replace

from tflite2q.kernels.gemm import Geometry
from tflite2q.kernels.loops import region
from tflite2q.kernels.tir import Buffer, Expr, T, load, shuffle, store, view

UNIT = 8  # bytes of a pixel that a matrix product takes
PAIR = 2 * UNIT


def paired(g: Geometry) -> Geometry:
    """The pairs as an image of one row, each `PAIR` bytes for every unit of a run."""
    count, size = math.ceil(g.rows * g.width / 2), g.units(UNIT) * PAIR
    return replace(
        g, image=(1, 1, count, size), padding=(0, 0, 0, 0), out_h=1, rows=1, width=count, strides=(1, 1), run=size
    )


def first_pixel(g: Geometry, pair: Expr) -> Expr:
    """The output pixel a pair begins with.  The last of an odd number shares one with the pair before."""
    pixels = g.rows * g.width
    return T.min(2 * pair, pixels - 2) if pixels % 2 else 2 * pair


def pixel_pairs(g: Geometry, image: Buffer) -> Buffer:
    """The input of all output pixels, in pairs: what `paired(g)` describes.  `g` has one run."""
    _, _, count, size = paired(g).image
    pairs = T.decl_buffer((count * size,), str(image.dtype))
    eights = view(pairs, (count, size // 8), "int64")
    whole = g.run // PAIR
    with region(count, count * size * 8) as pair:
        pixel = T.Bind(first_pixel(g, pair))
        starts = [T.Bind(g.address(p // g.width, p % g.width)) for p in (pixel, pixel + 1)]
        with T.serial(whole) as c:
            both = [T.reinterpret("int64x2", load(image, start + c * PAIR, lanes=PAIR)) for start in starts]
            for unit in range(2):
                store(eights, shuffle(both, [unit, unit + 2]), pair, c * 4 + unit * 2, lanes=2)
        for unit in range(whole * 2, g.units(UNIT)):
            for i, start in enumerate(starts):
                eight = T.reinterpret("int64", load(image, start + g.unit_start(unit, UNIT), lanes=UNIT))
                store(eights, eight, pair, unit * 2 + i)
    return pairs
