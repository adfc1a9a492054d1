"""Sums and differences of 16-bit tensors, in the reference kernels' fixed point (eq. 15) without 64-bit products.

Each of its three rescales is H = (v * m + 2**30) >> 31, then a rounding shift.  With m = high * 2**16 + low, low
signed, products of 16-bit numbers suffice, which lie in the lanes of vectors as `tflite2q.kernels.x86.words` has them:

    operand  v = x * 2**15                 H = x * high + ((x * low + 2**15) >> 16)
    sum      v = a * 2**16 + b, b signed   H = 2 * a * high + ((a * low + b * high + ((b * low) >> 16) + 2**14) >> 15)

The operand of the larger scale has the multiplier 1/2, which is a shift.  Some 26 instructions for 16 sums limit it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.kernels.base import Array, Built, Eltwise, FixedSum, Tensor
from tflite2q.kernels.halves import HalvesEpilogue
from tflite2q.kernels.loops import region
from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, function, load, store, view
from tflite2q.kernels.x86.isa import Isa
from tflite2q.kernels.x86.words import Words, as_pairs, dot, interleave

GRAIN = 64  # blocks that one thread takes at a time
HALF = (2**30, 0)  # the multiplier 1/2 as (m, shift)


@dataclass(frozen=True)
class Plan:
    """What the text of the function depends on.  `halved`: for each operand, whether its multiplier is 1/2."""

    inputs: tuple[Tensor, Tensor]
    subtract: bool
    halved: tuple[bool, bool]
    words: Words

    @property
    def constants(self) -> int:
        return 4 * (3 - sum(self.halved))


@dataclass(frozen=True)
class X86Add16:
    """Eltwise contracts that are sums of two int16 tensors, on one level of instructions."""

    isa: Isa

    @property
    def name(self) -> str:
        return f"add16__{self.isa.name}"

    def refuses(self, contract: Eltwise, target: Any) -> str | None:
        lacks = self.isa.lacks(target)
        if lacks:
            return lacks
        total = contract.fixed_sum
        if total is None:
            return "not a sum of 16-bit tensors in fixed point"
        if len({t.shape for t in (*contract.inputs, contract.output)}) > 1:
            return "operands have different shapes"
        if contract.output.size < 2 * self.isa.lanes:
            return f"fewer than {2 * self.isa.lanes} elements"
        return _unfit(total)

    def build(self, contract: Eltwise, target: Any) -> Built:
        total = contract.fixed_sum
        assert total is not None
        halved = (total.terms[0] == HALF, total.terms[1] == HALF)
        words = Words(HalvesEpilogue(total.low, total.high, False), self.isa, True)
        plan = Plan((contract.inputs[0], contract.inputs[1]), total.subtract, halved, words)
        name = f"int16_{contract.name}__{self.isa.name}"
        rescales = [term for term, half in zip(total.terms, halved, strict=True) if not half] + [total.result]
        constants = np.concatenate([_constants(*each) for each in rescales])
        return Built(name, (name, plan), _function(plan), contract.inputs, (constants,), contract.output)


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


@functools.cache
def _function(plan: Plan) -> Any:
    constants = Tensor((plan.constants,), "int32")
    return function(plan.inputs, [constants], plan.inputs[0], functools.partial(_body, plan))


def _body(plan: Plan, a: Buffer, b: Buffer, constants: Buffer, y: Buffer) -> None:
    isa, size = plan.words.isa, plan.inputs[0].size
    block = 2 * isa.lanes
    operands = [view(x, (size,), "int16") for x in (a, b)]
    target = view(y, (size,), "int16")
    blocks = math.ceil(size / block)
    grain = min(GRAIN, blocks)
    numbers = iter(T.Bind(broadcast(constants[i], isa.lanes)) for i in range(plan.constants))
    rescales = [[next(numbers) for _ in range(4)] for _ in range(plan.constants // 4)]
    with region(math.ceil(blocks / grain), size * 16) as piece:
        first = T.min(piece * grain, blocks - grain)
        with T.serial(grain) as i:
            start = T.Bind(T.min((first + i) * block, size - block))
            codes = [T.Bind(load(x, start, lanes=block)) for x in operands]
            # Every lane holds a code twice; weights of the upper one are zero.
            pairs = [interleave(isa, each, each) for each in codes]
            rounded = [_sum(plan, (pairs[0][v], pairs[1][v]), rescales) for v in range(2)]
            store(target, plan.words.codes(rounded, whole=True), start, lanes=block)


def _sum(plan: Plan, operands: tuple[Expr, Expr], rescales: list[list[Expr]]) -> Expr:
    isa = plan.words.isa
    *ours, result = rescales
    pending = iter(ours)
    quarter = broadcast(T.int32(1 << 14), isa.lanes)
    terms = [
        _dot(isa, broadcast(T.int32(0), isa.lanes), x, quarter) if half else _term(isa, x, next(pending))
        for x, half in zip(operands, plan.halved, strict=True)
    ]
    return _rescaled(isa, T.Bind(terms[0] - terms[1] if plan.subtract else terms[0] + terms[1]), result)


def _term(isa: Isa, x: Expr, rescale: list[Expr]) -> Expr:
    """An operand on the common scale."""
    high, low, half, count = rescale
    carry = _dot(isa, broadcast(T.int32(1 << 15), isa.lanes), x, _lower(isa, low))
    product = _dot(isa, T.shift_right(carry, broadcast(T.int32(16), isa.lanes)), x, _lower(isa, high))
    return _rounded(isa, product, half, count)


def _rescaled(isa: Isa, v: Expr, rescale: list[Expr]) -> Expr:
    """The sum in codes of the result."""
    high, low, half, count = rescale
    sixteen = broadcast(T.int32(16), isa.lanes)
    raised = T.Bind(v + broadcast(T.int32(1 << 15), isa.lanes))  # its upper half is that of v, rounded
    carry = _dot(isa, broadcast(T.int32(1 << 30), isa.lanes), v, _lower(isa, low))
    middle = _dot(isa, T.shift_right(carry, sixteen), v, _lower(isa, high))
    middle = _dot(isa, middle, raised, T.shift_left(low, sixteen))
    upper = T.Bind(_dot(isa, broadcast(T.int32(0), isa.lanes), raised, T.shift_left(high, sixteen)))
    product = T.shift_right(middle, broadcast(T.int32(15), isa.lanes)) + upper + upper
    return _rounded(isa, product, half, count)


def _lower(isa: Isa, half: Expr) -> Expr:
    """A signed half as the lower number of each lane, the upper one zero."""
    return T.bitwise_and(half, broadcast(T.int32(0xFFFF), isa.lanes))


def _dot(isa: Isa, accumulator: Expr, x: Expr, weights: Expr) -> Expr:
    return T.Bind(dot(isa, accumulator, as_pairs(isa, x), as_pairs(isa, weights), proven=True))


def _rounded(isa: Isa, product: Expr, half: Expr, count: Expr) -> Expr:
    """product / 2**count, ties away from zero (eq. 7)."""
    product = T.Bind(product)
    negative = T.shift_right(product, broadcast(T.int32(31), isa.lanes))
    return T.Bind(T.shift_right(product + half + negative, count))
