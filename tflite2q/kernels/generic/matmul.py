"""Products of two computed matrices, for any LLVM target: float32, codes, or float32 times codes.

b is copied first, in panels of a few vectors of columns, row after row; a where its rows do not lie in order, or are
codes.  A tile of rows of a times a panel stays in registers, as in `tflite2q.kernels.generic.float_gemm`.  Codes are
multiplied as float32 numbers, which is exact as long as sums stay below 2^24; longer ones are added up in int32.
Codes of 16 bits are multiplied as float64 numbers, half as many at a time; they hold all sums.

What limits it is the multiplier of real numbers; the copies, where there are few rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.arithmetic.rounding import code_range
from tflite2q.kernels import layout
from tflite2q.kernels.accumulators import Accumulators
from tflite2q.kernels.contracts import Array, MatmulContract, Tensor
from tflite2q.kernels.dynamic import HIGH, LOW, MOST, Images, Scales
from tflite2q.kernels.epilogue import Epilogue
from tflite2q.kernels.frame import Arrays, Name, Plan, Tensors
from tflite2q.kernels.loops import chunks, region
from tflite2q.kernels.real import FLOAT, Registers
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, shuffle, store, vector, view

EXACT = 2**24  # integers that float32 holds
UNROLLED = 4  # steps in one go of a loop
LANES = 16  # of a vector that is copied
WIDE_CODES = "int16"


@dataclass(frozen=True)
class Program:
    """What the text of the function depends on: tensors as in `MatmulContract`, and how the result is tiled.

    `piece`: how many products join an int32 sum at once; 0: sums are of `number`.  `epilogue`: of codes, whose
    constants are those of every column if `by_column`; `dynamic`: rows of a are quantized, and whether with zero
    points.
    """

    a: Tensor
    b: Tensor
    output: Tensor
    transposed: tuple[bool, bool]
    zero_points: tuple[int, int]
    depth: int
    lanes: int
    vectors: int
    rows: int
    piece: int
    epilogue: Epilogue | None
    by_column: bool
    dynamic: bool | None

    @staticmethod
    def of(contract: MatmulContract, registers: Registers) -> Program:
        _, rows, columns = contract.output.shape
        wide = contract.a.dtype == WIDE_CODES
        lanes = layout.lane_count(columns, registers.lanes // 2 if wide else registers.lanes)
        vectors = min(registers.weights, columns // lanes)
        most = min(rows, registers.pixels(vectors))
        reach, rescale = largest_product(contract), contract.rescale
        bound, accumulator = np.array([reach * contract.depth]), "int64" if wide else "int32"
        epilogue = None if rescale is None else Epilogue.of(rescale, bound, accumulator)
        dynamic = None if contract.scales is None else contract.asymmetric
        whole = wide or contract.b.dtype == FLOAT or reach * contract.depth < EXACT
        return Program(
            contract.a, contract.b, contract.output, contract.transposed, contract.zero_points, contract.depth,
            lanes, vectors, math.ceil(rows / math.ceil(rows / most)), 0 if whole else (EXACT - 1) // reach,
            epilogue, rescale is not None and len(rescale.real) > 1, dynamic,
        )  # fmt: skip

    @property
    def number(self) -> str:
        """The type of factors and sums."""
        return "float64" if self.a.dtype == WIDE_CODES else FLOAT

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.a, self.b)

    @property
    def constants(self) -> Tensors:
        if self.dynamic is not None:
            return {"scales": Tensor((self.output.shape[2],), FLOAT)}
        kinds = {} if self.epilogue is None else self.epilogue.constants
        count = self.output.shape[2] if self.by_column else self.lanes
        return {name: Tensor((1, count), dtype) for name, dtype in kinds.items()}

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.lanes * self.vectors

    @property
    def blocks(self) -> int:
        return math.ceil(self.output.shape[2] / self.width)

    def start(self, block: Expr) -> Expr:
        """First column of a panel; the last one overlaps its neighbour if it must."""
        return T.min(block * self.width, self.output.shape[2] - self.width)

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        batch, rows, columns = self.output.shape
        left, scales = self._rows(inputs[0])
        panels = self._panels(inputs[1])
        tile = _Tile(self, left, panels, scales, constants, view(y, (batch * rows, columns)))
        with region(batch * self.blocks, self.output.size * self.depth) as index:
            image, block = T.Bind(index // self.blocks), T.Bind(index % self.blocks)
            with T.serial(math.ceil(rows / self.rows)) as t:
                tile.emit(image, block, T.Bind(T.min(t * self.rows, rows - self.rows)))

    def _rows(self, a: Buffer) -> tuple[Buffer, Scales | None]:
        """a as numbers [batch * rows, depth], and the scales of its rows if they are quantized here."""
        batch, rows = self.a.shape[0], self.output.shape[1]
        flat, shape = view(a, self.a.shape, self.a.dtype), (batch * rows, self.depth)
        if self.transposed[0]:
            turned = T.decl_buffer((batch, rows, self.depth), self.number)
            self._turned(flat, turned)
            flat = turned
        elif self.a.dtype != FLOAT:
            flat = self._widened(view(a, shape, self.a.dtype))
        if self.dynamic is None:
            return view(flat, shape, self.number), None
        images = Images((batch * rows, 1, 1, self.depth), (0, 0, 0, 0), self.dynamic)
        scales = images.scales(flat)
        return view(images.reals(flat, scales), shape, FLOAT), scales

    def _widened(self, rows: Buffer) -> Buffer:
        count = self.a.shape[0] * self.output.shape[1]
        wide = T.decl_buffer((count, self.depth), self.number)
        with region(count, count * self.depth * 8) as row:

            def copied(at: Expr, lanes: int) -> None:
                store(wide, self._real(0, load(rows, row, at, lanes=lanes), lanes), row, at, lanes=lanes)

            chunks(self.depth, LANES, copied)
        return wide

    def _real(self, factor: int, codes: Expr, lanes: int) -> Expr:
        """Numbers of factor 0 or 1, without their zero point."""
        if self.inputs[factor].dtype == FLOAT:
            return codes
        wide = T.cast(codes, vector("int32", lanes))
        zero_point = self.zero_points[factor]
        centred = wide - broadcast(T.int32(zero_point), lanes) if zero_point else wide
        return T.cast(centred, vector(self.number, lanes))

    def _turned(self, source: Buffer, target: Buffer) -> None:
        """target[i, r, k] = source[i, k, r], of a, as numbers."""
        batch, rows = self.a.shape[0], self.output.shape[1]
        side = min(layout.lane_count(rows, self.lanes), layout.lane_count(self.depth, self.lanes))
        across = math.ceil(rows / side)
        with (
            region(batch * across, batch * rows * self.depth * 8) as index,
            T.serial(math.ceil(self.depth / side)) as t,
        ):
            image, row = T.Bind(index // across), T.Bind(T.min(index % across * side, rows - side))
            k = T.Bind(T.min(t * side, self.depth - side))
            tile = [self._real(0, load(source, image, k + i, row, lanes=side), side) for i in range(side)]
            for i, values in enumerate(_transposed(tile, side)):
                store(target, values, image, row + i, k, lanes=side)

    def _panels(self, b: Buffer) -> Buffer:
        """b as numbers [batch, blocks, depth, width]."""
        batch, blocks, lanes = self.b.shape[0], self.blocks, self.lanes
        source = view(b, self.b.shape, self.b.dtype)
        panels = T.decl_buffer((batch, blocks, self.depth, self.width), self.number)
        with region(batch * blocks, batch * blocks * self.depth * self.width * 8) as index:
            image, block = T.Bind(index // blocks), T.Bind(index % blocks)
            first = T.Bind(self.start(block))
            for v in range(self.vectors):
                column, place = T.Bind(first + v * lanes), v * lanes
                if not self.transposed[1]:
                    with T.serial(self.depth) as k:
                        values = self._real(1, load(source, image, k, column, lanes=lanes), lanes)
                        store(panels, values, image, block, k, place, lanes=lanes)
                elif self.depth < lanes:
                    with T.serial(self.depth) as k, T.serial(lanes) as i:
                        value = self._real(1, load(source, image, column + i, k), 1)
                        store(panels, value, image, block, k, place + i)
                else:
                    with T.serial(math.ceil(self.depth / lanes)) as t:
                        k = T.Bind(T.min(t * lanes, self.depth - lanes))
                        tile = [
                            self._real(1, load(source, image, column + i, k, lanes=lanes), lanes) for i in range(lanes)
                        ]
                        for i, values in enumerate(_transposed(tile, lanes)):
                            store(panels, values, image, block, k + i, place, lanes=lanes)
        return panels


def largest_product(contract: MatmulContract) -> int:
    """What no product of codes exceeds in magnitude; 1 for float32."""
    reaches = [
        max(code_range(x.dtype)[1] - zero, zero - code_range(x.dtype)[0])
        for x, zero in zip(contract.inputs, contract.zero_points, strict=True)
        if x.dtype != FLOAT
    ]
    if contract.scales is not None:
        reaches.append(HIGH - LOW if contract.asymmetric else MOST)
    return math.prod(reaches)


def _transposed(rows: list[Expr], side: int) -> list[Expr]:
    """A square of as many vectors as they have elements: halves are interleaved log2(side) times."""
    rows = [T.Bind(row) for row in rows]
    half = side // 2
    low = [place for i in range(half) for place in (i, side + i)]
    high = [place for i in range(half, side) for place in (i, side + i)]
    for _ in range(side.bit_length() - 1):
        pairs = [(rows[i], rows[i + half]) for i in range(half)]
        rows = [T.Bind(shuffle(pair, mask)) for pair in pairs for mask in (low, high)]
    return rows


class GenericMatmul:
    """Matmul contracts; total."""

    name = "generic_matmul"

    def plan(self, contract: MatmulContract, target: Any) -> Plan:
        program = Program.of(contract, Registers.of(target))
        types = "float32" if contract.b.dtype == FLOAT else "f32s8" if contract.rescale is None else contract.a.dtype
        types = "s16s8" if (contract.a.dtype, contract.b.dtype) == (WIDE_CODES, "int8") else types
        arithmetic = "" if contract.rescale is None else contract.rescale.arithmetic
        name = Name(types, "matmul", arithmetic=arithmetic, tile=f"{program.rows}x{program.width}")

        def pack() -> Arrays:
            if contract.scales is not None:
                return {"scales": contract.scales}
            zeros: Array = np.zeros((1, program.lanes), np.int64)
            channels = np.arange(program.output.shape[2])[None] if program.by_column else zeros
            known = program.epilogue is not None and contract.rescale is not None
            return program.epilogue.pack(contract.rescale, channels) if known else {}  # type: ignore[union-attr,arg-type]

        return Plan(name, program, pack)


@dataclass(frozen=True)
class _Tile:
    """The buffers of a function under construction."""

    program: Program
    left: Buffer
    panels: Buffer
    scales: Scales | None
    constants: Buffers
    y: Buffer

    def emit(self, image: Expr, block: Expr, row: Expr) -> None:
        """A panel times `rows` rows of matrix `image`, from `row` on."""
        p, lanes = self.program, self.program.lanes
        count = p.output.shape[1]
        first = T.Bind((image if p.a.shape[0] > 1 else 0) * count + row)
        panel = T.Bind(image if p.b.shape[0] > 1 else T.int32(0))
        sums = Accumulators.apart(p.rows, p.vectors, lanes, p.number)

        def step(k: Expr) -> None:
            w = [T.Bind(load(self.panels, panel, block, k, v * lanes, lanes=lanes)) for v in range(p.vectors)]
            for r in range(p.rows):
                x = T.Bind(broadcast(load(self.left, first + r, k), lanes))
                for v, operand in enumerate(w):
                    sums[r, v] = sums[r, v] + x * operand

        found = self._in_pieces(sums, step) if p.piece else self._whole(sums, step)
        start, below = T.Bind(p.start(block)), T.Bind(image * count + row)
        for r, each in enumerate(found.values()):
            for v, value in enumerate(each):
                column = start + v * lanes
                store(self.y, self._result(value, first + r, column), below + r, column, lanes=lanes)

    def _whole(self, sums: Accumulators, step: Callable[[Expr], None]) -> Accumulators:
        """Sums of all steps."""
        depth = self.program.depth
        _clear(sums)
        with T.serial(depth // UNROLLED) as i:
            for j in range(UNROLLED):
                step(i * UNROLLED + j)
        for k in range(depth // UNROLLED * UNROLLED, depth):
            step(k)
        return sums

    def _in_pieces(self, sums: Accumulators, step: Callable[[Expr], None]) -> Accumulators:
        """int32 sums of float32 ones that are exact."""
        p = self.program
        totals = Accumulators.apart(p.rows, p.vectors, p.lanes)
        _clear(totals)
        with T.serial(math.ceil(p.depth / p.piece)) as piece:
            _clear(sums)
            with T.serial(T.min(p.depth - piece * p.piece, p.piece)) as k:
                step(piece * p.piece + k)
            totals.add(sums)
        return totals

    def _result(self, value: Expr, row: Expr, column: Expr) -> Expr:
        """Results of sums, which are of `number`, or int32 if they were added up in pieces."""
        p, lanes = self.program, self.program.lanes
        if p.epilogue is not None:
            whole = value if p.piece else T.cast(value, vector("int64" if p.number == "float64" else "int32", lanes))
            codes = p.epilogue.codes(T.Bind(whole), self.constants, (0, column if p.by_column else 0), lanes)
            return T.cast(codes, vector(p.output.dtype, lanes))
        if self.scales is None:
            return value
        scale = broadcast(self.scales.scale[row], lanes) * load(self.constants["scales"], column, lanes=lanes)
        return (T.cast(value, vector(FLOAT, lanes)) if p.piece else value) * scale


def _clear(sums: Accumulators) -> None:
    zero = T.int32(0) if sums.dtype == "int32" else T.FloatImm(sums.dtype, 0.0)
    sums.fill([broadcast(zero, sums.lanes)] * sums.vectors)
