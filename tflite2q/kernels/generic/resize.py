"""Bilinear resizing of images, for any LLVM target.

An output row first weighs its two input rows, element by element, into scratch as long as an input row; then
every output pixel weighs two pixels of it.  Enlarging, the first step costs little and the second is two
multiplications where the definition has four.

The integer form is exact in any order; of 16 bits it is computed in float64, which holds its sums of 36 bits.  The
float32 form must round as the reference does, so there scratch holds both rows' terms, and an output pixel multiplies
and adds four of them in the reference's order.  Stores limit it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.contracts import Array, ResizeBilinearContract, Tensor
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.loops import chunks, region
from tflite2q.kernels.real import Registers
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, store, uncontracted, vector, view

MOST_LANES = 16
MOST_UNROLLED = 4  # blocks of a pixel
ONE = 1 << 10  # pixel distance in the integer form
BITS = 20  # of the integer form's sums that rounding leaves aside: they are ONE * ONE times a mean

Pixel = Callable[[Expr], Expr]  # results of a pixel's channels from one on, as one vector


@dataclass(frozen=True)
class Program:
    """What the text of the function depends on; vectors of channels have `lanes`."""

    inputs: tuple[Tensor, ...]
    output: Tensor
    weight_dtype: str
    offset: int
    lanes: int

    @classmethod
    def of(cls, contract: ResizeBilinearContract, target: Any) -> Program:
        wide = contract.dtype == "int16"
        weights = "float32" if contract.in_float32 else "float64" if wide else "int32"
        lanes = layout.even_lanes(contract.channels, MOST_LANES, Registers.of(target).lanes // (2 if wide else 1))
        return cls(contract.inputs, contract.output, weights, contract.offset, lanes)

    @property
    def in_float32(self) -> bool:
        return self.weight_dtype == "float32"

    @property
    def constants(self) -> Tensors:
        """The two rows (columns) that each output row (column) lies between, and their weights."""
        _, h, w, _ = self.output.shape
        places: dict[str, Tensor] = {
            "rows": Tensor((h, 2), "int32"),
            "row weights": Tensor((h, 2), self.weight_dtype),
            "columns": Tensor((w, 2), "int32"),
            "column weights": Tensor((w, 2), self.weight_dtype),
        }
        return places | {"rounding": Tensor((1,), "float32")} if self.in_float32 else places

    def pack(self, contract: ResizeBilinearContract) -> Arrays:
        packed: dict[str, Array] = {}
        for axis, positions in (("row", contract.rows), ("column", contract.columns)):
            first, second, beyond = positions
            one = np.float32(1) if self.in_float32 else np.int64(ONE)
            packed[f"{axis}s"] = np.stack([first, second], axis=1).astype(np.int32)
            packed[f"{axis} weights"] = np.stack([one - beyond, beyond], axis=1).astype(self.weight_dtype)
        if self.in_float32:  # a literal 0 would be folded away
            packed["rounding"] = np.array([0 if contract.dtype == "float32" else 0.5], np.float32)
        return packed

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        n, out_h, out_w, c = self.output.shape
        target = view(y, (n * out_h, out_w * c), self.output.dtype)
        with region(n * out_h, self.output.size * 16) as i:
            row = self.row(inputs[0], constants, i)
            with T.serial(out_w) as column:
                pixel = row(column)

                def write(start: Expr) -> None:
                    store(target, pixel(start), i, column * c + start, lanes=self.lanes)

                each_block(c, self.lanes, lambda start, _: write(start))

    def row(self, x: Buffer, constants: Buffers, i: Expr) -> Callable[[Expr], Pixel]:
        """Row i of all images' rows: a function of the column, inside a loop over which it is to be called."""
        c, scratch = self.inputs[0].shape[3], weighed(self, x, constants, i)

        def pixel(column: Expr) -> Pixel:
            near, far = (T.Bind(constants["columns"][column, k] * c) for k in (0, 1))
            weights = [T.Bind(broadcast(constants["column weights"][column, k], self.lanes)) for k in (0, 1)]
            return lambda start: _mix(self, scratch, (near + start, far + start), weights, constants)

        return pixel


