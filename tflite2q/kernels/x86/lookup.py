"""Look-ups on x86: tables of 256 bytes in four registers, 64 codes at a time.

vpermi2b (AVX-512 VBMI) reads 128 bytes in two registers, by the lower seven bits of each code; the eighth chooses
between the results for the two halves of the table.  Four instructions for 64 codes: memory limits it.  Entries of 16
bits are two tables, whose bytes two more permutations put together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tflite2q.kernels import lookup
from tflite2q.kernels.contracts import Array, LookupContract
from tflite2q.kernels.frame import Plan
from tflite2q.kernels.lookup import Translate, table_by_byte
from tflite2q.kernels.refusals import Refusal
from tflite2q.kernels.tir import Buffer, Expr, T, load, shuffle, store
from tflite2q.kernels.x86 import isa

FEATURES = ("avx512vbmi", "avx512bw")
BYTES = 64  # of a vector
IN_FLIGHT = 2  # vectors of codes


class X86Lookup:
    """Lookup contracts of 8-bit and 16-bit tables."""

    name = f"lookup__{FEATURES[0]}"

    def plan(self, contract: LookupContract, target: Any) -> Plan | Refusal:
        refused = isa.lacks(FEATURES, target) or lookup.refusal(contract, ("int8", "uint8", "int16"), BYTES)
        if refused:
            return refused
        return lookup.plan(contract, _tables(contract), IN_FLIGHT * BYTES, _prepare, FEATURES[0])


def _tables(contract: LookupContract) -> Array:
    """int8 [bytes of an entry * 256]: the entries' first bytes, then their second ones."""
    entries = table_by_byte(contract)
    return np.ascontiguousarray(entries.view(np.int8).reshape(256, -1).T).reshape(-1)


def _prepare(table: Buffer) -> Translate:
    parts = [T.Bind(load(table, first, lanes=BYTES)) for first in range(0, int(table.shape[0]), BYTES)]

    def translate(source: Buffer, target: Buffer, at: Expr, count: int) -> None:
        for i in range(0, count, BYTES):
            codes = T.Bind(T.reinterpret(f"int8x{BYTES}", load(source, at + i, lanes=BYTES)))
            found = [T.Bind(_entries(parts[p : p + 4], codes)) for p in range(0, len(parts), 4)]
            pieces = found if len(found) == 1 else _together(found)
            lanes = BYTES // len(pieces)
            for k, piece in enumerate(pieces):
                store(target, T.reinterpret(f"{target.dtype}x{lanes}", piece), at + i + k * lanes, lanes=lanes)

    return translate


def _entries(parts: list[Expr], codes: Expr) -> Expr:
    """The entries of 64 codes in the table that `parts` hold."""
    permute = T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpermi2var.qi.512")
    low, high = (
        T.Bind(T.call_llvm_pure_intrin("int8x64", permute, a, codes, b)) for a, b in (parts[:2], parts[2:])
    )  # fmt: skip
    return T.Select(codes < T.Broadcast(T.int8(0), BYTES), high, low)


def _together(found: list[Expr]) -> list[Expr]:
    """64 entries of two bytes in two vectors."""
    order = [index for i in range(BYTES) for index in (i, BYTES + i)]
    return [shuffle(found, order[:BYTES]), shuffle(found, order[BYTES:])]
