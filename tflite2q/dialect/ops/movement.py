"""Splitting, stacking, gathering: where codes go, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import INT8_VERSION_2, Builtin, Op, Operand, Operands, Shape, Values, attribute, require
from tflite2q.dialect.ops.common import axis_of, gather_constant, integer, integers
from tflite2q.dialect.ops.shape import Movement
from tflite2q.dialect.types import Value

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Transpose(Movement):
    """Axes in a constant new order."""

    mnemonic: ClassVar[str] = "q.transpose"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("TRANSPOSE", "TransposeOptions", {"int8": 2, "int16": 4}),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("order", "plain"))

    def order(self, ins: Values) -> tuple[int, ...]:
        rank = len(ins["x"].type.shape)
        order = tuple(axis_of(axis, rank) for axis in integers(ins["order"]))
        require(sorted(order) == list(range(rank)), f"order {list(order)} is not a permutation of {rank} axes")
        return order

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (tuple(ins["x"].type.shape[axis] for axis in self.order(ins)),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        return (core.permute_dims(ins["x"].data, self.order(ins.values)),)


@dataclass(frozen=True, kw_only=True)
class Split(Movement):
    """Consecutive parts along an axis, of equal or given sizes."""

    kind: str = attribute(None, "split")
    count: int = attribute("NumSplits", 0)

    mnemonic: ClassVar[str] = "q.split"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("SPLIT", "SplitOptions", INT8_VERSION_2, {"kind": "split"}),
        Builtin("SPLIT_V", "SplitVOptions", INT8_VERSION_2, {"kind": "split_v"}),
    )
    operands: ClassVar[tuple[Operand, ...]] = (Operand("first"), Operand("second"), Operand("axis", optional=True))

    @property
    def slots(self) -> tuple[Operand, ...]:
        """SPLIT takes (axis, x), SPLIT_V (x, sizes, axis)."""
        names = ("axis", "x") if self.kind == "split" else ("x", "sizes", "axis")
        return tuple(Operand(name, "activation" if name == "x" else "plain") for name in names)

    def parts(self, ins: Values) -> tuple[int, list[int]]:
        """The axis and the parts' sizes."""
        shape = ins["x"].type.shape
        axis = axis_of(integer(ins["axis"]), len(shape))
        extent = shape[axis]
        if self.kind == "split":
            whole = self.count == len(self.outputs) and extent % self.count == 0
            require(whole, f"{extent} does not split into {self.count} parts for {len(self.outputs)} results")
            return axis, [extent // self.count] * self.count
        sizes = integers(ins["sizes"])
        rest = extent - sum(size for size in sizes if size >= 0)
        sizes = [rest if size < 0 else size for size in sizes]
        require(sum(sizes) == extent and min(sizes, default=0) >= 0, f"sizes {sizes} do not make up {extent}")
        return axis, sizes

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        axis, sizes = self.parts(ins)
        require(len(sizes) == len(outs), f"{len(sizes)} parts for {len(outs)} results")
        shape = ins["x"].type.shape
        return tuple((*shape[:axis], size, *shape[axis + 1 :]) for size in sizes)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        axis, sizes = self.parts(ins.values)
        ends = [int(end) for end in np.cumsum(sizes)]
        x = ins["x"].data
        pairs = zip(ends, sizes, strict=True)
        return tuple(core.strided_slice(x, (axis,), (end - size,), (end,), (1,)) for end, size in pairs)


@dataclass(frozen=True, kw_only=True)
class Pack(Movement):
    """Equal shapes stacked along a new axis."""

    count: int = attribute("ValuesCount", 0)
    axis: int = attribute("Axis", 0)

    mnemonic: ClassVar[str] = "q.pack"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("PACK", "PackOptions", {"int8": 2, "int16": 3}),)
    variadic: ClassVar[bool] = True

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shapes = {part.type.shape for part in ins.every("x")}
        require(len(shapes) == 1, f"parts {[list(s) for s in shapes]} differ")
        (shape,) = shapes
        axis = axis_of(self.axis, len(shape) + 1)
        return ((*shape[:axis], len(ins), *shape[axis:]),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        shape = outs[0].type.shape
        axis = axis_of(self.axis, len(shape))
        thin = (*shape[:axis], 1, *shape[axis + 1 :])
        return (core.concat([core.reshape(part.data, thin) for part in ins.every("x")], axis),)


@dataclass(frozen=True, kw_only=True)
class Unpack(Movement):
    """Slices along an axis, which disappears."""

    count: int = attribute("Num", 0)
    axis: int = attribute("Axis", 0)

    mnemonic: ClassVar[str] = "q.unpack"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("UNPACK", "UnpackOptions", {"int8": 2, "int16": 4}),)

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape = ins["x"].type.shape
        axis = axis_of(self.axis, len(shape))
        require(shape[axis] == len(outs), f"{len(outs)} results for {shape[axis]} slices")
        return ((*shape[:axis], *shape[axis + 1 :]),) * len(outs)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        axis = axis_of(self.axis, len(ins["x"].type.shape))
        x = ins["x"].data
        slices = (core.strided_slice(x, (axis,), (i,), (i + 1,), (1,)) for i in range(len(outs)))
        return tuple(core.reshape(part, y.type.shape) for part, y in zip(slices, outs, strict=True))


