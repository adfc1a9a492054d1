"""Slicing, splitting, stacking, gathering: where codes go, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import INT8_VERSION_2, Builtin, Op, Operand, Operands, Shape, Values, attribute, require
from tflite2q.dialect.ops.common import axis_of, gather_constant, integer, integers
from tflite2q.dialect.ops.shape import Movement
from tflite2q.dialect.types import UnknownUntilRun, Value

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
class Slice(Movement):
    """`size` elements from `begin` on each axis; a size of -1 means all that follow.

    `begin` may be known only at run time where all sizes are given.
    """

    mnemonic: ClassVar[str] = "q.slice"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("SLICE", "SliceOptions", {"int8": 2, "int16": 4}),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("begin", "plain"), Operand("size", "plain"))

    def bounds(self, ins: Values) -> tuple[list[int], list[int]]:
        """First and last + 1 index on each axis; where only the run knows them, those of the first part that fits."""
        shape, size = ins["x"].type.shape, integers(ins["size"])
        moves = ins["begin"].constant is None and -1 not in size
        begin = [0] * ins["begin"].type.size if moves else integers(ins["begin"])
        require(len(begin) == len(size) == len(shape), f"begin {begin} and size {size} for {len(shape)} axes")
        end = [extent if n == -1 else b + n for b, n, extent in zip(begin, size, shape, strict=True)]
        fits = all(0 <= b <= e <= extent for b, e, extent in zip(begin, end, shape, strict=True))
        require(fits, f"begin {begin} and size {size} do not fit {list(shape)}")
        return begin, end

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        begin, end = self.bounds(ins)
        return (tuple(e - b for b, e in zip(begin, end, strict=True)),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        begin, end = self.bounds(ins.values)
        axes = range(len(begin))
        if ins["begin"].value.constant is None and begin:
            return (self._moved(core, ins, end),)
        return (core.strided_slice(ins["x"].data, axes, begin, end, [1] * len(begin)),)

    def _moved(self, core: Core[T], ins: Operands[T], size: Sequence[int]) -> T:
        """The part of `size` that begins where the run says, which must be inside x."""
        shape, x = ins["x"].type.shape, ins["x"].data
        room = [extent - n + 1 for extent, n in zip(shape, size, strict=True)]
        begin = within(core, core.astype(ins["begin"].data, "int32"), room, self)
        for axis, n in enumerate(size):
            places = core.add(nth(core, begin, axis), core.const(np.arange(n, dtype=np.int32)))
            x = core.take(x, places, axis)
        return x


@dataclass(frozen=True, kw_only=True)
class StridedSlice(Movement):
    """Python's x[begin:end:stride] on each axis.

    Bits of the masks stand for axes: begin or end left open, the axis dropped (shrink), a new axis of 1, and the
    axes that `...` stands for.  With `offset`, end counts from begin.  The index of an axis that is dropped may be
    known only at run time, as in x[i]; what decides shapes may not.
    """

    begin_mask: int = attribute("BeginMask", 0)
    end_mask: int = attribute("EndMask", 0)
    ellipsis_mask: int = attribute("EllipsisMask", 0)
    new_axis_mask: int = attribute("NewAxisMask", 0)
    shrink_axis_mask: int = attribute("ShrinkAxisMask", 0)
    offset: bool = attribute("Offset", False)

    mnemonic: ClassVar[str] = "q.strided_slice"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("STRIDED_SLICE", "StridedSliceOptions", {"int8": 2, "int16": 4}),
    )
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("x"),
        Operand("begin", "plain"),
        Operand("end", "plain"),
        Operand("strides", "plain"),
    )

    def ranges(self, ins: Values) -> tuple[list[range], list[int], dict[int, int]]:
        """The indices taken on each axis of x, and the result's shape.

        Of an axis whose index only the run knows, all are taken; the last result says which range that axis has.
        """
        shape = ins["x"].type.shape
        strides = integers(ins["strides"])
        begin, end = self._numbers(ins, "begin"), self._numbers(ins, "end")
        require(len(begin) == len(end) == len(strides), "begin, end and strides differ in length")
        require(all(strides), "a stride is 0")
        added = sum(1 for i in range(len(begin)) if self.new_axis_mask >> i & 1)
        dots = sum(1 for i in range(len(begin)) if self.ellipsis_mask >> i & 1)
        require(dots <= 1, "more than one ellipsis")
        free = len(shape) - (len(begin) - added - dots)
        require(free >= 0, f"{len(begin)} ranges for {len(shape)} axes")
        # LiteRT makes new axes of bits that stand for no range, in the place of axes that are left as they are.
        unnamed = self.new_axis_mask >> len(begin) & (1 << free) - 1
        require(dots > 0 or not unnamed, f"new_axis_mask {self.new_axis_mask:#b} for {len(begin)} ranges")
        taken: list[range] = []
        kept: list[int] = []
        indexed: dict[int, int] = {}
        for i, (first, last, stride) in enumerate(zip(begin, end, strides, strict=True)):
            if self.ellipsis_mask >> i & 1:
                whole = shape[len(taken) : len(taken) + free]
                taken += [range(extent) for extent in whole]
                kept += whole
            elif self.new_axis_mask >> i & 1:
                kept.append(1)
            else:
                if first is None:
                    indexed[len(taken)] = i
                taken.append(self.indices(i, first, last, stride, shape[len(taken)]))
                kept += [] if self.shrink_axis_mask >> i & 1 else [len(taken[-1])]
        rest = shape[len(taken) :]
        return taken + [range(extent) for extent in rest], kept + list(rest), indexed

    def _numbers(self, ins: Values, name: str) -> list[int | None]:
        """The numbers of begin or end: 0 where a mask says that they do not matter, None for an index that only the run
        knows."""
        value = ins[name]
        if value.constant is not None:
            return list(integers(value))
        free = self.ellipsis_mask | self.new_axis_mask
        free |= self.begin_mask if name == "begin" else self.end_mask | self.shrink_axis_mask
        found = [0 if free >> i & 1 else None for i in range(value.type.size)]
        if any(n is None and not self.shrink_axis_mask >> i & 1 for i, n in enumerate(found)):
            raise UnknownUntilRun(value.name, name)
        return found

    def indices(self, i: int, first: int | None, last: int | None, stride: int, extent: int) -> range:
        """The indices that range `i` takes on an axis of `extent`: all, if only the run knows the index."""
        if first is None:
            require(stride > 0, f"stride {stride} on an axis that is dropped")
            return range(extent)
        assert last is not None
        if self.offset:  # which counts from where the range really begins
            bounded = min(max(first + extent if first < 0 else first, 0), extent)
            last += 0 if self.begin_mask >> i & 1 and stride > 0 else bounded
        if self.shrink_axis_mask >> i & 1:
            # TensorFlow refuses it, and LiteRT's kernels then write nothing.
            require(stride > 0, f"stride {stride} on an axis that is dropped")
            first = 0 if self.begin_mask >> i & 1 else first
            index = first + extent if first < 0 else first
            require(0 <= index < extent, f"index {first} on an axis of {extent}")
            return range(index, index + 1)
        opened = slice(None if self.begin_mask >> i & 1 else first, None if self.end_mask >> i & 1 else last, stride)
        taken = range(*opened.indices(extent))
        return taken if taken else range(0)  # an empty range may begin before the first element

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (tuple(self.ranges(ins)[1]),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        taken, shape, indexed = self.ranges(ins.values)
        begin = [indices.start for indices in taken]
        end = [indices.stop for indices in taken]
        strides = [indices.step for indices in taken]
        x = core.strided_slice(ins["x"].data, range(len(taken)), begin, end, strides)
        for axis, i in indexed.items():
            index = nth(core, core.astype(ins["begin"].data, "int32"), i)
            extent = core.const(np.full(1, len(taken[axis]), np.int32))
            from_end = core.less(index, core.const(np.zeros(1, np.int32)))
            index = core.where(from_end, core.add(index, extent), index)
            x = core.take(x, within(core, index, (len(taken[axis]),), self), axis)
        return (core.reshape(x, shape),)


def nth(core: Core[T], numbers: T, i: int) -> T:
    """[numbers[i]]."""
    return core.strided_slice(numbers, (0,), (i,), (i + 1,), (1,))


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
