"""Convolutions and dense layers of activations quantized in every run, by products of bytes.

The input becomes codes first, bytes counted from the lowest code, with a border of 0's code: one pass for the range of
each image and one that writes them.  Then it is multiplied as quantized layers are (`tflite2q.kernels.x86.conv`).  Sums
begin with what the codes' zero point contributes, the lowest code times the sum of a channel's weights.

What limits it is what limits those; where few channels share the input, the two passes over it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import gemm, layout
from tflite2q.kernels.contracts import Array, DynamicConv2DContract, Tensor
from tflite2q.kernels.dynamic import DynamicSums, Images, RealSums, Scales
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.gemm import Geometry
from tflite2q.kernels.loops import ZEROS
from tflite2q.kernels.real import FLOAT, bias_of, finish
from tflite2q.kernels.refusals import Because, Refusal
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, vector
from tflite2q.kernels.x86 import conv
from tflite2q.kernels.x86.conv import ByteProgram
from tflite2q.kernels.x86.isa import UNIT, Level

WIDEST = 4  # vectors of a block
MOST = 2**30  # what sums of products stay below, so that they fit 32 bits with any zero point


@dataclass(frozen=True)
class Program(ByteProgram):
    """What the text of the function depends on."""

    images: Images
    ending: RealSums

    @property
    def constants(self) -> Tensors:
        each = (self.vectors, self.level.lanes)
        return {
            **self.packed_weights,
            "weight sums": Tensor(each, "int32"),
            "scales": Tensor(each, FLOAT),
            "bias": Tensor(each, FLOAT),
            **ZEROS,
        }

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        scales = self.images.scales(inputs[0])
        slack = UNIT if self.geometry.run < UNIT else 0
        image = self.images.bytes(inputs[0], scales, slack)
        sums = DynamicSums(self.ending, scales.scale, constants["scales"], constants["bias"])
        self.emit_tiles(image, constants, y, _Reals(self.level.lanes, sums, scales, constants["weight sums"]))


@dataclass(frozen=True)
class _Reals:
    """Accumulators that become real numbers; `weights`: sums of them by channel."""

    lanes: int
    sums: DynamicSums
    scales: Scales
    weights: Buffer

    def start(self, index: Expr, pixel: Expr) -> Expr:
        zero = T.Bind(self.scales.zero(self.sums.ending.image(pixel)))
        return broadcast(0 - zero, self.lanes) * load(self.weights, index, 0, lanes=self.lanes)

    def finish(
        self, values: list[list[Expr]], vectors: list[Expr], stored: int, y: Buffer, rows: list[Expr], channel: Expr
    ) -> None:
        reals = [[T.Bind(T.cast(value, vector(FLOAT, self.lanes))) for value in pixel] for pixel in values]
        finish(self.sums, reals, vectors, self.lanes, stored, y, rows, channel)


@dataclass(frozen=True)
class X86DynamicConv:
    """DynamicConv2D contracts without groups on one level of instructions."""

    level: Level

    @property
    def name(self) -> str:
        return f"dynamic_conv2d__{self.level.name}"

    def plan(self, contract: DynamicConv2DContract, target: Any) -> Plan | Refusal:
        refused = self.level.lacks(target) or refusal(contract)
        if refused:
            return refused
        geometry, lanes = Geometry.of(contract), self.level.lanes
        sections = gemm.divide(
            contract.output.shape[3], lanes, WIDEST, functools.partial(conv.tile_pixels, geometry, self.level)
        )
        program = Program(
            contract.inputs, contract.output, geometry, 0, sections, self.level, self.level.bytes, (),
            Images.of(contract), RealSums.of(contract),
        )  # fmt: skip
        filters = contract.weights.transpose(3, 0, 1, 2).astype(np.int64)
        weights = conv.arranged_weights(program, filters, [_lane_channels(s) for s in sections])
        program, pack_weights = conv.without_saturation(program, weights)
        s = sections[0]
        name = Name(f"f32s{program.product.bits}", "conv2d", self.level.name, "dynamic", f"{s.pixels}x{s.block}")
        return Plan(name, program, functools.partial(_pack, contract, program, pack_weights))


def refusal(contract: DynamicConv2DContract) -> Refusal | None:
    """Why products of bytes do not compute `contract`."""
    if contract.groups != 1:
        return Refusal(Because.GEOMETRY, f"{contract.groups} groups")
    if layout.largest_sum(contract.weights) >= MOST:
        return Refusal(Because.NUMBERS, "sums of products may exceed 30 bits")
    return None


def _lane_channels(s: gemm.Section) -> Array:
    return s.channel_indices().reshape(-1, s.lanes)


def _pack(contract: DynamicConv2DContract, program: Program, weights: Callable[[], Arrays]) -> Arrays:
    channels = np.concatenate([_lane_channels(s) for s in program.sections])
    return {
        **weights(),
        "weight sums": contract.weights.astype(np.int64).sum(axis=(0, 1, 2))[channels].astype(np.int32),
        "scales": contract.scales[channels],
        "bias": bias_of(contract)[channels],
    }
