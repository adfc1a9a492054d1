"""Pooling and means: integer averages need no scales, and a maximum needs no arithmetic at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic import rounding
from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Builtin, Named, Op, Operand, Operands, Shape, Values, attribute, require, supported
from tflite2q.dialect.ops.common import CODES, activated, check_numbers, is_codes
from tflite2q.dialect.spans import Span
from tflite2q.dialect.types import Value
from tflite2q.dialect.window import Window, window

T = TypeVar("T")

MOST_TAPS = 256  # of a window of real numbers that are added up one by one
LOWEST_FLOAT32 = float(np.finfo(np.float32).min)


@dataclass(frozen=True, kw_only=True)
class Pool(Op):
    """A window of [N,H,W,C]; padding takes no part.  Input and result share their parameters."""

    padding: str = attribute("Padding", "VALID", enum="Padding")
    stride_h: int = attribute("StrideH", 1)
    stride_w: int = attribute("StrideW", 1)
    filter_h: int = attribute("FilterHeight", 1)
    filter_w: int = attribute("FilterWidth", 1)
    activation: str = attribute("FusedActivationFunction", "NONE", enum="ActivationFunctionType")

    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"),)
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "int16")

    def window(self, x: Value) -> Window:
        return window(x.type.shape, (self.filter_h, self.filter_w), (self.stride_h, self.stride_w), self.padding)

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        x = ins["x"]
        require(len(x.type.shape) == 4, f"input must have 4 axes, has {len(x.type.shape)}")
        check_numbers(x, outs[0], bare=self.dtypes)
        bare = x.type.dtype in CODES and not is_codes(x.type)
        supported(not bare or self.activation == "NONE", f"{self.activation} of codes without parameters")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        x = ins["x"]
        n, _, _, channels = x.type.shape
        return ((n, *self.window(x).out, channels),)

    def clamp(self, y: Value) -> tuple[int, int]:
        """Codes between which the fused activation keeps the result."""
        if not is_codes(y.type):
            return y.type.range
        return rounding.activation_range(self.activation, y.type.scale, y.type.zero_point, y.type.dtype)

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return spans["x"]

    def ties(self, dtype: str) -> tuple[tuple[str, ...], ...]:
        return ((self.reads("x"), self.outputs[0]),)


@dataclass(frozen=True, kw_only=True)
class AveragePool2D(Pool):
    """Mean of the codes of the valid part of each window.

    uint8 rounds half up (the sum is never negative), signed types half away from zero, as the reference kernels do.
    """

    mnemonic: ClassVar[str] = "q.average_pool2d"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("AVERAGE_POOL_2D", "Pool2DOptions", {"int8": 2, "int16": 3}),)
    contract: ClassVar[str | None] = "average_pool2d"

    def macs(self, ins: Values, outs: Sequence[Value]) -> int:
        return 0

    def counts(self, x: Value) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
        """Valid elements of each window, [1,out_h,out_w,1]."""
        geometry = self.window(x)
        per_axis = []
        for axis in range(2):
            first = np.arange(geometry.out[axis]) * geometry.strides[axis] - geometry.before[axis]
            last = np.minimum(first + geometry.size[axis], x.type.shape[1 + axis])
            per_axis.append(last - np.maximum(first, 0))
        counts: np.ndarray[tuple[int, ...], np.dtype[np.int32]] = np.outer(*per_axis).astype(np.int32)[None, :, :, None]
        return counts

    def total(self, core: Core[T], x: T, value: Value, dtype: str) -> T:
        """Sums of each window, [N,out_h,out_w,C]."""
        geometry = self.window(value)
        if geometry.size == value.type.shape[1:3] and geometry.out == (1, 1) and not geometry.padded:
            return core.sum(x, (1, 2), keepdims=True)
        padded = geometry.pad(core, x, 0)
        if dtype == "float32" and math.prod(geometry.size) <= MOST_TAPS:
            # Row by row, as the reference kernels add them up.
            taps = [(i, j) for i in range(geometry.size[0]) for j in range(geometry.size[1])]
            return reduce(core.add, [geometry.tap(core, padded, *tap) for tap in taps])
        channels = value.type.shape[3]
        ones = core.const(np.ones((*geometry.size, 1, channels), dtype))
        return core.conv2d(padded, ones, geometry.strides, groups=channels, out_dtype=dtype)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x = ins["x"]
        dtype = "int32" if x.type.dtype in CODES else "float32"
        total = self.total(core, core.astype(x.data, dtype), x.value, dtype)
        counts = self.counts(x.value)
        if dtype == "float32":
            mean = core.divide(total, core.const(counts.astype(np.float32)))
            return (activated(core, mean, self.activation, dtype),)
        half = core.const(counts // 2)
        mean = core.floor_divide(core.add(core.abs(total), half), core.const(counts))
        if x.type.dtype != "uint8":
            mean = core.where(core.less(total, core.const(np.zeros(1, np.int32))), core.negative(mean), mean)
        low, high = self.clamp(outs[0])
        return (core.astype(core.clip(mean, low, high), x.type.dtype),)


@dataclass(frozen=True, kw_only=True)
class L2Pool2D(AveragePool2D):
    """Root of the mean of the squares of the valid part of each window; float32 alone."""

    mnemonic: ClassVar[str] = "q.l2_pool2d"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("L2_POOL_2D", "Pool2DOptions"),)
    contract: ClassVar[str | None] = None
    dtypes: ClassVar[tuple[str, ...]] = ()

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        super().verify(ins, outs)
        supported(ins["x"].type.dtype == "float32", f"L2_POOL_2D of {ins['x'].type.dtype}")

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return 0.0, max(abs(end) for end in spans["x"])

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x = ins["x"]
        total = self.total(core, core.multiply(x.data, x.data), x.value, "float32")
        mean = core.divide(total, core.const(self.counts(x.value).astype(np.float32)))
        return (activated(core, core.sqrt(mean), self.activation, "float32"),)


@dataclass(frozen=True, kw_only=True)
class MaxPool2D(Pool):
    """Largest code of each window, clamped."""

    mnemonic: ClassVar[str] = "q.max_pool2d"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("MAX_POOL_2D", "Pool2DOptions", {"int8": 2, "int16": 3}),)
    contract: ClassVar[str | None] = "max_pool2d"

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x = ins["x"]
        geometry = self.window(x.value)
        codes = x.type.dtype in CODES
        lowest = x.type.range[0] if codes else LOWEST_FLOAT32
        largest = core.max_pool2d(geometry.pad(core, x.data, lowest), geometry.size, geometry.strides)
        if not codes:
            return (activated(core, largest, self.activation, x.type.dtype),)
        low, high = self.clamp(outs[0])
        return (core.clip(largest, low, high),)
