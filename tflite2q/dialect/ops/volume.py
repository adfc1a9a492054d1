"""CONV_3D and its adjoint: sums of convolutions of images, one for each depth of the filter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, TypeVar

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Builtin, Op, Operand, Operands, Shape, Values, attribute, require, supported
from tflite2q.dialect.ops.common import activated, integers
from tflite2q.dialect.types import Value
from tflite2q.dialect.window import MOST_GROWTH, SMALL

T = TypeVar("T")

MOST_STRIDE = 1 << 15


@dataclass(frozen=True, kw_only=True)
class Volume(Op):
    """What both share: float32 volumes [N,D,H,W,C] and filters with the depth first."""

    padding: str = attribute("Padding", "SAME", enum="Padding")
    stride_d: int = attribute("StrideD", 1)
    stride_h: int = attribute("StrideH", 1)
    stride_w: int = attribute("StrideW", 1)
    dilation_d: int = attribute("DilationDFactor", 1)
    dilation_h: int = attribute("DilationHFactor", 1)
    dilation_w: int = attribute("DilationWFactor", 1)
    activation: str = attribute("FusedActivationFunction", "NONE", enum="ActivationFunctionType")

    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = ()

    @property
    def strides(self) -> tuple[int, int, int]:
        return self.stride_d, self.stride_h, self.stride_w

    @property
    def dilation(self) -> tuple[int, int, int]:
        return self.dilation_d, self.dilation_h, self.dilation_w

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        for value in (ins["x"], ins["weights"], ins.get("bias"), *outs):
            supported(value is None or value.type.dtype == "float32", "takes float32 alone")
        for name in ("x", "weights"):
            require(len(ins[name].type.shape) == 5, f"{name} must have 5 axes")
        steps = (*self.strides, *self.dilation)
        require(min(steps) > 0 and max(steps) <= MOST_STRIDE, f"strides and dilations are not 1 to {MOST_STRIDE}")

    def check_bias(self, ins: Values, channels: int) -> None:
        bias = ins.get("bias")
        require(bias is None or bias.type.shape == (channels,), f"bias does not fit {channels} channels")

    def margins(self, extents: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
        """Padding before and after each axis, and the sizes of the result."""
        before, after, out = [], [], []
        for extent, k, stride, step in zip(extents, kernel, self.strides, self.dilation, strict=True):
            reach = (k - 1) * step + 1
            count = -(-extent // stride) if self.padding == "SAME" else (extent - reach + stride) // stride
            require(count > 0, f"a window of {reach} does not fit an extent of {extent}")
            total = max(0, (count - 1) * stride + reach - extent) if self.padding == "SAME" else 0
            before.append(total // 2)
            after.append(total - total // 2)
            out.append(count)
        return before, after, out

    def finished(self, core: Core[T], y: T, bias: T | None) -> T:
        y = y if bias is None else core.add(y, bias)
        return activated(core, y, self.activation, "float32")


def convolved(
    core: Core[T],
    x: T,
    shape: Shape,
    filters: Sequence[T],
    out: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
) -> T:
    """x [shape], padded, under `filters`, one [H,W,I,O] for each depth; images [N * out[0], ...]."""
    images = []
    for depth, taps in enumerate(filters):
        first = depth * dilation[0]
        last = first + (out[0] - 1) * strides[0] + 1
        slices = core.strided_slice(x, (1,), (first,), (last,), (strides[0],))
        flat = core.reshape(slices, (shape[0] * out[0], *shape[2:]))
        steps = (strides[1], strides[2]), (dilation[1], dilation[2])
        images.append(core.conv2d(flat, taps, *steps, out_dtype="float32"))
    return reduce(core.add, images)


def depths(core: Core[T], filters: T, shape: Shape) -> list[T]:
    """The filter of each depth."""
    parts = (core.strided_slice(filters, (0,), (i,), (i + 1,), (1,)) for i in range(shape[0]))
    return [core.reshape(part, shape[1:]) for part in parts]


@dataclass(frozen=True, kw_only=True)
class Conv3D(Volume):
    """Convolution of volumes, weights DHWIO."""

    mnemonic: ClassVar[str] = "q.conv3d"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("CONV_3D", "Conv3DOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("weights"), Operand("bias", optional=True))

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        x, weights = ins["x"].type.shape, ins["weights"].type.shape
        require(x[4] == weights[3], f"{x[4]} input channels for weights {list(weights)}")
        self.check_bias(ins, weights[4])
        before, after, out = self.margins(x[1:4], weights[:3])
        padded = math.prod(b + n + a for b, n, a in zip(before, x[1:4], after, strict=True))
        supported(padded <= MOST_GROWTH * math.prod(x[1:4]) + SMALL, "needs padding far larger than the input")
        return ((x[0], *out, weights[4]),)

    def macs(self, ins: Values, outs: Sequence[Value]) -> int:
        weights = ins["weights"].type
        return outs[0].type.size * weights.size // weights.shape[4]

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x, weights, bias = ins["x"], ins["weights"], ins.get("bias")
        before, after, out = self.margins(x.type.shape[1:4], weights.type.shape[:3])
        padded = core.pad(x.data, (0, *before, 0), (0, *after, 0), 0)
        extents = [b + n + a for b, n, a in zip(before, x.type.shape[1:4], after, strict=True)]
        shape = (x.type.shape[0], *extents, x.type.shape[4])
        filters = depths(core, weights.data, weights.type.shape)
        y = convolved(core, padded, shape, filters, out, self.strides, self.dilation)
        y = core.reshape(y, outs[0].type.shape)
        return (self.finished(core, y, None if bias is None else bias.data),)


@dataclass(frozen=True, kw_only=True)
class Conv3DTranspose(Volume):
    """The adjoint of CONV_3D, weights DHWOI: a convolution of x spread out with zeros."""

    mnemonic: ClassVar[str] = "q.transpose_conv3d"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("CONV_3D_TRANSPOSE", "Conv3DOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("shape", "plain"),
        Operand("weights"),
        Operand("x"),
        Operand("bias", optional=True),
    )

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape, x, weights = tuple(integers(ins["shape"])), ins["x"].type.shape, ins["weights"].type.shape
        supported(self.dilation == (1, 1, 1), "a dilated transposed convolution, which LiteRT does not support either")
        fits = len(shape) == 5 and min(shape) > 0 and (shape[0], shape[4]) == (x[0], weights[3]) and x[4] == weights[4]
        require(fits, f"output shape {list(shape)} does not fit {list(x)} and weights {list(weights)}")
        _, _, counts = self.margins(shape[1:4], weights[:3])
        require(tuple(counts) == x[1:4], f"output shape {list(shape)} belongs to {counts}, not to {list(x[1:4])}")
        self.check_bias(ins, weights[3])
        return (shape,)

    def macs(self, ins: Values, outs: Sequence[Value]) -> int:
        weights = ins["weights"].type
        return ins["x"].type.size * weights.size // weights.shape[4]

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x, weights, bias = ins["x"], ins["weights"], ins.get("bias")
        n, *extents, channels = x.type.shape
        kernel, out = weights.type.shape[:3], outs[0].type.shape[1:4]
        first, _, _ = self.margins(out, kernel)
        between = [stride - 1 for stride in self.strides]
        spread = core.reshape(x.data, (n, *(e for extent in extents for e in (extent, 1)), channels))
        spread = core.pad(spread, (0,) * 8, (0, 0, between[0], 0, between[1], 0, between[2], 0), 0)
        wide = [extent * stride for extent, stride in zip(extents, self.strides, strict=True)]
        spread = core.reshape(spread, (n, *wide, channels))
        before = [k - 1 - f for k, f in zip(kernel, first, strict=True)]
        after = [o + k - 1 - b - w for o, k, b, w in zip(out, kernel, before, wide, strict=True)]
        end = [w + min(a, 0) for w, a in zip(wide, after, strict=True)]
        spread = core.strided_slice(spread, (1, 2, 3), (0, 0, 0), end, (1, 1, 1))
        spread = core.pad(spread, (0, *before, 0), (0, *(max(a, 0) for a in after), 0), 0)
        last = [k - 1 for k in kernel]
        flipped = core.strided_slice(weights.data, (0, 1, 2), last, (-1, -1, -1), (-1, -1, -1))
        flipped = core.permute_dims(flipped, (0, 1, 2, 4, 3))
        shape = (n, *(o + k - 1 for o, k in zip(out, kernel, strict=True)), channels)
        filters = depths(core, flipped, (*kernel, channels, weights.type.shape[3]))
        y = convolved(core, spread, shape, filters, out, (1, 1, 1), (1, 1, 1))
        y = core.reshape(y, outs[0].type.shape)
        return (self.finished(core, y, None if bias is None else bias.data),)
