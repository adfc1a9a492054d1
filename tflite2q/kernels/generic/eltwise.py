"""Any element-wise function as one fused loop, for any LLVM target.

`TirCore` is the third reader of `arithmetic.core.Core` (after NumPy and Relax), for its element-wise part: it turns a
meaning into expressions on vectors of codes.  Constants of one element become literals, others are packed and loaded
along the last axis.  Axes are merged as far as broadcasting allows, so equal shapes become one flat loop.  Memory and,
for 64-bit fixed point, the multiplier limit it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tflite2q.kernels import layout
from tflite2q.kernels.contracts import Array, EltwiseContract, Tensor
from tflite2q.kernels.frame import Name, Plan, Tensors
from tflite2q.kernels.loops import region
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, function, load, store, uncontracted, vector, view

MOST_LANES = 16
GRAIN = 64  # vectors that one thread takes at a time


class TirCore:
    """The element-wise operations of `Core` on vectors of `lanes`; anything else is missing on purpose."""

    def __init__(self, lanes: int, constant: Callable[[Array], Expr]) -> None:
        self._lanes = lanes
        self._constant = constant

    def const(self, array: Array) -> Expr:
        if array.size == 1:
            return broadcast(_literal(array), self._lanes)
        return self._constant(array)

    def astype(self, x: Expr, dtype: str) -> Expr:
        return T.Bind(T.cast(x, vector(dtype, self._lanes)))

    def add(self, a: Expr, b: Expr) -> Expr:
        # Fenced, or TVM's simplifier would cancel the constant that is added and taken off again to round (eq. 11).
        total = T.Bind(a + b)
        return uncontracted(total) if _scalar_type(total).startswith("float") else total

    def subtract(self, a: Expr, b: Expr) -> Expr:
        return T.Bind(a - b)

    def multiply(self, a: Expr, b: Expr) -> Expr:
        product = T.Bind(a * b)
        return uncontracted(product) if _scalar_type(product).startswith("float") else product

    def divide(self, a: Expr, b: Expr) -> Expr:
        return T.Bind(T.Div(a, b))

    def left_shift(self, a: Expr, b: Expr) -> Expr:
        return T.Bind(T.shift_left(a, b))

    def right_shift(self, a: Expr, b: Expr) -> Expr:
        return T.Bind(T.shift_right(a, b))

    def bitwise_and(self, a: Expr, b: Expr) -> Expr:
        return T.Bind(T.bitwise_and(a, b))

    def minimum(self, a: Expr, b: Expr) -> Expr:
        return T.Bind(T.min(a, b))

    def maximum(self, a: Expr, b: Expr) -> Expr:
        return T.Bind(T.max(a, b))

    def clip(self, x: Expr, low: float, high: float) -> Expr:
        dtype = np.dtype(_scalar_type(x))
        bounds = [broadcast(_literal(np.array([b]).astype(dtype)), self._lanes) for b in (low, high)]
        return T.Bind(T.min(T.max(x, bounds[0]), bounds[1]))

    def abs(self, x: Expr) -> Expr:
        return T.Bind(T.max(x, self.negative(x)))

    def negative(self, x: Expr) -> Expr:
        return T.Bind(broadcast(_literal(np.zeros(1, _scalar_type(x))), self._lanes) - x)

    def floor(self, x: Expr) -> Expr:
        return T.Bind(T.floor(x))

    def trunc(self, x: Expr) -> Expr:
        return T.Bind(T.trunc(x))

    def sqrt(self, x: Expr) -> Expr:
        return T.Bind(T.sqrt(x))

    # Comparisons stay unnamed: TVM's analyzer cannot bind a variable to a vector of booleans.

    def equal(self, a: Expr, b: Expr) -> Expr:
        return T.EQ(a, b)

    def less(self, a: Expr, b: Expr) -> Expr:
        return a < b

    def less_equal(self, a: Expr, b: Expr) -> Expr:
        return a <= b

    def where(self, condition: Expr, a: Expr, b: Expr) -> Expr:
        return T.Bind(T.Select(condition, a, b))


@dataclass(frozen=True)
class Loops:
    """Merged axes: `extents` of the output, and for each operand which of them it has (the others are broadcast)."""

    extents: tuple[int, ...]
    present: tuple[tuple[bool, ...], ...]

    @staticmethod
    def of(output: tuple[int, ...], shapes: Sequence[tuple[int, ...]]) -> Loops:
        extents: list[int] = []
        columns: list[tuple[bool, ...]] = []
        padded = [(1,) * (len(output) - len(s)) + tuple(s) for s in shapes]
        for axis, extent in enumerate(output):
            if extent == 1:
                continue
            column = tuple(s[axis] != 1 for s in padded)
            if columns and columns[-1] == column:
                extents[-1] *= extent
            else:
                extents.append(extent)
                columns.append(column)
        if not extents:
            extents, columns = [1], [tuple(True for _ in shapes)]
        return Loops(tuple(extents), tuple(zip(*columns, strict=True)))

    def shape(self, operand: int) -> tuple[int, ...]:
        return tuple(e if p else 1 for e, p in zip(self.extents, self.present[operand], strict=True))


@dataclass(frozen=True)
class Program:
    """What the text of the function depends on; `key` identifies the meaning."""

    key: Hashable
    meaning: Callable[..., Any] = field(compare=False)
    inputs: tuple[Tensor, ...]
    output: Tensor
    along_channels: tuple[Tensor, ...]

    @property
    def constants(self) -> Tensors:
        return {str(number): tensor for number, tensor in enumerate(self.along_channels)}

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        operands = [*self.inputs, *self.along_channels]
        loops = Loops.of(self.output.shape, [t.shape for t in operands])
        buffers = [*inputs, *constants.values()]
        views = [view(b, loops.shape(i), operands[i].dtype) for i, b in enumerate(buffers)]
        y = view(y, loops.extents, self.output.dtype)
        *outer, inner = loops.extents
        lanes = layout.lane_count(inner, MOST_LANES)
        vectors = -(-inner // lanes)
        grain = min(GRAIN, vectors)
        per_row = -(-vectors // grain)
        rows = int(np.prod(outer, dtype=np.int64))
        with region(rows * per_row, self.output.size * 32) as i:
            row, first = i // per_row, T.min(i % per_row * grain, vectors - grain)
            index = _unravel(row, outer)
            with T.serial(grain) as v:
                at = T.Bind(T.min((first + v) * lanes, inner - lanes))
                loaded = [_operand(b, loops.present[k], index, at, lanes) for k, b in enumerate(views)]
                pending = iter(loaded[len(inputs) :])
                core = TirCore(lanes, lambda _: next(pending))
                store(y, self.meaning(core, *loaded[: len(inputs)]), *index, at, lanes=lanes)


class GenericEltwise:
    """Eltwise contracts; total for meanings written over the operations of `TirCore`."""

    name = "generic_eltwise"

    def plan(self, contract: EltwiseContract, target: Any) -> Plan:
        found: list[Array] = []
        # A first reading, thrown away, only to learn which constants the meaning has.
        dummies = [Tensor((1,), t.dtype) for t in contract.inputs]
        function(dummies, [], Tensor((1,), contract.output.dtype), functools.partial(_collect, contract, found))
        tensors = tuple(Tensor(c.shape, str(c.dtype)) for c in found)
        program = Program((contract.name, contract.key), contract.meaning, contract.inputs, contract.output, tensors)
        types = "_".join(t.dtype for t in contract.inputs)
        constants = {str(number): array for number, array in enumerate(found)}
        return Plan(Name(types, contract.name), program, lambda: constants)


def _collect(contract: EltwiseContract, constants: list[Array], *buffers: Buffer) -> None:
    *inputs, y = buffers
    last = contract.output.shape[-1] if contract.output.shape else 1

    def constant(array: Array) -> Expr:
        if array.shape[-1:] != (last,) or array.size != last:
            raise ValueError(
                f"{contract.name}: a constant of shape {array.shape} does not lie along the last axis of {last}"
            )
        constants.append(np.ascontiguousarray(array.reshape(-1)))
        return _literal(array.reshape(-1)[:1])

    core = TirCore(1, constant)
    store(y, contract.meaning(core, *[load(b, 0) for b in inputs]), 0)


def _operand(buffer: Buffer, present: tuple[bool, ...], index: list[Expr], at: Expr, lanes: int) -> Expr:
    outer = [i if p else 0 for i, p in zip(index, present[:-1], strict=True)]
    value = load(buffer, *outer, at, lanes=lanes) if present[-1] else broadcast(load(buffer, *outer, 0), lanes)
    return T.Bind(value)


def _unravel(row: Expr, extents: Sequence[int]) -> list[Expr]:
    index: list[Expr] = []
    for extent in reversed(extents):
        index.insert(0, row % extent)
        row = row // extent
    return index


def _literal(array: Array) -> Expr:
    value = array.reshape(-1)[0]
    if array.dtype.kind == "f":
        return T.FloatImm(str(array.dtype), float(value))
    if array.dtype.kind == "b":
        return T.bool(bool(value))
    return T.IntImm(str(array.dtype), int(value))


def _scalar_type(x: Expr) -> str:
    return str(x.ty.dtype).split("x")[0]
