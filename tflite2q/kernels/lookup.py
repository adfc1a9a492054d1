"""Look-ups of 8-bit codes in a table of 256 entries: what they have in common on every processor."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tflite2q.kernels.base import Array, Built, Lookup, Tensor
from tflite2q.kernels.loops import chunks, region
from tflite2q.kernels.tir import Buffer, Expr, T, function, view

GRAIN = 4096  # codes that one thread takes at a time

# (codes, results, where, how many): store the results of so many consecutive codes
Translate = Callable[[Buffer, Buffer, Expr, int], None]
# (what x is, x, table, y): emit the whole look-up
Body = Callable[[Tensor, Buffer, Buffer, Buffer], None]


def table_by_byte(contract: Lookup) -> Array:
    """The table's entries in the order of the codes' bytes, read as unsigned numbers."""
    return np.ascontiguousarray(np.roll(contract.table, contract.low))


def built(contract: Lookup, level: str, table: Array, body: Body) -> Built:
    """The kernel that `body` emits; `table` is what it reads instead of the contract's."""
    name = f"{contract.x_dtype}_lookup_{contract.output.dtype}__{level}"
    x, y = contract.inputs[0], contract.output
    code = _function(x, Tensor(table.shape, table.dtype.name), y, body)
    return Built(name, (name, (x, y)), code, contract.inputs, (table,), y)


@functools.cache
def _function(x: Tensor, table: Tensor, y: Tensor, body: Body) -> Any:
    return function([x], [table], y, functools.partial(body, x))


def translated(tensor: Tensor, x: Buffer, y: Buffer, lanes: int, prepare: Callable[[], Translate]) -> None:
    """y from x, `lanes` codes at a time; `prepare` runs once for each `GRAIN` of them, to load tables."""
    size = tensor.size
    source, target = view(x, (size,), tensor.dtype), view(y, (size,), str(y.dtype))
    grain = min(GRAIN, size)
    with region(-(-size // grain), size * 8) as g:
        start = T.min(g * grain, size - grain)
        translate = prepare()

        def emit(at: Any, count: int) -> None:
            translate(source, target, start + at, count)

        chunks(grain, lanes, emit)
