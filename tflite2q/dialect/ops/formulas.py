"""Unary functions of real numbers over the core vocabulary: TFLite's float kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.ops.common import number

# (core, x, dtype of x, alpha) -> y
Formula = Callable[[Core[Any], Any, str, float], Any]

LOGISTIC_UPPER, LOGISTIC_LOWER = 16.619047, -9.0  # beyond: 1, and exp(x), as the float kernel has it


def _logistic(core: Core[Any], x: Any, dtype: str, alpha: float) -> Any:
    one = number(core, 1, dtype)
    inside = core.divide(one, core.add(one, core.exp(core.negative(x))))
    low = core.where(core.less(x, number(core, LOGISTIC_LOWER, dtype)), core.exp(x), inside)
    return core.where(core.less(number(core, LOGISTIC_UPPER, dtype), x), one, low)


def _hard_swish(core: Core[Any], x: Any, dtype: str, alpha: float) -> Any:
    gate = core.clip(core.add(x, number(core, 3, dtype)), 0, 6)
    return core.divide(core.multiply(x, gate), number(core, 6, dtype))


def _leaky_relu(core: Core[Any], x: Any, dtype: str, alpha: float) -> Any:
    return core.where(core.less(x, number(core, 0, dtype)), core.multiply(x, number(core, alpha, dtype)), x)


def _gelu(core: Core[Any], x: Any, dtype: str, alpha: float) -> Any:
    """x / 2 * (1 + erf(x / sqrt(2))); erf by formula 7.1.26 of Abramowitz and Stegun, within 1.5e-7."""
    zero, one = number(core, 0, dtype), number(core, 1, dtype)
    z = core.multiply(x, number(core, 0.5**0.5, dtype))
    t = core.divide(one, core.add(one, core.multiply(number(core, 0.3275911, dtype), core.abs(z))))
    polynomial = zero
    for coefficient in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        polynomial = core.multiply(core.add(polynomial, number(core, coefficient, dtype)), t)
    magnitude = core.subtract(one, core.multiply(polynomial, core.exp(core.negative(core.multiply(z, z)))))
    erf = core.where(core.less(z, zero), core.negative(magnitude), magnitude)
    return core.multiply(core.multiply(number(core, 0.5, dtype), x), core.add(one, erf))


def _gelu_by_tanh(core: Core[Any], x: Any, dtype: str, alpha: float) -> Any:
    """The tanh approximation: x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))."""
    cube = core.multiply(core.multiply(x, x), x)
    inner = core.add(x, core.multiply(number(core, 0.044715, dtype), cube))
    gate = core.add(number(core, 1, dtype), core.tanh(core.multiply(number(core, 0.7978845608, dtype), inner)))
    return core.multiply(core.multiply(number(core, 0.5, dtype), x), gate)


def _elu(core: Core[Any], x: Any, dtype: str, alpha: float) -> Any:
    zero = number(core, 0, dtype)
    below = core.subtract(core.exp(core.minimum(x, zero)), number(core, 1, dtype))
    return core.where(core.less(x, zero), below, x)


def _round_half_even(core: Core[Any], x: Any, dtype: str, alpha: float) -> Any:
    """Nearest integer, ties to the even one."""
    below = core.floor(x)
    zero, half, one = (number(core, value, dtype) for value in (0, 0.5, 1))
    rest, halved = core.subtract(x, below), core.multiply(below, half)
    tie_up = core.where(core.less(core.floor(halved), halved), one, zero)  # up from odd numbers
    up = core.where(core.less(half, rest), one, zero)
    return core.add(below, core.where(core.equal(rest, half), tie_up, up))


def _sign(core: Core[Any], x: Any, dtype: str, alpha: float) -> Any:
    zero, one = number(core, 0, dtype), number(core, 1, dtype)
    positive = core.where(core.less(zero, x), one, zero)
    return core.where(core.less(x, zero), core.negative(one), positive)


FORMULAS: Mapping[str, Formula] = {
    "LOGISTIC": _logistic,
    "TANH": lambda core, x, dtype, alpha: core.tanh(x),
    "HARD_SWISH": _hard_swish,
    "LEAKY_RELU": _leaky_relu,
    "GELU": _gelu,
    "GELU approximate": _gelu_by_tanh,
    "ELU": _elu,
    "EXP": lambda core, x, dtype, alpha: core.exp(x),
    "LOG": lambda core, x, dtype, alpha: core.log(x),
    "RELU": lambda core, x, dtype, alpha: core.maximum(x, number(core, 0, dtype)),
    "RELU6": lambda core, x, dtype, alpha: core.clip(x, 0, 6),
    "RELU_N1_TO_1": lambda core, x, dtype, alpha: core.clip(x, -1, 1),
    "RELU_0_TO_1": lambda core, x, dtype, alpha: core.clip(x, 0, 1),
    "ABS": lambda core, x, dtype, alpha: core.abs(x),
    "NEG": lambda core, x, dtype, alpha: core.negative(x),
    "SQRT": lambda core, x, dtype, alpha: core.sqrt(x),
    "RSQRT": lambda core, x, dtype, alpha: core.divide(number(core, 1, dtype), core.sqrt(x)),
    "SQUARE": lambda core, x, dtype, alpha: core.multiply(x, x),
    "FLOOR": lambda core, x, dtype, alpha: core.floor(x),
    "CEIL": lambda core, x, dtype, alpha: core.negative(core.floor(core.negative(x))),
    "ROUND": _round_half_even,
    "SIGN": _sign,
    "SIN": lambda core, x, dtype, alpha: core.libm("sin", x),
    "CBRT": lambda core, x, dtype, alpha: core.libm("cbrt", x),
    "COS": lambda core, x, dtype, alpha: core.libm("cos", x),
}
