"""Sums and differences of 16-bit tensors, in the reference kernels' fixed point (eq. 15) without 64-bit products.

Each of its three rescales is H = (v * m + 2**30) >> 31, then a rounding shift.  With m = high * 2**16 + low, low
signed, products of 16-bit numbers suffice, in the lanes of vectors (`tflite2q.kernels.x86.isa`):

    operand  v = x * 2**15                 H = x * high + ((x * low + 2**15) >> 16)
    sum      v = a * 2**16 + b, b signed   H = 2 * a * high + ((a * low + b * high + ((b * low) >> 16) + 2**14) >> 15)

The operand of the larger scale has the multiplier 1/2, which is a shift.  Some 26 instructions for 16 sums limit it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels.contracts import Array, EltwiseContract, FixedSum, Tensor
from tflite2q.kernels.frame import Name, Plan, Tensors
from tflite2q.kernels.loops import region
from tflite2q.kernels.refusals import Because, Refusal
from tflite2q.kernels.split_rescale import SplitEpilogue
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, store, view
from tflite2q.kernels.x86.epilogue16 import Epilogue16, SplitEpilogue16, interleave
from tflite2q.kernels.x86.isa import Level

GRAIN = 64  # blocks that one thread takes at a time
HALF = (2**30, 0)  # the multiplier 1/2 as (m, shift)


@dataclass(frozen=True)
class Program:
    """What the text of the function depends on.  `halved`: for each operand, whether its multiplier is 1/2."""

    inputs: tuple[Tensor, ...]
    subtract: bool
    halved: tuple[bool, bool]
    ending: Epilogue16

    @property
    def output(self) -> Tensor:
        return self.inputs[0]

    @property
    def level(self) -> Level:
        return self.ending.level

    @property
    def numbers(self) -> int:
        """Four for each rescale."""
        return 4 * (3 - sum(self.halved))

    @property
    def constants(self) -> Tensors:
        return {"rescales": Tensor((self.numbers,), "int32")}

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        level, size = self.level, self.inputs[0].size
        block = 2 * level.lanes
        operands = [view(x, (size,), "int16") for x in inputs]
        target = view(y, (size,), "int16")
        numbers = constants["rescales"]
        blocks = math.ceil(size / block)
        grain = min(GRAIN, blocks)
        pending = iter(T.Bind(broadcast(numbers[i], level.lanes)) for i in range(self.numbers))
        rescales = [[next(pending) for _ in range(4)] for _ in range(self.numbers // 4)]
        with region(math.ceil(blocks / grain), size * 16) as piece:
            first = T.min(piece * grain, blocks - grain)
            with T.serial(grain) as i:
                start = T.Bind(T.min((first + i) * block, size - block))
                codes = [T.Bind(load(x, start, lanes=block)) for x in operands]
                # Every lane holds a code twice; weights of the upper one are zero.
                pairs = [interleave(level, each, each) for each in codes]
                rounded = [_sum(self, (pairs[0][v], pairs[1][v]), rescales) for v in range(2)]
                store(target, self.ending.codes(rounded, whole=True), start, lanes=block)


@dataclass(frozen=True)
class X86Add16:
    """Eltwise contracts that are sums of two int16 tensors, on one level of instructions."""

    level: Level

    @property
    def name(self) -> str:
        return f"add16__{self.level.name}"

    def plan(self, contract: EltwiseContract, target: Any) -> Plan | Refusal:
        lacks = self.level.lacks(target)
        if lacks:
            return lacks
        total = contract.fixed_sum
        if total is None:
            return Refusal(Because.TYPES, "not a sum of 16-bit tensors in fixed point")
        if len({t.shape for t in (*contract.inputs, contract.output)}) > 1:
            return Refusal(Because.GEOMETRY, "operands have different shapes")
        if contract.output.size < 2 * self.level.lanes:
            return Refusal(Because.GEOMETRY, f"fewer than {2 * self.level.lanes} elements")
        unfit = _unfit(total)
        if unfit:
            return Refusal(Because.NUMBERS, unfit)
        halved = (total.terms[0] == HALF, total.terms[1] == HALF)
        ending = SplitEpilogue16(SplitEpilogue(total.low, total.high, lifted=False, even=False), self.level, True)
        rescales = [term for term, half in zip(total.terms, halved, strict=True) if not half] + [total.result]
        packed = {"rescales": np.concatenate([_constants(*each) for each in rescales])}
        program = Program(contract.inputs, total.subtract, halved, ending)
        return Plan(Name("int16", contract.name, self.level.name), program, lambda: packed)


def _unfit(total: FixedSum) -> str | None:
    """Why its multipliers are outside what the module's formulas are exact for."""
    for m, shift in (*total.terms, total.result):
        high, low = _split(m)
        if not -30 <= shift <= 0 or high >= 2**15 or low == -(2**15):
            return f"multiplier {m} * 2**{shift - 31}"
    above = [each for each in (*total.terms, total.result) if each[1] == 0]
    return "multipliers above 1/2" if any(each != HALF for each in above) or total.result in above else None


