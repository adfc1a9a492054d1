"""Transposed convolutions, by the kernel of the convolution that computes all output pixels between two input pixels.

What it computes is copied to its places in the output: of an output row, `strides[1]` pixels in one go.  The
convolution limits it; where input channels are few, the copy does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tflite2q.kernels import frame
from tflite2q.kernels.contracts import Contract, Tensor, TransposeConv2DContract
from tflite2q.kernels.frame import Plan, Tensors
from tflite2q.kernels.loops import chunks, region
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, load, store, view

LANES = 64  # of a vector that is copied


@dataclass(frozen=True)
class Program:
    """What the text of the function depends on; `conv` is the convolution's."""

    conv: frame.Program
    strides: tuple[int, int]
    first: tuple[int, int]
    output: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.conv.inputs

    @property
    def constants(self) -> Tensors:
        return self.conv.constants

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        scratch = T.decl_buffer(self.conv.output.shape, self.conv.output.dtype)
        self.conv.emit(inputs, constants, scratch)
        self._arranged(scratch, y)

    def _arranged(self, scratch: Buffer, y: Buffer) -> None:
        n, out_h, out_w, channels = self.output.shape
        height, width = self.conv.output.shape[1:3]
        (down, right), (top, left) = self.strides, self.first
        source = view(scratch, (n * height, width, down, right * channels))
        rows = view(y, (n * out_h, out_w * channels))
        # As many pixels at once as lie beside each other everywhere.
        together = math.gcd(math.gcd(left, out_w), right)
        length = together * channels
        with region(n * out_h, self.output.size * 8) as row, T.serial(out_w // together) as group:
            i, j = T.Bind(row % out_h + top), T.Bind(group * together + left)
            at = row // out_h * height + i // down, j // right, i % down
            start = T.Bind(j % right * channels)

            def copied(offset: Expr, lanes: int) -> None:
                value = load(source, *at, start + offset, lanes=lanes)
                store(rows, value, row, group * length + offset, lanes=lanes)

            chunks(length, LANES, copied)


@dataclass(frozen=True)
class GenericTransposeConv:
    """TransposeConv2D contracts; total.  `planned` gives the plan of a convolution for a target."""

    planned: Callable[[Contract, Any], Plan]

    name = "transpose_conv"

    def plan(self, contract: TransposeConv2DContract, target: Any) -> Plan:
        found = self.planned(contract.conv, target)
        program = Program(found.program, contract.strides, contract.first, contract.output)
        return Plan(replace(found.name, operation=f"transpose_{found.name.operation}"), program, found.pack)
