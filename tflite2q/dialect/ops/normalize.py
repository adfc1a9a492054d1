"""Normalization of rows: log-softmax and division by the Euclidean length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic import rounding
from tflite2q.arithmetic.core import Core
from tflite2q.arithmetic.fixedpoint import exp_on_negative, inverse_square_root, log_of_sum
from tflite2q.arithmetic.numpy_core import NUMPY
from tflite2q.arithmetic.rescale import (
    high_multiply,
    int_const,
    multiply_fixed,
    rounding_shift_by,
    rounding_shift_right,
    wrapped32,
)
from tflite2q.dialect.op import (
    INT8_VERSION_2,
    Builtin,
    Named,
    Op,
    Operand,
    Operands,
    Shape,
    Tensor,
    Values,
    attribute,
    require,
    supported,
)
from tflite2q.dialect.ops.common import centred, check_numbers, is_codes, number
from tflite2q.dialect.spans import Span
from tflite2q.dialect.types import Quantization, TensorType, Value

T = TypeVar("T")

INPUT_BITS = 5  # integer bits of the fixed-point logit differences
SUM_BITS = 12  # integer bits of the sum of exponentials
OUTPUT_BITS = 4  # integer bits of the logarithms


@dataclass(frozen=True, kw_only=True)
class RowWise(Op):
    """A function of the last axis that keeps the shape."""

    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"),)
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8")

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        check_numbers(ins["x"], outs[0])
        require(len(ins["x"].type.shape) > 0, "takes no single number")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["x"].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        if is_codes(ins["x"].type):
            return (self.codes(core, ins["x"], outs[0].type),)
        return (self.numbers(core, ins["x"].data),)

    def codes(self, core: Core[T], x: Tensor[T], y: TensorType) -> T:
        """The result on quantized operands."""
        raise NotImplementedError

    def numbers(self, core: Core[T], x: T) -> T:
        """The result on float32 numbers."""
        raise NotImplementedError


SMALLEST_SCALE = 2.0**-56  # of logits, below which their multiplier is 0


@dataclass(frozen=True, kw_only=True)
class LogSoftmax(RowWise):
    """x - log(sum(exp(x))) in steps of 1/16 from 0 down (eq. 36, 37)."""

    mnemonic: ClassVar[str] = "q.log_softmax"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("LOG_SOFTMAX", "LogSoftmaxOptions", INT8_VERSION_2),)

    def fixed_result(self, dtype: str) -> Quantization | None:
        return Quantization.per_tensor(1 / 16, rounding.code_range(dtype)[1])

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return -math.inf, 0.0

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        super().verify(ins, outs)
        x = ins["x"].type
        if is_codes(x):
            require(x.scale >= SMALLEST_SCALE, f"scale {x.scale:g} is below {SMALLEST_SCALE:g}")

    def codes(self, core: Core[T], x: Tensor[T], y: TensorType) -> T:
        scale = x.type.scale
        real = min(scale * 2.0 ** (31 - INPUT_BITS), 2.0**31 - 1)
        m, left = (int(v) for v in rounding.quantize_multiplier(real))
        reverse_m, reverse_left = (int(v) for v in rounding.quantize_multiplier((1 << (31 - left)) / float(m)))
        radius = int(np.floor(((1 << INPUT_BITS) - 1) * 2.0 ** (31 - INPUT_BITS) / 2.0**left))
        difference = -np.arange(256, dtype=np.int64)
        logits = multiply_fixed(NUMPY, difference, m, left)
        shares = rounding_shift_right(NUMPY, exp_on_negative(NUMPY, logits, INPUT_BITS), SUM_BITS)
        table = np.where(difference < -radius, 0, shares)
        wide = core.astype(x.data, "int32")
        below = core.subtract(core.max(wide, (-1,), keepdims=True), wide)
        log_sum = log_of_sum(core, core.sum(core.take(core.const(table), below), (-1,), keepdims=True))
        least = wrapped32(core, core.subtract(log_sum, int_const(core, 1 << 31)))
        least = multiply_fixed(core, least, reverse_m, reverse_left)
        least = core.maximum(int_const(core, -radius - 1), least)
        q5 = core.subtract(core.take(core.const(logits), below), log_sum)
        code = rounding_shift_right(core, wrapped32(core, q5), 31 - INPUT_BITS - OUTPUT_BITS)
        low, high = y.range
        code = core.clip(core.add(code, int_const(core, high)), low, high)
        inside = core.less(least, core.negative(core.astype(below, "int64")))
        return core.astype(core.where(inside, code, int_const(core, low)), y.dtype)

    def numbers(self, core: Core[T], x: T) -> T:
        below = core.subtract(x, core.max(x, (-1,), keepdims=True))
        return core.subtract(below, core.log(core.sum(core.exp(below), (-1,), keepdims=True)))


@dataclass(frozen=True, kw_only=True)
class L2Norm(RowWise):
    """x / |x| over the last axis, in steps of 1/128 (eq. 38)."""

    activation: str = attribute("FusedActivationFunction", "NONE", enum="ActivationFunctionType")

    mnemonic: ClassVar[str] = "q.l2_norm"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("L2_NORMALIZATION", "L2NormOptions", INT8_VERSION_2),)

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        super().verify(ins, outs)
        require(self.activation == "NONE", f"fused activation {self.activation} is not supported")

    def fixed_result(self, dtype: str) -> Quantization | None:
        low, high = rounding.code_range(dtype)
        return Quantization.per_tensor(1 / 128, (low + high + 1) // 2)

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return -1.0, 1.0

    def codes(self, core: Core[T], x: Tensor[T], y: TensorType) -> T:
        value = centred(core, x.data, x.type.zero_point, "int64")
        inverse, shift = inverse_square_root(core, core.sum(core.multiply(value, value), (-1,), keepdims=True))
        low, high = y.range
        if y.dtype == "int8":
            # A left shift of 7 - shift, in the two-step fixed point of eq. 8.
            left = core.subtract(int_const(core, 7), shift)
            zero = int_const(core, 0)
            raised = wrapped32(core, core.left_shift(value, core.maximum(left, zero)))
            scaled = high_multiply(core, raised, inverse)
            code = rounding_shift_by(core, scaled, core.maximum(core.negative(left), zero))
        else:
            raised = core.multiply(value, int_const(core, 128))
            code = rounding_shift_by(core, high_multiply(core, raised, inverse), shift)
        code = core.add(code, int_const(core, (low + high + 1) // 2))
        return core.astype(core.clip(code, low, high), y.dtype)

    def numbers(self, core: Core[T], x: T) -> T:
        length = core.sqrt(core.sum(core.multiply(x, x), (-1,), keepdims=True))
        return core.divide(x, core.maximum(length, core.const(np.array([1e-6], np.float32))))


MOST_CHANNELS = 4096  # whose neighbours are a matrix


@dataclass(frozen=True, kw_only=True)
class LocalResponse(Op):
    """x / (bias + alpha * the sum of the squares of the channels nearby) ** beta; float32 alone.

    TFLite takes `radius` channels before each one, itself, and `radius` - 1 behind it.
    """

    radius: int = attribute("Radius", 0)
    bias: float = attribute("Bias", 0.0)
    alpha: float = attribute("Alpha", 0.0)
    beta: float = attribute("Beta", 0.0)

    mnemonic: ClassVar[str] = "q.local_response"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("LOCAL_RESPONSE_NORMALIZATION", "LocalResponseNormalizationOptions"),
    )
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"),)
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = ()

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        for value in (ins["x"], outs[0]):
            supported(value.type.dtype == "float32", f"normalizes {value.type.dtype}; only float32 is possible")
        require(len(ins["x"].type.shape) == 4, f"input must have 4 axes, has {len(ins['x'].type.shape)}")
        require(self.radius >= 0, f"a radius of {self.radius}")
        channels = ins["x"].type.shape[3]
        supported(channels <= MOST_CHANNELS, f"normalizes {channels} channels; {MOST_CHANNELS} are possible")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["x"].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        shape, dtype = ins["x"].type.shape, "float32"
        away = np.arange(shape[3])[:, None] - np.arange(shape[3])
        near = ((-self.radius <= away) & (away < self.radius)).astype(np.float32)
        rows = core.reshape(core.multiply(ins["x"].data, ins["x"].data), (int(np.prod(shape[:3])), shape[3]))
        squares = core.reshape(core.matmul(rows, core.const(near), dtype), shape)
        base = core.add(core.multiply(squares, number(core, self.alpha, dtype)), number(core, self.bias, dtype))
        power = core.libm("pow", base, number(core, -self.beta, dtype))
        return (core.multiply(ins["x"].data, power),)
