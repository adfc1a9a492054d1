"""Bilinear resizing of 8-bit images, for any LLVM target.

An output row first weighs its two input rows, element by element, into a line of scratch as long as an input row; then
every output pixel weighs two pixels of that line.  Enlarging, the first step costs little and the second is two
multiplications where the definition has four.

The integer form is exact in any order.  The float32 form must round as the reference does, so there the line holds both
rows' terms, and an output pixel multiplies and adds four of them in the reference's order.  Stores limit it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.base import Array, Built, ResizeBilinear, Tensor
from tflite2q.kernels.loops import chunks, region
from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, function, load, store, uncontracted, vector, view

MOST_LANES = 16
ONE = 1 << 10  # pixel distance in the integer form


@dataclass(frozen=True)
class Plan:
    """What the text of the function depends on."""

    inputs: Tensor
    output: Tensor
    in_float32: bool
    offset: int

    @property
    def weight_dtype(self) -> str:
        return "float32" if self.in_float32 else "int32"

    @property
    def constants(self) -> tuple[Tensor, ...]:
        _, h, w, _ = self.output.shape
        return tuple(t for n in (h, w) for t in (Tensor((n, 2), "int32"), Tensor((n, 2), self.weight_dtype)))


class GenericResize:
    """ResizeBilinear contracts; total."""

    name = "generic_resize_bilinear"

    def refuses(self, contract: ResizeBilinear, target: Any) -> str | None:
        return None

    def build(self, contract: ResizeBilinear, target: Any) -> Built:
        plan = Plan(contract.inputs[0], contract.output, contract.in_float32, contract.offset)
        name = f"{contract.dtype}_resize_bilinear_{plan.weight_dtype}__generic"
        constants = (*_table(contract.rows, plan), *_table(contract.columns, plan))
        return Built(name, (name, plan), _resize(plan), contract.inputs, constants, contract.output)


def _table(positions: tuple[Array, Array, Array], plan: Plan) -> tuple[Array, Array]:
    """(first, second) index and weight of each."""
    first, second, beyond = positions
    one = np.float32(1) if plan.in_float32 else np.int64(ONE)
    weights = np.stack([one - beyond, beyond], axis=1).astype(plan.weight_dtype)
    return np.stack([first, second], axis=1).astype(np.int32), weights


@functools.cache
def _resize(plan: Plan) -> Any:
    return function([plan.inputs], plan.constants, plan.output, functools.partial(_body, plan))


def _body(p: Plan, x: Buffer, rows: Buffer, down: Buffer, columns: Buffer, right: Buffer, y: Buffer) -> None:
    n, in_h, in_w, c = p.inputs.shape
    _, out_h, out_w, _ = p.output.shape
    width = in_w * c
    source = view(x, (n * in_h, width), p.inputs.dtype)
    target = view(y, (n * out_h, out_w * c), p.output.dtype)
    lanes = layout.lane_count(c, MOST_LANES)
    with region(n * out_h, p.output.size * 16) as i:
        image, row = i // out_h * in_h, i % out_h
        line = T.decl_buffer((2, width), p.weight_dtype)
        # Vertically: both rows, weighted; in integers already added.
        chunks(width, MOST_LANES, functools.partial(_weigh, p, source, line, image, row, rows, down))
        with T.serial(out_w) as column:
            near, far = (T.Bind(columns[column, k] * c) for k in (0, 1))
            weights = [T.Bind(broadcast(right[column, k], lanes)) for k in (0, 1)]
            with T.serial(-(-c // lanes)) as block:
                start = T.Bind(T.min(block * lanes, c - lanes))
                codes = _mix(p, line, (near + start, far + start), weights, lanes)
                store(target, T.cast(codes, vector(p.output.dtype, lanes)), i, column * c + start, lanes=lanes)


def _weigh(
    p: Plan, source: Buffer, line: Buffer, image: Expr, row: Expr, rows: Buffer, down: Buffer, at: Expr, lanes: int
) -> None:
    terms = []
    for k in (0, 1):
        codes = T.cast(load(source, image + rows[row, k], at, lanes=lanes), vector(p.weight_dtype, lanes))
        if p.offset:
            codes = codes - broadcast(p.offset, lanes)
        terms.append(codes * broadcast(down[row, k], lanes))
    if p.in_float32:
        for k, term in enumerate(terms):
            store(line, term, k, at, lanes=lanes)
    else:
        store(line, terms[0] + terms[1], 0, at, lanes=lanes)


def _mix(p: Plan, line: Buffer, at: tuple[Expr, Expr], weights: list[Expr], lanes: int) -> Expr:
    """Codes, as int32, of `lanes` channels of one output pixel."""
    if p.in_float32:
        terms = [uncontracted(load(line, k, at[side], lanes=lanes) * weights[side]) for side in (0, 1) for k in (0, 1)]
        total = terms[0] + terms[1] + terms[2] + terms[3] + broadcast(T.float32(0.5), lanes)
        return T.cast(total, vector("int32", lanes))
    total = load(line, 0, at[0], lanes=lanes) * weights[0] + load(line, 0, at[1], lanes=lanes) * weights[1]
    # Half away from zero: half up, but of a negative tie down.
    total = T.Bind(total)
    rounded = total + broadcast(ONE * ONE // 2, lanes) + T.shift_right(total, broadcast(31, lanes))
    return T.shift_right(rounded, broadcast(20, lanes)) + broadcast(p.offset, lanes)
