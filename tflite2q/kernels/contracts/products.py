"""Contracts of sums of products with constant weights: convolutions and dense layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

from tflite2q.arithmetic.rescale import Rescale
from tflite2q.kernels import storage
from tflite2q.kernels.contracts.base import Array, Contract, Tensor

P = TypeVar("P", bound="ProductContract")
C = TypeVar("C", bound="ConvolutionContract")
F = TypeVar("F", bound="FloatConv2DContract")


@dataclass(frozen=True, eq=False, kw_only=True)
class ProductContract(Contract):
    """Sums of products of inputs and constant weights, rescaled to codes.

    accumulator = sum (x - x_zero_point) * (weight - weight_zero_point) + bias, of dtype `accumulator`: int32 with
    wrap-around, or int64, in which nothing overflows.  `weights` are raw codes (int8 or uint8); `weight_zero_points`
    has one entry or one per output channel; `bias` is an integer array [output channels] or None.
    """

    operation: ClassVar[str]  # in names of kernels

    x_dtype: str
    x_zero_point: int
    weights: Array
    weight_zero_points: tuple[int, ...]
    bias: Array | None
    rescale: Rescale
    accumulator: str = "int32"

    def _stored(self: P, inputs: Sequence[bool], output: bool) -> P:
        contract = self
        if inputs[0]:
            contract = replace(contract, x_dtype="uint8", x_zero_point=contract.x_zero_point + storage.SHIFT)
        return replace(contract, rescale=storage.shifted_rescale(contract.rescale)) if output else contract

    def clamped(self: P, low: float, high: float) -> P | None:
        low, high = int(max(self.rescale.low, low)), int(min(self.rescale.high, high))
        return replace(self, rescale=replace(self.rescale, low=low, high=high)) if low <= high else None


@dataclass(frozen=True, eq=False, kw_only=True)
class ConvolutionContract(ProductContract):
    """x [batch, in_h, in_w, in_c] to [batch, out_h, out_w, out_c], with or without a sum over input channels.

    `padding` is (top, left, bottom, right); taps outside the image contribute zero.
    """

    channel_axis: ClassVar[int]  # of the weights: where the output channel is

    batch: int
    in_h: int
    in_w: int
    in_c: int
    out_h: int
    out_w: int
    out_c: int
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]

    @property
    def kernel(self) -> tuple[int, int]:
        return int(self.weights.shape[1]), int(self.weights.shape[2])

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (Tensor((self.batch, self.in_h, self.in_w, self.in_c), self.x_dtype),)

    @property
    def output(self) -> Tensor:
        return Tensor((self.batch, self.out_h, self.out_w, self.out_c), self.rescale.dtype)

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations, padding included."""
        return self.output.size * (self.weights.size // self.out_c)

    def along_channels(self, values: Array) -> Array:
        """`values`, one or one per output channel, as they broadcast against the weights."""
        shape = [1, 1, 1, 1]
        shape[self.channel_axis] = -1
        return values.reshape(shape)

    def padded_by(self: C, amounts: tuple[int, int, int, int]) -> C:
        """The same output from an image without so many of its borders, which the convolution adds itself."""
        top, left, bottom, right = (p + more for p, more in zip(self.padding, amounts, strict=True))
        in_h, in_w = self.in_h - amounts[0] - amounts[2], self.in_w - amounts[1] - amounts[3]
        return replace(self, in_h=in_h, in_w=in_w, padding=(top, left, bottom, right))


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv2DContract(ConvolutionContract):
    """A convolution by weights [out_c, kh, kw, in_c / groups] (OHWI)."""

    operation = "conv2d"
    channel_axis = 0

    groups: int

    def __post_init__(self) -> None:
        expected = (self.out_c, *self.kernel, self.in_c // self.groups)
        if self.weights.shape != expected:
            raise ValueError(f"convolution weights have shape {self.weights.shape}, the contract says {expected}")

    def conv2d(self) -> Conv2DContract:
        return self


@dataclass(frozen=True, eq=False, kw_only=True)
class DepthwiseConv2DContract(ConvolutionContract):
    """A convolution by weights [1, kh, kw, out_c]: output channel c reads input channel c // depth_multiplier."""

    operation = "depthwise"
    channel_axis = 3

    def __post_init__(self) -> None:
        if self.weights.shape != (1, *self.kernel, self.out_c) or self.out_c % self.in_c:
            raise ValueError(
                f"depthwise weights of shape {self.weights.shape} for {self.in_c} to {self.out_c} channels"
            )

    @property
    def depth_multiplier(self) -> int:
        return self.out_c // self.in_c


@dataclass(frozen=True, eq=False, kw_only=True)
class DenseContract(ProductContract):
    """x [rows, depth] * weights [units, depth] -> [rows, units]."""

    operation = "dense"

    rows: int
    depth: int
    units: int

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (Tensor((self.rows, self.depth), self.x_dtype),)

    @property
    def output(self) -> Tensor:
        return Tensor((self.rows, self.units), self.rescale.dtype)

    def conv2d(self) -> Conv2DContract:
        """The same computation as a 1x1 convolution over one row of `rows` pixels."""
        return Conv2DContract(
            batch=1, in_h=1, in_w=self.rows, in_c=self.depth, out_h=1, out_w=self.rows, out_c=self.units,
            strides=(1, 1), dilation=(1, 1), padding=(0, 0, 0, 0), groups=1, x_dtype=self.x_dtype,
            x_zero_point=self.x_zero_point, weights=self.weights.reshape(self.units, 1, 1, self.depth),
            weight_zero_points=self.weight_zero_points, bias=self.bias, rescale=self.rescale,
            accumulator=self.accumulator,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class FloatConv2DContract(Contract):
    """float32 x [n, h, w, c] * weights [kh, kw, c / groups, out_c] (HWIO) -> [n, *out_size, out_c].

    Sums of products plus bias (float32 [out_c] or None), in any order, then clamped to [low, high] where they are not
    None; taps outside the image contribute zero.  A depthwise convolution has as many groups as input channels.
    """

    storable = False

    x: Tensor
    out_size: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    groups: int
    weights: Array
    bias: Array | None
    low: float | None = None
    high: float | None = None

    @property
    def kernel(self) -> tuple[int, int]:
        return int(self.weights.shape[0]), int(self.weights.shape[1])

    @property
    def each_by_itself(self) -> bool:
        """Whether every output channel reads just the input channel of its own index."""
        return self.groups == self.x.shape[3] == int(self.weights.shape[3])

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.x,)

    @property
    def output(self) -> Tensor:
        return Tensor((self.x.shape[0], *self.out_size, int(self.weights.shape[3])), "float32")

    def clamped(self: F, low: float, high: float) -> F | None:
        low = low if self.low is None else max(self.low, low)
        high = high if self.high is None else min(self.high, high)
        if low > high:
            return None
        return replace(self, low=None if math.isinf(low) else low, high=None if math.isinf(high) else high)

    def padded_by(self: F, amounts: tuple[int, int, int, int]) -> F:
        """The same output from images without so many of their borders of zeros, which the convolution adds itself."""
        n, h, w, c = self.x.shape
        top, left, bottom, right = (p + more for p, more in zip(self.padding, amounts, strict=True))
        x = Tensor((n, h - amounts[0] - amounts[2], w - amounts[1] - amounts[3], c), self.x.dtype)
        return replace(self, x=x, padding=(top, left, bottom, right))


@dataclass(frozen=True, eq=False, kw_only=True)
class DynamicConv2DContract(FloatConv2DContract):
    """The same of activations that are quantized in every run, each image by its own range (eq. 39 to 41).

    `weights` are integers (HWIO), `scales` float32 [out_c] (all equal if there is only one).  Results are

        sum * (scale of the image * scales) + bias, or
        (sum * scales) * scale of the image + bias, if `channels_first`,

    with each product and sum rounded to float32.  `asymmetric`: codes have zero points.  A dense layer has one image
    of one pixel for each row.
    """

    scales: Array
    asymmetric: bool
    channels_first: bool


@dataclass(frozen=True, eq=False)
class TransposeConv2DContract(Contract):
    """A transposed convolution as a convolution of stride 1, whose channels are those of the output pixels that lie
    between two pixels of the input.

    y[n, i, j, c] = conv[n, r // down, s // right, (r % down * right + s % right) * out_c + c]
    with (down, right) = `strides`, (r, s) = (i, j) + `first` and out_c channels of y.
    """

    conv: Conv2DContract | FloatConv2DContract
    strides: tuple[int, int]
    first: tuple[int, int]
    out_size: tuple[int, int]

    @property
    def storable(self) -> bool:  # type: ignore[override]
        return self.conv.storable

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.conv.inputs

    @property
    def output(self) -> Tensor:
        y = self.conv.output
        return Tensor((y.shape[0], *self.out_size, y.shape[3] // math.prod(self.strides)), y.dtype)

    def _stored(self, inputs: Sequence[bool], output: bool) -> TransposeConv2DContract:
        return replace(self, conv=self.conv.stored(inputs, output))

    def clamped(self, low: float, high: float) -> TransposeConv2DContract | None:
        conv = self.conv.clamped(low, high)
        return None if conv is None else replace(self, conv=conv)


@dataclass(frozen=True, eq=False, kw_only=True)
class MatmulContract(Contract):
    """y[i] = a[i] b[i], a [batch, rows, depth] and b [batch, depth, columns] both computed; one of batch 1 serves all.

    Factors that are `transposed` have their last two axes the other way round.  Numbers are float32; or codes with
    `zero_points`, rescaled; or float32 in a, which is not transposed, each row quantized in every run (eq. 39, 40 if
    `asymmetric`), and codes in b, with `scales` float32 [columns]:

        sum * (scale of the row * scales), rounded to float32 each time.
    """

    storable = False

    a: Tensor
    b: Tensor
    transposed: tuple[bool, bool]
    zero_points: tuple[int, int] = (0, 0)
    rescale: Rescale | None = None
    scales: Array | None = None
    asymmetric: bool = False

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.a, self.b)

    @property
    def depth(self) -> int:
        return self.a.shape[1 if self.transposed[0] else 2]

    @property
    def output(self) -> Tensor:
        rows, columns = self.a.shape[2 if self.transposed[0] else 1], self.b.shape[1 if self.transposed[1] else 2]
        dtype = "float32" if self.rescale is None else self.rescale.dtype
        return Tensor((max(self.a.shape[0], self.b.shape[0]), rows, columns), dtype)
