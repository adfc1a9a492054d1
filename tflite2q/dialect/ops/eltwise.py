"""Element-wise arithmetic on two broadcast operands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic import rounding
from tflite2q.arithmetic.core import Core, by_rows
from tflite2q.arithmetic.rescale import Rescale, int_const, multiply_fixed, round_half_away, rounding_shift_right
from tflite2q.dialect.op import (
    Builtin,
    Named,
    Op,
    Operand,
    Operands,
    Shape,
    Tensor,
    Values,
    attribute,
    require,
    supported,
)
from tflite2q.dialect.ops.common import (
    CODES,
    FUSED,
    activated,
    broadcast_shape,
    centred,
    check_numbers,
    float32,
    is_codes,
)
from tflite2q.dialect.spans import Span, minus, plus, times
from tflite2q.dialect.types import TensorType, Value

T = TypeVar("T")
V = TypeVar("V")

ADD_HEADROOM = 20  # bits by which addends are shifted left before they are rescaled to a common scale (eq. 15)
INT16_HEADROOM = 15


@dataclass(frozen=True, kw_only=True)
class Binary(Op):
    """Two operands, broadcast against each other: quantized codes, or plain numbers of one dtype."""

    operands: ClassVar[tuple[Operand, ...]] = (Operand("a"), Operand("b"))
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = CODES

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        check_numbers(*ins, *outs)

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (broadcast_shape(*self.both(ins)),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        a, b = self.both(ins)
        if not is_codes(outs[0].type):
            return (self.numbers(core, a.data, b.data, outs[0].type.dtype),)

        def rows(one: T, other: T) -> T:
            return self.codes(core, replace(a, data=one), replace(b, data=other), outs[0].type)

        return (by_rows(core, rows, a.data, b.data),)

    def both(self, ins: Named[V]) -> tuple[V, V]:
        """The two operands, by whatever names the op gives them."""
        first, second = self.operands
        return ins[first.name], ins[second.name]

    def codes(self, core: Core[T], a: Tensor[T], b: Tensor[T], y: TensorType) -> T:
        """The result on quantized operands."""
        raise NotImplementedError

    def numbers(self, core: Core[T], a: T, b: T, dtype: str) -> T:
        """The result on plain numbers."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Eltwise(Binary):
    """A binary operator with a fused activation; `rescale` is the scheme's arithmetic."""

    activation: str = attribute("FusedActivationFunction", "NONE", enum="ActivationFunctionType")
    rescale: str = attribute(None, "tflite")

    contract: ClassVar[str | None] = "eltwise"
    fuses: ClassVar[tuple[str, ...]] = FUSED

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        (result,) = super().meaning(core, ins, outs)
        if is_codes(outs[0].type):
            return (result,)
        return (activated(core, result, self.activation, outs[0].type.dtype, finite=True),)

    def clamp(self, y: TensorType) -> tuple[int, int]:
        return rounding.activation_range(self.activation, y.scale, y.zero_point, y.dtype)


SATURATES = "bit for bit, but results finer than the operands by 2^19 (int16: 2^14) and more saturate"


