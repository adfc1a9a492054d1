"""Windows over any axes, reduced to one element each: REDUCE_WINDOW."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Builtin, Op, Operand, Operands, Shape, Values, attribute, require, supported
from tflite2q.dialect.ops.common import integers
from tflite2q.dialect.types import STORAGE, Value

T = TypeVar("T")

MOST_TAPS = 1024  # of a window along an axis

# TFLite's names of reductions, over the core vocabulary.
REDUCTIONS: Mapping[str, Callable[[Core[Any], Any, Any], Any]] = {
    "ADD": lambda core, a, b: core.add(a, b),
    "MUL": lambda core, a, b: core.multiply(a, b),
    "MINIMUM": lambda core, a, b: core.minimum(a, b),
    "MAXIMUM": lambda core, a, b: core.maximum(a, b),
    "ALL": lambda core, a, b: core.where(a, b, core.const(np.zeros(1, np.bool_))),
    "ANY": lambda core, a, b: core.where(a, core.const(np.ones(1, np.bool_)), b),
}
SETTINGS = ("sizes", "strides", "dilations")


def window_counts(shape: Sequence[int], sizes: Sequence[int], strides: Sequence[int], steps: Sequence[int]) -> Shape:
    """How many windows there are along each axis of `shape`."""
    reach = [(size - 1) * step + 1 for size, step in zip(sizes, steps, strict=True)]
    pairs = zip(shape, reach, strides, strict=True)
    return tuple(0 if extent < r else (extent - r) // stride + 1 for extent, r, stride in pairs)


def reduced_windows(
    core: Core[T],
    x: T,
    shape: Sequence[int],
    sizes: Sequence[int],
    strides: Sequence[int],
    steps: Sequence[int],
    combine: Callable[[T, T], T],
) -> T:
    """Each window over x [shape] reduced to one element, axis after axis; nothing outside x takes part."""
    counts = window_counts(shape, sizes, strides, steps)
    for axis, (size, stride, step, count) in enumerate(zip(sizes, strides, steps, counts, strict=True)):
        if size == 1 and stride == 1:
            continue
        taps = []
        for tap in range(size):
            first = tap * step
            taps.append(core.strided_slice(x, (axis,), (first,), (first + (count - 1) * stride + 1,), (stride,)))
        x = reduce(combine, taps)
    return x


@dataclass(frozen=True, kw_only=True)
class ReduceWindow(Op):
    """Sums, products, extrema or logic of windows over any axes, begun from a given element."""

    function: str = attribute("ReduceFunction", "UNSUPPORTED", enum="ReduceWindowFunction")

    mnemonic: ClassVar[str] = "q.reduce_window"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("REDUCE_WINDOW", "ReduceWindowOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("x", "fixed"),
        Operand("start", "fixed"),
        *(Operand(name, "plain") for name in SETTINGS),
    )
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "int16")
    deviation: ClassVar[str] = "float32 within 1e-5: windows are reduced axis after axis"

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        dtype = ins["x"].type.dtype
        for value in (ins["start"], outs[0]):
            require(value.type.dtype == dtype, f"{value.name!r} is {value.type.dtype}, not {dtype}")
        require(ins["start"].type.size == 1, "begins from more than one element")
        supported(self.function in REDUCTIONS, f"reduction {self.function}")
        logical = self.function in ("ALL", "ANY")
        supported(logical == (dtype == "bool"), f"{self.function} of {dtype}")

    def settings(self, ins: Values) -> list[list[int]]:
        rank, found = len(ins["x"].type.shape), [integers(ins[name]) for name in SETTINGS]
        for name, numbers in zip(SETTINGS, found, strict=True):
            require(len(numbers) == rank and min(numbers, default=1) >= 1, f"{name} {numbers} for {rank} axes")
        supported(max(found[0], default=1) <= MOST_TAPS, f"a window of {found[0]}")
        return found

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (window_counts(ins["x"].type.shape, *self.settings(ins)),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        start, kind = ins["start"].data, outs[0].type
        if not math.prod(kind.shape):
            return (core.const(np.zeros(kind.shape, STORAGE[kind.dtype])),)
        combine, (sizes, strides, steps) = REDUCTIONS[self.function], self.settings(ins.values)
        x, shape = ins["x"].data, ins["x"].type.shape
        y = reduced_windows(core, x, shape, sizes, strides, steps, lambda a, b: combine(core, a, b))
        return (core.broadcast_to(combine(core, y, core.reshape(start, (1,))), kind.shape),)
