"""Operators that make indices, sizes and ranges; those whose results' sizes depend on data take constants only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Builtin, Op, Operand, Operands, Shape, Values, attribute, require, supported
from tflite2q.dialect.ops.numbers import check_plain
from tflite2q.dialect.types import Value

T = TypeVar("T")

LONGEST = 1 << 24  # elements of a range
CONSTANT_ONLY = "bit for bit; the input must be constant, because the size of the result depends on it"


@dataclass(frozen=True, kw_only=True)
class Range(Op):
    """start, start + delta, ... before limit; all three constant.  Real numbers are added up one by one."""

    mnemonic: ClassVar[str] = "q.range"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("RANGE", "RangeOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = tuple(Operand(name, "plain") for name in ("start", "limit", "delta"))
    dtypes: ClassVar[tuple[str, ...]] = ()
    deviation: ClassVar[str] = "bit for bit; start, limit and delta must be known while the model is read"

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        check_plain(*ins, *outs)
        for name in ("start", "limit", "delta"):
            require(ins[name].type.size == 1, f"{name} is more than one number")

    def count(self, ins: Values) -> int:
        start, limit, delta = (ins[name].data.reshape(-1)[0] for name in ("start", "limit", "delta"))
        require(bool(delta != 0), "steps of 0")
        require(
            bool((start <= limit) if delta > 0 else (start >= limit)), f"no steps of {delta} from {start} to {limit}"
        )
        if ins["start"].type.dtype == "float32":
            with np.errstate(all="ignore"):
                steps = np.ceil(np.abs((limit - start) / delta))
            require(bool(steps < LONGEST), "the range is too long")
            return int(steps)
        return -(-abs(int(limit) - int(start)) // abs(int(delta)))

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        count = self.count(ins)
        supported(count <= LONGEST, f"a range of {count} numbers; {LONGEST} are possible")
        return ((count,),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        dtype = outs[0].type.dtype
        line = np.full(outs[0].type.shape, ins.values["delta"].data.reshape(-1)[0], dtype)
        line[:1] = ins.values["start"].data.reshape(-1)[0]
        return (core.const(np.add.accumulate(line, dtype=dtype)),)


@dataclass(frozen=True, kw_only=True)
class BroadcastArgs(Op):
    """The shape that two shapes broadcast to."""

    mnemonic: ClassVar[str] = "q.broadcast_args"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("BROADCAST_ARGS"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("a", "plain"), Operand("b", "plain"))
    dtypes: ClassVar[tuple[str, ...]] = ()

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        dtype = outs[0].type.dtype
        require(dtype in ("int32", "int64"), f"a shape of {dtype}")
        for name in ("a", "b"):
            kind = ins[name].type
            require(kind.dtype == dtype and len(kind.shape) == 1, f"{name} is {kind.dtype}{list(kind.shape)}")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return ((max(ins["a"].type.size, ins["b"].type.size),),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        longest, dtype = outs[0].type.size, outs[0].type.dtype
        a, b = (core.pad(ins[n].data, (longest - ins[n].type.size,), (0,), 1) for n in ("a", "b"))
        one = core.const(np.ones(1, dtype))
        free = core.equal(a, one)
        size = core.where(free, b, a)
        yes = core.const(np.ones(1, np.bool_))
        holds = core.where(free, yes, core.where(core.equal(b, one), yes, core.equal(a, b)))
        return (core.demand(size, holds, f"{self.mnemonic} {self.name!r}: the shapes do not broadcast"),)


@dataclass(frozen=True, kw_only=True)
class Bucketize(Op):
    """How many of the rising boundaries each number has reached."""

    boundaries: tuple[float, ...] = attribute("Boundaries", ())

    mnemonic: ClassVar[str] = "q.bucketize"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("BUCKETIZE", "BucketizeOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "fixed"),)
    dtypes: ClassVar[tuple[str, ...]] = ()

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        check_plain(ins["x"])
        require(outs[0].type.dtype == "int32", f"buckets are {outs[0].type.dtype}, not int32")
        require(list(self.boundaries) == sorted(self.boundaries), "the boundaries do not rise")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["x"].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x = core.reshape(core.astype(ins["x"].data, "float32"), (ins["x"].type.size, 1))
        limits = core.const(np.array(self.boundaries, np.float32).reshape(1, -1))
        if not self.boundaries:
            return (core.const(np.zeros(outs[0].type.shape, np.int32)),)
        reached = core.astype(core.less_equal(limits, x), "int32")
        return (core.reshape(core.sum(reached, (1,)), outs[0].type.shape),)


@dataclass(frozen=True, kw_only=True)
class Where(Op):
    """The places of the elements that are not 0, row by row."""

    mnemonic: ClassVar[str] = "q.where"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("WHERE", "WhereOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("condition", "plain"),)
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8")
    deviation: ClassVar[str] = CONSTANT_ONLY

    def found(self, ins: Values) -> npt.NDArray[np.int64]:
        return np.argwhere(ins["condition"].data)

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        require(outs[0].type.dtype == "int64", f"places are {outs[0].type.dtype}, not int64")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (self.found(ins).shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        return (core.const(self.found(ins.values)),)


@dataclass(frozen=True, kw_only=True)
class Unique(Op):
    """The different elements of a line in order of appearance, and for each element which of them it is."""

    index_type: str = attribute("IdxOutType", "INT32", enum="TensorType")

    mnemonic: ClassVar[str] = "q.unique"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("UNIQUE", "UniqueOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "fixed"),)
    results: ClassVar[tuple[str, ...]] = ("values", "indices")
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "int16")
    deviation: ClassVar[str] = CONSTANT_ONLY

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        require(len(outs) == 2, f"has {len(outs)} results, not 2")
        x, index = ins["x"].type, outs[1].type.dtype
        require(outs[0].type.dtype == x.dtype and len(x.shape) == 1, f"{x.dtype}{list(x.shape)} is not one-dimensional")
        supported(index.upper() == self.index_type and index in ("int32", "int64"), f"indices are {index}")

    def found(self, ins: Values) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        x = ins["x"].data
        places: dict[Any, int] = {}
        indices = [places.setdefault(entry, len(places)) for entry in x.tolist()]
        return np.array(list(places), x.dtype), np.array(indices, self.index_type.lower())

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        values, indices = self.found(ins)
        return values.shape, indices.shape

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        values, indices = self.found(ins.values)
        return core.const(values), core.const(indices)
