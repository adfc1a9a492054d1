"""Contracts of codes to codes: pooling, look-ups, element-wise functions, resizing and the like."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tflite2q.arithmetic.rounding import code_range
from tflite2q.kernels import storage
from tflite2q.kernels.contracts.base import Array, Contract, Tensor

MOST_TAPS_OF_16_BITS = 4095


@dataclass(frozen=True)
class PoolContract(Contract):
    """Pooling of raw codes: x [batch, in_h, in_w, c] -> [batch, out_h, out_w, c], same dtype, clamped to [low, high].

    `kind` is "max" or "average"; taps outside the image do not count.  The average of codes - offset divides by the
    number of taps inside and rounds half away from zero (with no offset, for uint8 that is half up).  16-bit codes have
    at most `MOST_TAPS_OF_16_BITS` in a window.
    """

    stored_alike = True

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

    def _stored(self, inputs: Sequence[bool], output: bool) -> PoolContract:
        shift = storage.SHIFT
        return replace(self, dtype="uint8", low=self.low + shift, high=self.high + shift, offset=self.offset + shift)


@dataclass(frozen=True)
class CopyContract(Contract):
    """y = x: nothing to compute."""

    storable = False
    copies = True

    tensor: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.tensor,)

    @property
    def output(self) -> Tensor:
        return self.tensor


@dataclass(frozen=True, eq=False)
class LookupContract(Contract):
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

    @property
    def copies(self) -> bool:
        return str(self.table.dtype) == self.x_dtype and bool((self.table == np.arange(256) + self.low).all())

    def _stored(self, inputs: Sequence[bool], output: bool) -> LookupContract:
        table = storage.shifted(self.table) if output else self.table
        return replace(self, x_dtype="uint8" if inputs[0] else self.x_dtype, table=table)

    def clamped(self, low: float, high: float) -> LookupContract:
        return replace(self, table=self.table.clip(low, high))


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
class EltwiseContract(Contract):
    """Any element-wise function of broadcasting tensors, as one fused loop.

    `meaning(core, *inputs)` is written over the element-wise part of `arithmetic.core.Core`; its constants have one
    element, or broadcast along the output's last axis.  `key` identifies the meaning with all its parameters: equal
    keys on equal shapes share one function.  `linear` and `fixed_sum` say so where it is a sum that kernels may compute
    otherwise: factors and offset in codes of the result, or the multipliers of its fixed point.
    """

    name: str
    key: Hashable
    meaning: Callable[..., Any]
    operands: tuple[Tensor, ...]
    result: Tensor
    linear: tuple[float, ...] | None = None
    fixed_sum: FixedSum | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.operands

    @property
    def output(self) -> Tensor:
        return self.result

    def _stored(self, inputs: Sequence[bool], output: bool) -> EltwiseContract:
        tensors = tuple(
            Tensor(t.shape, "uint8" if mark else t.dtype) for t, mark in zip(self.inputs, inputs, strict=True)
        )
        linear = self.linear
        if linear is not None:
            *factors, offset = linear
            moved = sum(factor * mark for factor, mark in zip(factors, inputs, strict=True))
            linear = (*factors, offset + storage.SHIFT * (output - moved))
        return replace(
            self, key=(self.key, tuple(inputs), output), operands=tensors, linear=linear,
            meaning=storage.shifted_meaning(self.meaning, inputs, output),
            result=Tensor(self.result.shape, "uint8") if output else self.result,
        )  # fmt: skip

    def clamped(self, low: float, high: float) -> EltwiseContract | None:
        if self.result.dtype not in ("int8", "uint8", "int16"):
            return None
        meaning, total = self.meaning, self.fixed_sum
        if total is not None:
            total = replace(total, low=int(max(total.low, low)), high=int(min(total.high, high)))
            if total.low > total.high:
                return None

        def both(core: Any, *data: Any) -> Any:
            return core.clip(meaning(core, *data), low, high)

        return replace(self, key=(self.key, low, high), meaning=both, fixed_sum=total)


@dataclass(frozen=True, eq=False)
class SoftmaxContract(Contract):
    """Softmax of each row of x [rows, classes], same dtype, in the reference kernels' fixed point.

    `exponentials` is int64 [256]: exp of what lies so many codes below the row's largest, in Q0.31, 0 where dropped.
    """

    storable = False

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
class ResizeBilinearContract(Contract):
    """x [batch, in_h, in_w, channels] to [batch, out_h, out_w, channels], same dtype: codes of 8 or 16 bits or float32.

    `rows` and `columns` say for each output row (column): index of the first and the second input row it lies between
    (int64), and how far beyond the first - in steps of 2**-10 (int64), where the mean of codes - offset is taken in
    integers and rounded half away from zero, or as float32, where it is taken in float32: four terms
    x * weight of the row * weight of the column, column after column, each product and sum rounded.  Codes add 0.5 to
    their sum and truncate it; real numbers add 0, which leaves no -0.
    """

    stored_alike = True

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

    def _stored(self, inputs: Sequence[bool], output: bool) -> ResizeBilinearContract:
        if self.in_float32:
            raise ValueError("a resize of int8 is computed in integers")
        return replace(self, dtype="uint8", offset=self.offset + storage.SHIFT)


@dataclass(frozen=True)
class ArgMaxContract(Contract):
    """Index of the first largest (or smallest) number of each row: x [rows, classes] to [rows] of int32 or int64.

    NaN is passed over; a row of nothing else gives 0.
    """

    storable = False

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


@dataclass(frozen=True, eq=False)
class ResizedArgMaxContract(Contract):
    """The second of the first's output, whose pixels are its rows."""

    storable = False

    resize: ResizeBilinearContract
    argmax: ArgMaxContract

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.resize.inputs

    @property
    def output(self) -> Tensor:
        return self.argmax.output


@dataclass(frozen=True)
class ConcatContract(Contract):
    """Parts beside each other: x_k [rows, lengths[k]] of one dtype to [rows, sum(lengths)]."""

    stored_alike = True

    rows: int
    lengths: tuple[int, ...]
    dtype: str

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(Tensor((self.rows, length), self.dtype) for length in self.lengths)

    @property
    def output(self) -> Tensor:
        return Tensor((self.rows, sum(self.lengths)), self.dtype)

    def _stored(self, inputs: Sequence[bool], output: bool) -> ConcatContract:
        return replace(self, dtype="uint8")
