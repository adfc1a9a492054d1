"""What a kernel is: it looks at a contract once, and refuses it or plans a function for it.

A `Program` is all that the text of a function depends on, together with that text; equal programs share one compiled
function.  Weights, biases, multipliers and shifts are its inputs, as constants that it declares by name and a `Plan`
packs by the same names.

Calling convention of every function: activations in the order of the contract, packed constants in the order of their
declaration, then the output, all compact row-major tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tflite2q.kernels.contracts import Array, Tensor
from tflite2q.kernels.loops import ZEROS, Threads, threads
from tflite2q.kernels.refusals import Refusal
from tflite2q.kernels.tir import Buffer, Buffers, function

Tensors = Mapping[str, Tensor]
Arrays = Mapping[str, Array]
MOST_FUNCTIONS = 512  # that are kept; more than models have, and few enough for programs that compile many of them


class Program(Protocol):
    """A function of TIR: hashable, and equal to others with the same text."""

    @property
    def inputs(self) -> tuple[Tensor, ...]: ...

    @property
    def constants(self) -> Tensors:
        """Shape and dtype of each constant, in the order in which the function takes them."""

    @property
    def output(self) -> Tensor: ...

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        """The function's statements."""

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class ContractProgram:
    """A program whose text depends on all of a contract, which is hashable."""

    contract: Any

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(self.contract.inputs)

    @property
    def output(self) -> Tensor:
        found: Tensor = self.contract.output
        return found


@dataclass(frozen=True)
class Name:
    """What a kernel is called once it is planned: types_operation_arithmetic_tile__isa, without what it does not have.

    `types`: of inputs and weights, or of all operands; `tile`: pixels by channels.
    """

    types: str
    operation: str
    isa: str = "generic"
    arithmetic: str = ""
    tile: str = ""

    def __str__(self) -> str:
        parts = (self.types, self.operation, self.arithmetic, self.tile)
        return f"{'_'.join(part for part in parts if part)}__{self.isa}"


@dataclass(frozen=True, eq=False)
class Built:
    """A kernel made for a contract.  `key` is all that `func` (a tvm.tirx.PrimFunc) depends on.

    `parts`: threads make the output, each a part.
    """

    name: str
    key: Hashable
    func: Any
    inputs: tuple[Tensor, ...]
    constants: tuple[Array, ...]
    output: Tensor
    parts: bool = False


@dataclass(frozen=True, eq=False)
class Plan:
    """How a kernel computes a contract.  `pack` gives the constants that `program` declares."""

    name: Name
    program: Program
    pack: Callable[[], Arrays]

    def build(self, parts: bool = False) -> Built:
        """The function, made once for all equal programs, and this contract's constants.

        `parts`: threads made the inputs, each a part.
        Raises ValueError if the constants are not what the program declares.
        """
        program, declared = self.program, dict(self.program.constants)
        zeros = {name: np.zeros(tensor.shape, tensor.dtype) for name, tensor in ZEROS.items() if name in declared}
        packed = zeros | dict(self.pack())
        found = {name: Tensor(array.shape, str(array.dtype)) for name, array in packed.items()}
        if found != declared:
            raise ValueError(f"{self.name}: constants are {found}, declared are {declared}")
        arrays = tuple(np.ascontiguousarray(packed[name]) for name in declared)
        made, found_out = _function(program, parts)
        key = self.name, program, parts and found_out.decisive
        return Built(str(self.name), key, made, program.inputs, arrays, program.output, found_out.used)


@functools.lru_cache(MOST_FUNCTIONS)
def _function(program: Program, parts: bool) -> tuple[Any, Threads]:
    names, count = list(program.constants), len(program.inputs)

    def body(*buffers: Buffer) -> None:
        constants = dict(zip(names, buffers[count:-1], strict=True))
        program.emit(buffers[:count], constants, buffers[-1])

    with threads(parts) as found:
        made = function(program.inputs, list(program.constants.values()), program.output, body)
    return made.with_attrs(dict.fromkeys(sorted(found.attributes), True)), found


class Kernel(Protocol):
    """One way of computing one kind of contract on one kind of processor."""

    @property
    def name(self) -> str:
        """As reports and `--explain` print it."""

    def plan(self, contract: Any, target: Any) -> Plan | Refusal:
        """How it would compute `contract` on `target` (a tvm.target.Target), or why it cannot or should not."""
