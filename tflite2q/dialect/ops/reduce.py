"""Reductions along constant axes: sums, extrema, positions of extrema, the largest k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic import rounding
from tflite2q.arithmetic.core import Core
from tflite2q.arithmetic.rescale import Rescale, int_const, multiply_fixed
from tflite2q.dialect.op import (
    INT8_VERSION_2,
    Builtin,
    Named,
    Op,
    Operand,
    Operands,
    Shape,
    Values,
    attribute,
    require,
    supported,
)
from tflite2q.dialect.ops.binary import truncated_quotient
from tflite2q.dialect.ops.common import CODES, axis_of, centred, check_numbers, integer, integers, is_codes, number
from tflite2q.dialect.spans import Span, times
from tflite2q.dialect.types import Value

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Reduce(Op):
    """A reduction of x over constant axes."""

    keep_dims: bool = attribute("KeepDims", False)

    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("axes", "plain"))

    def axes(self, ins: Values) -> tuple[int, ...]:
        """The reduced axes, sorted, none negative."""
        rank = len(ins["x"].type.shape)
        return tuple(sorted({axis_of(axis, rank) for axis in integers(ins["axes"])}))

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        x, y = ins["x"].type, outs[0].type
        bare = x.quantization is None and y.quantization is None and x.dtype == y.dtype
        if not (bare and x.dtype in CODES):
            check_numbers(ins["x"], outs[0])
        shape = x.shape
        require(all(shape[axis] > 0 for axis in self.axes(ins)), f"nothing to reduce on an axis of {list(shape)}")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape, axes = ins["x"].type.shape, self.axes(ins)
        if self.keep_dims:
            return (tuple(1 if axis in axes else size for axis, size in enumerate(shape)),)
        return (tuple(size for axis, size in enumerate(shape) if axis not in axes),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x, y = ins["x"], outs[0].type
        axes = self.axes(ins.values)
        if is_codes(y):
            return (core.reshape(self.codes(core, x.data, axes, x.value, outs[0]), y.shape),)
        if y.dtype in CODES:
            return (core.reshape(self.bare_codes(core, x.data, axes, outs[0]), y.shape),)
        return (core.reshape(self.numbers(core, x.data, axes, x.value), y.shape),)

    def codes(self, core: Core[T], x: T, axes: tuple[int, ...], source: Value, y: Value) -> T:
        """The reduction of quantized codes."""
        raise NotImplementedError

    def numbers(self, core: Core[T], x: T, axes: tuple[int, ...], source: Value) -> T:
        """The reduction of plain numbers."""
        raise NotImplementedError

    def bare_codes(self, core: Core[T], x: T, axes: tuple[int, ...], y: Value) -> T:
        """The reduction of codes without parameters."""
        raise NotImplementedError

    def count(self, source: Value, axes: tuple[int, ...]) -> int:
        """Elements that are reduced to one."""
        return int(np.prod([source.type.shape[axis] for axis in axes], dtype=np.int64))


@dataclass(frozen=True, kw_only=True)
class Sum(Reduce):
    """Sum of centred codes, rescaled by s_x / s_y.

    LiteRT's reference kernel of SUM reads int8 and int16 codes as if they were uint8; TFLite Micro computes this sum.
    """

    mnemonic: ClassVar[str] = "q.sum"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("SUM", "ReducerOptions", INT8_VERSION_2),)
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = ("uint8",)  # no scheme makes an int8 one, which LiteRT would compute wrongly
    kept_dtypes: ClassVar[tuple[str, ...]] = ("int8", "int16")
    deviation: ClassVar[str] = (
        "int8, int16: LiteRT's reference kernel reads codes as uint8; this is what TFLite Micro computes, and LiteRT's "
        "default kernels within a step"
    )

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        count = self.count(ins["x"], self.axes(ins))
        return times(spans["x"], (count, count))

    def multiplier(self, real: np.float64, count: int) -> tuple[int, int]:
        """(m, shift) of eq. 5 that turn the sum of `count` codes into a result."""
        m, shift = rounding.quantize_multiplier(real)
        return int(m), int(shift)

    def codes(self, core: Core[T], x: T, axes: tuple[int, ...], source: Value, y: Value) -> T:
        kind, count = y.type, self.count(source, axes)
        m, shift = self.multiplier(np.float64(source.type.scale) / np.float64(kind.scale), count)
        total = core.sum(core.astype(x, "int32"), axes)
        offset = int_const(core, source.type.zero_point * count)
        scaled = multiply_fixed(core, core.subtract(core.astype(total, "int64"), offset), m, shift)
        code = core.add(scaled, int_const(core, kind.zero_point))
        return core.astype(core.clip(code, *kind.range), kind.dtype)

    def numbers(self, core: Core[T], x: T, axes: tuple[int, ...], source: Value) -> T:
        return core.sum(x, axes)

    def bare_codes(self, core: Core[T], x: T, axes: tuple[int, ...], y: Value) -> T:
        """0: LiteRT and TFLite Micro take absent scales for 0, and so the multiplier."""
        return core.const(np.zeros(y.type.shape or (1,), y.type.dtype))


@dataclass(frozen=True, kw_only=True)
class Mean(Sum):
    """Mean: the sum, with the division by the count folded into the multiplier (eq. 14)."""

    mnemonic: ClassVar[str] = "q.mean"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("MEAN", "ReducerOptions", {"int8": 2, "int16": 3}),)
    dtypes: ClassVar[tuple[str, ...]] = CODES
    deviation: ClassVar[str] = ""

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return spans["x"]

    def multiplier(self, real: np.float64, count: int) -> tuple[int, int]:
        m, shift = super().multiplier(real, count)
        k = min(int(np.log2(count)), 32, 31 + shift)
        return (m << k) // count, shift - k

    def numbers(self, core: Core[T], x: T, axes: tuple[int, ...], source: Value) -> T:
        total, dtype = core.sum(x, axes), source.type.dtype
        count = number(core, self.count(source, axes), dtype)
        return core.divide(total, count) if dtype == "float32" else truncated_quotient(core, total, count, dtype)


@dataclass(frozen=True, kw_only=True)
class ReduceExtremum(Reduce):
    """Largest or smallest code; x and result share their parameters."""

    smallest: bool = attribute(None, False)

    mnemonic: ClassVar[str] = "q.reduce_max"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("REDUCE_MAX", "ReducerOptions", {"int8": 2, "int16": 3}, {"smallest": False}),
        Builtin("REDUCE_MIN", "ReducerOptions", {"int8": 2, "int16": 3}, {"smallest": True}),
    )
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = CODES

    def ties(self, dtype: str) -> tuple[tuple[str, ...], ...]:
        return ((self.reads("x"), self.outputs[0]),)

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return spans["x"]

    def codes(self, core: Core[T], x: T, axes: tuple[int, ...], source: Value, y: Value) -> T:
        return self.numbers(core, x, axes, source)

    def numbers(self, core: Core[T], x: T, axes: tuple[int, ...], source: Value) -> T:
        return core.min(x, axes) if self.smallest else core.max(x, axes)

    def bare_codes(self, core: Core[T], x: T, axes: tuple[int, ...], y: Value) -> T:
        return core.min(x, axes) if self.smallest else core.max(x, axes)


MOST_FACTORS = 256  # of a product of codes, which is rescaled after every factor


@dataclass(frozen=True, kw_only=True)
class Product(Reduce):
    """Product of centred codes, rescaled after each factor by s_x / s_y ** (1 / count); of numbers in halves."""

    mnemonic: ClassVar[str] = "q.reduce_prod"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("REDUCE_PROD", "ReducerOptions", {"int8": 2, "int16": 2}),)
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = ("int8", "int16")
    deviation: ClassVar[str] = "float32 within 1e-5: products are taken in another order"

    def takes_codes(self, ins: Values) -> bool:
        """The product of many codes underflows, or saturates."""
        return False

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        super().verify(ins, outs)
        if outs[0].type.dtype in CODES:
            check_numbers(ins["x"], outs[0])
            factors = self.count(ins["x"], self.axes(ins))
            supported(factors <= MOST_FACTORS, f"a product of {factors} codes; {MOST_FACTORS} are possible")

    def factors(self, core: Core[T], x: T, axes: tuple[int, ...], shape: Shape) -> tuple[T, Shape]:
        """x with the factors of each product on the last axis, and the shape of the others."""
        kept = tuple(axis for axis in range(len(shape)) if axis not in axes)
        rest = tuple(shape[axis] for axis in kept)
        count = int(np.prod([shape[axis] for axis in axes], dtype=np.int64))
        return core.reshape(core.permute_dims(x, (*kept, *axes)), (*rest, count)), rest

    def codes(self, core: Core[T], x: T, axes: tuple[int, ...], source: Value, y: Value) -> T:
        kind, count = y.type, self.count(source, axes)
        real = source.type.scale / kind.scale ** (1 / count)
        step = Rescale((real,), 0, -(2**31), 2**31 - 1, "int32", "fixed16")
        factors, rest = self.factors(core, centred(core, x, source.type.zero_point, "int64"), axes, source.type.shape)
        columns = [core.strided_slice(factors, (len(rest),), (i,), (i + 1,), (1,)) for i in range(count)]
        product = columns[0]
        for column in columns[1:]:
            product = core.astype(step.meaning(core, core.multiply(product, column)), "int64")
        last = Rescale((real,), kind.zero_point, *kind.range, kind.dtype, "fixed16")
        return last.meaning(core, product)

    def numbers(self, core: Core[T], x: T, axes: tuple[int, ...], source: Value) -> T:
        product, rest = self.factors(core, x, axes, source.type.shape)
        count, axis = self.count(source, axes), len(rest)
        while count > 1:
            half = count // 2
            first, second, last = (
                core.strided_slice(product, (axis,), (begin,), (end,), (1,))
                for begin, end in ((0, half), (half, 2 * half), (2 * half, count))
            )
            product = core.multiply(first, second)
            product = core.concat([product, last], axis) if count % 2 else product
            count = half + count % 2
        return product


@dataclass(frozen=True, kw_only=True)
class ReduceLogical(Reduce):
    """Whether all, or any, of the booleans hold."""

    every: bool = attribute(None, False)

    mnemonic: ClassVar[str] = "q.reduce_logical"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("REDUCE_ANY", "ReducerOptions", {}, {"every": False}),
        Builtin("REDUCE_ALL", "ReducerOptions", {}, {"every": True}),
    )
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "plain"), Operand("axes", "plain"))
    dtypes: ClassVar[tuple[str, ...]] = ()

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        x, y = ins["x"].type, outs[0].type
        require(x.dtype == y.dtype == "bool", "operand and result must be bool")
        require(all(x.shape[axis] > 0 for axis in self.axes(ins)), f"nothing to reduce on an axis of {list(x.shape)}")

    def numbers(self, core: Core[T], x: T, axes: tuple[int, ...], source: Value) -> T:
        marks = core.astype(x, "int8")
        return core.astype(core.min(marks, axes) if self.every else core.max(marks, axes), "bool")


@dataclass(frozen=True, kw_only=True)
class ArgExtremum(Op):
    """Index of the first largest (smallest) element along a constant axis, which disappears.

    NaN is passed over; where there is nothing else, the index is 0.  LiteRT differs with NaN on the last axis.
    """

    smallest: bool = attribute(None, False)
    output_type: str = attribute("OutputType", "INT64", enum="TensorType")

    mnemonic: ClassVar[str] = "q.argmax"
    contract: ClassVar[str | None] = "argmax"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("ARG_MAX", "ArgMaxOptions", INT8_VERSION_2, {"smallest": False}),
        Builtin("ARG_MIN", "ArgMinOptions", INT8_VERSION_2, {"smallest": True}),
    )
    floats: ClassVar[bool] = True
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("axis", "plain"))

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        require(outs[0].type.dtype in ("int32", "int64"), f"result is {outs[0].type.dtype}, not int32 or int64")

    def axis(self, ins: Values) -> int:
        return axis_of(integer(ins["axis"]), len(ins["x"].type.shape))

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape, axis = ins["x"].type.shape, self.axis(ins)
        require(shape[axis] > 0, f"no element on axis {axis} of {list(shape)}")
        return ((*shape[:axis], *shape[axis + 1 :]),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x = ins["x"].data
        if self.smallest:
            x = reversed_order(core, x, ins["x"].type.dtype)
        if ins["x"].type.dtype == "float32":
            least = core.const(np.array([-np.inf], np.float32))
            x = core.where(core.less_equal(least, x), x, least)
        return (core.astype(core.argmax(x, self.axis(ins.values)), outs[0].type.dtype),)


def reversed_order(core: Core[T], x: T, dtype: str) -> T:
    """Numbers whose order is the opposite of x's; wide enough that none wraps."""
    wide = {"float32": "float32", "int64": "int64", "int32": "int64"}.get(dtype, "int32")
    return core.negative(core.astype(x, wide))