def _split(m: int) -> tuple[int, int]:
    high = (m + (1 << 15)) >> 16
    return high, m - (high << 16)


def _constants(m: int, shift: int) -> Array:
    """int32: upper and lower half of the multiplier, half a unit of the right shift, and its count."""
    return np.array([*_split(m), 1 << (-shift - 1), -shift], np.int32)


def _sum(program: Program, operands: tuple[Expr, Expr], rescales: list[list[Expr]]) -> Expr:
    level = program.level
    *ours, result = rescales
    pending = iter(ours)
    quarter = broadcast(T.int32(1 << 14), level.lanes)
    terms = [
        _dot(level, broadcast(T.int32(0), level.lanes), x, quarter) if half else _term(level, x, next(pending))
        for x, half in zip(operands, program.halved, strict=True)
    ]
    return _rescaled(level, T.Bind(terms[0] - terms[1] if program.subtract else terms[0] + terms[1]), result)


def _term(level: Level, x: Expr, rescale: list[Expr]) -> Expr:
    """An operand on the common scale."""
    high, low, half, count = rescale
    carry = _dot(level, broadcast(T.int32(1 << 15), level.lanes), x, _lower(level, low))
    product = _dot(level, T.shift_right(carry, broadcast(T.int32(16), level.lanes)), x, _lower(level, high))
    return _rounded(level, product, half, count)


def _rescaled(level: Level, v: Expr, rescale: list[Expr]) -> Expr:
    """The sum in codes of the result."""
    high, low, half, count = rescale
    sixteen = broadcast(T.int32(16), level.lanes)
    raised = T.Bind(v + broadcast(T.int32(1 << 15), level.lanes))  # its upper half is that of v, rounded
    carry = _dot(level, broadcast(T.int32(1 << 30), level.lanes), v, _lower(level, low))
    middle = _dot(level, T.shift_right(carry, sixteen), v, _lower(level, high))
    middle = _dot(level, middle, raised, T.shift_left(low, sixteen))
    upper = T.Bind(_dot(level, broadcast(T.int32(0), level.lanes), raised, T.shift_left(high, sixteen)))
    product = T.shift_right(middle, broadcast(T.int32(15), level.lanes)) + upper + upper
    return _rounded(level, product, half, count)


def _lower(level: Level, half: Expr) -> Expr:
    """A signed half as the lower number of each lane, the upper one zero."""
    return T.bitwise_and(half, broadcast(T.int32(0xFFFF), level.lanes))


def _dot(level: Level, accumulator: Expr, x: Expr, weights: Expr) -> Expr:
    return T.Bind(level.pairs.add(accumulator, level.as_pairs(x), level.as_pairs(weights), proven=True))


def _rounded(level: Level, product: Expr, half: Expr, count: Expr) -> Expr:
    """product / 2**count, ties away from zero (eq. 7)."""
    product = T.Bind(product)
    negative = T.shift_right(product, broadcast(T.int32(31), level.lanes))
    return T.Bind(T.shift_right(product + half + negative, count))
