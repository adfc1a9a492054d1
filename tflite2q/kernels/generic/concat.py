"""Concatenation of integer tensors as copies of rows, for any LLVM target.  Memory limits it."""

from __future__ import annotations

import functools
import itertools
from typing import Any

from tflite2q.kernels.base import Built, Concat
from tflite2q.kernels.loops import copy_row, region
from tflite2q.kernels.tir import Buffer, T, function

GRAIN = 64  # rows that one thread takes at a time


class GenericConcat:
    """Concat contracts; total."""

    name = "generic_concat"

    def refuses(self, contract: Concat, target: Any) -> str | None:
        return None

    def build(self, contract: Concat, target: Any) -> Built:
        name = f"{contract.dtype}_concat__generic"
        return Built(name, contract, _concat(contract), contract.inputs, (), contract.output)


@functools.cache
def _concat(contract: Concat) -> Any:
    return function(contract.inputs, [], contract.output, functools.partial(_body, contract))


def _body(contract: Concat, *buffers: Buffer) -> None:
    *parts, y = buffers
    starts = [0, *itertools.accumulate(contract.lengths)]
    grain = min(GRAIN, contract.rows)
    with region(-(-contract.rows // grain), contract.output.size * 8) as piece:
        first = T.Bind(T.min(piece * grain, contract.rows - grain))
        with T.serial(grain) as i:
            for part, start, length in zip(parts, starts[:-1], contract.lengths, strict=True):
                copy_row(y, part, first + i, start, first + i, length)