@dataclass(frozen=True, kw_only=True)
class Add(Eltwise):
    """Sum (or difference) on a common scale of twice the larger one, then rescaled (eq. 15)."""

    subtract: bool = attribute(None, False)
    pot_scale_int16: bool = attribute("PotScaleInt16", True)

    mnemonic: ClassVar[str] = "q.add"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin(
            "ADD",
            "AddOptions",
            {"int8": 2, "int16": 3},
            {"subtract": False},
            deviation=f"{SATURATES}; LiteRT's process ends",
        ),
        Builtin(
            "SUB",
            "SubOptions",
            {"int8": 2, "int16": 5},
            {"subtract": True},
            deviation=f"{SATURATES}; LiteRT shifts them by a negative number of bits, which C leaves undefined",
        ),
    )

    def deviates(self, ins: Values, outs: Sequence[Value]) -> str:
        """Only where the multiplier of the sum is 1 or more; that of x - x, say, whose one result is 0."""
        a, b, y = ins["a"].type, ins["b"].type, outs[0].type
        if not all(is_codes(kind) for kind in (a, b, y)) or self.shifts(a, b, y) is not None:
            return ""
        headroom = INT16_HEADROOM if y.dtype == "int16" else ADD_HEADROOM
        return super().deviates(ins, outs) if self.multipliers(a, b, y, headroom)[2] >= 1 else ""

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return (minus if self.subtract else plus)(spans["a"], spans["b"])

    def codes(self, core: Core[T], a: Tensor[T], b: Tensor[T], y: TensorType) -> T:
        if self.rescale == "float32":
            return self.in_float32(core, a, b, y)
        if self.rescale == "shift":
            return self.in_shifts(core, a, b, y)
        finer = self.shifts(a.type, b.type, y)
        if finer is not None:
            return self.shifted(core, a, b, y, finer)
        headroom = INT16_HEADROOM if y.dtype == "int16" else ADD_HEADROOM
        *terms_real, real = self.multipliers(a.type, b.type, y, headroom)
        terms = []
        for term, term_real in zip((a, b), terms_real, strict=True):
            wide = centred(core, term.data, term.type.zero_point)
            raised = core.left_shift(wide, core.const(np.array([headroom], np.int32)))
            terms.append(multiply_fixed(core, raised, *rounding.quantize_multiplier(term_real)))
        return Rescale((real,), y.zero_point, *self.clamp(y), y.dtype).meaning(core, self.combined(core, *terms))

    @staticmethod
    def multipliers(a: TensorType, b: TensorType, y: TensorType, headroom: int) -> tuple[float, float, float]:
        """The multipliers of both operands, raised by `headroom` bits, and of their sum (eq. 15)."""
        common = 2 * max(a.scale, b.scale)
        return a.scale / common, b.scale / common, common / float(np.float32(2.0**headroom * y.scale))

    def shifts(self, a: TensorType, b: TensorType, y: TensorType) -> tuple[int, int] | None:
        """By how many bits both operands are finer than the result, where 16-bit codes are added after shifts.

        None elsewhere: where scales are not powers of two, or are powers that TFLite's kernel refuses.  One operand
        must have the result's scale, and none a coarser one.
        """
        if y.dtype != "int16" or not self.pot_scale_int16:
            return None
        first, second, result = (rounding.nearest_log2(kind.scale) for kind in (a, b, y))
        if first is None or second is None or result is None:
            return None
        finer = (result - first, result - second)
        return finer if min(finer) == 0 else None

    def shifted(self, core: Core[T], a: Tensor[T], b: Tensor[T], y: TensorType, finer: tuple[int, int]) -> T:
        """16-bit codes whose scales are all powers of two: the finer operand is shifted to the result's scale."""
        terms = []
        for term, bits in zip((a, b), finer, strict=True):
            code = core.astype(term.data, "int64")
            if bits < 16:
                terms.append(rounding_shift_right(core, code, bits))
            else:  # gemmlowp's mask of so many bits has 16, all set: what is left of a code is its sign
                zero, one, minus_one = (int_const(core, number) for number in (0, 1, -1))
                terms.append(core.where(core.less(code, zero), minus_one, one))
        total = core.clip(self.combined(core, *terms), *y.range)
        return core.astype(core.clip(total, *self.clamp(y)), y.dtype)

    def in_float32(self, core: Core[T], a: Tensor[T], b: Tensor[T], y: TensorType) -> T:
        """Each operand in steps of the result, by one float32 product (eq. 11)."""
        terms = []
        for term in (a, b):
            wide = core.astype(centred(core, term.data, term.type.zero_point), "float32")
            terms.append(core.multiply(wide, core.const(float32(term.type.scale / y.scale))))
        total = self.combined(core, *terms)
        return Rescale((1.0,), y.zero_point, *self.clamp(y), y.dtype, "float32").code(core, total)

    def in_shifts(self, core: Core[T], a: Tensor[T], b: Tensor[T], y: TensorType) -> T:
        """Scales are powers of two: operands shifted left to the finer scale, the sum shifted right (eq. 12)."""
        finer = min(a.type.scale, b.type.scale)
        terms = []
        for term in (a, b):
            bits = int(np.log2(term.type.scale / finer))
            wide = centred(core, term.data, term.type.zero_point)
            terms.append(core.left_shift(wide, core.const(np.array([bits], np.int32))) if bits else wide)
        rescale = Rescale((finer / y.scale,), y.zero_point, *self.clamp(y), y.dtype, "shift")
        return rescale.meaning(core, self.combined(core, *terms))

    def combined(self, core: Core[T], a: T, b: T) -> T:
        return core.subtract(a, b) if self.subtract else core.add(a, b)

    def numbers(self, core: Core[T], a: T, b: T, dtype: str) -> T:
        return self.combined(core, a, b)


