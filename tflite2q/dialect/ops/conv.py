"""Convolutions: int32 accumulation of (x - z_x) * (w - z_w), bias, rescale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic import rounding
from tflite2q.arithmetic.core import Core
from tflite2q.arithmetic.rescale import Rescale
from tflite2q.dialect.op import Builtin, Named, Op, Operand, Operands, Shape, Values, attribute, require, supported
from tflite2q.dialect.ops import hybrid
from tflite2q.dialect.ops.common import FUSED, activated, centred, is_codes
from tflite2q.dialect.spans import Span, weighted_sum
from tflite2q.dialect.types import TensorType, Value
from tflite2q.dialect.window import Window, window

T = TypeVar("T")

MOST_MULTIPLIER = 256.0  # XNNPACK refuses whole models whose products have this one or a larger one


def product_scales(x: TensorType, weights: TensorType, y: TensorType) -> tuple[float, ...]:
    """Real multipliers s_x * s_w[c] / s_y of a convolution, one, or one for each output channel (eq. 4).

    The uint8 kernels round the product of the input scales to float32 first, the int8 ones keep it in float64.
    """
    scales = weights.parameters.scale
    s_w = np.array(scales, np.float32)
    product = np.float64(x.scale) * s_w.astype(np.float64)
    if x.dtype == "uint8":
        product = (np.float32(x.scale) * s_w).astype(np.float64)
    return tuple(float(p) for p in product / np.float64(y.scale))


def wide_accumulator(x: TensorType, bias: TensorType | None) -> str:
    """Dtype in which products are summed: 64 bits for 16-bit activations, unless an int32 bias says otherwise."""
    return "int64" if x.dtype == "int16" and (bias is None or bias.dtype != "int32") else "int32"


def product_rescale(
    y: TensorType, real: tuple[float, ...], activation: str, arithmetic: str, accumulator: str
) -> Rescale:
    """How accumulators become codes of y; `arithmetic` "tflite" is what the reference convolutions do."""
    low, high = rounding.activation_range(activation, y.scale, y.zero_point, y.dtype)
    if arithmetic == "tflite":
        arithmetic = "fixed" if accumulator == "int32" else "fixed16"
    return Rescale(real, y.zero_point, low, high, y.dtype, arithmetic)


def products_taken(x: TensorType, weights: TensorType, y: TensorType) -> bool:
    """Whether XNNPACK takes the multipliers of such products; it is what LiteRT runs 8-bit ones with."""
    if y.dtype == "int16" or not (weights.quantized and y.quantized):
        return True
    return x.scale * max(weights.parameters.scale) < MOST_MULTIPLIER * y.scale


def check_product(op: Op, x: Value, weights: Value, bias: Value | None, y: Value) -> None:
    """Rules shared by convolutions and dense layers."""
    if x.type.dtype == "float32":
        require(y.type.dtype == "float32", "float input needs a float result")
        if weights.type.dtype != "float32":
            hybrid.check_hybrid(op, weights, bias)
        real = bias is None or bias.type.dtype == "float32"
        require(real, f"float32 activations with a bias of {'' if bias is None else bias.type.dtype}")
        return
    for value in (x, weights, y):
        require(value.type.quantized, f"{value.name!r} has no quantization parameters")
    require(x.type.dtype == y.type.dtype, f"input is {x.type.dtype} but result {y.type.dtype}")
    q = weights.type.parameters
    require(q.axis is None or q.symmetric, "weights with a scale per channel must have zero points of 0")
    if bias is not None:
        # Some transposed convolutions of 16-bit activations come with 16-bit biases, which TFLite Micro accepts.
        wide = ("int64", "int32", "int16") if x.type.dtype == "int16" else ("int32",)
        require(bias.type.dtype in wide, f"bias is {bias.type.dtype}, not {' or '.join(wide)}")


def check_filters(x: Value, weights: Value, axis: int) -> None:
    """Parameters that convolutions take of their weights; `axis` is the output channel's.

    LiteRT refuses a CONV_2D whose signed weights have zero points, and ignores those of its kin.
    """
    q = weights.type.quantization
    if q is None or x.type.dtype == "float32":
        return
    require(q.axis in (None, axis), f"weights have scales on axis {q.axis}, not {axis}")
    plain = q.symmetric or x.type.dtype not in ("int8", "int16")
    require(plain, f"{weights.type.dtype} weights have zero point {q.zero_point[0]}; LiteRT takes or heeds none but 0")


@dataclass(frozen=True, kw_only=True)
class Convolution(Op):
    """What CONV_2D and DEPTHWISE_CONV_2D share; `rescale` is the scheme's arithmetic ("tflite", "float32", "shift")."""

    padding: str = attribute("Padding", "SAME", enum="Padding")
    stride_h: int = attribute("StrideH", 1)
    stride_w: int = attribute("StrideW", 1)
    dilation_h: int = attribute("DilationHFactor", 1)
    dilation_w: int = attribute("DilationWFactor", 1)
    activation: str = attribute("FusedActivationFunction", "NONE", enum="ActivationFunctionType")
    rescale: str = attribute(None, "tflite")

    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("x"),
        Operand("weights", "weights"),
        Operand("bias", "bias", optional=True),
    )
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "int16")
    fuses: ClassVar[tuple[str, ...]] = FUSED
    channel_axis: ClassVar[int]  # of the weights: where the output channel is
    hybrid_deviation: ClassVar[str] = hybrid.DEVIATION

    def window(self, x: Value, weights: Value) -> Window:
        return window(
            x.type.shape,
            (weights.type.shape[1], weights.type.shape[2]),
            (self.stride_h, self.stride_w),
            self.padding,
            (self.dilation_h, self.dilation_w),
        )

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        x, weights = ins["x"], ins["weights"]
        require(len(x.type.shape) == 4, f"input must have 4 axes, has {len(x.type.shape)}")
        require(len(weights.type.shape) == 4, f"weights must have 4 axes, have {len(weights.type.shape)}")
        bias = ins.get("bias")
        check_product(self, x, weights, bias, outs[0])
        channels = weights.type.shape[self.channel_axis]
        if bias is not None:
            require(bias.type.size == channels, f"bias has {bias.type.size} entries for {channels} channels")
        check_filters(x, weights, self.channel_axis)

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        x, weights = ins["x"], ins["weights"]
        out_h, out_w = self.window(x, weights).out
        return ((x.type.shape[0], out_h, out_w, weights.type.shape[self.channel_axis]),)

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return weighted_sum(ins["x"], spans["x"], ins["weights"], self.channel_axis, ins.get("bias"))

    def macs(self, ins: Values, outs: Sequence[Value]) -> int:
        weights = ins["weights"]
        return outs[0].type.size * weights.type.size // weights.type.shape[self.channel_axis]

    def workspace(self, ins: Values, outs: Sequence[Value]) -> int:
        patches = self.macs(ins, outs) // max(outs[0].type.shape[3], 1)  # every window of the input, written out
        return super().workspace(ins, outs) + 8 * patches

    def takes_scales(self, ins: Values, outs: Sequence[Value]) -> bool:
        taken = products_taken(ins["x"].type, ins["weights"].type, outs[0].type)
        return taken and super().takes_scales(ins, outs)

    def rescaling(self, ins: Values, y: Value) -> Rescale:
        """How accumulators become codes of y."""
        x, weights, bias = ins["x"].type, ins["weights"].type, ins.get("bias")
        real = product_scales(x, weights, y.type)
        accumulator = wide_accumulator(x, None if bias is None else bias.type)
        return product_rescale(y.type, real, self.activation, self.rescale, accumulator)

    def dynamic(self, core: Core[T], ins: Operands[T]) -> T:
        """The result of float32 activations and integer weights (eq. 41); zero padding is exact."""
        x, weights, bias = ins["x"], ins["weights"], ins.get("bias")
        geometry, batch = self.window(x.value, weights.value), x.type.shape[0]
        rows = core.reshape(x.data, (batch, x.type.size // batch))
        found = hybrid.quantized(core, rows, self.asymmetric(weights.type))
        image = core.reshape(found.centred(core), x.type.shape)
        filters = self.hwio(core, core.astype(weights.data, "int32"), weights.type.shape)
        groups = self.groups(x.type, weights.type)
        padded = geometry.pad(core, image, 0)
        acc = core.conv2d(padded, filters, geometry.strides, geometry.dilation, groups, "int32")
        y = self.rescaled(core, core.astype(acc, "float32"), core.reshape(found.scale, (batch, 1, 1, 1)), weights.type)
        if bias is not None:
            y = core.add(y, core.reshape(bias.data, (bias.type.size,)))
        return activated(core, y, self.activation, "float32")

    def asymmetric(self, weights: TensorType) -> bool:
        """Whether float32 activations get a zero point where `weights` are integers."""
        return True

    def channels_first(self, weights: TensorType) -> bool:
        """Whether sums of float32 activations are multiplied by the scales of the weights, and then by that of the
        activations; otherwise by the product of both."""
        return False

    def rescaled(self, core: Core[T], acc: T, scale: T, weights: TensorType) -> T:
        """Sums in real numbers; `scale` [batch, 1, 1, 1] is that of the activations."""
        scales = core.const(np.array(weights.parameters.scale, np.float32))
        if self.channels_first(weights):
            return core.multiply(core.multiply(acc, scales), scale)
        return core.multiply(acc, core.multiply(scale, scales))

    def hwio(self, core: Core[T], weights: T, shape: Shape) -> T:
        """Weights in HWIO layout."""
        raise NotImplementedError

    def groups(self, x: TensorType, weights: TensorType) -> int:
        raise NotImplementedError

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x, weights, bias = ins["x"], ins["weights"], ins.get("bias")
        if hybrid.is_hybrid(x.type, weights.type):
            return (self.dynamic(core, ins),)
        geometry = self.window(x.value, weights.value)
        image, filters, accumulator = x.data, weights.data, "float32"
        if is_codes(x.type):
            w_zero = weights.type.parameters.zero_point
            accumulator = wide_accumulator(x.type, None if bias is None else bias.type)
            # Padding contributes nothing to the sum: it is filled with zeros after the zero point is gone.
            image = centred(core, image, x.type.zero_point)
            filters = centred(core, filters, w_zero[0] if not any(w_zero) else w_zero)
        acc = core.conv2d(
            geometry.pad(core, image, 0),
            self.hwio(core, filters, weights.type.shape),
            geometry.strides,
            geometry.dilation,
            self.groups(x.type, weights.type),
            accumulator,
        )
        if bias is not None:
            acc = core.add(acc, core.reshape(core.astype(bias.data, accumulator), (bias.type.size,)))
        if accumulator == "float32":
            return (activated(core, acc, self.activation, "float32"),)
        return (self.rescaling(ins.values, outs[0]).meaning(core, acc),)


@dataclass(frozen=True, kw_only=True)
class Conv2D(Convolution):
    """Convolution, weights OHWI; fewer weight input channels than x has means groups."""

    bias_type: str = attribute("QuantizedBiasType", "FLOAT32", enum="TensorType")  # "FLOAT32": not said

    mnemonic: ClassVar[str] = "q.conv2d"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("CONV_2D", "Conv2DOptions", {"int8": 3, "int16": 4, "int4": 7}),)
    contract: ClassVar[str | None] = "conv2d"
    channel_axis: ClassVar[int] = 0
    hybrid_weights: ClassVar[Mapping[str, int]] = {"int8": 5, "int4": 7}

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        super().verify(ins, outs)
        x, weights = ins["x"], ins["weights"]
        channels, filters = x.type.shape[3], weights.type.shape
        fits = 0 < filters[3] <= channels and channels % filters[3] == 0 and filters[0] % (channels // filters[3]) == 0
        require(fits, f"{channels} input channels do not split into groups for weights {list(filters)}")
        if hybrid.is_hybrid(x.type, weights.type):
            why = "there is no CONV_2D in groups of float32 activations and integer weights of one scale"
            supported(self.takes_integers(ins), why)

    def takes_integers(self, ins: Values) -> bool:
        weights = ins["weights"].type
        return self.groups(ins["x"].type, weights) == 1 or self.asymmetric(weights)

    def asymmetric(self, weights: TensorType) -> bool:
        """The kernel for several scales has zero points, the one for a single scale has none."""
        return len(set(weights.parameters.scale)) > 1

    def channels_first(self, weights: TensorType) -> bool:
        return self.asymmetric(weights)

    def groups(self, x: TensorType, weights: TensorType) -> int:
        return x.shape[3] // weights.shape[3]

    def hwio(self, core: Core[T], weights: T, shape: Shape) -> T:
        return core.permute_dims(weights, (1, 2, 3, 0))


@dataclass(frozen=True, kw_only=True)
class DepthwiseConv2D(Convolution):
    """Convolution of each channel by itself, weights [1,kh,kw,C*m]; the depth multiplier m follows from the shapes."""

    depth_multiplier: int = attribute("DepthMultiplier", 1)

    mnemonic: ClassVar[str] = "q.depthwise_conv2d"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        # Converters state version 7 for 4-bit weights, but LiteRT's reference kernel, which runs them, is registered up
        # to 6.
        Builtin("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", {"int8": 3, "int16": 5, "int4": 6}),
    )
    contract: ClassVar[str | None] = "depthwise_conv2d"
    channel_axis: ClassVar[int] = 3
    hybrid_weights: ClassVar[Mapping[str, int]] = {"int8": 6}
    hybrid_channels: ClassVar[bool] = True
    deviation: ClassVar[str] = "int16 activations with 4-bit weights: LiteRT reads the packed weights as if of 8 bits"

    def deviates(self, ins: Values, outs: Sequence[Value]) -> str:
        """Of integers, only where 4-bit weights meet int16."""
        kinds = ins["x"].type.dtype, ins["weights"].type.dtype
        return super().deviates(ins, outs) if kinds == ("int16", "int4") else self.of_hybrid(ins)

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        super().verify(ins, outs)
        x, weights = ins["x"], ins["weights"]
        channels, filters = x.type.shape[3], weights.type.shape
        require(filters[0] == 1, f"depthwise weights must have shape [1,h,w,c], have {list(filters)}")
        require(channels > 0 and filters[3] % channels == 0, f"{filters[3]} filters for {channels} channels")

    def groups(self, x: TensorType, weights: TensorType) -> int:
        return x.shape[3]

    def hwio(self, core: Core[T], weights: T, shape: Shape) -> T:
        return core.reshape(weights, (shape[1], shape[2], 1, shape[3]))
