"""Movement to places that are computed or lie on diagonals, and reading bits as another type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Builtin, Op, Operand, Operands, Shape, Values, attribute, require, supported
from tflite2q.dialect.ops.common import axis_of, integers
from tflite2q.dialect.ops.shape import Movement
from tflite2q.dialect.types import STORAGE, Value
from tflite2q.errors import UnsupportedError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DynamicUpdateSlice(Movement):
    """x with `update` in place of the part that begins at `start`, which is moved to where the part fits."""

    mnemonic: ClassVar[str] = "q.dynamic_update_slice"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("DYNAMIC_UPDATE_SLICE", "DynamicUpdateSliceOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("update"), Operand("start", "plain"))
    dtypes: ClassVar[tuple[str, ...]] = ("int8",)
    kept_dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int16")  # which older runtimes lack

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        super().verify(ins, outs)
        x, update = ins["x"].type, ins["update"].type
        require(update.dtype == x.dtype, f"the update is {update.dtype}, not {x.dtype}")
        fits = len(x.shape) == len(update.shape) and all(u <= n for u, n in zip(update.shape, x.shape, strict=True))
        require(fits, f"an update {list(update.shape)} does not fit {list(x.shape)}")
        require(ins["start"].type.shape == (len(x.shape),), f"start has shape {list(ins['start'].type.shape)}")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["x"].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        start = core.astype(ins["start"].data, "int32")
        starts = [core.strided_slice(start, (0,), (i,), (i + 1,), (1,)) for i in range(len(ins["x"].type.shape))]
        x, update = ins["x"], ins["update"]
        return (updated(core, x.data, x.type.shape, update.data, update.type.shape, starts),)


def updated(core: Core[T], x: T, shape: Shape, update: T, size: Shape, starts: Sequence[T]) -> T:
    """x [shape] with `update` [size] from `starts` on, int32 [1] for each axis, clamped so that it fits."""
    if not math.prod(size):
        return x
    inside = core.const(np.ones((1,) * max(len(shape), 1), np.bool_))
    for axis, start in enumerate(starts):
        first = core.clip(start, 0, shape[axis] - size[axis])
        place = core.subtract(core.const(np.arange(shape[axis], dtype=np.int32)), first)
        update = core.take(update, core.clip(place, 0, size[axis] - 1), axis)
        none, end = core.const(np.full(1, -1, np.int32)), core.const(np.full(1, size[axis], np.int32))
        here = core.where(core.less(none, place), core.less(place, end), core.const(np.zeros(1, np.bool_)))
        here = core.reshape(here, (shape[axis], *(1,) * (len(shape) - axis - 1)))
        inside = core.where(inside, here, core.const(np.zeros(1, np.bool_)))
    return core.where(inside, update, x)


@dataclass(frozen=True, kw_only=True)
class ReverseSequence(Movement):
    """The first elements of each sequence backwards, as many as its length says."""

    sequence_axis: int = attribute("SeqDim", 0)
    batch_axis: int = attribute("BatchDim", 0)

    mnemonic: ClassVar[str] = "q.reverse_sequence"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("REVERSE_SEQUENCE", "ReverseSequenceOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("lengths", "plain"))
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int16")

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        super().verify(ins, outs)
        shape, lengths = ins["x"].type.shape, ins["lengths"].type.shape
        axes = [axis_of(axis, len(shape)) for axis in (self.sequence_axis, self.batch_axis)]
        require(axes[0] != axes[1], "sequences and batches are on the same axis")
        require(lengths == (shape[axes[1]],), f"lengths {list(lengths)} of {shape[axes[1]]} sequences")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["x"].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        shape = ins["x"].type.shape
        batch, sequence = self.batch_axis % len(shape), self.sequence_axis % len(shape)
        order = (batch, sequence, *(axis for axis in range(len(shape)) if axis not in (batch, sequence)))
        count, steps = shape[batch], shape[sequence]
        rest = tuple(shape[axis] for axis in order[2:])
        rows = core.reshape(core.permute_dims(ins["x"].data, order), (count * steps, *rest))
        lengths = core.reshape(core.astype(ins["lengths"].data, "int32"), (count, 1))
        lengths = core.demand(
            lengths,
            core.less_equal(lengths, core.const(np.full((1, 1), steps, np.int32))),
            f"{self.mnemonic} {self.name!r}: a sequence is longer than its axis",
        )
        place = core.const(np.arange(steps, dtype=np.int32)[None])
        mirrored = core.subtract(core.subtract(lengths, core.const(np.ones((1, 1), np.int32))), place)
        source = core.where(core.less(place, lengths), mirrored, place)
        offsets = core.const(np.arange(count, dtype=np.int32)[:, None] * np.int32(steps))
        taken = core.take(rows, core.reshape(core.add(source, offsets), (count * steps,)), 0)
        back = tuple(int(axis) for axis in np.argsort(order))
        return (core.permute_dims(core.reshape(taken, (count, steps, *rest)), back),)


@dataclass(frozen=True, kw_only=True)
class MatrixDiag(Op):
    """Square matrices with the rows of x on their diagonals and codes 0 beside them."""

    mnemonic: ClassVar[str] = "q.matrix_diag"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("MATRIX_DIAG", "MatrixDiagOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "fixed"),)
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "int16")

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        require(outs[0].type.dtype == ins["x"].type.dtype, f"{ins['x'].type.dtype} into {outs[0].type.dtype}")
        require(len(ins["x"].type.shape) > 0, "takes no single number")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape = ins["x"].type.shape
        return ((*shape, shape[-1]),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x, n = ins["x"], ins["x"].type.shape[-1]
        rows = core.reshape(x.data, (*x.type.shape[:-1], 1, n))
        zero = core.const(np.zeros(1, STORAGE[x.type.dtype]))
        return (core.where(core.const(np.eye(n, dtype=np.bool_)), rows, zero),)


@dataclass(frozen=True, kw_only=True)
class MatrixSetDiag(Movement):
    """x with the rows of `diagonal` on the diagonals of its matrices."""

    mnemonic: ClassVar[str] = "q.matrix_set_diag"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("MATRIX_SET_DIAG", "MatrixSetDiagOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("diagonal"))

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        super().verify(ins, outs)
        shape, diagonal = ins["x"].type.shape, ins["diagonal"].type
        require(diagonal.dtype == ins["x"].type.dtype, f"the diagonal is {diagonal.dtype}")
        wanted = (*shape[:-2], min(shape[-2:], default=0))
        require(len(shape) >= 2 and diagonal.shape == wanted, f"a diagonal {list(diagonal.shape)} of {list(shape)}")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["x"].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        shape = ins["x"].type.shape
        rows, columns = shape[-2:]
        index = np.minimum(np.arange(columns), min(rows, columns) - 1).astype(np.int32)
        spread = core.take(ins["diagonal"].data, core.const(index), len(shape) - 2)
        spread = core.reshape(spread, (*shape[:-2], 1, columns))
        return (core.where(core.const(np.eye(rows, columns, dtype=np.bool_)), spread, ins["x"].data),)


@dataclass(frozen=True, kw_only=True)
class Dilate(Movement):
    """x with so many steps from each element to the next, and a given one between them."""

    mnemonic: ClassVar[str] = "q.dilate"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("DILATE", "DilateOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("dilations", "plain"), Operand("value"))

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        super().verify(ins, outs)
        require(ins["value"].type.dtype == ins["x"].type.dtype, f"the filler is {ins['value'].type.dtype}")
        require(ins["value"].type.size == 1, "the filler is more than one element")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape, steps = ins["x"].type.shape, integers(ins["dilations"])
        require(len(steps) == len(shape) and min(steps, default=1) >= 1, f"dilations {steps} of {list(shape)}")
        return (tuple(max((n - 1) * step + 1, 0) for n, step in zip(shape, steps, strict=True)),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        steps = [step - 1 for step in integers(ins["dilations"].value)]
        return (dilated(core, ins["x"].data, ins["x"].type.shape, steps, ins["value"].data),)


def dilated(core: Core[T], x: T, shape: Shape, between: Sequence[int], value: T) -> T:
    """x [shape] with `between` copies of `value`, one element, from each element of an axis to the next."""
    value = core.reshape(value, (1,))
    for axis, (extent, added) in enumerate(zip(shape, between, strict=True)):
        if not added or extent < 2:
            continue
        front, behind = shape[:axis], shape[axis + 1 :]
        gaps = core.broadcast_to(value, (*front, extent, added, *behind))
        wide = core.concat([core.reshape(x, (*front, extent, 1, *behind)), gaps], axis + 1)
        whole = core.reshape(wide, (*front, extent * (added + 1), *behind))
        end = (extent - 1) * (added + 1) + 1
        x = core.strided_slice(whole, (axis,), (0,), (end,), (1,))
        shape = (*front, end, *behind)
    return x


WIDTHS = {"bool": 1, **{name: np.dtype(name).itemsize for name in STORAGE.values() if name != "bool"}}


@dataclass(frozen=True, kw_only=True)
class Bitcast(Op):
    """The bits of x as elements of another dtype; the last axis appears or disappears where their widths differ."""

    mnemonic: ClassVar[str] = "q.bitcast"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("BITCAST", "BitcastOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "fixed"),)
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "int16")

    def widths(self, ins: Values, outs: Sequence[Value]) -> tuple[int, int]:
        """Bytes of an element of x and of the result."""
        kinds = (ins["x"].type.dtype, outs[0].type.dtype)
        for kind in kinds:
            supported(kind in STORAGE and kind not in ("int4", "bool"), f"BITCAST of {kind}")
        return WIDTHS[kinds[0]], WIDTHS[kinds[1]]

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape, (old, new) = ins["x"].type.shape, self.widths(ins, outs)
        if old > new:
            return ((*shape, old // new),)
        if old == new:
            return (shape,)
        require(shape[-1:] == (new // old,), f"the last axis of {list(shape)} is not {new // old}")
        return (shape[:-1],)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        old, new = self.widths(ins.values, outs)
        x, y = ins["x"], outs[0].type
        # All bits go through signed integers: core operations have no unsigned ones of 64 bits.
        bits = core.reinterpret(x.data, f"int{8 * old}")
        if old > new:
            bits = self.cut(core, core.reshape(bits, (*x.type.shape, 1)), old, new)
        elif old < new:
            bits = self.joined(core, bits, x.type.shape, old, new)
        return (core.reinterpret(bits, STORAGE[y.dtype]),)

    def cut(self, core: Core[T], bits: T, old: int, new: int) -> T:
        shifts = core.const(np.arange(old // new).astype(f"int{8 * old}") * np.dtype(f"int{8 * old}").type(8 * new))
        return core.astype(core.right_shift(bits, shifts), f"int{8 * new}")

    def joined(self, core: Core[T], bits: T, shape: Shape, old: int, new: int) -> T:
        wide, axis = f"int{8 * new}", len(shape) - 1
        total = None
        for index in range(new // old):
            part = core.reshape(core.strided_slice(bits, (axis,), (index,), (index + 1,), (1,)), shape[:-1] or (1,))
            part = core.astype(core.reinterpret(part, f"uint{8 * old}"), wide)
            part = core.left_shift(part, core.const(np.array([8 * old * index], wide)))
            total = part if total is None else core.add(total, part)
        if total is None:
            raise UnsupportedError("BITCAST of nothing")
        return core.reshape(total, shape[:-1])
