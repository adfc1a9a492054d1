"""Element-wise arithmetic on two broadcast operands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q import numerics
from tflite2q.core import Core
from tflite2q.dialect.op import INT8_VERSION_2, Builtin, Op, Operand, Operands, Shape, attribute, require
from tflite2q.dialect.ops.common import CODES, activated, broadcast_shape, centred, check_numbers, given, is_codes
from tflite2q.dialect.types import TensorType, Value
from tflite2q.rescale import Rescale, int_const, multiply_fixed, round_half_away

T = TypeVar("T")

ADD_HEADROOM = 20  # bits by which addends are shifted left before they are rescaled to a common scale (eq. 15)


@dataclass(frozen=True, kw_only=True)
class Eltwise(Op):
    """Two operands, broadcast against each other."""

    activation: str = attribute("FusedActivationFunction", "NONE", enum="ActivationFunctionType")

    operands: ClassVar[tuple[Operand, ...]] = (Operand("a"), Operand("b"))
    contract: ClassVar[str | None] = "eltwise"

    def verify(self, ins: Sequence[Value | None], outs: Sequence[Value]) -> None:
        for value in (*ins, *outs):
            assert value is not None
            require(value.type.quantized, f"{value.name!r} has no quantization parameters")
            require(value.type.dtype == outs[0].type.dtype, f"{value.name!r} is not {outs[0].type.dtype}")

    def infer(self, ins: Sequence[Value | None], outs: Sequence[Value]) -> tuple[Shape, ...]:
        a, b = ins[0], ins[1]
        assert a is not None and b is not None
        try:
            return (np.broadcast_shapes(a.type.shape, b.type.shape),)
        except ValueError:
            require(False, f"shapes {list(a.type.shape)} and {list(b.type.shape)} do not broadcast")
            raise

    def clamp(self, y: TensorType) -> tuple[int, int]:
        return numerics.activation_range(self.activation, y.scale, y.zero_point, y.dtype)


@dataclass(frozen=True, kw_only=True)
class Add(Eltwise):
    """Sum (or difference) on a common scale of twice the larger one, then rescaled (eq. 15)."""

    subtract: bool = attribute(None, False)
    pot_scale_int16: bool = attribute("PotScaleInt16", True)

    mnemonic: ClassVar[str] = "q.add"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("ADD", "AddOptions", INT8_VERSION_2, {"subtract": False}),
        Builtin("SUB", "SubOptions", INT8_VERSION_2, {"subtract": True}),
    )

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        a, b, y = ins[0], ins[1], outs[0].type
        common = 2 * max(a.type.scale, b.type.scale)
        terms = []
        for term in (a, b):
            wide = centred(core, term.data, term.type.zero_point)
            raised = core.left_shift(wide, core.const(np.array([ADD_HEADROOM], np.int32)))
            terms.append(multiply_fixed(core, raised, *numerics.quantize_multiplier(term.type.scale / common)))
        total = core.subtract(*terms) if self.subtract else core.add(*terms)
        real = common / float(np.float32(2.0**ADD_HEADROOM * y.scale))
        low, high = self.clamp(y)
        return (Rescale((real,), y.zero_point, low, high, y.dtype).meaning(core, total),)


@dataclass(frozen=True, kw_only=True)
class Mul(Eltwise):
    """Product of centred codes, rescaled by s_a * s_b / s_y, all three steps in float32."""

    mnemonic: ClassVar[str] = "q.mul"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("MUL", "MulOptions", INT8_VERSION_2),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        a, b, y = ins[0], ins[1], outs[0].type
        product = core.multiply(
            centred(core, a.data, a.type.zero_point), centred(core, b.data, b.type.zero_point)
        )
        real = float(np.float32(a.type.scale) * np.float32(b.type.scale) / np.float32(y.scale))
        low, high = self.clamp(y)
        return (Rescale((real,), y.zero_point, low, high, y.dtype).meaning(core, product),)


@dataclass(frozen=True, kw_only=True)
class Requantize(Op):
    """QUANTIZE: codes of one scale to codes of another, or real numbers to codes (eq. 2)."""

    mnemonic: ClassVar[str] = "q.requantize"
    converts: ClassVar[bool] = True
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("QUANTIZE", "QuantizeOptions", {"int16": 2}),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"),)
    contract: ClassVar[str | None] = "eltwise"
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "int16")

    def verify(self, ins: Sequence[Value | None], outs: Sequence[Value]) -> None:
        x = ins[0]
        assert x is not None
        require(x.type.dtype == "float32" or x.type.quantized, f"{x.name!r} has no quantization parameters")
        require(outs[0].type.quantized, f"{outs[0].name!r} has no quantization parameters")

    def infer(self, ins: Sequence[Value | None], outs: Sequence[Value]) -> tuple[Shape, ...]:
        assert ins[0] is not None
        return (ins[0].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x, y = ins[0], outs[0].type
        if x.type.dtype == "float32":
            return (quantize_real(core, x.data, y),)
        real = np.float64(x.type.scale) / np.float64(y.scale)
        wide = centred(core, x.data, x.type.zero_point)
        return (Rescale((float(real),), y.zero_point, *y.range, y.dtype).meaning(core, wide),)


def quantize_real(core: Core[T], x: T, y: TensorType) -> T:
    """float32 x to codes of y (eq. 2)."""
    low, high = y.range
    ratio = core.divide(x, core.const(np.array([y.scale], np.float32)))
    # Clamped while still real, so that the cast cannot overflow; half a step of room keeps rounding unaffected.
    bounded = core.clip(ratio, low - y.zero_point - 1.0, high - y.zero_point + 1.0)
    code = core.add(core.astype(round_half_away(core, bounded, "float32"), "int64"), int_const(core, y.zero_point))
    return core.astype(core.clip(code, low, high), y.dtype)


@dataclass(frozen=True, kw_only=True)
class Dequantize(Op):
    """Codes to real numbers, the product in float64 (eq. 1)."""

    mnemonic: ClassVar[str] = "q.dequantize"
    converts: ClassVar[bool] = True
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("DEQUANTIZE", "DequantizeOptions", INT8_VERSION_2),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"),)
    contract: ClassVar[str | None] = "eltwise"
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "int16")

    def verify(self, ins: Sequence[Value | None], outs: Sequence[Value]) -> None:
        assert ins[0] is not None
        require(ins[0].type.quantized, f"{ins[0].name!r} has no quantization parameters")
        require(outs[0].type.dtype == "float32", "result must be float32")

    def infer(self, ins: Sequence[Value | None], outs: Sequence[Value]) -> tuple[Shape, ...]:
        assert ins[0] is not None
        return (ins[0].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x = ins[0]
        wide = core.astype(centred(core, x.data, x.type.zero_point), "float64")
        return (core.astype(core.multiply(wide, core.const(np.array([x.type.scale]))), "float32"),)
