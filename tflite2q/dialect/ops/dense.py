"""Matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from tflite2q import numerics
from tflite2q.core import Core
from tflite2q.dialect.op import Builtin, Op, Operand, Operands, Shape, attribute, require
from tflite2q.dialect.ops.conv import centred, check_product
from tflite2q.dialect.types import Value
from tflite2q.rescale import Rescale

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Dense(Op):
    """FULLY_CONNECTED: rows of x [..., k] times weights [units, k].

    The reference kernels rescale it with one float64 product instead of fixed point (eq. 10).
    """

    activation: str = attribute("FusedActivationFunction", "NONE", enum="ActivationFunctionType")
    keep_num_dims: bool = attribute("KeepNumDims", False)
    asymmetric_inputs: bool = attribute("AsymmetricQuantizeInputs", False)
    rescale: str = attribute(None, "tflite")

    mnemonic: ClassVar[str] = "q.dense"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("FULLY_CONNECTED", "FullyConnectedOptions", {"int8": 4, "int16": 7}),
    )
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("x"),
        Operand("weights", "weights"),
        Operand("bias", "bias", optional=True),
    )
    contract: ClassVar[str | None] = "dense"
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "int16")
    channel_axis: ClassVar[int] = 0

    def verify(self, ins: Sequence[Value | None], outs: Sequence[Value]) -> None:
        x, weights = ins[0], ins[1]
        assert x is not None and weights is not None
        bias = ins[2] if len(ins) > 2 else None
        check_product(x, weights, bias, outs[0])
        require(len(weights.type.shape) == 2, f"weights must have 2 axes, have {len(weights.type.shape)}")
        units, k = weights.type.shape
        require(k > 0 and x.type.size % k == 0, f"input of {x.type.size} elements does not split into rows of {k}")
        if self.keep_num_dims:
            require(x.type.shape[-1] == k, f"input rows have {x.type.shape[-1]} elements, weights {k}")
        if bias is not None:
            require(bias.type.size == units, f"bias has {bias.type.size} entries for {units} units")

    def infer(self, ins: Sequence[Value | None], outs: Sequence[Value]) -> tuple[Shape, ...]:
        x, weights = ins[0], ins[1]
        assert x is not None and weights is not None
        units, k = weights.type.shape
        if self.keep_num_dims:
            return ((*x.type.shape[:-1], units),)
        return ((x.type.size // k, units),)

    def macs(self, ins: Sequence[Value | None], outs: Sequence[Value]) -> int:
        weights = ins[1]
        assert weights is not None
        return outs[0].type.size * weights.type.shape[1]

    def rescaling(self, ins: Sequence[Value | None], y: Value) -> Rescale:
        """How accumulators become codes of y: multipliers s_x * s_w[c] / s_y in float64 throughout."""
        x, weights = ins[0], ins[1]
        assert x is not None and weights is not None
        out = y.type
        low, high = numerics.activation_range(self.activation, out.scale, out.zero_point, out.dtype)
        real = tuple(x.type.scale * s / out.scale for s in weights.type.parameters.scale)
        arithmetic = "float64" if self.rescale == "tflite" else self.rescale
        return Rescale(real, out.zero_point, low, high, out.dtype, arithmetic)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x, weights, bias = ins[0], ins[1], ins.get(2)
        units, k = weights.type.shape
        w_zero = weights.type.parameters.zero_point
        columns = core.permute_dims(weights.data, (1, 0))
        rows = core.reshape(x.data, (x.type.size // k, k))
        acc = core.matmul(
            centred(core, rows, x.type.zero_point),
            centred(core, columns, w_zero[0] if not any(w_zero) else w_zero),
            "int32",
        )
        if bias is not None:
            acc = core.add(acc, core.reshape(bias.data, (units,)))
        codes = self.rescaling(ins.values, outs[0]).meaning(core, acc)
        return (core.reshape(codes, outs[0].type.shape),)
