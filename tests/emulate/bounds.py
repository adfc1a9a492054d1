"""Where a kernel reads and writes: every index of every access, over all iterations, against the buffer's shape.

Indices of kernels depend on loop variables and on constants, seldom on inputs.  So they need no run: each integer
expression is evaluated as an interval for all iterations at once, an array with an axis for each loop around it.
What follows from constants is exact; what depends on an input is everything that its type can hold.  All buffers are
covered, scratch and views too, and every target, whether this machine can run its code or not.

An index is checked on each axis: a store that runs from one row into the next is a fault, though it stays in memory.
Tiles of the matrix unit are checked as rows of bytes, with the shapes that the kernel configures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from emulate.trees import callee, is_call, operands
from tvm import tirx

from tflite2q.kernels.frame import Built

Array = npt.NDArray[Any]
Node = Any
CHILDREN = ("a", "b", "value", "condition", "true_value", "false_value", "base")


@dataclass(frozen=True)
class Interval:
    """Bounds of an integer, for each iteration of the loops around it (broadcast: the innermost loop comes first)."""

    low: Array
    high: Array

    @property
    def exact(self) -> bool:
        return self.low is self.high or bool((self.low == self.high).all())

    @staticmethod
    def of(value: Any) -> Interval:
        array = np.asarray(value, np.int64)
        return Interval(array, array)


@dataclass(frozen=True)
class Fault:
    """An access outside its buffer."""

    access: str
    low: int
    high: int
    extent: int

    def __str__(self) -> str:
        return f"{self.access}: {self.low} to {self.high} of {self.extent}"


def faults(built: Built) -> list[Fault]:
    """Every access of a kernel that may be outside its buffer, with the constants packed for it."""
    walk = _Walk()
    parameters = list(built.func.params)
    first = len(built.inputs)
    assert len(parameters) == first + len(built.constants) + 1
    for parameter, array in zip(parameters[first:], built.constants, strict=False):
        walk.known[parameter.name] = np.asarray(array)
        assert tuple(int(n) for n in parameter.shape) == array.shape, parameter.name
    walk.statement(built.func.body)
    return walk.found


class _Walk:
    """A walk over a function's body."""

    def __init__(self) -> None:
        self.found: list[Fault] = []
        self.known: dict[str, Array] = {}
        self._values: dict[str, Interval | None] = {}
        self._active: Array | None = None  # iterations that happen; None for all
        self._depth = 0
        self._tiles: dict[int, tuple[int, int]] = {}
        self._names: dict[Any, str] = {}

    # --- statements ---

    def statement(self, node: Node) -> None:
        if isinstance(node, tirx.SeqStmt):
            for each in node.seq:
                self.statement(each)
        elif isinstance(node, tirx.For):
            self._loop(node)
        elif isinstance(node, tirx.IfThenElse):
            self._branches(node)
        elif isinstance(node, tirx.AttrStmt):
            self.statement(node.body)
        elif isinstance(node, tirx.BufferStore):
            self._visit(node.value)
            self._access("store to", node.buffer, node.indices)
        elif isinstance(node, tirx.Bind):
            self._visit(node.value)
            self._values[self._key(node.var)] = self._evaluated(node.value)
        elif isinstance(node, tirx.Evaluate):
            self._visit(node.value)
        elif isinstance(node, tirx.AssertStmt):
            self._visit(node.condition)
        elif isinstance(node, tirx.DeclBuffer):
            self._view(node)
        else:
            assert isinstance(node, tirx.AllocBuffer), type(node)

    def _loop(self, node: Node) -> None:
        self._visit(node.extent)
        assert int(node.min) == 0
        extent = self._evaluated(node.extent)
        assert extent is not None, f"the extent of a loop is unknown: {node.extent}"
        most = int(self._only_active(extent.high).max(initial=0))
        if most <= 0:
            return
        count = np.arange(most, dtype=np.int64).reshape(most, *(1,) * self._depth)
        self._values[self._key(node.loop_var)] = Interval.of(count)
        before = self._active
        if int(extent.high.min()) < most:
            self._narrow(count < extent.high)
        self._depth += 1
        self.statement(node.body)
        self._depth -= 1
        self._active = before

    def _branches(self, node: Node) -> None:
        self._visit(node.condition)
        surely, maybe = self._condition(node.condition)
        before = self._active
        for branch, happens in ((node.then_case, maybe), (node.else_case, ~surely)):
            if branch is not None and happens.any():
                self._narrow(happens)
                if self._active is None or self._active.any():
                    self.statement(branch)
                self._active = before

    def _narrow(self, happens: Array) -> None:
        self._active = happens if self._active is None else self._active & happens

    def _view(self, node: Node) -> None:
        assert callee(node.data) == "tirx.buffer_data"
        source = node.data.args[0]
        if _bytes(node.buffer) > _bytes(source):
            self.found.append(Fault(f"view of {_name(source)}", 0, _bytes(node.buffer) - 1, _bytes(source)))
        if source.name in self.known and str(source.dtype) == str(node.buffer.dtype):
            self.known[self._key(node.buffer)] = self.known[self._key(source)].reshape(_shape(node.buffer))

    # --- accesses ---

    def _visit(self, node: Node) -> None:
        """Check all accesses in an expression."""
        if is_call(node):
            self._called(node)
            return
        if isinstance(node, tvm.ir.TensorLoad):
            self._access("load of", node.source, node.indices)
            return
        if isinstance(node, tirx.Shuffle):
            for each in node.vectors:
                self._visit(each)
            return
        if isinstance(node, tvm.ir.Var | tirx.IntImm | tirx.FloatImm | tvm.ir.StringImm):
            return
        for name in CHILDREN:
            child = getattr(node, name, None)
            if child is not None:
                self._visit(child)

    def _called(self, call: Node) -> None:
        name, args = callee(call), operands(call)
        if name.startswith("llvm.x86.tile") and len(args) == 3:
            rows, bytes_ = self._tiles[int(args[0].value)]
            kind = "tile stored to" if "store" in name else "tile loaded from"
            self._rows_of_bytes(kind, args[1], args[2], rows, bytes_)
        elif name == "llvm.x86.ldtilecfg":
            load = args[0].args[0]
            self._rows_of_bytes("configuration of tiles in", args[0], tirx.IntImm("int64", 0), 1, 64)
            shapes = self.known[self._key(load.source)].reshape(-1)
            self._tiles = {t: (int(shapes[48 + t]), int(shapes[16 + 2 * t])) for t in range(8)}
        elif name == "llvm.prefetch":
            return  # reads nothing; lines behind a buffer's end may be asked for
        else:
            assert name != "tirx.address_of", f"an address is taken where its use is unknown: {call}"
            for each in args:
                self._visit(each)

    def _access(self, kind: str, buffer: Node, indices: Sequence[Node]) -> None:
        shape = _shape(buffer)
        assert len(shape) == len(indices), buffer.name
        for axis, (index, extent) in enumerate(zip(indices, shape, strict=True)):
            base, reach = index, 0
            if isinstance(index, tirx.Ramp):
                base, reach = index.base, int(index.stride) * (int(index.lanes) - 1)
            self._visit(base)
            value = self._evaluated(base)
            if value is None:
                self.found.append(Fault(f"{kind} {_name(buffer)}, axis {axis}, index unknown: {base}", 0, 0, extent))
                continue
            self._within(f"{kind} {_name(buffer)}, axis {axis}", value, min(reach, 0), max(reach, 0), extent)

    def _rows_of_bytes(self, kind: str, address: Node, stride: Node, rows: int, count: int) -> None:
        load = address.args[0]
        self._access(kind, load.source, load.indices)
        offset, size = Interval.of(0), np.dtype(str(load.source.dtype)).itemsize
        for index, extent in zip(load.indices, _shape(load.source), strict=True):
            value = self._evaluated(index)
            assert value is not None
            offset = Interval(offset.low * extent + value.low, offset.high * extent + value.high)
        offset = Interval(offset.low * size, offset.high * size)
        step = self._evaluated(stride)
        assert step is not None and step.exact and step.low.size == 1
        last = (rows - 1) * int(step.low.reshape(-1)[0])
        what, extent = f"{kind} {_name(load.source)}", _bytes(load.source)
        self._within(what, offset, min(last, 0), max(last, 0) + count - 1, extent)

    def _within(self, what: str, value: Interval, before: int, behind: int, extent: int) -> None:
        low, high = self._only_active(value.low), self._only_active(value.high)
        if low.size and (low.min() + before < 0 or high.max() + behind >= extent):
            self.found.append(Fault(what, int(low.min()) + before, int(high.max()) + behind, extent))

    def _only_active(self, array: Array) -> Array:
        if self._active is None:
            return array
        together = np.broadcast_arrays(array, self._active)
        return np.asarray(together[0][together[1]])

    # --- values ---

    def _key(self, variable: Node) -> str:
        """A name for a variable; different ones may print alike."""
        name = variable.name if variable.name in self.known else f"#{len(self._names)}"
        return self._names.setdefault(variable, name)

    def _evaluated(self, node: Node) -> Interval | None:
        """The interval of an integer expression; None for real numbers, vectors, and what is not known."""
        if isinstance(node, int | tirx.IntImm):
            return Interval.of(int(node))
        if isinstance(node, tvm.ir.Var):
            return self._values.get(self._key(node))
        if is_call(node):
            return self._called_value(node)
        if isinstance(node, tvm.ir.TensorLoad):
            return self._loaded(node)
        if isinstance(node, tirx.Cast):
            return self._evaluated(node.value)
        if isinstance(node, tirx.Select):
            return _union(self._evaluated(node.true_value), self._evaluated(node.false_value))
        operation = OPERATIONS.get(type(node).__name__)
        if operation is None:
            return None
        a, b = self._evaluated(node.a), self._evaluated(node.b)
        return None if a is None or b is None else operation(a, b)

    def _called_value(self, call: Node) -> Interval | None:
        name, args = callee(call), operands(call)
        if name == "tirx.reinterpret":
            inner = args[0]
            dtype = str(call.ty.dtype)
            return _whole(dtype) if dtype in ("uint8", "int8") and inner is not None else None
        if name == "tirx.if_then_else":
            return _union(self._evaluated(args[1]), self._evaluated(args[2]))
        operation = OPERATIONS.get(name.removeprefix("tirx."))
        if operation is None or len(args) != 2:
            return None
        a, b = self._evaluated(args[0]), self._evaluated(args[1])
        return None if a is None or b is None else operation(a, b)

    def _loaded(self, load: Node) -> Interval | None:
        data = self.known.get(self._key(load.source))
        places = [self._evaluated(index) for index in load.indices]
        if data is None or data.dtype.kind not in "iu" or any(p is None for p in places):
            return _whole(str(load.source.dtype))
        if not all(p is not None and p.exact for p in places):
            return Interval(np.asarray(data.min(), np.int64), np.asarray(data.max(), np.int64))
        inside = tuple(np.clip(p.low, 0, n - 1) for p, n in zip(places, data.shape, strict=True) if p is not None)
        return Interval.of(data[inside])

    def _condition(self, node: Node) -> tuple[Array, Array]:
        """Where a condition surely holds, and where it may."""
        kind = type(node).__name__
        if kind in ("And", "Or"):
            join = np.logical_and if kind == "And" else np.logical_or
            (sure_a, may_a), (sure_b, may_b) = self._condition(node.a), self._condition(node.b)
            return np.asarray(join(sure_a, sure_b)), np.asarray(join(may_a, may_b))
        if kind == "Not":
            sure, may = self._condition(node.a)
            return ~may, ~sure
        if kind in ("GE", "GT"):
            return self._ordered(node.b, node.a, strict=kind == "GT")
        if kind in ("LE", "LT"):
            return self._ordered(node.a, node.b, strict=kind == "LT")
        return np.asarray(False), np.asarray(True)

    def _ordered(self, first: Node, second: Node, strict: bool) -> tuple[Array, Array]:
        a, b = self._evaluated(first), self._evaluated(second)
        if a is None or b is None:
            return np.asarray(False), np.asarray(True)
        compare = np.less if strict else np.less_equal
        return np.asarray(compare(a.high, b.low)), np.asarray(compare(a.low, b.high))


