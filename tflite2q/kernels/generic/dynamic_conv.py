"""Convolutions and dense layers of activations quantized in every run, for any LLVM target.

The codes are summed as float32 numbers by the loops of float32 kernels.  That is exact, because
float32 holds integers up to 2^24: a centred code is within 255, and where 255 times the sum of a filter's magnitudes
stays below 2^24, so does every partial sum, in any order and with or without fused multiply-adds.  Where it does not,
sums of pieces that stay below it are added up in int32.

What limits it is what limits float32 convolutions; the codes take another pass over the input.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.contracts import Array, DynamicConv2DContract, Tensor
from tflite2q.kernels.dynamic import DynamicSums, Images, RealSums
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.generic import float_conv, float_depthwise, float_gemm
from tflite2q.kernels.real import FLOAT, Registers
from tflite2q.kernels.tir import Buffer, Buffers

EXACT = 2**24  # integers that float32 holds


Sums = float_conv.Program | float_gemm.Program | float_depthwise.Program


@dataclass(frozen=True)
class Program:
    """What the text of the function depends on; `sums`, of padded images, has the geometry and the tiles."""

    input: Tensor
    images: Images
    sums: Sums
    ending: RealSums

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.input,)

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
        ending = DynamicSums(self.ending, scales.scale, constants["scales"], constants["bias"])
        self.sums.emit_tiles(image, constants, y, ending)


class GenericDynamicConv:
    """DynamicConv2D contracts; total."""

    name = "generic_dynamic_conv2d"

    def plan(self, contract: DynamicConv2DContract, target: Any) -> Plan:
        images = Images.of(contract)
        # The clamps are the ending's: programs that differ in nothing else share tiles.
        padded = replace(contract, x=Tensor(images.padded, FLOAT), padding=(0, 0, 0, 0), low=None, high=None)
        sums, tile, pack = _sums(padded, Registers.of(target))
        program = Program(contract.x, images, sums, RealSums.of(contract))
        operation = "conv2d" if contract.groups == 1 else "depthwise" if contract.each_by_itself else "grouped"
        name = Name("f32s8", operation, arithmetic="dynamic", tile=tile)
        return Plan(name, program, functools.partial(_pack, padded, pack))


def _sums(contract: DynamicConv2DContract, registers: Registers) -> tuple[Sums, str, Callable[[Any], Arrays]]:
    """What sums codes as real numbers, the name of its tiles, and what packs its constants but the scales."""
    piece = _piece(contract.weights)
    if not piece and float_depthwise.refusal(contract) is None:
        depthwise = float_depthwise.Program.of(contract, registers)
        s = depthwise.sections[0]
        return depthwise, f"{s.pixels}x{s.block}", lambda c: float_depthwise.pack(c, depthwise)
    if not piece and contract.groups == 1:
        gemm = float_gemm.Program.of(contract, registers)
        s = gemm.sections[0]
        return gemm, f"{s.pixels}x{s.block}", lambda c: float_gemm.pack(c, gemm)
    plain = replace(float_conv.Program.of(contract, registers), piece=piece)
    return plain, f"{plain.pixels}x{plain.width}", lambda c: float_conv.pack(c, plain)


def _pack(contract: DynamicConv2DContract, pack: Callable[[Any], Arrays]) -> Arrays:
    reals = replace(contract, weights=contract.weights.astype(np.float32))
    # Scales lie as biases do.
    return {**pack(reals), "scales": pack(replace(reals, bias=contract.scales))["bias"]}


def _piece(weights: Array) -> int:
    """How many products of codes float32 sums exactly, 0 if all that there are."""
    if layout.largest_sum(weights) < EXACT:
        return 0
    return (EXACT - 1) // (layout.LARGEST_CODE * int(np.abs(weights.astype(np.int64)).max()))
