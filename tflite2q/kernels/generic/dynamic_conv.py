"""Convolutions and dense layers of activations quantized in every run, for any LLVM target.

The codes are summed as float32 numbers by the loops of `tflite2q.kernels.generic.float_conv`.  That is exact, because
float32 holds integers up to 2^24: a centred code is within 255, and where 255 times the sum of a filter's magnitudes
stays below 2^24, so does every partial sum, in any order and with or without fused multiply-adds.  Where it does not,
sums of pieces that stay below it are added up in int32.

What limits it is what limits float32 convolutions; the codes take another pass over the input.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.contracts import Array, DynamicConv2DContract, Tensor
from tflite2q.kernels.dynamic import Images, Scales
from tflite2q.kernels.frame import Arrays, Plan, Tensors
from tflite2q.kernels.generic import float_conv
from tflite2q.kernels.generic.float_conv import Registers, clamped
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, uncontracted

EXACT = 2**24  # integers that float32 holds


@dataclass(frozen=True)
class RealSums:
    """From sums of codes to real numbers; see `DynamicConv2DContract`.  `pixels`: output pixels of an image."""

    biased: bool
    channels_first: bool
    low: float | None
    high: float | None
    batch: int
    pixels: int

    @staticmethod
    def of(contract: DynamicConv2DContract) -> RealSums:
        height, width = contract.out_size
        return RealSums(
            contract.bias is not None, contract.channels_first, contract.low, contract.high, contract.x.shape[0],
            height * width,
        )  # fmt: skip

    def image(self, pixel: Expr) -> Expr:
        """The image that an output pixel belongs to."""
        return 0 if self.batch == 1 else pixel // self.pixels

    def real(self, value: Expr, scale: Expr, channels: Expr, bias: Expr, lanes: int) -> Expr:
        """Of a vector of float32 sums; `scale` is the image's, `channels` and `bias` are vectors."""
        image = broadcast(scale, lanes)
        if self.channels_first:
            value = uncontracted(uncontracted(value * channels) * image)
        else:
            value = uncontracted(value * uncontracted(image * channels))
        return clamped(value + bias if self.biased else value, self.low, self.high, lanes)


@dataclass(frozen=True)
class _Ending:
    ending: RealSums
    scales: Scales

    def start(self, constants: Buffers, block: Expr, v: int, lanes: int) -> Expr:
        return broadcast(T.float32(0.0), lanes)

    def result(self, value: Expr, constants: Buffers, block: Expr, v: int, lanes: int, pixel: Expr) -> Expr:
        channels, bias = (load(constants[name], block, v * lanes, lanes=lanes) for name in ("scales", "bias"))
        return self.ending.real(value, self.scales.scale[self.ending.image(pixel)], channels, bias, lanes)


@dataclass(frozen=True)
class Program:
    """What the text of the function depends on; `sums` has the geometry and the tiles."""

    images: Images
    sums: float_conv.Program
    ending: RealSums

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.sums.inputs

    @property
    def output(self) -> Tensor:
        return self.sums.output

    @property
    def constants(self) -> Tensors:
        found = dict(self.sums.constants)
        return {**found, "scales": found["bias"]}

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        scales = self.images.scales(inputs[0])
        image = self.images.reals(inputs[0], scales)
        self.sums.emit_tiles(image, constants, y, _Ending(self.ending, scales))


class GenericDynamicConv:
    """DynamicConv2D contracts; total."""

    name = "generic_dynamic"

    def plan(self, contract: DynamicConv2DContract, target: Any) -> Plan:
        # The clamps are the ending's: programs that differ in nothing else share tiles.
        sums = replace(
            float_conv.Program.of(contract, Registers.of(target)), low=None, high=None, piece=_piece(contract.weights)
        )
        images = Images(_four(contract.x.shape), contract.padding, contract.asymmetric)
        program = Program(images, sums, RealSums.of(contract))
        operation = "depthwise" if sums.each_by_itself else "conv2d"
        name = f"f32s8_{operation}_dynamic_{sums.pixels}x{sums.width}__generic"
        return Plan(name, program, functools.partial(_pack, contract, program))


def _pack(contract: DynamicConv2DContract, program: Program) -> Arrays:
    packed = dict(float_conv.pack(replace(contract, weights=contract.weights.astype(np.float32)), program.sums))
    channels = program.sums.block_starts[:, None] + np.arange(program.sums.width)
    return {**packed, "scales": contract.scales[channels]}


def _piece(weights: Array) -> int:
    """How many products of codes float32 sums exactly, 0 if all that there are."""
    if layout.largest_sum(weights) < EXACT:
        return 0
    return (EXACT - 1) // (layout.LARGEST_CODE * int(np.abs(weights.astype(np.int64)).max()))


def _four(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    n, h, w, c = shape
    return n, h, w, c
