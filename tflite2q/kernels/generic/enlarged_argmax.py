"""Index of the first largest channel of each pixel of an image that grows to several times its width.

Vectors hold neighbouring pixels of an output row, not channels: all of a vector lie between the same two input pixels
a and b, so that a channel's results are a + (b - a) * f with one f for each lane, and the largest of all channels needs
no maximum across lanes.  Each row is weighed first (`tflite2q.kernels.generic.resize`), into a and b - a for each pair
of neighbours.

A result keeps its upper bits, rounded; the lower 20, which rounding leaves aside, take the complement of its channel.
So one maximum finds the largest code and, of equal ones, the lowest channel.  A channel takes about eight instructions
for a vector of pixels, and arithmetic limits it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.contracts import Array, ResizedArgMaxContract, Tensor
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.generic import resize
from tflite2q.kernels.generic.resize import ONE
from tflite2q.kernels.loops import chunks, region
from tflite2q.kernels.real import Registers
from tflite2q.kernels.refusals import Because, Refusal, other_types
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, local, store, vector, view

BITS = 20  # of a result that rounding leaves aside
MOST_UNROLLED = 32  # channels
MOST_IDLE = 1.5  # times as many lanes as there are pixels


@dataclass(frozen=True)
class Program:
    """What the text of the function depends on.  `pairs` of input columns, and `vectors` of `lanes` output columns."""

    resize: resize.Program
    output: Tensor
    smallest: bool
    pairs: int
    vectors: int
    lanes: int

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.resize.inputs

    @property
    def constants(self) -> Tensors:
        h = self.resize.output.shape[1]
        return {
            "rows": Tensor((h, 2), "int32"),
            "row weights": Tensor((h, 2), "int32"),
            "pairs": Tensor((self.pairs, 2), "int32"),
            "pair": Tensor((self.vectors,), "int32"),
            "first": Tensor((self.vectors,), "int32"),
            "beyond": Tensor((self.vectors, self.lanes), "int32"),
        }

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        n, out_h, out_w, c = self.resize.output.shape
        target = view(y, (n * out_h, out_w), self.output.dtype)
        with region(n * out_h, self.resize.output.size * 16) as i:
            line = resize.weighed(self.resize, inputs[0], constants, i)
            near, apart = (T.decl_buffer((self.pairs * c,), "int32") for _ in range(2))
            with T.serial(self.pairs) as pair:
                chunks(c, self.lanes, functools.partial(self._pair, line, near, apart, constants["pairs"], pair))
            found = T.decl_buffer((out_w + self.lanes,), "int32")
            with T.serial(self.vectors) as v:
                store(found, self._indices(near, apart, constants, v), constants["first"][v], lanes=self.lanes)
            chunks(out_w, self.lanes, functools.partial(self._store, target, found, i))

    def _pair(self, line: Buffer, near: Buffer, apart: Buffer, pairs: Buffer, pair: Expr, at: Expr, lanes: int) -> None:
        """Channels from `at` on of a pair of input columns: the first one's, and how far the second's lie from it."""
        c = self.resize.output.shape[3]
        a, b = (T.Bind(load(line, 0, pairs[pair, k] * c + at, lanes=lanes)) for k in (0, 1))
        store(near, a * broadcast(ONE, lanes), pair * c + at, lanes=lanes)
        store(apart, b - a, pair * c + at, lanes=lanes)

    def _indices(self, near: Buffer, apart: Buffer, constants: Buffers, v: Expr) -> Expr:
        """The indices for the pixels of vector v."""
        lanes, c, low = self.lanes, self.resize.output.shape[3], (1 << BITS) - 1
        start = T.Bind(constants["pair"][v] * c)
        beyond = T.Bind(load(constants["beyond"], v, 0, lanes=lanes))
        best = local(lanes, "int32")
        ends = np.iinfo(np.int32)
        store(best, broadcast(T.int32(int(ends.max if self.smallest else ends.min)), lanes), 0, lanes=lanes)

        def channel(k: Expr) -> None:
            a, step = (broadcast(each[start + k], lanes) for each in (near, apart))
            total = T.Bind(a + step * beyond)
            # Half up, but of a negative tie down, as resizing rounds.
            rounded = total + broadcast(1 << (BITS - 1), lanes) + T.shift_right(total, broadcast(31, lanes))
            tag = broadcast(T.int32(1) * k if self.smallest else low - k, lanes)
            marked = T.bitwise_or(T.bitwise_and(rounded, broadcast(T.int32(-low - 1), lanes)), tag)
            before = load(best, 0, lanes=lanes)
            store(best, T.min(before, marked) if self.smallest else T.max(before, marked), 0, lanes=lanes)

        if c <= MOST_UNROLLED:
            for k in range(c):
                channel(k)
        else:
            with T.serial(c) as k:
                channel(k)
        tags = T.bitwise_and(load(best, 0, lanes=lanes), broadcast(low, lanes))
        return tags if self.smallest else broadcast(low, lanes) - tags

    def _store(self, target: Buffer, found: Buffer, row: Expr, at: Expr, lanes: int) -> None:
        indices = T.cast(load(found, at, lanes=lanes), vector(self.output.dtype, lanes))
        store(target, indices, row, at, lanes=lanes)


class GenericEnlargedArgMax:
    """ResizedArgMax contracts of 8-bit codes whose rows grow to so many pixels that vectors of them are filled."""

    name = "generic_enlarged_argmax"

    def plan(self, contract: ResizedArgMaxContract, target: Any) -> Plan | Refusal:
        resized, found = contract.resize, contract.argmax
        if resized.in_float32 or resized.dtype not in ("int8", "uint8"):
            return other_types(resized.dtype, found.dtype)
        full = Registers.of(target).lanes
        several = [_Columns.of(resized.columns, resized.in_w, lanes) for lanes in (full, full // 2)]
        columns = next((each for each in several if each.beyond.size <= MOST_IDLE * resized.output.shape[2]), None)
        if columns is None:
            return Refusal(Because.SPEED, "few pixels lie between the same two of the input")
        program = Program(
            resize.Program.of(resized, target),
            found.output,
            found.smallest,
            len(columns.pairs),
            *columns.beyond.shape,
        )
        name = Name(resized.dtype, "enlarged_argmax", arithmetic="int32")
        return Plan(name, program, functools.partial(_pack, resized.rows, columns))


@dataclass(frozen=True, eq=False)
class _Columns:
    """Vectors of output columns: the first one of each, its pair of input columns, and each lane's weight of the
    second.  Lanes that exceed a pair's columns give results that the next vector replaces."""

    pairs: Array
    pair: Array
    first: Array
    beyond: Array

    @staticmethod
    def of(columns: tuple[Array, Array, Array], width: int, lanes: int) -> _Columns:
        near, far, beyond = (np.asarray(each) for each in columns)
        far = np.where(beyond == 0, np.minimum(near + 1, width - 1), far)  # whose weight is 0: as its neighbours have
        pairs, pair = np.unique(np.stack([near, far], axis=1), axis=0, return_inverse=True)
        pair = pair.reshape(-1)
        edges = [0, *(np.flatnonzero(np.diff(pair)) + 1).tolist(), len(pair)]
        first = [
            start + offset
            for start, end in itertools.pairwise(edges)
            for offset in layout.blocks(end - start, min(lanes, end - start)).tolist()
        ]
        lane = np.minimum(np.array(first)[:, None] + np.arange(lanes), len(pair) - 1)
        return _Columns(pairs, pair[first], np.array(first), beyond[lane])


def _pack(rows: tuple[Array, Array, Array], columns: _Columns) -> Arrays:
    above, below, beyond = rows
    packed = {
        "rows": np.stack([above, below], axis=1),
        "row weights": np.stack([ONE - beyond, beyond], axis=1),
        "pairs": columns.pairs,
        "pair": columns.pair,
        "first": columns.first,
        "beyond": columns.beyond,
    }
    return {name: array.astype(np.int32) for name, array in packed.items()}
