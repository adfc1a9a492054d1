"""Concatenation of integer tensors as copies of rows, for any LLVM target.  Memory limits it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tflite2q.kernels.contracts import ConcatContract, Tensor
from tflite2q.kernels.frame import Name, Plan, Tensors
from tflite2q.kernels.loops import copy_row, region
from tflite2q.kernels.tir import Buffer, Buffers, T

GRAIN = 64  # rows that one thread takes at a time


@dataclass(frozen=True)
class Program:
    """What the text of the function depends on."""

    inputs: tuple[Tensor, ...]
    output: Tensor

    @property
    def constants(self) -> Tensors:
        return {}

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        rows = self.output.shape[0]
        lengths = [t.shape[1] for t in self.inputs]
        starts = [0, *itertools.accumulate(lengths)]
        grain = min(GRAIN, rows)
        with region(-(-rows // grain), self.output.size * 8) as piece:
            first = T.Bind(T.min(piece * grain, rows - grain))
            with T.serial(grain) as i:
                for part, start, length in zip(inputs, starts[:-1], lengths, strict=True):
                    copy_row(y, part, first + i, start, first + i, length)


class GenericConcat:
    """Concat contracts; total."""

    name = "generic_concat"

    def plan(self, contract: ConcatContract, target: Any) -> Plan:
        return Plan(Name(contract.dtype, "concat"), Program(contract.inputs, contract.output), dict)
