"""Index of the first largest channel of each pixel of a resized image, for any LLVM target.

Pixels are computed as resizing does (`tflite2q.kernels.generic.resize`) and compared as they come
(`tflite2q.kernels.generic.argmax`).  The resized image, often the largest tensor of a segmentation network, is never
written.  Arithmetic limits it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tflite2q.kernels.contracts import ResizedArgMaxContract, Tensor
from tflite2q.kernels.frame import Name, Plan, Tensors
from tflite2q.kernels.generic import argmax, resize
from tflite2q.kernels.loops import region
from tflite2q.kernels.tir import Buffer, Buffers, T, store, view


@dataclass(frozen=True)
class Program:
    """Both programs, with vectors of the same length."""

    resize: resize.Program
    argmax: argmax.Program

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.resize.inputs

    @property
    def output(self) -> Tensor:
        return self.argmax.output

    @property
    def constants(self) -> Tensors:
        return {**self.resize.constants, **self.argmax.constants}

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        n, out_h, out_w, _ = self.resize.output.shape
        target = view(y, (n * out_h, out_w), self.output.dtype)
        with region(n * out_h, self.resize.output.size * 16) as i:
            row = self.resize.row(inputs[0], constants, i)
            with T.serial(out_w) as column:
                found = self.argmax.index(row(column), constants["tags"])
                store(target, T.cast(found, self.output.dtype), i, column)


class GenericResizedArgMax:
    """ResizedArgMax contracts; total."""

    name = "generic_resized_argmax"

    def plan(self, contract: ResizedArgMaxContract, target: Any) -> Plan:
        resized = resize.Program.of(contract.resize, target)
        program = Program(resized, argmax.Program(contract.argmax, resized.lanes))
        name = Name(contract.resize.dtype, "resized_argmax", arithmetic=resized.weight_dtype)
        return Plan(name, program, lambda: {**resized.pack(contract.resize), **program.argmax.pack()})
