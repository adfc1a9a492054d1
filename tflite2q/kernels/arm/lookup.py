"""Look-ups on Arm: tables of 256 bytes in sixteen registers, sixteen codes at a time.

tbl reads 64 bytes in four registers, and gives 0 for an index beyond them; tbx leaves what was there.  A code whose
upper two bits are turned lies within the first 64 just where it belongs to that quarter of the table.  What limits it
is the throughput of tbl with four registers.
"""

from __future__ import annotations

from typing import Any

from tflite2q.kernels import lookup
from tflite2q.kernels.arm.isa import NEON, intrinsic
from tflite2q.kernels.contracts import LookupContract
from tflite2q.kernels.frame import Plan
from tflite2q.kernels.lookup import Translate, table_by_byte
from tflite2q.kernels.refusals import Refusal
from tflite2q.kernels.tir import Buffer, Expr, T, load, store

BYTES = 16  # of a vector
QUARTER = 64  # entries that an instruction looks in
IN_FLIGHT = 4  # vectors of codes, for four instructions each that wait for one another


class ArmLookup:
    """Lookup contracts of 8-bit tables."""

    name = f"lookup__{NEON.name}"

    def plan(self, contract: LookupContract, target: Any) -> Plan | Refusal:
        refused = NEON.lacks(target) or lookup.refusal(contract, ("int8", "uint8"), BYTES)
        if refused:
            return refused
        return lookup.plan(contract, table_by_byte(contract), IN_FLIGHT * BYTES, _prepare, NEON.name)


def _prepare(table: Buffer) -> Translate:
    def part(first: int) -> Expr:
        return T.Bind(T.reinterpret("int8x16", load(table, first, lanes=BYTES)))

    quarters = [[part(q + i) for i in range(0, QUARTER, BYTES)] for q in range(0, 256, QUARTER)]

    def translate(source: Buffer, target: Buffer, at: Expr, count: int) -> None:
        for i in range(0, count, BYTES):
            codes = T.Bind(T.reinterpret("int8x16", load(source, at + i, lanes=BYTES)))
            found = T.reinterpret(f"{target.dtype}x{BYTES}", _entries(quarters, codes))
            store(target, found, at + i, lanes=BYTES)

    return translate


def _entries(quarters: list[list[Expr]], codes: Expr) -> Expr:
    """The entries of sixteen codes in the table that `quarters` hold."""
    first, *others = quarters
    found = intrinsic("tbl4", *first, codes, dtype="int8x16")
    for number, quarter in enumerate(others, 1):
        turned = T.bitwise_xor(codes, T.Broadcast(T.int8((number * QUARTER + 128) % 256 - 128), BYTES))
        found = intrinsic("tbx4", found, *quarter, turned, dtype="int8x16")
    return found
