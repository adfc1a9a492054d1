"""Data movement: codes are copied, parameters do not matter, and no arithmetic is done."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Builtin, Named, Op, Operand, Operands, Shape, Values, attribute, require, supported
from tflite2q.dialect.ops.common import axis_of, integer, integers, states_shape
from tflite2q.dialect.spans import Span, union
from tflite2q.dialect.types import TensorType, Value

T = TypeVar("T")
E = TypeVar("E")


@dataclass(frozen=True, kw_only=True)
class Movement(Op):
    """Copies codes of its first operand; all it moves shares one set of parameters."""

    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"),)
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "int16")

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        x = ins["x"]
        for y in outs:
            require(y.type.dtype == x.type.dtype, f"moves {x.type.dtype} into {y.type.dtype}")

    def ties(self, dtype: str) -> tuple[tuple[str, ...], ...]:
        return ((*self.moved(self.inputs), *self.outputs),)

    def moved(self, entries: Sequence[E | None]) -> list[E]:
        """Those of `entries`, one for each operand, that belong to operands whose codes are moved."""
        return [e for index, e in enumerate(entries) if e is not None and self.operand(index).role == "activation"]

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return union(
            *self.moved([None if name is None else span for name, span in zip(self.inputs, spans, strict=True)])
        )


@dataclass(frozen=True, kw_only=True)
class Reshape(Movement):
    """RESHAPE, SQUEEZE, EXPAND_DIMS.

    A shape that the user gives RESHAPE when the model runs must be the one that the file declares for the result.
    """

    kind: str = attribute(None, "reshape")
    new_shape: tuple[int, ...] = attribute("NewShape", ())
    squeeze_dims: tuple[int, ...] = attribute("SqueezeDims", ())

    mnemonic: ClassVar[str] = "q.reshape"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("RESHAPE", "ReshapeOptions", {}, {"kind": "reshape"}),
        Builtin("SQUEEZE", "SqueezeOptions", {}, {"kind": "squeeze"}),
        Builtin("EXPAND_DIMS", "ExpandDimsOptions", {}, {"kind": "expand_dims"}),
    )
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("shape", "plain", optional=True))
    complexes: ClassVar[bool] = True

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        x, told = ins["x"].type, ins.get("shape")
        if self.kind == "squeeze":
            return (self.squeezed(x.shape),)
        if self.kind == "expand_dims":
            axis = axis_of(integer(ins["shape"]), len(x.shape) + 1)
            return ((*x.shape[:axis], 1, *x.shape[axis:]),)
        return (self.reshaped(x, told, outs[0]),)

    def assumed(self, ins: Values, outs: Sequence[Value]) -> Mapping[str, Shape]:
        told = ins.get("shape")
        decides = self.kind == "reshape" and told is not None and told.type.dtype == "int32" and told.constant is None
        return {"shape": outs[0].type.shape} if decides and states_shape(outs[0]) else {}

    def squeezed(self, shape: Shape) -> Shape:
        """`shape` without the axes named, or without all of one element."""
        axes = {axis_of(axis, len(shape)) for axis in self.squeeze_dims}
        axes = axes or {axis for axis, extent in enumerate(shape) if extent == 1}
        require(all(shape[axis] == 1 for axis in axes), f"axes {sorted(axes)} of {list(shape)} are not all 1")
        return tuple(extent for axis, extent in enumerate(shape) if axis not in axes)

    def reshaped(self, x: TensorType, told: Value | None, y: Value) -> Shape:
        """The shape asked for by the second operand, else by the attribute, -1 standing for what is left over."""
        if told is not None and told.type.dtype == "int32" and len(told.type.shape) == 1:
            wanted = tuple(integers(told))
        elif self.new_shape:
            wanted = () if self.new_shape == (0,) else self.new_shape  # [0] is how TOCO wrote a scalar
        else:
            return self.checked(x, y.type.shape)
        require(all(extent >= -1 for extent in wanted) and wanted.count(-1) <= 1, f"no shape is {list(wanted)}")
        rest = math.prod(extent for extent in wanted if extent != -1)
        return self.checked(x, tuple(x.size // max(rest, 1) if extent == -1 else extent for extent in wanted))

    def checked(self, x: TensorType, shape: Shape) -> Shape:
        require(x.size == math.prod(shape), f"{list(x.shape)} has {x.size} elements, result {list(shape)} not")
        return shape

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        return (core.reshape(ins["x"].data, outs[0].type.held),)


@dataclass(frozen=True, kw_only=True)
class Pad(Movement):
    """PAD fills with the zero point (real 0), PADV2 with a given constant code."""

    kind: str = attribute(None, "pad")

    mnemonic: ClassVar[str] = "q.pad"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("PAD", "PadOptions", {"int8": 2, "int16": 3}, {"kind": "pad"}),
        Builtin("PADV2", "PadV2Options", {"int8": 2, "int16": 3}, {"kind": "padv2"}),
    )
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("x"),
        Operand("paddings", "plain"),
        Operand("value", optional=True),
    )

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        super().verify(ins, outs)
        x, value = ins["x"], ins.get("value")
        if value is not None:  # a real number in place of a code, say, which the file leaves where it has no form of it
            require(value.type.dtype == x.type.dtype, f"pads {x.type.dtype} with {value.type.dtype}")

    def amounts(self, ins: Values) -> tuple[list[int], list[int]]:
        """Elements added before and after, per axis."""
        table = ins["paddings"].data
        rank = len(ins["x"].type.shape)
        require(table.shape == (rank, 2), f"paddings have shape {list(table.shape)}, not [{rank}, 2]")
        require(bool((table >= 0).all()), "paddings must not be negative")
        return [int(v) for v in table[:, 0]], [int(v) for v in table[:, 1]]

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        before, after = self.amounts(ins)
        return (tuple(b + n + a for b, n, a in zip(before, ins["x"].type.shape, after, strict=True)),)

    def fill(self, ins: Values, y: TensorType) -> float:
        """The code (or real number) written into the padding."""
        value = ins.get("value")
        if value is not None:
            return float(value.data.reshape(-1)[0])
        return float(y.zero_point) if y.quantization is not None else 0.0

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        moved = super().reach(ins, spans, outs)
        return moved if ins.get("value") is not None else union(moved, (0.0, 0.0))

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        before, after = self.amounts(ins.values)
        return (core.pad(ins["x"].data, before, after, self.fill(ins.values, outs[0].type)),)


@dataclass(frozen=True, kw_only=True)
class Concat(Movement):
    """Concatenation along an axis.

    uint8 inputs with parameters other than the result's are rescaled in float32, as the reference kernel does; for
    other dtypes the format demands equal parameters.
    """

    axis: int = attribute("Axis", 0)
    activation: str = attribute("FusedActivationFunction", "NONE", enum="ActivationFunctionType")

    mnemonic: ClassVar[str] = "q.concat"
    contract: ClassVar[str | None] = "concat"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("CONCATENATION", "ConcatenationOptions", {"int8": 2, "int16": 3}),
    )
    variadic: ClassVar[bool] = True

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        y = outs[0]
        supported(self.activation == "NONE", f"a concatenation with the activation {self.activation}")
        for part in ins.every("x"):
            require(part.type.dtype == y.type.dtype, f"moves {part.type.dtype} into {y.type.dtype}")
            fits = y.type.dtype != "uint8" or part.type.quantized == y.type.quantized
            require(fits, f"{part.name!r} and {y.name!r}: one has no quantization parameters")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shapes = [part.type.shape for part in ins.every("x")]
        rank = len(shapes[0])
        require(-rank <= self.axis < rank, f"axis {self.axis} does not exist")
        require(all(len(shape) == rank for shape in shapes), f"parts {[list(s) for s in shapes]} differ in rank")
        axis = self.axis % rank
        rest = {tuple(n for i, n in enumerate(shape) if i != axis) for shape in shapes}
        require(len(rest) == 1, f"parts {[list(s) for s in shapes]} differ beside axis {axis}")
        total = sum(shape[axis] for shape in shapes)
        return (tuple(total if i == axis else n for i, n in enumerate(shapes[0])),)

    def ties(self, dtype: str) -> tuple[tuple[str, ...], ...]:
        return () if dtype == "uint8" else super().ties(dtype)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        parts = [_rescaled_part(core, part.data, part.type, outs[0].type) for part in ins.every("x")]
        return (core.concat(parts, self.axis % len(outs[0].type.shape)),)


def _rescaled_part(core: Core[T], x: T, source: TensorType, y: TensorType) -> T:
    """x in y's parameters: round(q * k + b) + z_y, k = s_x * (1 / s_y), b = -z_x * k, all in float32."""
    if source.dtype != "uint8" or source.quantization == y.quantization or not source.quantized:
        return x
    k = np.float32(source.scale) * (np.float32(1) / np.float32(y.scale))
    codes = np.arange(256, dtype=np.float32)
    real = codes * k + np.float32(-source.zero_point) * k
    whole = np.trunc(real)
    rounded = whole + np.where(np.abs(real - whole) >= 0.5, np.sign(real), np.float32(0))
    table = np.clip(rounded + y.zero_point, 0, 255).astype(np.uint8)
    return core.take(core.const(table), core.astype(x, "int32"))
