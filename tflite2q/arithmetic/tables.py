"""Unary functions of quantized numbers as tables: one output code for each of the 256 (or 65,536) input codes.

Each function follows TFLite's reference kernel for its dtype, in that kernel's own arithmetic (float32, two-step fixed
point, 16-bit fixed point, interpolation), because the last bit depends on it.  Pure NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic import rounding
from tflite2q.arithmetic.fixedpoint import inverse_square_root
from tflite2q.arithmetic.numpy_core import NUMPY
from tflite2q.arithmetic.rescale import multiply_fixed, rounding_shift_right
from tflite2q.arithmetic.rounding import Ints, code_range, quantize_multiplier
from tflite2q.errors import UnsupportedError

Floats32 = npt.NDArray[np.float32]

ONE = np.float32(1)


@dataclass(frozen=True)
class Codes:
    """The quantization of a tensor: scale (a float32 number, unless a kernel has its own), zero point, dtype."""

    scale: float
    zero_point: int
    dtype: str

    def every(self) -> Ints:
        """All codes of the dtype, lowest first."""
        low, high = code_range(self.dtype)
        return np.arange(low, high + 1, dtype=np.int64)

    def clamp(self, codes: npt.ArrayLike) -> npt.NDArray[Any]:
        clamped: npt.NDArray[Any] = np.clip(codes, *code_range(self.dtype)).astype(self.dtype)
        return clamped


@dataclass(frozen=True)
class Options:
    """Parameters of the functions that have any: LEAKY_RELU's slope, GELU's formula."""

    alpha: float = 0.0
    approximate: bool = False


Tabulator = Callable[[Codes, Codes, Options], npt.NDArray[Any]]


def tabulate(function: str, x: Codes, y: Codes, options: Options) -> npt.NDArray[Any]:
    """y's code for every code of x, lowest first.  `function` is a TFLite operator name of FUNCTIONS."""
    return FUNCTIONS[function](x, y, options)


# ---------------------------------------------------------------------------------------- functions of real numbers


def logistic(x: Floats32) -> Floats32:
    with np.errstate(over="ignore"):
        y: Floats32 = ONE / (ONE + _exp(-x))
    return y


def gelu(x: Floats32, approximate: bool) -> Floats32:
    """x * Phi(x), by the error function or by the usual tanh formula, in float32 steps as the kernels do."""
    if approximate:
        share = ONE + _tanh(np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x))
    else:
        share = _erfc(x * np.float32(-np.sqrt(0.5))).astype(np.float32)
    y: Floats32 = np.float32(0.5) * x * share
    return y


