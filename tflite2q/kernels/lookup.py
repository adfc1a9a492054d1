"""Look-ups of 8-bit codes in a table of 256 entries: what they have in common on every processor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels.contracts import Array, LookupContract, Tensor
from tflite2q.kernels.frame import Name, Plan, Tensors
from tflite2q.kernels.loops import chunks, region
from tflite2q.kernels.refusals import Because, Refusal
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, view

GRAIN = 4096  # codes that one thread takes at a time

# (codes, results, where, how many): store the results of so many consecutive codes
Translate = Callable[[Buffer, Buffer, Expr, int], None]


@dataclass(frozen=True)
class Program:
    """What the text of the function depends on; `prepare` makes the look-up from the table, in each region anew."""

    inputs: tuple[Tensor, ...]
    table: Tensor
    output: Tensor
    lanes: int
    prepare: Callable[[Buffer], Translate]

    @property
    def constants(self) -> Tensors:
        return {"table": self.table}

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        """The results, `lanes` codes at a time."""
        size = self.inputs[0].size
        source, target = view(inputs[0], (size,), self.inputs[0].dtype), view(y, (size,), self.output.dtype)
        grain = min(GRAIN, size)
        with region(-(-size // grain), size * 8) as g:
            start = T.min(g * grain, size - grain)
            translate = self.prepare(constants["table"])

            def emit(at: Any, count: int) -> None:
                translate(source, target, start + at, count)

            chunks(grain, self.lanes, emit)


def plan(
    contract: LookupContract, table: Array, lanes: int, prepare: Callable[[Buffer], Translate], isa: str = "generic",
    operation: str = "lookup",
) -> Plan:  # fmt: skip
    """A look-up in `table`, which is read instead of the contract's."""
    name = Name(contract.x_dtype, operation, isa, contract.output.dtype)
    packed = {"table": table}
    tensor = Tensor(table.shape, table.dtype.name)
    return Plan(name, Program(contract.inputs, tensor, contract.output, lanes, prepare), lambda: packed)


def table_by_byte(contract: LookupContract) -> Array:
    """The table's entries in the order of the codes' bytes, read as unsigned numbers."""
    return np.ascontiguousarray(np.roll(contract.table, contract.low))


def refusal(contract: LookupContract, dtypes: Collection[str], least: int) -> Refusal | None:
    """Why a kernel for entries of `dtypes` and at least so many codes does not take `contract`."""
    if contract.output.dtype not in dtypes:
        return Refusal(Because.TYPES, f"entries are {contract.output.dtype}")
    if contract.output.size < least:
        return Refusal(Because.GEOMETRY, f"{contract.output.size} codes are fewer than {least}")
    return None
