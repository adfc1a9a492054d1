"""Look-ups of 8-bit codes in a table of 256 entries, for any LLVM target: a scalar load each, four in flight."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tflite2q.kernels.base import Built, Lookup, Tensor
from tflite2q.kernels.loops import chunks, region
from tflite2q.kernels.tir import Buffer, T, function, store, view

GRAIN = 4096  # elements that one thread takes at a time


class GenericLookup:
    """Lookup contracts; total."""

    name = "generic_lookup"

    def refuses(self, contract: Lookup, target: Any) -> str | None:
        return None

    def build(self, contract: Lookup, target: Any) -> Built:
        key = (contract.inputs[0], contract.output)
        name = f"{contract.x_dtype}_lookup_{contract.output.dtype}__generic"
        # By the byte's value as an unsigned number, whichever type it has.
        table = np.ascontiguousarray(np.roll(contract.table, contract.low))
        return Built(name, (name, key), _lookup(*key), contract.inputs, (table,), contract.output)


@functools.cache
def _lookup(x: Tensor, y: Tensor) -> Any:
    return function([x], [Tensor((256,), y.dtype)], y, functools.partial(_body, x))


def _body(tensor: Tensor, x: Buffer, table: Buffer, y: Buffer) -> None:
    size = tensor.size
    source, target = view(x, (size,), tensor.dtype), view(y, (size,), str(y.dtype))
    grain = min(GRAIN, size)
    with region(-(-size // grain), size * 8) as g:
        start = T.min(g * grain, size - grain)

        def emit(at: Any, lanes: int) -> None:
            for i in range(lanes):
                code = T.cast(T.reinterpret("uint8", source[start + at + i]), "int32")
                store(target, table[code], start + at + i)

        chunks(grain, 4, emit)
