"""Which real numbers a value can be: intervals, and what arithmetic makes of them.

Intervals are closed and may be infinite.  They are bounds, not promises that every number of them occurs.
"""

from __future__ import annotations

import math
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic import rounding
from tflite2q.dialect.types import Constant, Quantization, TensorType, Value

Span = tuple[float, float]
EVERYTHING: Span = (-math.inf, math.inf)
AT_ONCE = 1 << 16  # weights that are real numbers at one time: what they take stays small, and in the caches

_Sums = dict[tuple[int, Quantization | None], tuple[rounding.Floats, rounding.Floats]]
_KNOWN: WeakKeyDictionary[Constant, _Sums] = WeakKeyDictionary()  # sums of weights, which several looks at a graph need

ACTIVATIONS: dict[str, Span] = {"RELU": (0.0, math.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}


def of_activation(name: str) -> Span:
    """Where a fused activation keeps its results; everything for NONE and those the integer kernels ignore."""
    return ACTIVATIONS.get(name, EVERYTHING)


def of_codes(kind: TensorType) -> Span:
    """What the codes of a per-tensor quantized type stand for."""
    low, high = kind.range
    return kind.scale * (low - kind.zero_point), kind.scale * (high - kind.zero_point)


def of_constant(value: Value) -> Span:
    """From the smallest to the largest real number of a constant."""
    if value.type.size == 0:
        return 0.0, 0.0
    low, high = float(value.data.min()), float(value.data.max())
    if value.type.quantized and len(value.type.parameters.scale) == 1:
        scale, zero = value.type.scale, value.type.zero_point
        return scale * (low - zero), scale * (high - zero)
    return EVERYTHING if value.type.quantization is not None else (low, high)


def union(*spans: Span) -> Span:
    """The smallest interval with all of `spans` in it."""
    return min(low for low, _ in spans), max(high for _, high in spans)


def clipped(span: Span, bounds: Span) -> Span:
    """`span` after a clamp to `bounds`."""
    low, high = (min(max(end, bounds[0]), bounds[1]) for end in span)
    return low, high


def plus(a: Span, b: Span) -> Span:
    return a[0] + b[0], a[1] + b[1]


def minus(a: Span, b: Span) -> Span:
    return a[0] - b[1], a[1] - b[0]


def times(a: Span, b: Span) -> Span:
    corners = [_product(x, y) for x in a for y in b]
    return min(corners), max(corners)


def square(a: Span) -> Span:
    low, high = sorted((a[0] ** 2, a[1] ** 2))
    return (0.0 if a[0] <= 0.0 <= a[1] else low), high


def _product(x: float, y: float) -> float:
    """x * y, in which 0 times infinity is 0: no number of the interval is infinite."""
    return 0.0 if x == 0.0 or y == 0.0 else x * y


def weighted_sum(x: Value, span: Span, weights: Value, axis: int, bias: Value | None) -> Span:
    """Sums of numbers of `span` (or of the zeros of a padding) times constant weights, over all output channels.

    `axis` is the output channel's; the bias is in units of the accumulator (eq. 4), or real.
    """
    if weights.constant is None or (bias is not None and bias.constant is None) or weights.type.size == 0:
        return EVERYTHING
    count = weights.type.shape[axis]
    rising, falling = _sums(weights, weights.constant, axis)
    low, high = min(span[0], 0.0), max(span[1], 0.0)
    if not (math.isfinite(low) and math.isfinite(high)):
        return EVERYTHING
    extra = np.zeros(count) if bias is None else _real_bias(bias, x, weights, count)
    return (
        float((rising * low + falling * high + extra).min()),
        float((rising * high + falling * low + extra).max()),
    )


def _sums(weights: Value, constant: Constant, axis: int) -> tuple[rounding.Floats, rounding.Floats]:
    """The sums of the positive and of the negative weights of each output channel; worked out once while their
    `constant` lives."""
    known = _KNOWN.setdefault(constant, {})
    key = axis, weights.type.quantization
    if key not in known:
        count = weights.type.shape[axis]
        rising, falling = np.empty(count), np.empty(count)
        for part in blocks_of_rows(weights, axis):
            real = _rows(weights, axis, part)
            rising[part], falling[part] = np.maximum(real, 0).sum(axis=1), np.minimum(real, 0).sum(axis=1)
        known[key] = rising, falling
    return known[key]


def blocks_of_rows(weights: Value, axis: int) -> list[slice]:
    """The output channels in parts whose real numbers take little memory; all of them where a row's scales differ."""
    channels, q = weights.type.shape[axis], weights.type.quantization
    if q is not None and (q.block or q.axis not in (None, axis)):
        return [slice(0, channels)]
    step = max(AT_ONCE * channels // max(weights.type.size, 1), 1)
    return [slice(start, min(start + step, channels)) for start in range(0, channels, step)]


def _rows(weights: Value, axis: int, part: slice) -> rounding.Floats:
    """The weights of some output channels in real numbers, one row a channel."""
    q = weights.type.quantization
    if q is not None and (q.block or q.axis not in (None, axis)):
        real = np.moveaxis(q.real(weights.data), axis, 0)[part]
        return np.asarray(real.reshape(len(real), -1))
    data = np.moveaxis(weights.data, axis, 0)[part]
    rows = data.reshape(len(data), -1).astype(np.float64)
    if q is None:
        return rows
    channels = weights.type.shape[axis]
    return np.asarray((rows - q.zero_points(channels)[part, None]) * q.scales(channels)[part, None].astype(np.float64))


def _real_bias(bias: Value, x: Value, weights: Value, channels: int) -> npt.NDArray[np.float64]:
    data = bias.data.reshape(-1).astype(np.float64)
    if bias.type.dtype == "float32" or weights.type.quantization is None or x.type.quantization is None:
        return data
    return np.asarray(data * weights.type.quantization.scales(channels).astype(np.float64) * x.type.scale)
