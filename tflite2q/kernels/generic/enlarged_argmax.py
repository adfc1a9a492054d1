"""Index of the first largest channel of each pixel of an image that grows to several times its width.

Vectors hold neighbouring pixels of an output row, not channels: all of a vector lie between the same two input pixels,
so that the largest of all channels needs no maximum across lanes.  Each row is weighed first
(`tflite2q.kernels.generic.resize`).  In integers a channel's results are then a + (b - a) * f, with one f for each
lane; in float32 they are four terms, rounded as the reference does.

A code takes the upper bits of an integer, and the complement of its channel the lower 20, which rounding leaves aside.
So one maximum finds the largest code and, of equal ones, the lowest channel.  A channel takes eight to twelve
instructions for a vector of pixels, and arithmetic limits it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.contracts import Array, ResizeBilinearContract, ResizedArgMaxContract, Tensor
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.generic import resize
from tflite2q.kernels.generic.resize import BITS, ONE
from tflite2q.kernels.loops import chunks, region
from tflite2q.kernels.real import Registers
from tflite2q.kernels.refusals import Because, Refusal, other_types
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, local, store, uncontracted, vector, view

MOST_UNROLLED = 32  # channels
MOST_IDLE = 1.5  # times as many lanes as there are pixels

Codes = Callable[[Expr], Expr]  # of a channel, those of a vector of pixels in the upper bits of int32
Between = Callable[[Expr], Codes]  # of vector v of a row


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
        weights = Tensor((self.vectors, self.lanes), self.resize.weight_dtype)
        return {
            **{name: tensor for name, tensor in self.resize.constants.items() if not name.startswith("column")},
            "pairs": Tensor((self.pairs, 2), "int32"),
            "pair": Tensor((self.vectors,), "int32"),
            "first": Tensor((self.vectors,), "int32"),
            "beyond": weights,
            **({"before": weights} if self.resize.in_float32 else {}),
        }

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        n, out_h, out_w, _ = self.resize.output.shape
        target = view(y, (n * out_h, out_w), self.output.dtype)
        with region(n * out_h, self.resize.output.size * 16) as i:
            line = resize.weighed(self.resize, inputs[0], constants, i)
            between = self._real(line, constants) if self.resize.in_float32 else self._integer(line, constants)
            found = T.decl_buffer((out_w + self.lanes,), "int32")
            with T.serial(self.vectors) as v:
                store(found, self._indices(between(v)), constants["first"][v], lanes=self.lanes)
            chunks(out_w, self.lanes, functools.partial(self._store, target, found, i))

    def _integer(self, line: Buffer, constants: Buffers) -> Between:
        c = self.resize.output.shape[3]
        near, apart = (T.decl_buffer((self.pairs * c,), "int32") for _ in range(2))
        with T.serial(self.pairs) as pair:
            chunks(c, self.lanes, functools.partial(self._apart, line, near, apart, constants["pairs"], pair))

        def between(v: Expr) -> Codes:
            start = T.Bind(constants["pair"][v] * c)
            beyond = T.Bind(load(constants["beyond"], v, 0, lanes=self.lanes))

            def code(k: Expr) -> Expr:
                a, step = (broadcast(each[start + k], self.lanes) for each in (near, apart))
                rounded = resize.rounded(T.Bind(a + step * beyond), self.lanes)
                return T.bitwise_and(rounded, broadcast(T.int32(-(1 << BITS)), self.lanes))

            return code

        return between

    def _apart(
        self, line: Buffer, near: Buffer, apart: Buffer, pairs: Buffer, pair: Expr, at: Expr, lanes: int
    ) -> None:
        """Channels from `at` on of a pair of input columns: the first one's, and how far the second's lie from it."""
        c = self.resize.output.shape[3]
        a, b = (T.Bind(load(line, 0, pairs[pair, k] * c + at, lanes=lanes)) for k in (0, 1))
        store(near, a * broadcast(ONE, lanes), pair * c + at, lanes=lanes)
        store(apart, b - a, pair * c + at, lanes=lanes)

    def _real(self, line: Buffer, constants: Buffers) -> Between:
        c, lanes = self.resize.output.shape[3], self.lanes

        def between(v: Expr) -> Codes:
            pair = T.Bind(constants["pair"][v])
            places = [T.Bind(constants["pairs"][pair, side] * c) for side in (0, 1)]
            weights = [T.Bind(load(constants[name], v, 0, lanes=lanes)) for name in ("before", "beyond")]

            def code(k: Expr) -> Expr:
                terms = [
                    uncontracted(broadcast(line[row, place + k], lanes) * weight)
                    for place, weight in zip(places, weights, strict=True)
                    for row in (0, 1)
                ]
                total = terms[0] + terms[1] + terms[2] + terms[3] + broadcast(constants["rounding"][0], lanes)
                return T.shift_left(T.cast(total, vector("int32", lanes)), broadcast(BITS, lanes))

            return code

        return between

    def _indices(self, code: Codes) -> Expr:
        """The channels of the first largest codes, or smallest ones."""
        lanes, c, low = self.lanes, self.resize.output.shape[3], (1 << BITS) - 1
        best, ends = local(lanes, "int32"), np.iinfo(np.int32)
        store(best, broadcast(T.int32(int(ends.max if self.smallest else ends.min)), lanes), 0, lanes=lanes)

        def channel(k: Expr) -> None:
            tag = broadcast(T.int32(1) * k if self.smallest else low - k, lanes)
            marked, before = T.bitwise_or(code(k), tag), load(best, 0, lanes=lanes)
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
        if resized.dtype not in ("int8", "uint8"):
            return other_types(resized.dtype, found.dtype)
        full = Registers.of(target).lanes
        several = [_Columns.of(resized.columns, resized.in_w, lanes) for lanes in (full, full // 2)]
        columns = next((each for each in several if each.beyond.size <= MOST_IDLE * resized.output.shape[2]), None)
        if columns is None:
            return Refusal(Because.SPEED, "few pixels lie between the same two of the input")
        program = Program(
            resize.Program.of(resized, target), found.output, found.smallest, len(columns.pairs), *columns.beyond.shape
        )
        name = Name(resized.dtype, "enlarged_argmax", arithmetic=program.resize.weight_dtype)
        return Plan(name, program, functools.partial(_pack, program, resized, columns))


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


def _pack(program: Program, contract: ResizeBilinearContract, columns: _Columns) -> Arrays:
    one = np.float32(1) if program.resize.in_float32 else np.int64(ONE)
    packed: dict[str, Array] = {
        **program.resize.pack(contract),
        "pairs": columns.pairs,
        "pair": columns.pair,
        "first": columns.first,
        "beyond": columns.beyond,
        "before": one - columns.beyond,
    }
    return {name: packed[name].astype(tensor.dtype) for name, tensor in program.constants.items()}
