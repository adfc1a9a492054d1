"""Index of the first largest code of each row, for any LLVM target.

Code and index share one integer, the code above and the complement of the index below, so that one maximum finds the
largest code and, of equal ones, the lowest index.  A row takes one maximum per vector and one across lanes.  For up to
256 classes the integer has 16 bits, and the maximum across eight of them is one instruction (vphminposuw, smaxv).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.contracts import ArgMaxContract, Tensor
from tflite2q.kernels.frame import Arrays, ContractProgram, Plan, Tensors
from tflite2q.kernels.loops import region
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, local, store, vector

MOST_LANES = 16
GRAIN = 256  # rows that one thread takes at a time


@dataclass(frozen=True)
class Program(ContractProgram):
    """Code and complemented index share integers of `dtype`, the index having `bits` of them."""

    contract: ArgMaxContract

    @property
    def bits(self) -> int:
        return 8 if self.dtype == "int16" else 20

    @property
    def dtype(self) -> str:
        return "int16" if self.contract.classes <= 256 else "int32"

    @property
    def lanes(self) -> int:
        return layout.lane_count(self.contract.classes, MOST_LANES)

    @property
    def constants(self) -> Tensors:
        return {"tags": Tensor((len(layout.blocks(self.contract.classes, self.lanes)), self.lanes), self.dtype)}

    def pack(self) -> Arrays:
        low = (1 << self.bits) - 1 - np.arange(self.contract.classes)
        starts = layout.blocks(self.contract.classes, self.lanes)
        return {"tags": low[starts[:, None] + np.arange(self.lanes)].astype(self.dtype)}

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        (x,), tags, c, bits, dtype, lanes = inputs, constants["tags"], self.contract, self.bits, self.dtype, self.lanes
        wide = vector(dtype, lanes)
        grain = min(GRAIN, c.rows)
        with region(-(-c.rows // grain), c.rows * c.classes * 8) as piece:
            first = T.Bind(T.min(piece * grain, c.rows - grain))
            with T.serial(grain) as i:
                best = local(lanes, dtype)
                store(best, broadcast(T.IntImm(dtype, int(np.iinfo(dtype).min)), lanes), 0, lanes=lanes)
                with T.serial(tags.shape[0]) as block:
                    codes = _signed(c, load(x, first + i, T.min(block * lanes, c.classes - lanes), lanes=lanes), lanes)
                    above = T.shift_left(T.cast(codes, wide), broadcast(T.IntImm(dtype, bits), lanes))
                    tagged = above + load(tags, block, 0, lanes=lanes)
                    store(best, T.max(load(best, 0, lanes=lanes), tagged), 0, lanes=lanes)
                found = load(best, 0, lanes=lanes)
                if lanes > 1:
                    found = T.call_llvm_pure_intrin(dtype, T.llvm_lookup_intrinsic_id("llvm.vector.reduce.smax"), found)
                mask = (1 << bits) - 1
                store(y, T.cast(mask - T.bitwise_and(T.cast(found, "int32"), mask), c.dtype), first + i)


class GenericArgMax:
    """ArgMax contracts of up to 2**20 classes; total for what models hold."""

    name = "generic_argmax"

    def plan(self, contract: ArgMaxContract, target: Any) -> Plan:
        program = Program(contract)
        return Plan(f"{contract.x_dtype}_argmax__generic", program, program.pack)


def _signed(c: ArgMaxContract, codes: Expr, lanes: int) -> Expr:
    """The codes as int8, in the order or, if the smallest is looked for, in the opposite order."""
    bits = T.reinterpret(vector("int8", lanes), codes)
    turned = (0x80 if c.x_dtype == "uint8" else 0) ^ (0xFF if c.smallest else 0)
    return T.bitwise_xor(bits, broadcast(T.int8((turned + 128) % 256 - 128), lanes)) if turned else bits
