"""Look-ups of 8-bit codes in a table of 256 entries, for any LLVM target: a scalar load each, four in flight."""

from __future__ import annotations

from typing import Any

from tflite2q.kernels import lookup
from tflite2q.kernels.contracts import LookupContract
from tflite2q.kernels.frame import Plan
from tflite2q.kernels.lookup import Translate, table_by_byte
from tflite2q.kernels.tir import Buffer, Expr, T, store

IN_FLIGHT = 4  # codes


class GenericLookup:
    """Lookup contracts; total."""

    name = "generic_lookup"

    def plan(self, contract: LookupContract, target: Any) -> Plan:
        return lookup.plan(contract, table_by_byte(contract), IN_FLIGHT, _prepare)


def _prepare(table: Buffer) -> Translate:
    def translate(source: Buffer, target: Buffer, at: Expr, count: int) -> None:
        for i in range(count):
            store(target, table[T.cast(T.reinterpret("uint8", source[at + i]), "int32")], at + i)

    return translate
