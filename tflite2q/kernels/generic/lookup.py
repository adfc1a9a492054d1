"""Look-ups of 8-bit codes in a table of 256 entries, for any LLVM target: a scalar load each, four in flight."""

from __future__ import annotations

from typing import Any

from tflite2q.kernels.base import Built, Lookup, Tensor
from tflite2q.kernels.lookup import built, table_by_byte, translated
from tflite2q.kernels.tir import Buffer, Expr, T, store


class GenericLookup:
    """Lookup contracts; total."""

    name = "generic_lookup"

    def refuses(self, contract: Lookup, target: Any) -> str | None:
        return None

    def build(self, contract: Lookup, target: Any) -> Built:
        return built(contract, "generic", table_by_byte(contract), _body)


def _body(tensor: Tensor, x: Buffer, table: Buffer, y: Buffer) -> None:
    def translate(source: Buffer, target: Buffer, at: Expr, count: int) -> None:
        for i in range(count):
            store(target, table[T.cast(T.reinterpret("uint8", source[at + i]), "int32")], at + i)

    translated(tensor, x, y, 4, lambda: translate)
