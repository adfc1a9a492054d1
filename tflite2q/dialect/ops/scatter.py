"""Operators that put rows where computed indices say: SCATTER_ND, SPARSE_TO_DENSE and the segment reductions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Builtin, Op, Operand, Operands, Shape, Tensor, Values, attribute, require, supported
from tflite2q.dialect.ops.common import integer, integers
from tflite2q.dialect.ops.movement import within
from tflite2q.dialect.ops.numbers import check_plain
from tflite2q.dialect.types import Value

T = TypeVar("T")


def places(core: Core[T], indices: T, rows: int, extents: Sequence[int], op: Op) -> T:
    """int32 [rows]: where each row of indices [rows, axes] is in a tensor of `extents`, its elements in one line."""
    if not extents:
        return core.const(np.zeros(rows, np.int32))
    steps = np.array([math.prod(extents[axis + 1 :]) for axis in range(len(extents))], np.int32)
    index = core.reshape(core.astype(indices, "int32"), (rows, len(extents)))
    return core.sum(core.multiply(within(core, index, extents, op), core.const(steps)), (1,))


@dataclass(frozen=True, kw_only=True)
class ScatterNd(Op):
    """Zeros of a constant shape, to which each slice of `updates` is added where its row of `indices` says.

    Codes are added as they are, and bits of booleans joined by OR.
    """

    mnemonic: ClassVar[str] = "q.scatter_nd"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("SCATTER_ND", "ScatterNdOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("indices", "plain"),
        Operand("updates", "fixed"),
        Operand("shape", "plain"),
    )
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8")

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        dtype = ins["updates"].type.dtype
        require(outs[0].type.dtype == dtype, f"scatters {dtype} into {outs[0].type.dtype}")
        supported(dtype in ("float32", "uint8", "int8", "int16", "int32", "int64", "bool"), f"SCATTER_ND of {dtype}")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape, rows = tuple(integers(ins["shape"])), ins["indices"].type.shape
        require(len(rows) > 0 and rows[-1] <= len(shape), f"indices {list(rows)} for {len(shape)} axes")
        require(min(shape, default=1) >= 1, f"no shape to scatter into is {list(shape)}")
        wanted = (*rows[:-1], *shape[rows[-1] :])
        have = ins["updates"].type.shape
        require(have == wanted, f"updates are {list(have)}, not {list(wanted)}")
        return (shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        indices, shape, dtype = ins["indices"], outs[0].type.shape, outs[0].type.dtype
        depth = indices.type.shape[-1]
        count, rows, width = math.prod(indices.type.shape[:-1]), math.prod(shape[:depth]), math.prod(shape[depth:])
        place = places(core, indices.data, count, shape[:depth], self)
        held = "int8" if dtype == "bool" else dtype
        updates = core.astype(core.reshape(ins["updates"].data, (count, width)), held)
        zeros = core.const(np.zeros((rows, width), held))
        y = core.scatter(zeros, place, updates, "maximum" if dtype == "bool" else "add")
        return (core.reshape(core.astype(y, dtype), shape),)


@dataclass(frozen=True, kw_only=True)
class SparseToDense(Op):
    """A constant shape filled with one element, but for the places that `indices` name; of equal places the last one
    counts."""

    validate: bool = attribute("ValidateIndices", False)

    mnemonic: ClassVar[str] = "q.sparse_to_dense"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("SPARSE_TO_DENSE", "SparseToDenseOptions", {"int64": 2, "int8": 3, "uint8": 3}),
    )
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("indices", "plain"),
        Operand("shape", "plain"),
        Operand("values", "fixed"),
        Operand("default", "fixed"),
    )
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8")

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        dtype = outs[0].type.dtype
        for name in ("values", "default"):
            require(ins[name].type.dtype == dtype, f"{name} are {ins[name].type.dtype}, not {dtype}")
        supported(dtype in ("float32", "uint8", "int8", "int32", "int64"), f"SPARSE_TO_DENSE of {dtype}")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape, rows = tuple(integers(ins["shape"])), ins["indices"].type.shape
        fits = len(rows) <= 2 and (rows[1] if len(rows) == 2 else 1) == len(shape)
        require(fits and min(shape, default=1) >= 1, f"indices {list(rows)} for shape {list(shape)}")
        count = rows[0] if rows else 1
        require(
            ins["values"].type.shape in ((), (count,)), f"{list(ins['values'].type.shape)} values for {count} places"
        )
        require(ins["default"].type.size == 1, "the default is more than one element")
        return (shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        rows, shape = ins["indices"].type.shape, outs[0].type.shape
        count = rows[0] if rows else 1
        place = places(core, ins["indices"].data, count, shape, self)
        values = ins["values"].data
        if ins["values"].type.shape != (count,):
            values = core.broadcast_to(core.reshape(values, (1,)), (count,))
        filled = core.broadcast_to(core.reshape(ins["default"].data, (1,)), (math.prod(shape),))
        return (core.reshape(core.scatter(filled, place, values, "update"), shape),)


# The reduction of each operator and what it starts from, of a dtype's least and largest numbers.
REDUCTIONS: Mapping[str, tuple[str, str | int]] = {
    "UNSORTED_SEGMENT_SUM": ("add", 0),
    "UNSORTED_SEGMENT_PROD": ("multiply", 1),
    "UNSORTED_SEGMENT_MAX": ("maximum", "least"),
    "UNSORTED_SEGMENT_MIN": ("minimum", "largest"),
    "SEGMENT_SUM": ("add", 0),
}


@dataclass(frozen=True, kw_only=True)
class Segment(Op):
    """Slices of x of the same segment reduced to one; slices of a negative segment belong to none.

    SEGMENT_SUM has as many segments as its ids say, which must therefore be constant and in order.
    """

    function: str = attribute(None, "UNSORTED_SEGMENT_SUM")

    mnemonic: ClassVar[str] = "q.segment"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("UNSORTED_SEGMENT_SUM", "UnsortedSegmentSumOptions", {}, {"function": "UNSORTED_SEGMENT_SUM"}),
        Builtin("UNSORTED_SEGMENT_PROD", "UnsortedSegmentProdOptions", {}, {"function": "UNSORTED_SEGMENT_PROD"}),
        Builtin("UNSORTED_SEGMENT_MAX", "UnsortedSegmentMaxOptions", {}, {"function": "UNSORTED_SEGMENT_MAX"}),
        Builtin("UNSORTED_SEGMENT_MIN", "UnsortedSegmentMinOptions", {}, {"function": "UNSORTED_SEGMENT_MIN"}),
        Builtin(
            "SEGMENT_SUM",
            "SegmentSumOptions",
            {},
            {"function": "SEGMENT_SUM"},
            deviation="LiteRT has no reference kernel; this is what its other one computes. Segments must be constant",
        ),
    )
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("x"),
        Operand("ids", "plain"),
        Operand("count", "plain", optional=True),
    )
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = ()

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        check_plain(ins["x"], outs[0])
        supported(outs[0].type.dtype in ("float32", "int32"), f"{self.function} of {outs[0].type.dtype}")
        require(
            (ins.get("count") is None) == (self.function == "SEGMENT_SUM"), "the number of segments is out of place"
        )

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        x, ids = ins["x"].type.shape, ins["ids"].type.shape
        require(0 < len(ids) <= len(x) and x[: len(ids)] == ids, f"segments {list(ids)} of shape {list(x)}")
        count = self.segments(ins)
        require(count >= 0, f"{count} segments")
        return ((count, *x[len(ids) :]),)

    def segments(self, ins: Values) -> int:
        if self.function != "SEGMENT_SUM":
            return integer(ins["count"])
        ids = integers(ins["ids"])
        ordered = all(0 <= b - a <= 1 for a, b in pairwise(ids))
        require(ordered and (not ids or ids[0] == 0), "segments are not in order, one after the other from 0")
        return ids[-1] + 1 if ids else 0

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x, y = ins["x"], outs[0].type
        count, width = ins["ids"].type.size, math.prod(y.shape[1:])
        place = self.rows(core, ins["ids"], y.shape[0])
        reduction, start = REDUCTIONS[self.function]
        table = core.const(np.full((y.shape[0] + 1, width), _start(start, y.dtype), y.dtype))
        made = core.scatter(table, place, core.reshape(x.data, (count, width)), reduction)
        return (core.reshape(core.strided_slice(made, (0,), (0,), (y.shape[0],), (1,)), y.shape),)

    def rows(self, core: Core[T], ids: Tensor[T], count: int) -> T:
        """The row of each slice; a row behind the others takes those that belong to none."""
        flat = core.reshape(core.astype(ids.data, "int32"), (ids.type.size,))
        known = within(core, core.maximum(flat, core.const(np.zeros(1, np.int32))), (max(count, 1),), self)
        return core.where(
            core.less(flat, core.const(np.zeros(1, np.int32))), core.const(np.full(1, count, np.int32)), known
        )


def _start(start: str | int, dtype: str) -> float:
    if isinstance(start, int):
        return start
    info = np.finfo(dtype) if dtype.startswith("float") else np.iinfo(dtype)
    return info.min if start == "least" else info.max  # type: ignore[return-value]
