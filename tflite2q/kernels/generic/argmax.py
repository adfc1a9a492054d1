"""Index of the first largest code of each row, for any LLVM target.

Code and index share one integer, the code above and the complement of the index below, so that one maximum finds the
largest code and, of equal ones, the lowest index.  A row takes one maximum per vector and one across lanes.  For up to
256 classes the integer has 16 bits, and the maximum across eight of them is one instruction (vphminposuw, smaxv).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.base import ArgMax, Built, Tensor
from tflite2q.kernels.loops import region
from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, function, load, local, store, vector

MOST_LANES = 16
GRAIN = 256  # rows that one thread takes at a time


class GenericArgMax:
    """ArgMax contracts of up to 2**20 classes; total for what models hold."""

    name = "generic_argmax"

    def refuses(self, contract: ArgMax, target: Any) -> str | None:
        return None

    def build(self, contract: ArgMax, target: Any) -> Built:
        tags, dtype, bits = _tags(contract)
        low = (1 << bits) - 1 - np.arange(contract.classes)
        starts = layout.blocks(contract.classes, tags.shape[1])
        constants = (low[starts[:, None] + np.arange(tags.shape[1])].astype(dtype),)
        name = f"{contract.x_dtype}_argmax__generic"
        return Built(name, contract, _argmax(contract), contract.inputs, constants, contract.output)


def _tags(contract: ArgMax) -> tuple[Tensor, str, int]:
    """Complemented indices as a tensor of [vectors, lanes], their dtype, and how many bits they take."""
    lanes = layout.lane_count(contract.classes, MOST_LANES)
    dtype, bits = ("int16", 8) if contract.classes <= 256 else ("int32", 20)
    return Tensor((len(layout.blocks(contract.classes, lanes)), lanes), dtype), dtype, bits


@functools.cache
def _argmax(contract: ArgMax) -> Any:
    return function(contract.inputs, [_tags(contract)[0]], contract.output, functools.partial(_body, contract))


def _body(c: ArgMax, x: Buffer, tags: Buffer, y: Buffer) -> None:
    tensor, dtype, bits = _tags(c)
    count, lanes = tensor.shape
    wide = vector(dtype, lanes)
    grain = min(GRAIN, c.rows)
    with region(-(-c.rows // grain), c.rows * c.classes * 8) as piece:
        first = T.Bind(T.min(piece * grain, c.rows - grain))
        with T.serial(grain) as i:
            best = local(lanes, dtype)
            store(best, broadcast(T.IntImm(dtype, int(np.iinfo(dtype).min)), lanes), 0, lanes=lanes)
            with T.serial(count) as block:
                codes = _signed(c, load(x, first + i, T.min(block * lanes, c.classes - lanes), lanes=lanes), lanes)
                above = T.shift_left(T.cast(codes, wide), broadcast(T.IntImm(dtype, bits), lanes))
                tagged = above + load(tags, block, 0, lanes=lanes)
                store(best, T.max(load(best, 0, lanes=lanes), tagged), 0, lanes=lanes)
            found = load(best, 0, lanes=lanes)
            if lanes > 1:
                found = T.call_llvm_pure_intrin(dtype, T.llvm_lookup_intrinsic_id("llvm.vector.reduce.smax"), found)
            mask = (1 << bits) - 1
            store(y, T.cast(mask - T.bitwise_and(T.cast(found, "int32"), mask), c.dtype), first + i)


def _signed(c: ArgMax, codes: Expr, lanes: int) -> Expr:
    """The codes as int8, in the order or, if the smallest is looked for, in the opposite order."""
    bits = T.reinterpret(vector("int8", lanes), codes)
    turned = (0x80 if c.x_dtype == "uint8" else 0) ^ (0xFF if c.smallest else 0)
    return T.bitwise_xor(bits, broadcast(T.int8((turned + 128) % 256 - 128), lanes)) if turned else bits
