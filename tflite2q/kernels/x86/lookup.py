"""Look-ups on x86: tables of 256 bytes in four registers, 64 codes at a time.

vpermi2b (AVX-512 VBMI) reads 128 bytes in two registers, by the lower seven bits of each code; the eighth chooses
between the results for the two halves of the table.  Four instructions for 64 codes: memory limits it.
"""

from __future__ import annotations

import functools
from typing import Any

from tflite2q.kernels.base import Built, Lookup, Tensor
from tflite2q.kernels.lookup import Translate, table_by_byte, translated
from tflite2q.kernels.tir import Buffer, Expr, T, function, load, store
from tflite2q.kernels.x86 import isa

FEATURES = ("avx512vbmi", "avx512bw")
BYTES = 64  # of a vector
IN_FLIGHT = 2  # vectors of codes


class X86Lookup:
    """Lookup contracts of 8-bit tables."""

    name = "lookup__avx512vbmi"

    def refuses(self, contract: Lookup, target: Any) -> str | None:
        lacks = isa.lacks(FEATURES, target)
        if lacks:
            return lacks
        if contract.output.dtype not in ("int8", "uint8"):
            return f"entries are {contract.output.dtype}"
        if contract.output.size < BYTES:
            return f"{contract.output.size} codes are fewer than {BYTES}"
        return None

    def build(self, contract: Lookup, target: Any) -> Built:
        key = (contract.inputs[0], contract.output)
        name = f"{contract.x_dtype}_lookup_{contract.output.dtype}__avx512vbmi"
        constants = (table_by_byte(contract),)
        return Built(name, (name, key), _lookup(*key), contract.inputs, constants, contract.output)


@functools.cache
def _lookup(x: Tensor, y: Tensor) -> Any:
    return function([x], [Tensor((256,), y.dtype)], y, functools.partial(_body, x))


def _body(tensor: Tensor, x: Buffer, table: Buffer, y: Buffer) -> None:
    def prepare() -> Translate:
        parts = [T.Bind(T.reinterpret("int8x64", load(table, first, lanes=BYTES))) for first in range(0, 256, BYTES)]

        def translate(source: Buffer, target: Buffer, at: Expr, count: int) -> None:
            for i in range(0, count, BYTES):
                codes = T.Bind(T.reinterpret("int8x64", load(source, at + i, lanes=BYTES)))
                found = T.reinterpret(f"{target.dtype}x{BYTES}", _entries(parts, codes))
                store(target, found, at + i, lanes=BYTES)

        return translate

    translated(tensor, x, y, IN_FLIGHT * BYTES, prepare)


def _entries(parts: list[Expr], codes: Expr) -> Expr:
    """Of the table in `parts`, the entries of 64 codes."""
    permute = T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpermi2var.qi.512")
    low, high = (
        T.Bind(T.call_llvm_pure_intrin("int8x64", permute, a, codes, b)) for a, b in (parts[:2], parts[2:])
    )  # fmt: skip
    return T.Select(codes < T.Broadcast(T.int8(0), BYTES), high, low)
