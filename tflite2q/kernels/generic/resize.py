"""Bilinear resizing of 8-bit images, for any LLVM target.

An output row first weighs its two input rows, element by element, into scratch as long as an input row; then
every output pixel weighs two pixels of it.  Enlarging, the first step costs little and the second is two
multiplications where the definition has four.

The integer form is exact in any order.  The float32 form must round as the reference does, so there scratch holds both
rows' terms, and an output pixel multiplies and adds four of them in the reference's order.  Stores limit it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.contracts import Array, ResizeBilinearContract, Tensor
from tflite2q.kernels.frame import Arrays, Plan, Tensors
from tflite2q.kernels.loops import chunks, region
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, store, uncontracted, vector, view

MOST_LANES = 16
ONE = 1 << 10  # pixel distance in the integer form


@dataclass(frozen=True)
class Program:
    """What the text of the function depends on."""

    inputs: tuple[Tensor, ...]
    output: Tensor
    in_float32: bool
    offset: int

    @property
    def weight_dtype(self) -> str:
        return "float32" if self.in_float32 else "int32"

    @property
    def constants(self) -> Tensors:
        """The two rows (columns) that each output row (column) lies between, and their weights."""
        _, h, w, _ = self.output.shape
        return {
            "rows": Tensor((h, 2), "int32"),
            "row weights": Tensor((h, 2), self.weight_dtype),
            "columns": Tensor((w, 2), "int32"),
            "column weights": Tensor((w, 2), self.weight_dtype),
        }

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        (x,), (rows, down, columns, right) = inputs, constants.values()
        n, in_h, in_w, c = self.inputs[0].shape
        _, out_h, out_w, _ = self.output.shape
        width = in_w * c
        source = view(x, (n * in_h, width), self.inputs[0].dtype)
        target = view(y, (n * out_h, out_w * c), self.output.dtype)
        lanes = layout.lane_count(c, MOST_LANES)
        with region(n * out_h, self.output.size * 16) as i:
            image, row = i // out_h * in_h, i % out_h
            scratch = T.decl_buffer((2, width), self.weight_dtype)
            # Vertically: both rows, weighted; in integers already added.
            chunks(width, MOST_LANES, functools.partial(_weigh, self, source, scratch, image, row, rows, down))
            with T.serial(out_w) as column:
                near, far = (T.Bind(columns[column, k] * c) for k in (0, 1))
                weights = [T.Bind(broadcast(right[column, k], lanes)) for k in (0, 1)]
                with T.serial(-(-c // lanes)) as block:
                    start = T.Bind(T.min(block * lanes, c - lanes))
                    codes = _mix(self, scratch, (near + start, far + start), weights, lanes)
                    store(target, T.cast(codes, vector(self.output.dtype, lanes)), i, column * c + start, lanes=lanes)


class GenericResize:
    """ResizeBilinear contracts; total."""

    name = "generic_resize_bilinear"

    def plan(self, contract: ResizeBilinearContract, target: Any) -> Plan:
        program = Program(contract.inputs, contract.output, contract.in_float32, contract.offset)
        name = f"{contract.dtype}_resize_bilinear_{program.weight_dtype}__generic"
        return Plan(name, program, functools.partial(_pack, contract, program))


def _pack(contract: ResizeBilinearContract, program: Program) -> Arrays:
    packed: dict[str, Array] = {}
    for axis, positions in (("row", contract.rows), ("column", contract.columns)):
        first, second, beyond = positions
        one = np.float32(1) if program.in_float32 else np.int64(ONE)
        packed[f"{axis}s"] = np.stack([first, second], axis=1).astype(np.int32)
        packed[f"{axis} weights"] = np.stack([one - beyond, beyond], axis=1).astype(program.weight_dtype)
    return packed


def _weigh(
    p: Program,
    source: Buffer,
    scratch: Buffer,
    image: Expr,
    row: Expr,
    rows: Buffer,
    down: Buffer,
    at: Expr,
    lanes: int,
) -> None:
    terms = []
    for k in (0, 1):
        codes = T.cast(load(source, image + rows[row, k], at, lanes=lanes), vector(p.weight_dtype, lanes))
        if p.offset:
            codes = codes - broadcast(p.offset, lanes)
        terms.append(codes * broadcast(down[row, k], lanes))
    if p.in_float32:
        for k, term in enumerate(terms):
            store(scratch, term, k, at, lanes=lanes)
    else:
        store(scratch, terms[0] + terms[1], 0, at, lanes=lanes)


def _mix(p: Program, scratch: Buffer, at: tuple[Expr, Expr], weights: list[Expr], lanes: int) -> Expr:
    """Codes, as int32, of `lanes` channels of one output pixel."""
    if p.in_float32:
        terms = [
            uncontracted(load(scratch, k, at[side], lanes=lanes) * weights[side]) for side in (0, 1) for k in (0, 1)
        ]
        total = terms[0] + terms[1] + terms[2] + terms[3] + broadcast(T.float32(0.5), lanes)
        return T.cast(total, vector("int32", lanes))
    total = load(scratch, 0, at[0], lanes=lanes) * weights[0] + load(scratch, 0, at[1], lanes=lanes) * weights[1]
    # Half away from zero: half up, but of a negative tie down.
    total = T.Bind(total)
    rounded = total + broadcast(ONE * ONE // 2, lanes) + T.shift_right(total, broadcast(31, lanes))
    return T.shift_right(rounded, broadcast(20, lanes)) + broadcast(p.offset, lanes)
