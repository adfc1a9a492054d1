"""exp of real numbers, in arithmetic of which LLVM makes vectors, as it does not of the C library's function."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import te, tirx

FLOAT, INT = "float64", "int64"

TERMS = 11  # of the series: with the rest below ln(2) / 2, to 14 digits
# ln 2 in two parts, the first with so few digits that its multiples are exact.
LN2_HIGH = math.floor(math.log(2) * 2**32) / 2**32
LN2_LOW = math.log(2) - LN2_HIGH
LARGE = 1.5 * 2**52  # added to a small number, it leaves the nearest integer in the last bits
MANTISSA, BIAS = 52, 1023  # bits of a float64's fraction, and what its exponent is stored with
REACH = 150.0  # beyond it the result is 0 or infinite as float32


def exponential(x: Any) -> Any:
    """exp of a te.Tensor of float32 numbers, evaluated in float64, so that the result does not depend on the libm.

    exp(x) = 2**n e**r, where n is the integer nearest to x log2(e), and r = x - n ln 2 (Cody and Waite, "Software
    Manual for the Elementary Functions", 1980).  What is not a number stays so.
    """

    def element(*index: Any) -> Any:
        return tirx.Cast("float32", _element(tirx.Cast(FLOAT, x(*index))))

    return te.compute(x.shape, element, name="exp")


def _element(x: Any) -> Any:
    above = tirx.Select(x < _number(-REACH), _number(-REACH), x)
    v = tirx.Select(above > _number(REACH), _number(REACH), above)
    # LARGE is taken off the bits: TVM takes additions of real numbers for exact, and would cancel them.
    bits = tirx.reinterpret(INT, _sum(v, _number(1 / math.log(2)), _number(LARGE)))
    n = bits - tirx.IntImm(INT, int(np.float64(LARGE).view(np.int64)))
    real = tirx.Cast(FLOAT, tirx.Cast("int32", n))
    rest = _sum(real, _number(-LN2_LOW), _sum(real, _number(-LN2_HIGH), v))
    series = _number(1 / math.factorial(TERMS))
    for k in reversed(range(TERMS)):
        series = _sum(series, rest, _number(1 / math.factorial(k)))
    return series * tirx.reinterpret(FLOAT, tirx.shift_left(n + BIAS, tirx.IntImm(INT, MANTISSA)))


def _sum(a: Any, b: Any, c: Any) -> Any:
    """a b + c, in one instruction where the processor has it; the last bits that differ are not those of a float32."""
    return tirx.call_llvm_pure_intrin(FLOAT, "llvm.fmuladd", a, b, c)


def _number(value: float) -> Any:
    return tirx.FloatImm(FLOAT, value)