@dataclass(frozen=True, kw_only=True)
class TopK(Op):
    """The k largest elements of each row (last axis), falling, of equal ones the first; and their indices."""

    mnemonic: ClassVar[str] = "q.top_k"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("TOPK_V2", "TopKV2Options", {"int8": 2, "int16": 3}),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("k", "plain"))
    results: ClassVar[tuple[str, ...]] = ("values", "indices")
    dtypes: ClassVar[tuple[str, ...]] = CODES

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        require(len(outs) == 2, f"has {len(outs)} results, not 2")
        x = ins["x"]
        require(outs[0].type.dtype == x.type.dtype, f"values are {outs[0].type.dtype}, not {x.type.dtype}")
        require(outs[1].type.dtype in ("int32", "int16"), f"indices are {outs[1].type.dtype}")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape, (k,) = ins["x"].type.shape, integers(ins["k"])
        require(len(shape) > 0 and 0 <= k <= shape[-1], f"the largest {k} of shape {list(shape)}")
        return ((*shape[:-1], k),) * 2

    def ties(self, dtype: str) -> tuple[tuple[str, ...], ...]:
        return ((self.reads("x"), self.outputs[0]),)

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return spans["x"]

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        shape, k = ins["x"].type.shape, outs[0].type.shape[-1]
        rows, extent = int(np.prod(shape[:-1])), shape[-1]
        table = core.reshape(ins["x"].data, (rows, extent))
        order = core.strided_slice(core.argsort(table, 1), (1,), (0,), (k,), (1,))
        offsets = np.arange(rows, dtype=np.int32)[:, None] * np.int32(extent)
        flat = core.reshape(ins["x"].data, (rows * extent,))
        values = core.take(flat, core.add(order, core.const(offsets)), 0)
        indices = core.astype(order, outs[1].type.dtype)
        return core.reshape(values, outs[0].type.shape), core.reshape(indices, outs[1].type.shape)
