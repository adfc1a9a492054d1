"""Contracts between the lowering and the kernels, and what a kernel is.  Nothing here needs TVM.

A contract is a value that says everything about one hot operation: geometry, types, zero points, constants, rescaling.
A kernel refuses a contract with a sentence, or builds a TIR function for it, together with the constants packed the way
that function wants them.  The function's text depends only on what `Built.key` holds: weights, biases, multipliers and
shifts are inputs, so layers of equal shape share one compiled function.

Calling convention of every built function: activations in the order of the contract, packed constants, then the
output, all compact row-major tensors of exactly the shapes in `Built`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.rescale import Rescale
from tflite2q.arithmetic.rounding import code_range

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Tensor:
    """Shape and dtype of an input or output."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Conv2D:
    """x [batch, in_h, in_w, in_c] * weights [out_c, kh, kw, in_c / groups] (OHWI) -> [batch, out_h, out_w, out_c].

    accumulator = sum (x - x_zero_point) * (weight - weight_zero_point) + bias, of dtype `accumulator`: int32 with
    wrap-around, or int64, in which nothing overflows; taps outside the image contribute zero.  `weights` are raw codes
    (int8 or uint8); `weight_zero_points` has one entry or one per output channel; `padding` is (top, left, bottom,
    right); `bias` is an integer array [out_c] or None.
    """

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
    groups: int
    x_dtype: str
    x_zero_point: int
    weights: Array
    weight_zero_points: tuple[int, ...]
    bias: Array | None
    rescale: Rescale
    accumulator: str = "int32"

    def __post_init__(self) -> None:
        expected = (self.out_c, *self.kernel, self.in_c // self.groups)
        if self.weights.shape != expected:
            raise ValueError(f"convolution weights have shape {self.weights.shape}, the contract says {expected}")

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
        kh, kw = self.kernel
        return self.output.size * kh * kw * (self.in_c // self.groups)


@dataclass(frozen=True, eq=False)
class DepthwiseConv2D:
    """x [batch, in_h, in_w, in_c] * weights [1, kh, kw, out_c] -> [batch, out_h, out_w, out_c].

    Output channel c reads input channel c // depth_multiplier, depth_multiplier = out_c / in_c.  All else as `Conv2D`.
    """

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
    x_dtype: str
    x_zero_point: int
    weights: Array
    weight_zero_points: tuple[int, ...]
    bias: Array | None
    rescale: Rescale
    accumulator: str = "int32"

    def __post_init__(self) -> None:
        if self.weights.shape != (1, *self.kernel, self.out_c) or self.out_c % self.in_c:
            raise ValueError(
                f"depthwise weights of shape {self.weights.shape} for {self.in_c} to {self.out_c} channels"
            )

    @property
    def kernel(self) -> tuple[int, int]:
        return int(self.weights.shape[1]), int(self.weights.shape[2])

    @property
    def depth_multiplier(self) -> int:
        return self.out_c // self.in_c

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (Tensor((self.batch, self.in_h, self.in_w, self.in_c), self.x_dtype),)

    @property
    def output(self) -> Tensor:
        return Tensor((self.batch, self.out_h, self.out_w, self.out_c), self.rescale.dtype)

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations, padding included."""
        kh, kw = self.kernel
        return self.output.size * kh * kw


@dataclass(frozen=True, eq=False)
class Dense:
    """x [rows, depth] * weights [units, depth] -> [rows, units]; arithmetic as `Conv2D`."""

    rows: int
    depth: int
    units: int
    x_dtype: str
    x_zero_point: int
    weights: Array
    weight_zero_points: tuple[int, ...]
    bias: Array | None
    rescale: Rescale
    accumulator: str = "int32"

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (Tensor((self.rows, self.depth), self.x_dtype),)

    @property
    def output(self) -> Tensor:
        return Tensor((self.rows, self.units), self.rescale.dtype)

    @property
    def macs(self) -> int:
        return self.rows * self.depth * self.units

    def conv2d(self) -> Conv2D:
        """The same computation as a 1x1 convolution over one row of `rows` pixels."""
        return Conv2D(
            batch=1, in_h=1, in_w=self.rows, in_c=self.depth, out_h=1, out_w=self.rows, out_c=self.units,
            strides=(1, 1), dilation=(1, 1), padding=(0, 0, 0, 0), groups=1, x_dtype=self.x_dtype,
            x_zero_point=self.x_zero_point, weights=self.weights.reshape(self.units, 1, 1, self.depth),
            weight_zero_points=self.weight_zero_points, bias=self.bias, rescale=self.rescale,
            accumulator=self.accumulator,
        )  # fmt: skip


MOST_TAPS_OF_16_BITS = 4095


@dataclass(frozen=True, eq=False)
class RealConv2D:
    """float32 x [n, h, w, c] * weights [kh, kw, c / groups, out_c] (HWIO) -> [n, *out_size, out_c].

    Sums of products plus bias (float32 [out_c] or None), in any order, then clamped to [low, high] where they are not
    None; taps outside the image contribute zero.  A depthwise convolution has as many groups as input channels.
    """

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
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.x,)

    @property
    def output(self) -> Tensor:
        return Tensor((self.x.shape[0], *self.out_size, int(self.weights.shape[3])), "float32")


@dataclass(frozen=True)
class Pool:
    """Pooling of raw codes: x [batch, in_h, in_w, c] -> [batch, out_h, out_w, c], same dtype, clamped to [low, high].

    `kind` is "max" or "average"; taps outside the image do not count.  The average of codes - offset divides by the
    number of taps inside and rounds half away from zero (with no offset, for uint8 that is half up).  16-bit codes have
    at most `MOST_TAPS_OF_16_BITS` in a window.
    """

    kind: str
    batch: int
    in_h: int
    in_w: int
    channels: int
    out_h: int
    out_w: int
    window: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    dtype: str
    low: int
    high: int
    offset: int = 0

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (Tensor((self.batch, self.in_h, self.in_w, self.channels), self.dtype),)

    @property
    def output(self) -> Tensor:
        return Tensor((self.batch, self.out_h, self.out_w, self.channels), self.dtype)


@dataclass(frozen=True, eq=False)
class Lookup:
    """A unary function of an 8-bit tensor: y = table[x - lowest code of x's dtype].

    `table` has 256 entries of the output's dtype; `shape` is that of both tensors.
    """

    shape: tuple[int, ...]
    x_dtype: str
    table: Array

    def __post_init__(self) -> None:
        if self.table.shape != (256,) or self.x_dtype not in ("uint8", "int8"):
            raise ValueError(f"a look-up maps 256 codes of an 8-bit type, not {self.table.shape} of {self.x_dtype}")

    @property
    def low(self) -> int:
        """The code that table[0] belongs to."""
        return code_range(self.x_dtype)[0]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (Tensor(self.shape, self.x_dtype),)

    @property
    def output(self) -> Tensor:
        return Tensor(self.shape, str(self.table.dtype))


@dataclass(frozen=True)
class FixedSum:
    """The sum, or difference, of two int16 tensors of zero point 0 in fixed point (eq. 15), clamped to [low, high].

    `terms` and `result` are multipliers (m, shift) of eq. 5: of each operand, raised by 15 bits, and of their sum.
    """

    terms: tuple[tuple[int, int], tuple[int, int]]
    result: tuple[int, int]
    subtract: bool
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class Eltwise:
    """Any element-wise function of broadcasting tensors, as one fused loop.

    `meaning(core, *inputs)` is written over the element-wise part of `tflite2q.arithmetic.core.Core`; its constants have one
    element, or broadcast along the output's last axis.  `key` identifies the meaning with all its parameters: equal
    keys on equal shapes share one function.  `linear` and `fixed_sum` say so where it is a sum that kernels may compute
    otherwise: factors and offset in codes of the result, or the multipliers of its fixed point.
    """

    name: str
    key: Hashable
    meaning: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    output: Tensor
    linear: tuple[float, ...] | None = None
    fixed_sum: FixedSum | None = None


@dataclass(frozen=True, eq=False)
class Softmax:
    """Softmax of each row of x [rows, classes], same dtype, in the reference kernels' fixed point.

    `exponentials` is int64 [256]: exp of what lies so many codes below the row's largest, in Q0.31, 0 where dropped.
    """

    rows: int
    classes: int
    dtype: str
    exponentials: Array

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.output,)

    @property
    def output(self) -> Tensor:
        return Tensor((self.rows, self.classes), self.dtype)


@dataclass(frozen=True, eq=False)
class ResizeBilinear:
    """x [batch, in_h, in_w, channels] to [batch, out_h, out_w, channels], same 8-bit dtype.

    `rows` and `columns` say for each output row (column): index of the first and the second input row it lies between
    (int64), and how far beyond the first - in steps of 2**-10 (int64), where the mean of codes - offset is taken in
    integers and rounded half away from zero, or as float32, where it is taken in float32 and half up.
    """

    batch: int
    in_h: int
    in_w: int
    channels: int
    rows: tuple[Array, Array, Array]
    columns: tuple[Array, Array, Array]
    dtype: str
    offset: int = 0

    @property
    def in_float32(self) -> bool:
        return self.rows[2].dtype.kind == "f"

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (Tensor((self.batch, self.in_h, self.in_w, self.channels), self.dtype),)

    @property
    def output(self) -> Tensor:
        return Tensor((self.batch, len(self.rows[0]), len(self.columns[0]), self.channels), self.dtype)


@dataclass(frozen=True)
class ArgMax:
    """Index of the first largest (or smallest) code of each row: x [rows, classes] to [rows] of int32 or int64."""

    rows: int
    classes: int
    x_dtype: str
    dtype: str
    smallest: bool

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (Tensor((self.rows, self.classes), self.x_dtype),)

    @property
    def output(self) -> Tensor:
        return Tensor((self.rows,), self.dtype)


@dataclass(frozen=True)
class Concat:
    """Parts beside each other: x_k [rows, lengths[k]] of one dtype to [rows, sum(lengths)]."""

    rows: int
    lengths: tuple[int, ...]
    dtype: str

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(Tensor((self.rows, length), self.dtype) for length in self.lengths)

    @property
    def output(self) -> Tensor:
        return Tensor((self.rows, sum(self.lengths)), self.dtype)


Contract = (
    Conv2D | DepthwiseConv2D | Dense | RealConv2D | Pool | Lookup | Eltwise | Softmax | ResizeBilinear | ArgMax | Concat
)


@dataclass(frozen=True, eq=False)
class Built:
    """A kernel made for a contract.

    `name` decodes as types_operation_arithmetic_tile__isa.  `key` is all that `func` (a tvm.tirx.PrimFunc) depends on.
    """

    name: str
    key: Hashable
    func: Any
    inputs: tuple[Tensor, ...]
    constants: tuple[Array, ...]
    output: Tensor


class Kernel(Protocol):
    """One way of computing one kind of contract on one kind of processor."""

    @property
    def name(self) -> str:
        """As reports and `--explain` print it."""

    def refuses(self, contract: Any, target: Any) -> str | None:
        """Why this kernel cannot or should not compute `contract` on `target` (a tvm.target.Target); None if it can."""

    def build(self, contract: Any, target: Any) -> Built:
        """Call only if `refuses` gave None."""
