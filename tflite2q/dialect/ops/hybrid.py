"""Dynamic range quantization: float32 activations meet integer weights (eq. 39 to 42).

The kernels quantize each row of the activations anew in every run, multiply integers, and rescale the sums in float32.
Source: TFLite's `PortableSymmetricQuantizeFloats`, `PortableAsymmetricQuantizeFloats` and the `EvalHybrid` of each
operator.  An operand that holds an infinity or a NaN has no such meaning; C leaves its results undefined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from tflite2q.arithmetic.core import Core
from tflite2q.arithmetic.rescale import round_half_away
from tflite2q.dialect.op import Op, require, supported
from tflite2q.dialect.types import TensorType, Value

T = TypeVar("T")

MOST = 127  # of a symmetric code
LOW, HIGH = -128, 127  # of an asymmetric one
OFFSET = 256  # more than any code can be from its zero point

DEVIATION = (
    "float32 activations with integer weights are as in the reference kernels; the default ones (XNNPACK) quantize the "
    "activations in another way"
)


def is_hybrid(x: TensorType, weights: TensorType) -> bool:
    """Whether activations are real numbers and weights codes."""
    return x.dtype == "float32" and weights.dtype != "float32"


def check_hybrid(op: Op, weights: Value, bias: Value | None = None) -> None:
    """Raise where TFLite's kernel of `op` does not take these weights with float32 activations."""
    dtype, name = weights.type.dtype, op.builtin.name
    supported(dtype in op.hybrid_weights, f"there is no {name} of float32 activations with {dtype} weights")
    require(weights.type.quantized, f"{weights.name!r} has no quantization parameters")
    q = weights.type.parameters
    require(q.symmetric, f"weights with zero point {next(filter(None, q.zero_point), 0)}; {name} takes none but 0 here")
    fits = q.axis in (None, op.channel_axis)
    require(fits, f"weights have scales on axis {q.axis}, not {op.channel_axis}")
    supported(not q.block or op.blockwise, f"there is no {name} of weights with a scale for each block")
    real = bias is None or bias.type.dtype == "float32"
    require(real, f"bias is {'' if bias is None else bias.type.dtype}, not float32")


@dataclass(frozen=True)
class Quantized(Generic[T]):
    """Rows of real numbers as integers: real = scale * (codes - zero).

    `codes` is [n, k] int32, `scale` [n, 1] float32, and `zero` [n, 1] int32 or None for 0.
    """

    codes: T
    scale: T
    zero: T | None = None

    def centred(self, core: Core[T]) -> T:
        """The codes with their zero point taken off, int32."""
        return self.codes if self.zero is None else core.subtract(self.codes, self.zero)


def quantized(core: Core[T], rows: T, asymmetric: bool) -> Quantized[T]:
    """Each row of `rows` [n, k], float32, by its own range; rows of zeros have scale 1."""
    return _asymmetric(core, rows) if asymmetric else _symmetric(core, rows)


def _symmetric(core: Core[T], rows: T) -> Quantized[T]:
    """eq. 39: the largest magnitude becomes 127."""
    reach = core.max(core.abs(rows), (1,), True)
    zero, one, most = (_real(core, number, "float32") for number in (0, 1, MOST))
    empty = core.equal(reach, zero)
    reach = core.where(empty, one, reach)
    scale = core.where(empty, one, core.divide(reach, most))
    steps = core.multiply(rows, core.divide(most, reach))
    return Quantized(_codes(core, steps, -MOST, MOST), scale)


def _asymmetric(core: Core[T], rows: T) -> Quantized[T]:
    """eq. 40: the range, 0 included, becomes -128 to 127; the zero point is computed in float64."""
    origin, unit = _real(core, 0, "float32"), _real(core, 1, "float32")
    least = core.minimum(core.min(rows, (1,), True), origin)
    most = core.maximum(core.max(rows, (1,), True), origin)
    empty = core.equal(least, most)
    width = core.astype(core.subtract(most, least), "float64")
    bottom, top = (core.astype(end, "float64") for end in (least, most))
    zero, one, low, high, steps = (_real(core, number, "float64") for number in (0, 1, LOW, HIGH, HIGH - LOW))
    scale = core.where(empty, one, core.divide(width, steps))
    below, above = core.divide(bottom, scale), core.divide(top, scale)
    # Of both ends, the one with the smaller sum of magnitudes gives the zero point.
    nearer = core.less(core.add(core.abs(low), core.abs(below)), core.add(core.abs(high), core.abs(above)))
    point = core.where(nearer, core.subtract(low, below), core.subtract(high, above))
    point = core.where(empty, zero, core.clip(round_half_away(core, point, "float64"), LOW, HIGH))
    narrow, point = core.astype(scale, "float32"), core.astype(point, "int32")
    places = core.multiply(rows, core.divide(unit, narrow))
    codes = core.clip(core.add(_codes(core, places, -OFFSET, OFFSET), point), LOW, HIGH)
    return Quantized(codes, narrow, point)


def _codes(core: Core[T], places: T, low: int, high: int) -> T:
    """Real numbers of steps as integers within [low, high], ties away from zero; int32."""
    bounded = core.clip(places, low - 1.0, high + 1.0)
    return core.astype(core.clip(round_half_away(core, bounded, "float32"), low, high), "int32")


def scale_of(core: Core[T], x: Quantized[T], weights: TensorType) -> T:
    """What one step of a sum is worth (eq. 41): [n, 1], or [n, channels]; the product in float32."""
    return core.multiply(x.scale, core.const(np.array([weights.parameters.scale], np.float32)))


def products(core: Core[T], x: Quantized[T], columns: T, weights: TensorType, bias: T | None) -> T:
    """Rows [n, k] times `columns` [k, units], codes of `weights`, in float32 with the bias first (eq. 41)."""
    acc = core.matmul(x.centred(core), core.astype(columns, "int32"), "int32")
    y = core.multiply(core.astype(acc, "float32"), scale_of(core, x, weights))
    return y if bias is None else core.add(bias, y)


def block_products(core: Core[T], x: Quantized[T], columns: T, weights: TensorType, n: int) -> T:
    """As `products`, of weights [units, k] with a scale for each block of a row (eq. 42); without the bias.

    The blocks of a row are summed one after the other in float32, as the kernel does.
    """
    q, (units, k) = weights.parameters, weights.shape
    blocks = k // q.block
    rows = core.permute_dims(core.reshape(x.codes, (n, blocks, q.block)), (1, 0, 2))
    parts = core.reshape(core.astype(columns, "int32"), (blocks, q.block, units))
    scales = np.array(q.scale, np.float32).reshape(units, blocks).T.reshape(blocks, 1, units)
    sums = core.multiply(core.astype(core.matmul(rows, parts, "int32"), "float32"), core.const(scales))
    offsets = core.multiply(core.astype(core.sum(parts, (1,), True), "float32"), core.const(scales))
    total = _in_order(core, sums, blocks)
    if x.zero is not None:
        offset = _in_order(core, offsets, blocks)
        total = core.subtract(total, core.multiply(core.astype(x.zero, "float32"), offset))
    return core.multiply(total, x.scale)


def _in_order(core: Core[T], terms: T, count: int) -> T:
    """The sum of `terms` [count, n, units] along the first axis, first to last."""

    def term(index: int) -> T:
        return core.strided_slice(terms, (0,), (index,), (index + 1,), (1,))

    total = term(0)
    for index in range(1, count):
        total = core.add(total, term(index))
    return core.sum(total, (0,))


def _real(core: Core[T], number: float, dtype: str) -> T:
    return core.const(np.array([number]).astype(dtype))
