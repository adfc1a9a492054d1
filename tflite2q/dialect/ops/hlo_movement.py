"""StableHLO's operators that move elements: shapes, slices, padding, and gathering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Builtin, Operand, Operands, Shape, Values, attribute, require, supported
from tflite2q.dialect.ops.common import axis_of
from tflite2q.dialect.ops.hlo import WITHOUT_KERNEL, Hlo
from tflite2q.dialect.ops.placement import dilated, updated
from tflite2q.dialect.types import Value
from tflite2q.dialect.window import MOST_GROWTH, SMALL

T = TypeVar("T")

Numbers = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class HloMovement(Hlo):
    """Copies elements, codes too, of its first operand; all it moves has the same type."""

    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "fixed"),)
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "int16")
    deviation: ClassVar[str] = WITHOUT_KERNEL

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        x, y = ins["x"].type, outs[0].type
        require(x.dtype == y.dtype, f"moves {x.dtype} into {y.dtype}")
        supported(x.quantization == y.quantization, "moves codes to other parameters")


@dataclass(frozen=True, kw_only=True)
class HloReshape(HloMovement):
    """The same elements in the shape that the file declares for the result."""

    mnemonic: ClassVar[str] = "q.hlo_reshape"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("STABLEHLO_RESHAPE"),)

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape, size = outs[0].type.shape, ins["x"].type.size
        require(math.prod(shape) == size, f"{size} elements do not have the shape {list(shape)}")
        return (shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        return (core.reshape(ins["x"].data, outs[0].type.shape),)


@dataclass(frozen=True, kw_only=True)
class HloTranspose(HloMovement):
    """The axes in another order."""

    order: tuple[int, ...] = attribute("Permutation", ())

    mnemonic: ClassVar[str] = "q.hlo_transpose"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("STABLEHLO_TRANSPOSE", "StablehloTransposeOptions"),)

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape = ins["x"].type.shape
        require(sorted(self.order) == list(range(len(shape))), f"{list(self.order)} does not order {len(shape)} axes")
        return (tuple(shape[axis] for axis in self.order),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        return (core.permute_dims(ins["x"].data, self.order),)


@dataclass(frozen=True, kw_only=True)
class HloBroadcast(HloMovement):
    """x along the named axes of the shape that the file declares for the result, repeated along the others."""

    axes: tuple[int, ...] = attribute("BroadcastDimensions", ())

    mnemonic: ClassVar[str] = "q.hlo_broadcast"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("STABLEHLO_BROADCAST_IN_DIM", "StablehloBroadcastInDimOptions"),)

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        have, want = ins["x"].type.shape, outs[0].type.shape
        inside = len(self.axes) == len(have) == len(set(self.axes)) and all(0 <= a < len(want) for a in self.axes)
        require(inside, f"axes {list(self.axes)} for shapes {list(have)} and {list(want)}")
        fits = all(n in (1, want[axis]) for n, axis in zip(have, self.axes, strict=True))
        require(fits, f"{list(have)} does not broadcast to {list(want)}")
        return (want,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        shape, have = outs[0].type.shape, ins["x"].type.shape
        order = sorted(range(len(have)), key=lambda i: self.axes[i])
        thin = [1] * len(shape)
        for i in order:
            thin[self.axes[i]] = have[i]
        x = core.reshape(core.permute_dims(ins["x"].data, order) if have else ins["x"].data, thin or (1,))
        return (core.reshape(core.broadcast_to(x, shape or (1,)), shape),)


@dataclass(frozen=True, kw_only=True)
class HloSlice(HloMovement):
    """x[start:limit:stride] on each axis."""

    start: tuple[int, ...] = attribute("StartIndices", ())
    limit: tuple[int, ...] = attribute("LimitIndices", ())
    strides: tuple[int, ...] = attribute("Strides", ())

    mnemonic: ClassVar[str] = "q.hlo_slice"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("STABLEHLO_SLICE", "StablehloSliceOptions"),)

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape = ins["x"].type.shape
        require(len(self.start) == len(self.limit) == len(self.strides) == len(shape), f"bounds for {list(shape)}")
        ranges = list(zip(self.start, self.limit, self.strides, shape, strict=True))
        require(all(0 <= a <= b <= n and s > 0 for a, b, s, n in ranges), f"the slice is not inside {list(shape)}")
        return (tuple(-(-(b - a) // s) for a, b, s, _ in ranges),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        axes = range(len(self.start))
        return (core.strided_slice(ins["x"].data, axes, self.start, self.limit, self.strides),)


@dataclass(frozen=True, kw_only=True)
class HloConcat(HloMovement):
    """Parts one after the other along an axis."""

    axis: int = attribute("Dimension", 0)

    mnemonic: ClassVar[str] = "q.hlo_concat"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("STABLEHLO_CONCATENATE", "StablehloConcatenateOptions"),)
    variadic: ClassVar[bool] = True

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        for part in ins.every("x"):
            kind, y = part.type, outs[0].type
            require(kind.dtype == y.dtype, f"moves {kind.dtype} into {y.dtype}")
            supported(kind.quantization == y.quantization, "moves codes to other parameters")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shapes = [part.type.shape for part in ins.every("x")]
        axis = axis_of(self.axis, len(shapes[0]))
        others = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
        require(len(others) == 1 and {len(s) for s in shapes} == {len(shapes[0])}, "parts of different shapes")
        return ((*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :]),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        return (core.concat([part.data for part in ins.every("x")], self.axis),)


@dataclass(frozen=True, kw_only=True)
class HloIota(Hlo):
    """The index along an axis of the shape that the file declares for the result."""

    axis: int = attribute("IotaDimension", 0)

    mnemonic: ClassVar[str] = "q.hlo_iota"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("STABLEHLO_IOTA", "StablehloIotaOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = ()
    deviation: ClassVar[str] = WITHOUT_KERNEL

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        supported(outs[0].type.dtype in ("float32", "int32", "int64"), f"indices are {outs[0].type.dtype}")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        axis_of(self.axis, len(outs[0].type.shape))
        return (outs[0].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        shape = outs[0].type.shape
        axis = axis_of(self.axis, len(shape))
        line = np.arange(shape[axis]).astype(outs[0].type.dtype)
        thin = (1,) * axis + (-1,) + (1,) * (len(shape) - axis - 1)
        return (core.const(np.broadcast_to(line.reshape(thin), shape).copy()),)


@dataclass(frozen=True, kw_only=True)
class HloPad(HloMovement):
    """x with an element added, or elements dropped, at the ends of each axis and added from one to the next."""

    low: tuple[int, ...] = attribute("EdgePaddingLow", ())
    high: tuple[int, ...] = attribute("EdgePaddingHigh", ())
    interior: tuple[int, ...] = attribute("InteriorPadding", ())

    mnemonic: ClassVar[str] = "q.hlo_pad"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("STABLEHLO_PAD", "StablehloPadOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "fixed"), Operand("value", "fixed"))
    deviation: ClassVar[str] = ""

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        super().verify(ins, outs)
        require(ins["value"].type.dtype == ins["x"].type.dtype, f"the filler is {ins['value'].type.dtype}")
        require(ins["value"].type.size == 1, "the filler is more than one element")

    def spread(self, shape: Shape) -> Shape:
        """`shape` with what is added from one element to the next."""
        return tuple(n + max(n - 1, 0) * i for n, i in zip(shape, self.interior, strict=True))

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape = ins["x"].type.shape
        require(len(self.low) == len(self.high) == len(self.interior) == len(shape), f"margins of {list(shape)}")
        require(min(self.interior, default=0) >= 0, "a negative interior padding")
        wide = math.prod(self.spread(shape))
        supported(wide <= MOST_GROWTH * math.prod(shape) + SMALL, "needs padding far larger than the input")
        sizes = [low + n + high for low, n, high in zip(self.low, self.spread(shape), self.high, strict=True)]
        require(min(sizes, default=0) >= 0, f"margins of {list(shape)} leave less than nothing")
        return (tuple(sizes),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        shape, wide = ins["x"].type.shape, self.spread(ins["x"].type.shape)
        value = core.reshape(ins["value"].data, (1,))
        x = dilated(core, ins["x"].data, shape, self.interior, value)
        here = list(wide)
        for axis, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            size, total = here[axis], low + here[axis] + high
            first, last = min(max(-low, 0), size), size + min(high, 0)
            if first or last < size:
                x = core.strided_slice(x, (axis,), (first,), (max(last, first),), (1,))
            kept = max(last - first, 0)
            # A margin that drops more than there is takes the rest from the other one.
            before = min(max(low, 0), total)
            counts = (before, total - before - kept)
            margins = (core.broadcast_to(value, (*here[:axis], n, *here[axis + 1 :])) for n in counts)
            parts = zip((next(margins), x, next(margins)), (counts[0], kept, counts[1]), strict=True)
            used = [part for part, count in parts if count]
            x = core.concat(used, axis) if len(used) > 1 else used[0] if used else x
            here[axis] = total
        return (core.reshape(x, outs[0].type.shape),)


@dataclass(frozen=True, kw_only=True)
class HloDynamicSlice(HloMovement):
    """A part of x of constant size that begins where single numbers say, moved to where it fits."""

    sizes: tuple[int, ...] = attribute("SliceSizes", ())

    mnemonic: ClassVar[str] = "q.hlo_dynamic_slice"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("STABLEHLO_DYNAMIC_SLICE", "StablehloDynamicSliceOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "fixed"), Operand("start", "plain", optional=True))
    variadic: ClassVar[bool] = True

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape = ins["x"].type.shape
        fits = len(self.sizes) == len(shape) and all(0 < s <= n for s, n in zip(self.sizes, shape, strict=True))
        require(fits, f"a slice {list(self.sizes)} of {list(shape)}")
        check_starts(ins.every("start"), len(shape))
        return (self.sizes,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x = ins["x"].data
        pairs = zip(ins.every("start"), self.sizes, ins["x"].type.shape, strict=True)
        for axis, (start, size, extent) in enumerate(pairs):
            first = core.clip(core.reshape(core.astype(start.data, "int32"), (1,)), 0, extent - size)
            x = core.take(x, core.add(first, core.const(np.arange(size, dtype=np.int32))), axis)
        return (x,)


def check_starts(starts: Sequence[Value], rank: int) -> None:
    """One single int32 or int64 number for each axis."""
    require(len(starts) == rank, f"{len(starts)} starts for {rank} axes")
    for start in starts:
        require(start.type.size == 1 and start.type.dtype in ("int32", "int64"), f"{start.name!r} is no start")


@dataclass(frozen=True, kw_only=True)
class HloDynamicUpdateSlice(HloMovement):
    """x with `update` in place of the part that begins where single numbers say, moved to where it fits."""

    mnemonic: ClassVar[str] = "q.hlo_dynamic_update_slice"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("STABLEHLO_DYNAMIC_UPDATE_SLICE"),)
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("x", "fixed"),
        Operand("update", "fixed"),
        Operand("start", "plain", optional=True),
    )
    variadic: ClassVar[bool] = True

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape, update = ins["x"].type.shape, ins["update"].type
        require(update.dtype == ins["x"].type.dtype, f"the update is {update.dtype}")
        fits = len(update.shape) == len(shape) and all(u <= n for u, n in zip(update.shape, shape, strict=True))
        require(fits, f"an update {list(update.shape)} does not fit {list(shape)}")
        check_starts(ins.every("start"), len(shape))
        return (shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x, update = ins["x"], ins["update"]
        starts = [core.reshape(core.astype(start.data, "int32"), (1,)) for start in ins.every("start")]
        return (updated(core, x.data, x.type.shape, update.data, update.type.shape, starts),)


@dataclass(frozen=True, kw_only=True)
class HloGather(HloMovement):
    """Slices of x at computed places, each moved to where it fits, arranged as StableHLO's `gather` says."""

    offset_axes: tuple[int, ...] = attribute("OffsetDims", ())
    collapsed: tuple[int, ...] = attribute("CollapsedSliceDims", ())
    start_map: tuple[int, ...] = attribute("StartIndexMap", ())
    index_axis: int = attribute("IndexVectorDim", 0)
    sizes: tuple[int, ...] = attribute("SliceSizes", ())
    in_order: bool = attribute("IndicesAreSorted", False)

    mnemonic: ClassVar[str] = "q.hlo_gather"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("STABLEHLO_GATHER", "StablehloGatherOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "fixed"), Operand("indices", "plain"))
    deviation: ClassVar[str] = ""

    def batch(self, ins: Values) -> Shape:
        """The axes of `indices` that count slices."""
        shape = ins["indices"].type.shape
        return (*shape[: self.index_axis], *shape[self.index_axis + 1 :])

    def kept(self) -> list[int]:
        """Sizes of the slices without the axes that vanish."""
        return [size for axis, size in enumerate(self.sizes) if axis not in self.collapsed]

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        x, indices = ins["x"].type.shape, ins["indices"].type.shape
        require(0 <= self.index_axis <= len(indices), f"no axis {self.index_axis} of indices {list(indices)}")
        count = indices[self.index_axis] if self.index_axis < len(indices) else 1
        inside = len(self.start_map) == count and all(0 <= axis < len(x) for axis in self.start_map)
        require(inside and len(set(self.start_map)) == count, f"{count} numbers for axes {list(self.start_map)}")
        fits = len(self.sizes) == len(x) and all(0 < s <= n for s, n in zip(self.sizes, x, strict=True))
        require(fits, f"slices {list(self.sizes)} of {list(x)}")
        gone = all(0 <= axis < len(x) and self.sizes[axis] == 1 for axis in self.collapsed)
        require(gone, f"axes {list(self.collapsed)} are not all 1 in {list(self.sizes)}")
        batch, kept = list(self.batch(ins)), self.kept()
        rank = len(batch) + len(kept)
        placed = len(self.offset_axes) == len(kept) == len(set(self.offset_axes))
        require(placed and all(0 <= axis < rank for axis in self.offset_axes), f"offsets {list(self.offset_axes)}")
        pairs = dict(zip(sorted(self.offset_axes), kept, strict=True))
        rest = iter(batch)
        return (tuple(pairs[axis] if axis in pairs else next(rest) for axis in range(rank)),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x, indices, batch = ins["x"].type.shape, ins["indices"], self.batch(ins.values)
        number, width = math.prod(batch), math.prod(self.sizes)
        rows = core.astype(indices.data, "int32")
        rank = len(indices.type.shape)
        if self.index_axis < rank - 1:
            rows = core.permute_dims(rows, (*(a for a in range(rank) if a != self.index_axis), self.index_axis))
        rows = core.reshape(rows, (number, len(self.start_map)))
        strides = [math.prod(x[axis + 1 :]) for axis in range(len(x))]
        offsets = np.indices(self.sizes).reshape(len(x), width)
        flat = core.const((np.array(strides) @ offsets).astype(np.int32)[None])
        for place, axis in enumerate(self.start_map):
            column = core.strided_slice(rows, (1,), (place,), (place + 1,), (1,))
            first = core.clip(column, 0, x[axis] - self.sizes[axis])
            flat = core.add(flat, core.multiply(first, core.const(np.full((1, 1), strides[axis], np.int32))))
        taken = core.take(core.reshape(ins["x"].data, (math.prod(x),)), core.broadcast_to(flat, (number, width)), 0)
        kept = self.kept()
        taken = core.reshape(taken, (*batch, *kept))
        axes = {axis: len(batch) + i for i, axis in enumerate(sorted(self.offset_axes))}
        rest = iter(range(len(batch)))
        order = [axes[axis] if axis in axes else next(rest) for axis in range(len(batch) + len(kept))]
        return (core.permute_dims(taken, order) if order else taken,)