@dataclass(frozen=True, kw_only=True)
class Mul(Eltwise):
    """Product of centred codes, rescaled by s_a * s_b / s_y, all three steps in float32."""

    mnemonic: ClassVar[str] = "q.mul"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("MUL", "MulOptions", {"int8": 2, "int16": 4}),)

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return times(spans["a"], spans["b"])

    def codes(self, core: Core[T], a: Tensor[T], b: Tensor[T], y: TensorType) -> T:
        product = core.multiply(centred(core, a.data, a.type.zero_point), centred(core, b.data, b.type.zero_point))
        real = float(np.float32(a.type.scale) * np.float32(b.type.scale) / np.float32(y.scale))
        return Rescale((real,), y.zero_point, *self.clamp(y), y.dtype, arithmetic(self.rescale)).meaning(core, product)

    def numbers(self, core: Core[T], a: T, b: T, dtype: str) -> T:
        return core.multiply(a, b)


def arithmetic(rescale: str) -> str:
    """The arithmetic of a `Rescale` for a scheme's word for it."""
    return "fixed" if rescale == "tflite" else rescale


@dataclass(frozen=True, kw_only=True)
class Requantize(Op):
    """QUANTIZE: codes of one scale to codes of another, or real numbers to codes (eq. 2)."""

    rescale: str = attribute(None, "tflite")

    mnemonic: ClassVar[str] = "q.requantize"
    converts: ClassVar[bool] = True
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("QUANTIZE", "QuantizeOptions", {"int16": 2}),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"),)
    contract: ClassVar[str | None] = "eltwise"
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "int16")
    deviation: ClassVar[str] = (
        "real numbers beyond 2^31 steps saturate; LiteRT casts them in a way that C leaves undefined"
    )

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        x = ins["x"]
        require(x.type.dtype == "float32" or x.type.quantized, f"{x.name!r} has no quantization parameters")
        require(outs[0].type.quantized, f"{outs[0].name!r} has no quantization parameters")
        q = outs[0].type.parameters
        single = x.type.dtype == "float32" or (x.type.parameters.axis is None and q.axis is None)
        supported(single and not q.block, "codes become others by one scale for the whole tensor, not one per channel")
        for value in (x, outs[0]):
            supported(
                value.type.dtype not in ("int4", "int64"),
                f"{value.name!r} is {value.type.dtype}; QUANTIZE neither reads nor gives that",
            )

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["x"].type.shape,)

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return spans["x"]

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x, y = ins["x"], outs[0].type
        if x.type.dtype == "float32" and y.parameters.axis is not None:
            return (quantize_channels(core, x.data, y),)
        if x.type.dtype == "float32":
            return (by_rows(core, lambda rows: quantize_real(core, rows, y), x.data),)
        real = np.float64(x.type.scale) / np.float64(y.scale)
        rescale = Rescale((float(real),), y.zero_point, *y.range, y.dtype, arithmetic(self.rescale))
        return (by_rows(core, lambda rows: rescale.meaning(core, centred(core, rows, x.type.zero_point)), x.data),)