def _erfc(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.array([math.erfc(v) for v in x.reshape(-1)]).reshape(x.shape)


def _exp(x: Floats32) -> Floats32:
    """exp to the nearest float32: evaluated in float64, so that it does not depend on the C library."""
    with np.errstate(over="ignore"):
        return np.exp(x.astype(np.float64)).astype(np.float32)


def _tanh(x: Floats32) -> Floats32:
    return np.tanh(x.astype(np.float64)).astype(np.float32)


def _elu(x: Floats32) -> Floats32:
    return np.where(x < 0, np.expm1(np.minimum(x, 0).astype(np.float64)).astype(np.float32), x)


# ---------------------------------------------------------------------------------------------- tables by float32


def _by_float(transform: Callable[[Floats32, Options, Codes], Floats32]) -> Tabulator:
    """eq. 21: 8-bit codes through float32; 16-bit codes by interpolation between 513 samples."""

    def table(x: Codes, y: Codes, options: Options) -> npt.NDArray[Any]:
        if x.dtype == "int16":
            return interpolated(lambda real: transform(real, options, y), x, y)
        real = np.float32(x.scale) * (x.every() - x.zero_point).astype(np.float32)
        with np.errstate(over="ignore"):
            scaled = transform(real, options, y) * (ONE / np.float32(y.scale))
        # A float32 beyond the range of codes saturates; the clip keeps the later cast defined.
        rounded = _round_float32(np.clip(np.nan_to_num(scaled, nan=0.0), -(2.0**30), 2.0**30).astype(np.float32))
        return y.clamp((rounded + np.float32(y.zero_point)).astype(np.int64))

    return table


def _round_float32(x: Floats32) -> Floats32:
    return rounding.round_half_away(x).astype(np.float32)


def interpolated(
    transform: Callable[[Any], Any], x: Codes, y: Codes, real: type[np.floating[Any]] = np.float32
) -> npt.NDArray[np.int16]:
    """eq. 22: TFLite's int16 look-up, 512 linear pieces whose ends are moved by half the error in their middle.

    `real` is the floating-point type in which the pieces are computed.
    """
    # Beyond the range of codes float32 may overflow; such samples are clipped.
    with np.errstate(over="ignore", invalid="ignore"):
        ends = _samples(transform, x, y, real)
    codes = x.every()
    index = 256 + (codes >> 7)
    slope = (ends[index + 1] - ends[index]).astype(np.int16).astype(np.int64)
    table: npt.NDArray[np.int16] = (ends[index] + ((slope * (codes & 127) + 64) >> 7)).astype(np.int16)
    return table


def _samples(transform: Callable[[Any], Any], x: Codes, y: Codes, real: type[np.floating[Any]]) -> Ints:
    """The 513 ends of the linear pieces, as codes."""
    low, high = code_range("int16")

    def rounded(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return rounding.round_half_away(values).astype(real)

    first, last = (real(x.scale) * real(code - x.zero_point) for code in (low, high))
    y_first, y_last = (real(y.scale) * real(code - y.zero_point) for code in (low, high))
    step, inverse = (last - first) / real(512), real(high - low + 1) / (y_last - y_first)
    at = first + np.arange(513).astype(real) * step
    value = transform(at) * inverse
    samples = rounded(value)
    middle = rounded(transform(at[:-1] + step / real(2)) * inverse)
    straight = rounded((value[1:] + samples[:-1]) / real(2))
    samples[:-1] -= rounded((straight - middle) / real(2))
    samples[-1] = rounded(transform(np.array([last])) * inverse)[0]
    ends: Ints = np.clip(np.nan_to_num(samples), low, high).astype(np.int64)
    return ends


def _log(x: Floats32, options: Options, y: Codes) -> Floats32:
    """Logarithm; an input that is not positive gives the lowest real number of y's codes."""
    lowest = np.float32(y.scale) * np.float32(code_range(y.dtype)[0] - y.zero_point)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x > 0, np.log(x.astype(np.float64)).astype(np.float32), lowest)


# ------------------------------------------------------------------------------------------- tables by fixed point


def _rectified(low: float, high: float | None) -> Tabulator:
    """RELU and its variants: rescaled by s_x / s_y (a float32 quotient), then clamped."""

    def table(x: Codes, y: Codes, options: Options) -> npt.NDArray[Any]:
        m, shift = quantize_multiplier(np.float32(x.scale) / np.float32(y.scale))
        codes: Ints = multiply_fixed(NUMPY, x.every() - x.zero_point, m, shift) + y.zero_point
        lowest, highest = code_range(y.dtype)
        lowest = max(lowest, _code(low, y))
        return np.clip(codes, lowest, highest if high is None else min(highest, _code(high, y))).astype(y.dtype)

    return table


def _code(real: float, y: Codes) -> int:
    return rounding.nearest_code(real, y.scale, y.zero_point)


def _leaky_relu(x: Codes, y: Codes, options: Options) -> npt.NDArray[Any]:
    s_x, s_y, alpha = np.float32(x.scale), np.float32(y.scale), np.float32(options.alpha)
    value = x.every() - x.zero_point
    positive = multiply_fixed(NUMPY, value, *quantize_multiplier(s_x / s_y))
    slope = np.float32(s_x * alpha) / s_y
    negative = multiply_fixed(NUMPY, value, *quantize_multiplier(np.abs(slope)))
    negative = negative if slope >= 0 else -negative  # in this order: halves are rounded before the sign changes
    return y.clamp(np.where(value >= 0, positive, negative) + y.zero_point)


def _abs(x: Codes, y: Codes, options: Options) -> npt.NDArray[Any]:
    value = np.abs(x.every() - x.zero_point)
    if x.scale != y.scale:
        value = multiply_fixed(NUMPY, value, *quantize_multiplier(np.float32(x.scale) / np.float32(y.scale)))
    return y.clamp(value + y.zero_point)


def _neg(x: Codes, y: Codes, options: Options) -> npt.NDArray[Any]:
    """The kernel negates codes: with a zero point other than 0 this does not negate the real number."""
    return (-x.every()).astype(y.dtype)


def _sqrt(x: Codes, y: Codes, options: Options) -> npt.NDArray[Any]:
    """float32 throughout; the quotient is truncated, not rounded."""
    real = np.float32(x.scale) * np.maximum(x.every() - x.zero_point, 0).astype(np.float32)
    quotient = np.sqrt(real) / np.float32(y.scale)
    return y.clamp(np.trunc(np.minimum(quotient, np.float32(2**20))).astype(np.int64) + y.zero_point)


def _rsqrt(x: Codes, y: Codes, options: Options) -> npt.NDArray[Any]:
    value = x.every() - x.zero_point
    real = np.float64(1) / np.float64(np.float32(np.sqrt(np.float32(x.scale))) * np.float32(y.scale))
    m, shift = quantize_multiplier(real)
    inverse, right = inverse_square_root(NUMPY, np.maximum(value, 1))
    data = multiply_fixed(NUMPY, np.ones_like(inverse), inverse, 20 - right)
    codes = multiply_fixed(NUMPY, data, m, shift - 20) + y.zero_point
    return y.clamp(np.where(value > 0, codes, code_range(y.dtype)[1]))


def _positive(x: Floats32, y: Codes) -> Floats32:
    """1 / sqrt(x); an input that is not positive gives the highest real number of y's codes."""
    highest = np.float32(y.scale) * np.float32(code_range(y.dtype)[1] - y.zero_point)
    with np.errstate(divide="ignore", invalid="ignore"):
        root: Floats32 = np.where(x > 0, ONE / np.sqrt(x), highest)
    return root


def _hard_swish(x: Codes, y: Codes, options: Options) -> npt.NDArray[Any]:
    """16-bit fixed point with the input raised by seven bits (eq. 24)."""
    raised_scale = np.float32(x.scale) / np.float32(128)
    m_out, e_out = _reduced(raised_scale / np.float32(y.scale))
    m_relu, e_relu = _reduced(raised_scale / (np.float32(3) / np.float32(32768)))
    raised = (x.every() - x.zero_point) << 7
    product = _high_multiply16(raised, m_out)
    gate = raised
    if e_relu > 0:
        gate = _saturate16(gate << (e_relu - 1))
    gate = _high_multiply16(gate, m_relu)
    if e_relu > 0:
        gate = _saturate16(gate << 1)
    gate = rounding_shift_right(NUMPY, gate, max(-e_relu, 0))
    gate = (gate + (1 << 15)) >> 1
    scaled = np.trunc(gate * product / 2.0**15).astype(np.int64)
    return y.clamp(rounding_shift_right(NUMPY, scaled, -e_out) + y.zero_point)


def _reduced(real: np.float32) -> tuple[int, int]:
    """(16-bit multiplier, exponent) of eq. 5's pair."""
    m, exponent = quantize_multiplier(real)
    return min((int(m) + (1 << 15)) >> 16, 32767), int(exponent)


def _high_multiply16(a: Ints, b: int) -> Ints:
    return (a * b + (1 << 14)) >> 15


def _saturate16(x: Ints) -> Ints:
    return np.clip(x, *code_range("int16"))


# ----------------------------------------------------------------------- logistic and tanh of 16-bit codes (eq. 25)

SIGMOID_SAMPLES = 256  # of the logistic function at i / 24, in 1/65536


@cache
def sigmoid_samples() -> Ints:
    """The function plus half of what a chord to the next sample is too low in its middle, so that chords lie around it.

    The last one is the largest uint16.
    """

    at = np.arange(2 * SIGMOID_SAMPLES + 1) / 2
    halves = 65536 / (1 + np.exp(-at / 24))
    low, middle, high = halves[0:-2:2], halves[1:-1:2], halves[2::2]
    samples: Ints = np.rint(low + (middle - (low + high) / 2) / 2).astype(np.int64)
    samples[-1] = 65535
    return samples


def argument_factor(scale: float, tanh: bool) -> tuple[int, int, int]:
    """(m, half, shift): codes c of that scale are at (c m + half) >> shift, c times 3 in units of 2**-12, which is the
    abscissa of the sampled logistic function.

    Products beyond 32 bits, which scales from 5.3 on have, wrap as compiled C does.
    """
    power = rounding.nearest_log2(scale)
    if power is not None and 12 + power in ((0, 1) if tanh else (0,)):
        return 3 << (12 + power), 0, 0
    multiplier, shift = float(scale) * 4096 * 3, 0
    while multiplier <= 32767 / 2 and shift <= 30:
        multiplier, shift = multiplier * 2, shift + 1
    if multiplier >= 1 << 31:
        raise UnsupportedError(f"a table for an input of scale {scale:g} is not supported")
    return int(multiplier), 1 << (shift - 1) if shift else 0, shift


def _argument16(x: Codes, tanh: bool) -> Ints:
    m, half, shift = argument_factor(x.scale, tanh)
    return rounding.wrap32(x.every() * m + half) >> shift


def _between_samples(argument: Ints, bits: int, beyond: int) -> Ints:
    """The sampled logistic function at |argument|, raised by `bits` bits; `beyond` after the last sample."""
    magnitude, samples = np.abs(argument), sigmoid_samples()
    index = magnitude >> bits
    inside = np.minimum(index, SIGMOID_SAMPLES - 2)
    low, high = samples[inside], samples[inside + 1]
    between = (low << bits) + (magnitude & ((1 << bits) - 1)) * (high - low)
    return np.where(index >= SIGMOID_SAMPLES - 1, beyond, between)


def _logistic16(x: Codes) -> npt.NDArray[np.int16]:
    argument = _argument16(x, False)
    value = _between_samples(argument, 9, 0x7FFF << 10)
    value = np.where(argument >= 0, value + (1 << 9), (1 << 25) - value + (1 << 9) - 1)
    return (value >> 10).astype(np.int16)


def _tanh16(x: Codes) -> npt.NDArray[np.int16]:
    argument = _argument16(x, True)
    value = _between_samples(argument, 8, 0xFFFF << 8)
    value = np.where(argument >= 0, value - (1 << 23) + (1 << 7), -value + (1 << 23) + (1 << 7) - 1)
    return (value >> 8).astype(np.int16)


def _or16(narrow: Tabulator, wide: Callable[[Codes, Codes], Any]) -> Tabulator:
    def table(x: Codes, y: Codes, options: Options) -> npt.NDArray[Any]:
        return np.asarray(wide(x, y) if x.dtype == "int16" else narrow(x, y, options))

    return table


FUNCTIONS: Mapping[str, Tabulator] = {
    "LOGISTIC": _or16(_by_float(lambda x, o, y: logistic(x)), lambda x, y: _logistic16(x)),
    "TANH": _or16(_by_float(lambda x, o, y: _tanh(x)), lambda x, y: _tanh16(x)),
    "GELU": _by_float(lambda x, o, y: gelu(x, o.approximate)),
    "ELU": _by_float(lambda x, o, y: _elu(x)),
    "EXP": _by_float(lambda x, o, y: _exp(x)),
    "LOG": _by_float(_log),
    "HARD_SWISH": _hard_swish,
    "LEAKY_RELU": _leaky_relu,
    "RELU": _rectified(0.0, None),
    "RELU6": _rectified(0.0, 6.0),
    "RELU_N1_TO_1": _rectified(-1.0, 1.0),
    "RELU_0_TO_1": _rectified(0.0, 1.0),
    "ABS": _abs,
    "NEG": _neg,
    "SQRT": _sqrt,
    "RSQRT": _or16(_rsqrt, lambda x, y: interpolated(lambda real: _positive(real, y), x, y)),
}