class GenericResize:
    """ResizeBilinear contracts; total."""

    name = "generic_resize_bilinear"

    def plan(self, contract: ResizeBilinearContract, target: Any) -> Plan:
        program = Program.of(contract, target)
        name = Name(contract.dtype, "resize_bilinear", arithmetic=program.weight_dtype)
        return Plan(name, program, functools.partial(program.pack, contract))


def weighed(p: Program, x: Buffer, constants: Buffers, i: Expr) -> Buffer:
    """Both input rows of row i of all images' rows, weighed: their sum, or for float32 each by itself."""
    n, in_h, in_w, c = p.inputs[0].shape
    out_h, width = p.output.shape[1], in_w * c
    source = view(x, (n * in_h, width), p.inputs[0].dtype)
    image, row = i // out_h * in_h, i % out_h
    scratch = T.decl_buffer((2 if p.in_float32 else 1, width), p.weight_dtype)
    down = constants["row weights"]
    lines = [(T.Bind(image + constants["rows"][row, k]), T.Bind(down[row, k])) for k in (0, 1)]
    chunks(width, MOST_LANES, functools.partial(_weigh, p, source, scratch, lines))
    return scratch


def each_block(channels: int, lanes: int, emit: Callable[[Expr, Expr], None]) -> None:
    """`emit(start, number)` for the overlapping blocks of `lanes` channels; a few are unrolled."""
    starts = layout.blocks(channels, lanes)
    if len(starts) <= MOST_UNROLLED:
        for block, start in enumerate(starts.tolist()):
            emit(start, block)
        return
    with T.serial(len(starts)) as block:
        emit(T.Bind(T.min(block * lanes, channels - lanes)), block)


def _weigh(
    p: Program, source: Buffer, scratch: Buffer, lines: Sequence[tuple[Expr, Expr]], at: Expr, lanes: int
) -> None:
    """Elements from `at` on of the two input rows `lines`, each with its weight."""
    terms = []
    for row, weight in lines:
        codes = T.cast(load(source, row, at, lanes=lanes), vector(p.weight_dtype, lanes))
        if p.offset:
            codes = codes - broadcast(p.offset, lanes)
        terms.append(codes * broadcast(weight, lanes))
    if p.in_float32:
        for k, term in enumerate(terms):
            store(scratch, term, k, at, lanes=lanes)
    else:
        store(scratch, terms[0] + terms[1], 0, at, lanes=lanes)


def _mix(p: Program, scratch: Buffer, at: tuple[Expr, Expr], weights: list[Expr], constants: Buffers) -> Expr:
    """`p.lanes` channels of one output pixel."""
    lanes, dtype = p.lanes, vector(p.output.dtype, p.lanes)
    if p.in_float32:
        terms = [
            uncontracted(load(scratch, k, at[side], lanes=lanes) * weights[side]) for side in (0, 1) for k in (0, 1)
        ]
        total = terms[0] + terms[1] + terms[2] + terms[3] + broadcast(constants["rounding"][0], lanes)
        return total if p.output.dtype == "float32" else T.cast(T.cast(total, vector("int32", lanes)), dtype)
    total = load(scratch, 0, at[0], lanes=lanes) * weights[0] + load(scratch, 0, at[1], lanes=lanes) * weights[1]
    total = T.Bind(total)
    # Half away from zero.
    if p.weight_dtype == "float64":
        steps = T.Bind(total * broadcast(T.float64(1 / ONE**2), lanes))
        half = T.Select(steps < broadcast(T.float64(0), lanes), *(broadcast(T.float64(h), lanes) for h in (-0.5, 0.5)))
        return T.cast(T.cast(steps + half, vector("int32", lanes)), dtype)
    return T.cast(T.shift_right(rounded(total, lanes), broadcast(BITS, lanes)) + broadcast(p.offset, lanes), dtype)


def rounded(total: Expr, lanes: int) -> Expr:
    """int32 sums whose bits from `BITS` on are means, rounded half away from zero: up, but of a negative tie down."""
    return total + broadcast(1 << (BITS - 1), lanes) + T.shift_right(total, broadcast(31, lanes))
