"""Softmax of rows of 8-bit codes for any LLVM target.

A code's result depends only on how far it lies below the row's largest code, one of 256 distances.  So a row takes
three passes over its codes (largest; sum of tabulated exponentials; look-up of the result) and one over the 256
distances, which alone does the 64-bit arithmetic.  The scalar look-ups of the last two passes limit it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.arithmetic.numpy_core import NUMPY
from tflite2q.arithmetic.rescale import int_const, rounding_shift_right
from tflite2q.arithmetic.rounding import code_range
from tflite2q.dialect.ops.softmax import SUM_BITS, row_scale, share
from tflite2q.kernels.contracts import SoftmaxContract, Tensor
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.generic.eltwise import TirCore
from tflite2q.kernels.loops import chunks, region
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, store

MOST_LANES = 64
LANES_OF_64_BITS = 8
DISTANCES = 256


class _OpaqueCore(TirCore):
    """Keeps what is used more than once in memory (for LLVM: in a register), out of sight of TVM's simplifier.

    It substitutes definitions, and so takes time exponential in the depth of Newton's iteration and of a bit search.
    """

    def left_shift(self, a: Expr, b: Expr) -> Expr:
        return self._kept(super().left_shift(a, b))

    def multiply(self, a: Expr, b: Expr) -> Expr:
        return self._kept(super().multiply(a, b))

    def where(self, condition: Expr, a: Expr, b: Expr) -> Expr:
        return self._kept(super().where(condition, a, b))

    def _kept(self, value: Expr) -> Expr:
        cell = T.decl_buffer((LANES_OF_64_BITS,), "int64")
        store(cell, value, 0, lanes=LANES_OF_64_BITS)
        return T.Bind(load(cell, 0, lanes=LANES_OF_64_BITS))


@dataclass(frozen=True)
class Program:
    """What the text of the function depends on."""

    output: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.output,)

    @property
    def constants(self) -> Tensors:
        table = Tensor((DISTANCES,), "int64")
        return {"exponentials": table, "addends": table}

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        (x,), exponentials, addends = inputs, constants["exponentials"], constants["addends"]
        rows, classes = self.output.shape
        with region(rows, rows * classes * 16) as row:
            largest = _largest(x, row, classes, self.output.dtype)
            results = T.decl_buffer((DISTANCES,), self.output.dtype)
            low, high = code_range(self.output.dtype)
            core: Any = _OpaqueCore(LANES_OF_64_BITS, _no_constant)
            total = T.Bind(broadcast(_sum(x, row, classes, largest, addends), LANES_OF_64_BITS))
            inverse, shift = row_scale(core, total)
            with T.serial(DISTANCES // LANES_OF_64_BITS) as i:
                start = i * LANES_OF_64_BITS
                e = T.Bind(load(exponentials, start, lanes=LANES_OF_64_BITS))
                code = share(core, e, inverse, shift)
                code = core.clip(core.add(code, int_const(core, low)), low, high)
                store(results, core.astype(code, self.output.dtype), start, lanes=LANES_OF_64_BITS)

            def emit(at: Expr, lanes: int) -> None:
                for k in range(lanes):
                    T.buffer_store(y, results[_distance(largest, x[row, at + k])], [row, at + k])

            chunks(classes, 4, emit)


class GenericSoftmax:
    """Softmax contracts; total."""

    name = "generic_softmax"

    def plan(self, contract: SoftmaxContract, target: Any) -> Plan:
        return Plan(Name(contract.dtype, "softmax"), Program(contract.output), functools.partial(_pack, contract))


def _pack(contract: SoftmaxContract) -> Arrays:
    addends = rounding_shift_right(NUMPY, contract.exponentials, SUM_BITS)
    return {"exponentials": contract.exponentials.astype(np.int64), "addends": addends.astype(np.int64)}


def _largest(x: Buffer, row: Expr, classes: int, dtype: str) -> Expr:
    """The row's largest code, int32."""
    lanes = min(MOST_LANES, 1 << (classes.bit_length() - 1))
    best = T.decl_buffer((lanes,), dtype)
    store(best, load(x, row, 0, lanes=lanes), 0, lanes=lanes)

    def emit(at: Expr, width: int) -> None:
        store(best, T.max(load(best, 0, lanes=width), load(x, row, at, lanes=width)), 0, lanes=width)

    chunks(classes, lanes, emit)
    while lanes > 1:
        lanes //= 2
        store(best, T.max(load(best, 0, lanes=lanes), load(best, lanes, lanes=lanes)), 0, lanes=lanes)
    return T.Bind(T.cast(best[0], "int32"))


def _sum(x: Buffer, row: Expr, classes: int, largest: Expr, addends: Buffer) -> Expr:
    """Sum of the row's exponentials, int64."""
    total = T.decl_buffer((1,), "int64")
    T.buffer_store(total, T.int64(0), [0])
    with T.serial(classes) as i:
        T.buffer_store(total, total[0] + addends[_distance(largest, x[row, i])], [0])
    return T.Bind(total[0])


def _distance(largest: Expr, code: Expr) -> Expr:
    """How far below the largest a code lies: an index of a table, which no mistake could take beyond its end."""
    return T.bitwise_and(largest - T.cast(code, "int32"), DISTANCES - 1)


def _no_constant(array: Any) -> Expr:
    raise TypeError(f"softmax has no constants along an axis, this one has shape {array.shape}")
