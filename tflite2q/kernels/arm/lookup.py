"""Look-ups on Arm: tables of 256 bytes in sixteen registers, sixteen codes at a time.

tbl reads 64 bytes in four registers, and gives 0 for an index beyond them; tbx leaves what was there.  A code whose
upper two bits are turned lies within the first 64 just where it belongs to that quarter of the table.  What limits it
is the throughput of tbl with four registers.
"""

from __future__ import annotations

from typing import Any

from tflite2q.kernels.arm.isa import NEON, intrinsic
from tflite2q.kernels.base import Built, Lookup, Tensor
from tflite2q.kernels.lookup import Translate, built, table_by_byte, translated
from tflite2q.kernels.tir import Buffer, Expr, T, load, store

BYTES = 16  # of a vector
QUARTER = 64  # entries that an instruction looks in
IN_FLIGHT = 4  # vectors of codes, for four instructions each that wait for one another


class ArmLookup:
    """Lookup contracts of 8-bit tables."""

    name = "lookup__neon"

    def refuses(self, contract: Lookup, target: Any) -> str | None:
        lacks = NEON.lacks(target)
        if lacks:
            return lacks
        if contract.output.dtype not in ("int8", "uint8"):
            return f"entries are {contract.output.dtype}"
        if contract.output.size < BYTES:
            return f"{contract.output.size} codes are fewer than {BYTES}"
        return None

    def build(self, contract: Lookup, target: Any) -> Built:
        return built(contract, "neon", table_by_byte(contract), _body)


def _body(tensor: Tensor, x: Buffer, table: Buffer, y: Buffer) -> None:
    def prepare() -> Translate:
        def part(first: int) -> Expr:
            return T.Bind(T.reinterpret("int8x16", load(table, first, lanes=BYTES)))

        quarters = [[part(q + i) for i in range(0, QUARTER, BYTES)] for q in range(0, 256, QUARTER)]

        def translate(source: Buffer, target: Buffer, at: Expr, count: int) -> None:
            for i in range(0, count, BYTES):
                codes = T.Bind(T.reinterpret("int8x16", load(source, at + i, lanes=BYTES)))
                found = T.reinterpret(f"{target.dtype}x{BYTES}", _entries(quarters, codes))
                store(target, found, at + i, lanes=BYTES)

        return translate

    translated(tensor, x, y, IN_FLIGHT * BYTES, prepare)


def _entries(quarters: list[list[Expr]], codes: Expr) -> Expr:
    """Of the table in `quarters`, the entries of sixteen codes."""
    first, *others = quarters
    found = intrinsic("tbl4", *first, codes, dtype="int8x16")
    for number, quarter in enumerate(others, 1):
        turned = T.bitwise_xor(codes, T.Broadcast(T.int8((number * QUARTER + 128) % 256 - 128), BYTES))
        found = intrinsic("tbx4", found, *quarter, turned, dtype="int8x16")
    return found