def quantize_real(core: Core[T], x: T, y: TensorType) -> T:
    """float32 x to codes of y (eq. 2)."""
    low, high = y.range
    ratio = core.divide(x, core.const(np.array([y.scale], np.float32)))
    # Clamped while still real, so that the cast cannot overflow; half a step of room keeps rounding unaffected.
    bounded = core.clip(ratio, low - y.zero_point - 1.0, high - y.zero_point + 1.0)
    wide = _wide(y)
    code = core.clip(
        core.astype(round_half_away(core, bounded, "float32"), wide), low - y.zero_point, high - y.zero_point
    )
    return core.astype(core.add(code, core.const(np.full(1, y.zero_point, wide))), y.dtype)


def quantize_channels(core: Core[T], x: T, y: TensorType) -> T:
    """float32 x to codes of y, which has a scale for each slice along an axis."""
    q, thin, wide = y.parameters, channels_of(y), _wide(y)
    ratio = core.divide(x, core.const(np.array(q.scale, np.float32).reshape(thin)))
    # Clamped while still real, as above, to what lies beyond all codes whatever the zero point.
    beyond = 2.0 * (y.range[1] - y.range[0])
    code = core.astype(round_half_away(core, core.clip(ratio, -beyond, beyond), "float32"), wide)
    moved = core.add(code, core.const(np.array(q.zero_point, wide).reshape(thin)))
    return core.astype(core.clip(moved, *y.range), y.dtype)


def _wide(y: TensorType) -> str:
    """The dtype of codes before they are cut to those of y: 64 bits, which many processors cast one by one, only where
    32 would overflow."""
    return "int64" if y.dtype == "int32" else "int32"


def channels_of(kind: TensorType) -> tuple[int, ...]:
    """The shape in which the parameters of `kind`, one pair for each slice along an axis, broadcast against it."""
    q = kind.parameters
    return tuple(len(q.scale) if axis == q.axis else 1 for axis in range(len(kind.shape)))


@dataclass(frozen=True, kw_only=True)
class Dequantize(Op):
    """Codes to real numbers, the product in float64 (eq. 1).  Of a constant: weights that are stored as integers."""

    mnemonic: ClassVar[str] = "q.dequantize"
    converts: ClassVar[bool] = True
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("DEQUANTIZE", "DequantizeOptions", {"int8": 2, "float16": 3, "int4": 6}),
    )
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"),)
    contract: ClassVar[str | None] = "eltwise"
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "int16")

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        x = ins["x"]
        require(x.type.dtype == "float16" or x.type.quantized, f"{x.name!r} has no quantization parameters")
        require(outs[0].type.dtype == "float32", "result must be float32")
        supported(x.type.dtype != "int64", f"{x.name!r} is int64; DEQUANTIZE does not read that")
        q = x.type.quantization
        single = q is None or q.axis is None
        supported(single or x.type.dtype != "int16", f"{x.name!r} is int16 with a scale per channel")
        supported(q is None or not q.block, f"{x.name!r} has a scale for each block; there is no DEQUANTIZE of it")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["x"].type.shape,)

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return spans["x"]

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x = ins["x"]
        if x.type.dtype == "float16":
            return (core.astype(x.data, "float32"),)
        q = x.type.parameters
        per_axis = channels_of(x.type) if q.axis is not None else (1,)
        wide = core.astype(x.data, "int32")
        if any(q.zero_point):
            wide = core.subtract(wide, core.const(np.array(q.zero_point, np.int32).reshape(per_axis)))
        scales = core.const(np.array(q.scale, np.float64).reshape(per_axis))
        return (core.astype(core.multiply(core.astype(wide, "float64"), scales), "float32"),)