def within(core: Core[T], index: T, extents: Sequence[int], op: Op) -> T:
    """int32 indices of `op`, each of which must be inside its axis; `extents` broadcast along the last axis."""
    least, end = core.const(np.full(1, -1, np.int32)), core.const(np.array(extents, np.int32))
    holds = core.where(core.less(least, index), core.less(index, end), core.const(np.zeros(1, np.bool_)))
    return core.demand(index, holds, f"{op.mnemonic} {op.name!r}: an index is out of range")


@dataclass(frozen=True, kw_only=True)
class Gather(Movement):
    """Slices of x along `axis` at computed indices; the first `batch_axes` axes of both go together."""

    axis: int = attribute("Axis", 0)
    batch_axes: int = attribute("BatchDims", 0)

    mnemonic: ClassVar[str] = "q.gather"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("GATHER", "GatherOptions", {"int8": 2, "int16": 4}),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("indices", "plain"))

    def axes(self, ins: Values) -> tuple[int, int]:
        """The axis taken from and the number of batch axes."""
        x, indices = ins["x"].type.shape, ins["indices"].type.shape
        axis = axis_of(self.axis, len(x))
        batch = self.batch_axes + (len(indices) if self.batch_axes < 0 else 0)
        fits = 0 <= batch <= min(axis, len(indices)) and x[:batch] == indices[:batch]
        require(fits, f"{self.batch_axes} batch axes do not fit {list(x)} and {list(indices)}")
        return axis, batch

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        axis, batch = self.axes(ins)
        x, indices = ins["x"].type.shape, ins["indices"].type.shape
        return ((*x[:axis], *indices[batch:], *x[axis + 1 :]),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        axis, batch = self.axes(ins.values)
        x, indices = ins["x"].type.shape, ins["indices"].type.shape
        index = within(core, core.astype(ins["indices"].data, "int32"), (x[axis],), self)
        if batch == 0:
            return (core.take(ins["x"].data, index, axis),)
        # One axis for batch and gathered axis together: offset each batch's indices by its position.
        rows, extent = int(np.prod(x[:batch])), x[axis]
        middle = tuple(range(batch, axis))
        front = core.permute_dims(ins["x"].data, (*range(batch), axis, *middle, *range(axis + 1, len(x))))
        table = core.reshape(front, (rows * extent, *(x[i] for i in middle), *x[axis + 1 :]))
        offsets = np.arange(rows, dtype=np.int32)[:, None] * np.int32(extent)
        flat = core.add(core.reshape(index, (rows, int(np.prod(indices[batch:])))), core.const(offsets))
        taken = core.reshape(core.take(table, flat, 0), (*indices, *(x[i] for i in middle), *x[axis + 1 :]))
        rank = len(indices)
        moved = tuple(range(rank, rank + len(middle)))
        tail = tuple(range(rank + len(middle), rank + len(x) - batch - 1))
        return (core.permute_dims(taken, (*range(batch), *moved, *range(batch, rank), *tail)),)


@dataclass(frozen=True, kw_only=True)
class GatherNd(Movement):
    """Slices of x at computed positions: each row of `indices` names an element or slice by its leading axes."""

    mnemonic: ClassVar[str] = "q.gather_nd"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("GATHER_ND", "GatherNdOptions", {"int8": 2, "int16": 3}),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("indices", "plain"))

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        x, indices = ins["x"].type.shape, ins["indices"].type.shape
        require(len(indices) > 0 and indices[-1] <= len(x), f"indices {list(indices)} for {len(x)} axes")
        return ((*indices[:-1], *x[indices[-1] :]),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x, indices = ins["x"].type.shape, ins["indices"].type.shape
        depth = indices[-1]
        steps = np.array([int(np.prod(x[axis + 1 : depth])) for axis in range(depth)], np.int32)
        index = within(core, core.astype(ins["indices"].data, "int32"), x[:depth], self)
        products = core.multiply(index, core.const(steps))
        table = core.reshape(ins["x"].data, (int(np.prod(x[:depth])), *x[depth:]))
        return (core.take(table, core.sum(products, (-1,)), 0),)


@dataclass(frozen=True, kw_only=True)
class Tile(Movement):
    """x repeated a constant number of times along each axis."""

    mnemonic: ClassVar[str] = "q.tile"
    # LiteRT's reference kernels have no version 3, and take codes in version 1.
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("TILE", "TileOptions", stated={"int8": 3, "int16": 3}),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("multiples", "plain"))

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape, times = ins["x"].type.shape, integers(ins["multiples"])
        require(len(shape) == len(times) and min(times, default=0) >= 0, f"multiples {times} for {len(shape)} axes")
        return (tuple(n * extent for n, extent in zip(times, shape, strict=True)),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x = ins["x"].data
        for axis, (times, extent) in enumerate(zip(integers(ins["multiples"].value), ins["x"].type.shape, strict=True)):
            if times != 1:
                x = gather_constant(core, x, np.tile(np.arange(extent), times), axis)
        return (x,)


@dataclass(frozen=True, kw_only=True)
class BroadcastTo(Movement):
    """x repeated to a constant larger shape, by the rules of broadcasting."""

    mnemonic: ClassVar[str] = "q.broadcast_to"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin(
            "BROADCAST_TO",
            "BroadcastToOptions",
            {**dict.fromkeys(("uint8", "float32", "int32", "int64"), 2), "int8": 3, "int16": 3},
        ),
    )
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("shape", "plain"))

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        have, want = ins["x"].type.shape, tuple(integers(ins["shape"]))
        aligned = zip(reversed(have), reversed(want), strict=False)
        fits = len(have) <= len(want) and all(n in (1, wanted) for n, wanted in aligned)
        require(fits, f"{list(have)} does not broadcast to {list(want)}")
        return (want,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        return (core.broadcast_to(ins["x"].data, outs[0].type.shape),)


@dataclass(frozen=True, kw_only=True)
class Reverse(Movement):
    """x backwards along constant axes."""

    mnemonic: ClassVar[str] = "q.reverse"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("REVERSE_V2", "ReverseV2Options", {"int8": 3, "int16": 3}),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("axes", "plain"))

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["x"].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        shape = ins["x"].type.shape
        axes = sorted({axis_of(axis, len(shape)) for axis in integers(ins["axes"].value)})
        last, before = [shape[axis] - 1 for axis in axes], [-1] * len(axes)
        return (core.strided_slice(ins["x"].data, axes, last, before, before),)
