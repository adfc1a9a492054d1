"""TRANSPOSE_CONV: each input pixel adds its weighted filter to the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from tflite2q.arithmetic.core import Core
from tflite2q.arithmetic.rescale import Rescale
from tflite2q.dialect.op import Builtin, Named, Op, Operand, Operands, Shape, Values, attribute, require
from tflite2q.dialect.ops import hybrid
from tflite2q.dialect.ops.common import (
    CODES,
    activated,
    centred,
    integers,
    is_codes,
    states_shape,
)
from tflite2q.dialect.ops.conv import (
    check_filters,
    check_product,
    product_rescale,
    product_scales,
    products_taken,
    wide_accumulator,
)
from tflite2q.dialect.spans import Span, weighted_sum
from tflite2q.dialect.types import Value

T = TypeVar("T")

MOST_STRIDE = 2**15 - 1  # that TFLite's kernel takes


@dataclass(frozen=True, kw_only=True)
class TransposeConv(Op):
    """The adjoint of a convolution, weights OHWI; computed as a convolution of x spread out with zeros (eq. 26)."""

    padding: str = attribute("Padding", "SAME", enum="Padding")
    stride_h: int = attribute("StrideH", 1)
    stride_w: int = attribute("StrideW", 1)
    activation: str = attribute("FusedActivationFunction", "NONE", enum="ActivationFunctionType")
    bias_type: str = attribute("QuantizedBiasType", "FLOAT32", enum="TensorType")  # "FLOAT32": not said
    rescale: str = attribute(None, "tflite")

    mnemonic: ClassVar[str] = "q.transpose_conv2d"
    contract: ClassVar[str | None] = "transpose_conv2d"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("TRANSPOSE_CONV", "TransposeConvOptions", {"int8": 2, "int16": 2}),
    )
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("shape", "plain"),
        Operand("weights", "weights"),
        Operand("x"),
        Operand("bias", "bias", optional=True),
    )
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = CODES
    channel_axis: ClassVar[int] = 0
    hybrid_weights: ClassVar[Mapping[str, int]] = {"int8": 2}
    hybrid_deviation: ClassVar[str] = (
        f"{hybrid.DEVIATION}; LiteRT sums such products in float32, here they are summed exactly"
    )

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        weights, x, bias = ins["weights"], ins["x"], ins.get("bias")
        require(len(x.type.shape) == 4, f"input must have 4 axes, has {len(x.type.shape)}")
        require(len(weights.type.shape) == 4, f"weights must have 4 axes, have {len(weights.type.shape)}")
        strides = (self.stride_h, self.stride_w)
        require(min(strides) > 0 and max(strides) <= MOST_STRIDE, f"strides {list(strides)} are not 1 to {MOST_STRIDE}")
        filters, channels = weights.type.shape[0], weights.type.shape[3]
        require(x.type.shape[3] == channels, f"{x.type.shape[3]} input channels for weights {list(weights.type.shape)}")
        check_product(self, x, weights, bias, outs[0])
        if bias is not None:
            require(bias.type.size == filters, f"bias has {bias.type.size} entries for {filters} channels")
        check_filters(x, weights, self.channel_axis)

    def assumed(self, ins: Values, outs: Sequence[Value]) -> Mapping[str, Shape]:
        decides = ins["shape"].constant is None and states_shape(outs[0])
        return {"shape": outs[0].type.shape} if decides else {}

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape = tuple(integers(ins["shape"]))
        weights, x = ins["weights"].type.shape, ins["x"].type.shape
        require(len(shape) == 4 and min(shape) > 0, f"output shape {list(shape)} must have 4 axes, none empty")
        require((shape[0], shape[3]) == (x[0], weights[0]), f"output shape {list(shape)} does not fit the operands")
        return (shape,)

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return weighted_sum(ins["x"], spans["x"], ins["weights"], self.channel_axis, ins.get("bias"))

    def macs(self, ins: Values, outs: Sequence[Value]) -> int:
        weights = ins["weights"].type
        return ins["x"].type.size * weights.size // weights.shape[3]

    def takes_scales(self, ins: Values, outs: Sequence[Value]) -> bool:
        taken = products_taken(ins["x"].type, ins["weights"].type, outs[0].type)
        return taken and super().takes_scales(ins, outs)

    def rescaling(self, ins: Values, y: Value) -> Rescale:
        """How accumulators become codes of y."""
        weights, x, bias = ins["weights"].type, ins["x"].type, ins.get("bias")
        real = product_scales(x, weights, y.type)
        accumulator = wide_accumulator(x, None if bias is None else bias.type)
        return product_rescale(y.type, real, self.activation, self.rescale, accumulator)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        weights, x, bias = ins["weights"], ins["x"], ins.get("bias")
        image, filters, accumulator = x.data, weights.data, "float32"
        scale: T | None = None
        if hybrid.is_hybrid(x.type, weights.type):
            batch = x.type.shape[0]
            found = hybrid.quantized(core, core.reshape(image, (batch, x.type.size // batch)), True)
            image = core.reshape(found.centred(core), x.type.shape)
            filters, accumulator = core.astype(filters, "int32"), "int32"
            scale = core.reshape(
                hybrid.scale_of(core, found, weights.type), (batch, 1, 1, len(weights.type.parameters.scale))
            )
        elif is_codes(x.type):
            w_zero = weights.type.parameters.zero_point
            accumulator = wide_accumulator(x.type, None if bias is None else bias.type)
            image = centred(core, image, x.type.zero_point)
            filters = centred(core, filters, w_zero[0])
        _, kernel_h, kernel_w, _ = weights.type.shape
        # Flipped in height and width, HWIO.
        flipped = core.strided_slice(filters, (1, 2), (kernel_h - 1, kernel_w - 1), (-1, -1), (-1, -1))
        spread = self.spread(core, image, x.type.shape, (kernel_h, kernel_w), outs[0].type.shape)
        acc = core.conv2d(spread, core.permute_dims(flipped, (1, 2, 3, 0)), (1, 1), out_dtype=accumulator)
        if scale is not None:
            acc, accumulator = core.multiply(core.astype(acc, "float32"), scale), "float32"
        if bias is not None:
            acc = core.add(acc, core.reshape(core.astype(bias.data, accumulator), (bias.type.size,)))
        if accumulator == "float32":
            return (activated(core, acc, self.activation, "float32"),)
        return (self.rescaling(ins.values, outs[0]).meaning(core, acc),)

    def cropped(self, kernel: tuple[int, int], y: Shape) -> tuple[int, int]:
        """Rows above and columns left of the output that filters reach and that are dropped."""
        found = []
        for stride, k, out in zip((self.stride_h, self.stride_w), kernel, y[1:3], strict=True):
            count = -(-out // stride) if self.padding == "SAME" else -(-(out - k + 1) // stride)
            found.append(max(0, (count - 1) * stride + k - out) // 2)
        return found[0], found[1]

    def spread(self, core: Core[T], x: T, shape: Shape, kernel: tuple[int, int], y: Shape) -> T:
        """x with stride - 1 zeros behind each pixel, padded or cropped so that a plain convolution gives shape y."""
        n, height, width, c = shape
        strides, extents = (self.stride_h, self.stride_w), (height, width)
        # Of a large stride only the first pixels reach y, and the zeros behind a single one are not needed.
        h, w = (min(n, (out + k) // s + 1) for n, out, k, s in zip(extents, y[1:3], kernel, strides, strict=True))
        s_h, s_w = (1 if count == 1 else s for count, s in zip((h, w), strides, strict=True))
        if (h, w) != extents:
            x = core.strided_slice(x, (1, 2), (0, 0), (h, w), (1, 1))
        apart = core.pad(core.reshape(x, (n, h, 1, w, 1, c)), (0,) * 6, (0, 0, s_h - 1, 0, s_w - 1, 0), 0)
        apart = core.reshape(apart, (n, h * s_h, w * s_w, c))
        begin, end, before, after = [], [], [], []
        cut = self.cropped(kernel, y)
        for extent, k, out, margin in zip((h * s_h, w * s_w), kernel, y[1:3], cut, strict=True):
            first = k - 1 - margin
            last = out + k - 1 - first - extent
            begin.append(max(-first, 0))
            end.append(extent + min(last, 0))
            before.append(max(first, 0))
            after.append(max(last, 0))
        cropped = core.strided_slice(apart, (1, 2), begin, end, (1, 1))
        return core.pad(cropped, (0, *before, 0), (0, *after, 0), 0)
