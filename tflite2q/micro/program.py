"""A model as a list of calls of C functions on buffers; where buffers are is decided later (`memory`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

ALIGNMENT = 4  # of buffers in the arena; those of 64-bit elements have 8
POINTER = 8  # alignment of pointers: the C also runs on machines of 64 bits
CTYPES = {
    "int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "uint16": "uint16_t", "int32": "int32_t",
    "uint32": "uint32_t", "int64": "int64_t", "float32": "float", "bool": "uint8_t", "float64": "double",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A constant in flash: its C name and data; `weights` marks those that the model's file holds as weights or biases,
    all but `beside` bytes of it."""

    name: str
    data: Array
    weights: bool = False
    beside: int = 0

    @property
    def bytes(self) -> int:
        return int(self.data.nbytes)

    @property
    def weight_bytes(self) -> int:
        return self.bytes - self.beside if self.weights else 0


@dataclass(frozen=True)
class Step:
    """One call.  `call` is C with {x0}, {x1} ... for what is read, {y0} ... for what is written, and {scratch}.

    `gaps` say of each buffer that is read how many bytes before it the first result may begin, so that no byte is
    overwritten that is still needed; None: results may not touch it.  `kernels` name the texts in `c/` that the call
    needs, `text` is C of its own, `tables` are its constants.  `pointers`: scratch begins with pointers.
    """

    layer: str
    mnemonic: str
    call: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    scratch: int = 0
    gaps: tuple[int | None, ...] = ()
    kernels: tuple[str, ...] = ()
    text: str = ""
    tables: tuple[Table, ...] = ()
    macs: int = 0
    pointers: bool = False

    def gap(self, name: str) -> int | None:
        """The gap of the buffer `name`, if the step reads it once."""
        found = [gap for read, gap in zip(self.reads, self.gaps, strict=True) if read == name]
        return found[0] if len(found) == 1 else None


@dataclass(frozen=True)
class Buffer:
    """A tensor that a run computes."""

    name: str
    bytes: int
    alignment: int = ALIGNMENT


@dataclass(frozen=True)
class State:
    """A variable that a model keeps from run to run: where it is in the caller's memory, and its first data."""

    name: str
    offset: int
    initial: Table

    @property
    def bytes(self) -> int:
        return self.initial.bytes

    @property
    def byte(self) -> int | None:
        """The byte of which all first data are, if there is one."""
        content = self.initial.data.tobytes()
        return content[0] if content == content[:1] * len(content) else None


@dataclass(frozen=True)
class Port:
    """An input or output of the model; `source` is the buffer, input or table that an output has the bytes of."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    scale: float | None
    zero_point: int | None
    source: str

    @property
    def alignment(self) -> int:
        """The alignment of its buffer in the arena, in bytes."""
        return max(ALIGNMENT, np.dtype(self.dtype).itemsize)


@dataclass(frozen=True)
class Program:
    """All steps of a run in their order."""

    name: str  # of the C function, before _invoke
    stem: str  # of the files
    family: str
    steps: tuple[Step, ...]
    buffers: tuple[Buffer, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    constants: tuple[Table, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)  # tables that are operands, by the value's name
    states: tuple[State, ...] = ()

    @property
    def tables(self) -> tuple[Table, ...]:
        firsts = (state.initial for state in self.states if state.byte is None)
        return (*self.constants, *(table for step in self.steps for table in step.tables), *firsts)

    @property
    def fails(self) -> bool:
        """Whether runs may fail, as steps report in a variable."""
        return any("&failed" in step.call for step in self.steps)

    @property
    def state_bytes(self) -> int:
        """Bytes that the caller keeps between runs."""
        return max((state.offset + state.bytes for state in self.states), default=0)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights and biases."""
        return sum(table.weight_bytes for table in self.tables)

    @property
    def table_bytes(self) -> int:
        """Bytes of all other constants: multipliers, shifts, look-ups."""
        return sum(table.bytes - table.weight_bytes for table in self.tables)


def packed_nibbles(rows: Array) -> Array:
    """Rows of 4-bit integers [rows, n], two in a byte, the first in the low half; odd rows end with a zero."""
    padded = np.pad(rows.astype(np.int64), ((0, 0), (0, rows.shape[1] % 2))) & 15
    return (padded[:, 0::2] | padded[:, 1::2] << 4).astype(np.uint8)


def packed_words(rows: Array) -> Array:
    """Rows of 4-bit integers [rows, n], eight in a word: four in the low halves of its bytes, then four in the high
    ones; rows end with zeros."""
    padded = np.pad(rows.astype(np.int64), ((0, 0), (0, -rows.shape[1] % 8))) & 15
    eights = padded.reshape(len(rows), -1, 2, 4)
    return (eights[:, :, 0] | eights[:, :, 1] << 4).astype(np.uint8).reshape(len(rows), -1)
