"""Index of the first largest number of each row, for any LLVM target.

Code and index share one integer, the code above and the complement of the index below, so that one maximum finds the
largest code and, of equal ones, the lowest index.  A row takes one maximum per vector and one across lanes.  For up to
256 classes of 8-bit codes the integer has 16 bits, and the maximum across eight of them is one instruction
(vphminposuw, smaxv).

Every lane of float32 keeps its first largest number and that one's index.  At the end of a row, the lanes that hold the
largest of all give the lowest of their indices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.contracts import ArgMaxContract, Tensor
from tflite2q.kernels.frame import Arrays, ContractProgram, Name, Plan, Tensors
from tflite2q.kernels.generic.resize import each_block
from tflite2q.kernels.loops import region
from tflite2q.kernels.real import FLOAT, Registers
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, local, part, store, vector

MOST_LANES = 16
GRAIN = 256  # rows that one thread takes at a time

Codes = Callable[[Expr], Expr]  # a row's numbers from one on, as one vector


@dataclass(frozen=True)
class Program(ContractProgram):
    """Integers are codes with complemented indices of `bits` bits, of `dtype`."""

    contract: ArgMaxContract
    lanes: int

    @classmethod
    def of(cls, contract: ArgMaxContract, target: Any) -> Program:
        if contract.x_dtype == FLOAT:
            return cls(contract, layout.even_lanes(contract.classes, MOST_LANES, Registers.of(target).lanes))
        return cls(contract, layout.lane_count(contract.classes, MOST_LANES))

    @property
    def bits(self) -> int:
        if self.dtype == "int16":
            return 8
        return 16 if self.contract.x_dtype == "int16" else 20

    @property
    def dtype(self) -> str:
        return "int16" if self.contract.classes <= 256 and self.contract.x_dtype in ("int8", "uint8") else "int32"

    @property
    def constants(self) -> Tensors:
        return {"tags": Tensor((len(layout.blocks(self.contract.classes, self.lanes)), self.lanes), self.dtype)}

    def pack(self) -> Arrays:
        indices = layout.blocks(self.contract.classes, self.lanes)[:, None] + np.arange(self.lanes)
        tags = indices if self.contract.x_dtype == FLOAT else (1 << self.bits) - 1 - indices
        return {"tags": tags.astype(self.dtype)}

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        (x,), c, lanes = inputs, self.contract, self.lanes
        grain = min(GRAIN, c.rows)
        with region(-(-c.rows // grain), c.rows * c.classes * 8) as piece:
            first = T.Bind(T.min(piece * grain, c.rows - grain))
            with T.serial(grain) as i:
                found = self.index(lambda start: load(x, first + i, start, lanes=lanes), constants["tags"])
                store(y, T.cast(found, c.dtype), first + i)

    def index(self, codes: Codes, tags: Buffer) -> Expr:
        """The index of the first largest or smallest number of a row."""
        find = self._compared if self.contract.x_dtype == FLOAT else self._tagged
        return find(codes, tags)

    def _tagged(self, codes: Codes, tags: Buffer) -> Expr:
        c, bits, dtype, lanes = self.contract, self.bits, self.dtype, self.lanes
        best = local(lanes, dtype)
        store(best, broadcast(T.IntImm(dtype, int(np.iinfo(dtype).min)), lanes), 0, lanes=lanes)

        def step(start: Expr, block: Expr) -> None:
            wide = T.cast(_ordered(c, codes(start), lanes), vector(dtype, lanes))
            tagged = T.shift_left(wide, broadcast(T.IntImm(dtype, bits), lanes)) + load(tags, block, 0, lanes=lanes)
            store(best, T.max(load(best, 0, lanes=lanes), tagged), 0, lanes=lanes)

        each_block(c.classes, lanes, step)
        found, mask = across("smax", load(best, 0, lanes=lanes), dtype, lanes), (1 << bits) - 1
        return mask - T.bitwise_and(T.cast(found, "int32"), mask)

    def _compared(self, codes: Codes, tags: Buffer) -> Expr:
        c, lanes = self.contract, self.lanes
        best, at = local(lanes, FLOAT), local(lanes, "int32")
        store(best, broadcast(T.float32(float("-inf")), lanes), 0, lanes=lanes)
        store(at, broadcast(T.int32(0), lanes), 0, lanes=lanes)

        def step(start: Expr, block: Expr) -> None:
            x, before = codes(start), T.Bind(load(best, 0, lanes=lanes))
            x = T.Bind(broadcast(T.float32(-1), lanes) * x if c.smallest else x)
            index = T.Select(x > before, load(tags, block, 0, lanes=lanes), load(at, 0, lanes=lanes))
            store(at, index, 0, lanes=lanes)
            store(best, T.Select(x > before, x, before), 0, lanes=lanes)

        each_block(c.classes, lanes, step)
        found, index = (T.Bind(load(each, 0, lanes=lanes)) for each in (best, at))
        if lanes == 1:
            return index
        top, width = found, lanes
        while width > 1:
            width //= 2
            a, b = T.Bind(part(top, 0, width)), T.Bind(part(top, width, width))
            top = T.Bind(T.Select(b > a, b, a))
        last = broadcast(T.int32(2**31 - 1), lanes)
        return across("smin", T.Select(found == broadcast(top, lanes), index, last), "int32", lanes)


class GenericArgMax:
    """ArgMax contracts: of float32, of up to 2**20 codes of 8 bits or 2**16 of 16."""

    name = "generic_argmax"

    def plan(self, contract: ArgMaxContract, target: Any) -> Plan:
        program = Program.of(contract, target)
        return Plan(Name(contract.x_dtype, "argmax"), program, program.pack)


def across(kind: str, values: Expr, dtype: str, lanes: int) -> Expr:
    """The `kind` ("smax", "smin") of a vector's lanes."""
    if lanes == 1:
        return values
    return T.call_llvm_pure_intrin(dtype, T.llvm_lookup_intrinsic_id(f"llvm.vector.reduce.{kind}"), values)


def _ordered(c: ArgMaxContract, codes: Expr, lanes: int) -> Expr:
    """The codes as signed ones, in the order or, if the smallest is looked for, in the opposite order."""
    if c.x_dtype == "int16":
        return T.bitwise_xor(codes, broadcast(T.int16(-1), lanes)) if c.smallest else codes
    bits = T.reinterpret(vector("int8", lanes), codes)
    turned = (0x80 if c.x_dtype == "uint8" else 0) ^ (0xFF if c.smallest else 0)
    return T.bitwise_xor(bits, broadcast(T.int8((turned + 128) % 256 - 128), lanes)) if turned else bits
