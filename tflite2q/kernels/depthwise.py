"""Depthwise convolutions: what kernels that unroll their taps have in common.

Tiles of x86 kernels are a few output rows that share groups of interleaved input rows, and vectors of channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tflite2q.kernels.contracts import (
    Array,
    ConvolutionContract,
    DepthwiseConv2DContract,
    FloatConv2DContract,
    Tensor,
)
from tflite2q.kernels.refusals import Because, Refusal, other_types

NARROWEST = 8  # channels


def refusal(contract: DepthwiseConv2DContract, dtypes: Collection[str], most_taps: int) -> Refusal | None:
    """Why a kernel of depth multiplier 1 does not take `contract`: types, channels or taps."""
    if not {contract.x_dtype, contract.rescale.dtype} <= set(dtypes):
        return other_types(contract.x_dtype, contract.rescale.dtype)
    if contract.depth_multiplier != 1:
        return Refusal(Because.GEOMETRY, f"depth multiplier {contract.depth_multiplier}")
    if contract.kernel[0] * contract.kernel[1] > most_taps:
        return Refusal(Because.GEOMETRY, f"a {contract.kernel[0]}x{contract.kernel[1]} kernel would unroll too far")
    if contract.out_c < NARROWEST:
        return Refusal(Because.GEOMETRY, f"{contract.out_c} channels are fewer than {NARROWEST}")
    return None


@dataclass(frozen=True)
class Window:
    """Where the outputs of a convolution read."""

    input: Tensor
    output: Tensor
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]

    @staticmethod
    def of(contract: ConvolutionContract | FloatConv2DContract) -> Window:
        return Window(
            contract.inputs[0], contract.output, contract.kernel, contract.strides, contract.dilation, contract.padding
        )

    @property
    def name(self) -> str:
        return f"{self.kernel[0]}x{self.kernel[1]}s{self.strides[0]}"

    def shared_rows(self, group: int) -> int:
        """How many output rows share the groups of `group` input rows that one of them takes."""
        rows = max(1, (group * math.ceil(self.kernel[0] / group) - self.kernel[0]) // self.strides[0] + 1)
        return min(rows, self.output.shape[1]) if self.dilation[0] == 1 else 1

    def taps(self, rows: int) -> int:
        """Input rows that so many output rows read."""
        return self.kernel[0] + (rows - 1) * self.strides[0]

    def tiles(self, rows: int) -> int:
        """Tiles of so many output rows that lie below each other in an image; the last two may overlap."""
        return math.ceil(self.output.shape[1] / rows)

    def rows_inside(self, rows: int) -> list[tuple[bool, ...]]:
        """For each tile down the image, which of the input rows that it reads are inside."""
        out_h, in_h = self.output.shape[1], self.input.shape[1]
        starts = [min(tile * rows, out_h - rows) for tile in range(self.tiles(rows))]
        tops = [start * self.strides[0] - self.padding[0] for start in starts]
        reach = range(self.taps(rows))
        return [tuple(0 <= top + i * self.dilation[0] < in_h for i in reach) for top in tops]

    def variants(self, rows: int) -> list[tuple[bool, ...]]:
        """The different ones of `rows_inside`: each has constants of its own."""
        return list(dict.fromkeys(self.rows_inside(rows)))


@dataclass(frozen=True)
class Section:
    """`blocks` blocks of `width` channels from `first` on; `pixels` neighbours fill a vector of inputs.

    `columns`: how many such groups of pixels one tile computes side by side.
    """

    first: int
    width: int
    blocks: int
    pixels: int
    columns: int

    @property
    def side(self) -> int:
        """Output pixels of a tile in a row."""
        return self.columns * self.pixels


def sections(contract: ConvolutionContract, full: int, columns: Callable[[int], int]) -> tuple[Section, ...]:
    """Vectors of `full` channels, then halves, quarters, ... of what is left; the last may overlap its neighbour.

    `columns` says how many of a row's so many vectors one tile computes.
    """
    found: list[Section] = []
    first, width = 0, full
    while first < contract.out_c:
        left = contract.out_c - first
        if width > NARROWEST and left < width:
            width //= 2
            continue
        blocks, pixels = max(left // width, 1), full // width
        side = columns(contract.out_w // pixels)
        found.append(Section(min(first, contract.out_c - width), width, blocks, pixels, side))
        first += blocks * width
    return tuple(found)


@dataclass(frozen=True)
class WindowProgram:
    """What the text of every function of a depthwise convolution depends on."""

    window: Window

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.window.input,)

    @property
    def output(self) -> Tensor:
        return self.window.output


@dataclass(frozen=True)
class InterleavingProgram(WindowProgram):
    """The same where input rows are interleaved, `group` of them.

    `rows`: output rows of a tile; `variants`: ways in which the input rows of tiles lie inside the image.
    """

    group: ClassVar[int]

    rows: int
    variants: int
    sections: tuple[Section, ...]

    @property
    def taps(self) -> int:
        """Input rows that a tile reads."""
        return self.window.taps(self.rows)

    @property
    def groups(self) -> int:
        """Interleaved groups of rows that a tile reads."""
        return math.ceil(self.taps / self.group)

    @property
    def blocks(self) -> int:
        return sum(s.blocks for s in self.sections)

    def channels(self, order: Array) -> Array:
        """[blocks, *shape of `order`]: the channel of each lane, whose order within a vector `order` is."""
        return np.stack([s.first + b * s.width + order % s.width for s in self.sections for b in range(s.blocks)])

    def variant_of_each_tile(self) -> Array:
        """int32: the number of the variant of each tile down the image."""
        variants = self.window.variants(self.rows)
        return np.array([variants.index(inside) for inside in self.window.rows_inside(self.rows)], np.int32)


def narrow_rows(contract: ConvolutionContract, found: tuple[Section, ...]) -> Refusal | None:
    """The refusal of images whose rows do not fill a vector."""
    if all(contract.out_w >= s.pixels for s in found):
        return None
    return Refusal(
        Because.GEOMETRY, f"rows of {contract.out_w} pixels of {contract.out_c} channels do not fill a vector"
    )
