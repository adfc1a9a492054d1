"""gemmlowp's logistic function and tanh of 16-bit fixed-point numbers, tabulated for all 65,536 arguments (eq. 31).

These are the activations inside TFLite's integer LSTM; they differ from the sampled tables of the LOGISTIC and TANH
operators.  Pure NumPy; raw values are int16 numbers held in int64.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.rounding import EXP_OF_MINUS_POWERS, Ints, code_range, rounding_shift_right

LOW, HIGH = code_range("int16")
ONE_Q2 = 1 << 13


@cache
def logistic_table(integer_bits: int) -> npt.NDArray[np.int16]:
    """1 / (1 + exp(-x)) in Q0.15 for x = -32768..32767 with `integer_bits` integer bits."""
    x = np.arange(LOW, HIGH + 1, dtype=np.int64)
    positive = _reciprocal_of_one_plus(_exp_on_negative(-np.abs(x), integer_bits))
    table = np.where(x > 0, positive, HIGH - positive)
    return _frozen(np.where(x == 0, 1 << 14, table))


@cache
def tanh_table(integer_bits: int) -> npt.NDArray[np.int16]:
    """tanh(x) in Q0.15 for x = -32768..32767 with `integer_bits` integer bits."""
    x = np.arange(LOW, HIGH + 1, dtype=np.int64)
    quotient = _newton(_exp_on_negative(-np.abs(x), integer_bits + 1)) - ONE_Q2
    positive = _saturate(quotient << 2)
    return _frozen(np.where(x == 0, 0, np.where(x < 0, -positive, positive)))


def _frozen(values: Ints) -> npt.NDArray[np.int16]:
    table = values.astype(np.int16)
    table.flags.writeable = False
    return table


def _constant(raw32: int) -> int:
    """A 32-bit constant rounded to 16 bits."""
    return int(rounding_shift_right(raw32, 16))


def _multiply(a: npt.ArrayLike, b: npt.ArrayLike) -> Ints:
    product: Ints = np.minimum((np.asarray(a, np.int64) * np.asarray(b, np.int64) + (1 << 14)) >> 15, HIGH)
    return product


def _saturate(x: npt.NDArray[Any]) -> Ints:
    saturated: Ints = np.clip(x, LOW, HIGH).astype(np.int64)
    return saturated


def _newton(a: Ints) -> Ints:
    """2 / (1 + a) in Q2.13 for a in [0, 1) in Q0.15: three Newton steps, as in eq. 18."""
    half = (a + HIGH + 1) >> 1
    x = _constant(1515870810) + _multiply(half, _constant(-1010580540))
    for _ in range(3):
        x = x + _saturate(_multiply(x, ONE_Q2 - _multiply(half, x)) << 2)
    return x


def _reciprocal_of_one_plus(a: Ints) -> Ints:
    return _saturate(_newton(a) << 1)


def _exp_on_negative(t: Ints, integer_bits: int) -> Ints:
    """exp(t) in Q0.15 for t <= 0 with `integer_bits` integer bits: eq. 17 in 16 bits."""
    fraction_bits = 15 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    remainder = (t & (quarter - 1)) - quarter
    z = (remainder << integer_bits) + (1 << 12)
    z2 = _multiply(z, z)
    z3, z4 = _multiply(z2, z), _multiply(z2, z2)
    third = _multiply(rounding_shift_right(z4, 2) + z3, _constant(715827883)) + z2
    centre = _constant(1895147668)
    result = _saturate(centre + _multiply(centre, z + rounding_shift_right(third, 1)))
    taken = remainder - t
    for exponent, factor in EXP_OF_MINUS_POWERS:
        if integer_bits > exponent:
            bit = (taken >> (fraction_bits + exponent)) & 1
            result = np.where(bit == 1, _multiply(result, _constant(factor)), result)
    if integer_bits > 5:
        result = np.where(t < -(1 << (fraction_bits + 5)), 0, result)
    return np.where(t == 0, HIGH, result)
