"""Parts of a tensor by where they begin and end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Builtin, Operand, Operands, Shape, Values, attribute, require
from tflite2q.dialect.ops.common import integers
from tflite2q.dialect.ops.movement import within
from tflite2q.dialect.ops.shape import Movement
from tflite2q.dialect.types import UnknownUntilRun, Value

T = TypeVar("T")


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
        begin, end = self._begins(ins), self._ends(ins)
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

    def _begins(self, ins: Values) -> list[int | None]:
        """The numbers of begin: 0 where a mask says that they do not matter, None for an index that only the run
        knows."""
        value = ins["begin"]
        if value.constant is not None:
            return list(integers(value))
        free = self.ellipsis_mask | self.new_axis_mask | self.begin_mask
        self._require_known(value, "begin", free | self.shrink_axis_mask)
        return [0 if free >> i & 1 else None for i in range(value.type.size)]

    def _ends(self, ins: Values) -> list[int]:
        """The numbers of end: 0 where a mask says that they do not matter."""
        value = ins["end"]
        if value.constant is not None:
            return list(integers(value))
        free = self.ellipsis_mask | self.new_axis_mask | self.end_mask | self.shrink_axis_mask
        self._require_known(value, "end", free)
        return [0] * value.type.size

    def _require_known(self, value: Value, name: str, free: int) -> None:
        """Raise UnknownUntilRun for numbers that only the run knows, unless those are of axes in the mask `free`."""
        if not all(free >> i & 1 for i in range(value.type.size)):
            raise UnknownUntilRun(value.name, name)

    def indices(self, i: int, first: int | None, last: int, stride: int, extent: int) -> range:
        """The indices that range `i` takes on an axis of `extent`: all, if only the run knows the index."""
        if first is None:
            require(stride > 0, f"stride {stride} on an axis that is dropped")
            return range(extent)
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
