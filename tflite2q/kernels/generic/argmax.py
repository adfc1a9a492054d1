"""Index of the first largest code of each row, for any LLVM target.

Code and index share one int32, the code above and the complement of the index below, so that one maximum finds the
largest code and, of equal ones, the lowest index.  A row takes one maximum per vector and one across lanes.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.base import ArgMax, Built, Tensor
from tflite2q.kernels.loops import region
from tflite2q.kernels.tir import Buffer, T, broadcast, function, load, local, store, vector

MOST_LANES = 16
INDEX_BITS = 20
GRAIN = 256  # rows that one thread takes at a time


class GenericArgMax:
    """ArgMax contracts of up to 2**20 classes; total for what models hold."""

    name = "generic_argmax"

    def refuses(self, contract: ArgMax, target: Any) -> str | None:
        return None

    def build(self, contract: ArgMax, target: Any) -> Built:
        lanes = layout.lane_count(contract.classes, MOST_LANES)
        low = (1 << INDEX_BITS) - 1 - np.arange(contract.classes)
        starts = layout.blocks(contract.classes, lanes)
        tags = low[starts[:, None] + np.arange(lanes)].astype(np.int32)
        name = f"{contract.x_dtype}_argmax__generic"
        return Built(name, contract, _argmax(contract), contract.inputs, (tags,), contract.output)


@functools.cache
def _argmax(contract: ArgMax) -> Any:
    lanes = layout.lane_count(contract.classes, MOST_LANES)
    tags = Tensor((len(layout.blocks(contract.classes, lanes)), lanes), "int32")
    return function(contract.inputs, [tags], contract.output, functools.partial(_body, contract, lanes))


def _body(c: ArgMax, lanes: int, x: Buffer, tags: Buffer, y: Buffer) -> None:
    grain = min(GRAIN, c.rows)
    count = -(-c.classes // lanes)
    with region(-(-c.rows // grain), c.rows * c.classes * 8) as piece:
        first = T.Bind(T.min(piece * grain, c.rows - grain))
        with T.serial(grain) as i:
            best = local(lanes, "int32")
            store(best, broadcast(T.int32(-(2**31)), lanes), 0, lanes=lanes)
            with T.serial(count) as block:
                start = T.min(block * lanes, c.classes - lanes)
                codes = T.cast(load(x, first + i, start, lanes=lanes), vector("int32", lanes))
                codes = broadcast(T.int32(0), lanes) - codes if c.smallest else codes
                tagged = codes * broadcast(T.int32(1 << INDEX_BITS), lanes) + load(tags, block, 0, lanes=lanes)
                store(best, T.max(load(best, 0, lanes=lanes), tagged), 0, lanes=lanes)
            found = load(best, 0, lanes=lanes)
            if lanes > 1:
                found = T.call_llvm_pure_intrin("int32", T.llvm_lookup_intrinsic_id("llvm.vector.reduce.smax"), found)
            mask = (1 << INDEX_BITS) - 1
            store(y, T.cast(mask - T.bitwise_and(found, mask), c.dtype), first + i)