def _shape(buffer: Node) -> tuple[int, ...]:
    return tuple(int(extent) for extent in buffer.shape)


def _name(buffer: Node) -> str:
    return f"{buffer.name or 'scratch'} {buffer.dtype}{list(_shape(buffer))}"


def _bytes(buffer: Node) -> int:
    return math.prod(_shape(buffer)) * np.dtype(str(buffer.dtype)).itemsize


def _whole(dtype: str) -> Interval | None:
    """All that an integer type holds."""
    if dtype not in ("int8", "uint8", "int16", "uint16", "int32"):
        return None
    info = np.iinfo(dtype)
    return Interval(np.asarray(info.min, np.int64), np.asarray(info.max, np.int64))


def _union(a: Interval | None, b: Interval | None) -> Interval | None:
    return None if a is None or b is None else Interval(np.minimum(a.low, b.low), np.maximum(a.high, b.high))


def _ends(combine: Callable[[Array, Array], Array]) -> Callable[[Interval, Interval], Interval]:
    """An operation that is monotonous in each operand: its extremes lie at the operands' ends."""

    def apply(a: Interval, b: Interval) -> Interval:
        if a.exact and b.exact:
            return Interval.of(combine(a.low, b.low))
        ends = [combine(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
        shape = np.broadcast_shapes(*(e.shape for e in ends))
        whole = [np.broadcast_to(e, shape) for e in ends]
        return Interval(np.minimum.reduce(whole), np.maximum.reduce(whole))

    return apply


def _modulo(a: Interval, b: Interval) -> Interval:
    if a.exact and b.exact:
        return Interval.of(np.mod(a.low, b.low))
    return Interval(np.zeros_like(b.low), b.high - 1)


def _and(a: Interval, b: Interval) -> Interval | None:
    if a.exact and b.exact:
        return Interval.of(np.bitwise_and(a.low, b.low))
    mask = b if b.exact else a
    return Interval(np.zeros_like(mask.low), mask.high) if mask.exact and (mask.low >= 0).all() else None


OPERATIONS: dict[str, Callable[[Interval, Interval], Interval | None]] = {
    "Add": _ends(np.add),
    "Sub": _ends(np.subtract),
    "Mul": _ends(np.multiply),
    "Min": _ends(np.minimum),
    "Max": _ends(np.maximum),
    "FloorDiv": _ends(np.floor_divide),
    "FloorMod": _modulo,
    "BitwiseAnd": _and,
    "bitwise_and": _and,
    "RShift": _ends(np.right_shift),
    "LShift": _ends(np.left_shift),
}
