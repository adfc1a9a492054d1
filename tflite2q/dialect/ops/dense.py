"""Matrix products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic import rounding
from tflite2q.arithmetic.core import Core
from tflite2q.arithmetic.rescale import Rescale
from tflite2q.dialect.op import Builtin, Named, Op, Operand, Operands, Shape, Values, attribute, require, supported
from tflite2q.dialect.ops import hybrid
from tflite2q.dialect.ops.common import FUSED, activated, centred, check_codes, is_codes
from tflite2q.dialect.ops.conv import check_product, product_rescale, products_taken, wide_accumulator
from tflite2q.dialect.spans import Span, times, weighted_sum
from tflite2q.dialect.types import TensorType, Value

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Dense(Op):
    """FULLY_CONNECTED: rows of x [..., k] times weights [units, k].

    The reference kernels rescale it with one float64 product instead of fixed point (eq. 10).
    """

    activation: str = attribute("FusedActivationFunction", "NONE", enum="ActivationFunctionType")
    keep_num_dims: bool = attribute("KeepNumDims", False)
    asymmetric_inputs: bool = attribute("AsymmetricQuantizeInputs", False)
    bias_type: str = attribute("QuantizedBiasType", "FLOAT32", enum="TensorType")  # "FLOAT32": not said
    rescale: str = attribute(None, "tflite")

    mnemonic: ClassVar[str] = "q.dense"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("FULLY_CONNECTED", "FullyConnectedOptions", {"int8": 4, "int16": 7, "int4": 10}),
    )
    operands: ClassVar[tuple[Operand, ...]] = (
        Operand("x"),
        Operand("weights", "weights"),
        Operand("bias", "bias", optional=True),
    )
    contract: ClassVar[str | None] = "dense"
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "int16")
    fuses: ClassVar[tuple[str, ...]] = FUSED
    channel_axis: ClassVar[int] = 0
    hybrid_weights: ClassVar[Mapping[str, int]] = {"int8": 12, "int4": 12}
    blockwise: ClassVar[bool] = True
    deviation: ClassVar[str] = "results beyond 2^31 steps saturate; LiteRT casts them in a way that C leaves undefined"
    hybrid_deviation: ClassVar[str] = (
        f"{hybrid.DEVIATION}; a scale for each block is as in LiteRT's optimized kernel (the reference kernel ignores "
        "these scales), with the fused activation, which that kernel leaves out"
    )

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        x, weights = ins["x"], ins["weights"]
        bias = ins.get("bias")
        check_product(self, x, weights, bias, outs[0])
        require(len(weights.type.shape) == 2, f"weights must have 2 axes, have {len(weights.type.shape)}")
        units, k = weights.type.shape
        require(k > 0 and x.type.size % k == 0, f"input of {x.type.size} elements does not split into rows of {k}")
        if self.keep_num_dims:
            require(x.type.shape[-1] == k, f"input rows have {x.type.shape[-1]} elements, weights {k}")
        if bias is not None:
            require(bias.type.size == units, f"bias has {bias.type.size} entries for {units} units")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        x, weights = ins["x"], ins["weights"]
        units, k = weights.type.shape
        if self.keep_num_dims:
            return ((*x.type.shape[:-1], units),)
        return ((x.type.size // k, units),)

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        return weighted_sum(ins["x"], spans["x"], ins["weights"], self.channel_axis, ins.get("bias"))

    def macs(self, ins: Values, outs: Sequence[Value]) -> int:
        weights = ins["weights"]
        return outs[0].type.size * weights.type.shape[1]

    def takes_scales(self, ins: Values, outs: Sequence[Value]) -> bool:
        taken = products_taken(ins["x"].type, ins["weights"].type, outs[0].type)
        return taken and super().takes_scales(ins, outs)

    def rescaling(self, ins: Values, y: Value) -> Rescale:
        """How accumulators become codes of y: multipliers s_x * s_w[c] / s_y in float64 throughout."""
        x, weights = ins["x"], ins["weights"]
        out = y.type
        low, high = rounding.activation_range(self.activation, out.scale, out.zero_point, out.dtype)
        real = tuple(x.type.scale * s / out.scale for s in weights.type.parameters.scale)
        arithmetic = "float64" if self.rescale == "tflite" else self.rescale
        return Rescale(real, out.zero_point, low, high, out.dtype, arithmetic)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x, weights, bias = ins["x"], ins["weights"], ins.get("bias")
        units, k = weights.type.shape
        columns = core.permute_dims(weights.data, (1, 0))
        rows = core.reshape(x.data, (x.type.size // k, k))
        if hybrid.is_hybrid(x.type, weights.type):
            y = self.dynamic(core, rows, columns, ins)
            return (core.reshape(activated(core, y, self.activation, "float32"), outs[0].type.shape),)
        accumulator = "float32"
        if is_codes(x.type):
            w_zero = weights.type.parameters.zero_point
            accumulator = wide_accumulator(x.type, None if bias is None else bias.type)
            rows = centred(core, rows, x.type.zero_point)
            columns = centred(core, columns, w_zero[0] if not any(w_zero) else w_zero)
        acc = core.matmul(rows, columns, accumulator)
        if bias is not None:
            acc = core.add(acc, core.reshape(core.astype(bias.data, accumulator), (units,)))
        if accumulator == "float32":
            y = activated(core, acc, self.activation, "float32")
        else:
            y = self.rescaling(ins.values, outs[0]).meaning(core, acc)
        return (core.reshape(y, outs[0].type.shape),)

    def dynamic(self, core: Core[T], rows: T, columns: T, ins: Operands[T]) -> T:
        """The result of float32 activations and integer weights, [rows, units]."""
        weights, bias = ins["weights"], ins.get("bias")
        units, k = weights.type.shape
        added = None if bias is None else core.reshape(bias.data, (units,))
        if not weights.type.parameters.block:
            found = hybrid.quantized(core, rows, self.asymmetric_inputs)
            return hybrid.products(core, found, columns, weights.type, added)
        found = hybrid.quantized(core, rows, True)
        y = hybrid.block_products(core, found, columns, weights.type, ins["x"].type.size // k)
        return y if added is None else core.add(y, added)


@dataclass(frozen=True, kw_only=True)
class BatchMatmul(Op):
    """Matrix products of the last two axes of a and b, both computed; leading axes broadcast.

    int16 a also meets int8 b, whose columns may have a scale each.
    """

    transpose_a: bool = attribute("AdjX", False)
    transpose_b: bool = attribute("AdjY", False)
    asymmetric_inputs: bool = attribute("AsymmetricQuantizeInputs", False)

    mnemonic: ClassVar[str] = "q.batch_matmul"
    contract: ClassVar[str | None] = "batch_matmul"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("BATCH_MATMUL", "BatchMatMulOptions", {"int8": 2, "int16": 3}),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("a"), Operand("b"))
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = ("int8", "int16")
    hybrid_weights: ClassVar[Mapping[str, int]] = {"int8": 4}
    deviation: ClassVar[str] = (
        "int16 times int8 with a scale for each column: LiteRT loses the scales and answers 0; here they count"
    )
    hybrid_deviation: ClassVar[str] = (
        f"{hybrid.DEVIATION}; with more than one leading axis, LiteRT takes scales from the wrong rows"
    )

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        a, b = ins["a"], ins["b"]
        if hybrid.is_hybrid(a.type, b.type):
            self.check_columns(b)
            supported(b.type.dtype == "int8", f"there is no BATCH_MATMUL of float32 and {b.type.dtype}")
        elif a.type.dtype == "float32":
            pass
        elif (a.type.dtype, b.type.dtype) != ("int16", "int8"):
            check_codes(a, b, outs[0])
            if b.type.parameters.axis is not None:
                self.check_columns(b)
        else:
            check_codes(a, outs[0])
            self.check_columns(b)

    def check_columns(self, b: Value) -> None:
        """Raise InvalidGraph unless b has int8 codes without zero points, and one scale or one for each column."""
        check_codes(b)
        q, rank = b.type.parameters, len(b.type.shape)
        columns = rank - 2 if self.transpose_b else rank - 1
        require(q.axis in (None, columns), f"{b.name!r} has scales on axis {q.axis}, not {columns}")
        require(q.symmetric, f"{b.name!r} must have zero points of 0 here")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        (rows, inner), (depth, columns) = self.matrix(ins["a"], 0), self.matrix(ins["b"], 1)
        require(inner == depth, f"{inner} columns of a do not meet {depth} rows of b")
        a, b = ins["a"].type.shape[:-2], ins["b"].type.shape[:-2]
        try:
            return ((*np.broadcast_shapes(a, b), rows, columns),)
        except ValueError:
            require(False, f"leading axes {list(a)} and {list(b)} do not broadcast")
            raise

    def matrix(self, value: Value, index: int) -> tuple[int, int]:
        """Rows and columns of factor `index` after its transposition."""
        require(len(value.type.shape) >= 2, f"{value.name!r} must have at least 2 axes")
        rows, columns = value.type.shape[-2:]
        return (columns, rows) if (self.transpose_a, self.transpose_b)[index] else (rows, columns)

    def reach(self, ins: Values, spans: Named[Span], outs: Sequence[Value]) -> Span:
        depth = self.matrix(ins["a"], 0)[1]
        return times(times(spans["a"], spans["b"]), (depth, depth))

    def macs(self, ins: Values, outs: Sequence[Value]) -> int:
        return outs[0].type.size * self.matrix(ins["a"], 0)[1]

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        a, b, y = ins["a"], ins["b"], outs[0].type
        codes = is_codes(a.type)
        dynamic = hybrid.is_hybrid(a.type, b.type)
        factors = []
        for factor, transposed in ((a, self.transpose_a), (b, self.transpose_b)):
            rank = len(factor.type.shape)
            data = factor.data
            if transposed:
                data = core.permute_dims(data, (*range(rank - 2), rank - 1, rank - 2))
            factors.append(centred(core, data, factor.type.parameters.zero_point[0]) if codes else data)
        if dynamic:
            return (self.dynamic(core, factors[0], factors[1], ins),)
        if not codes:
            return (core.matmul(factors[0], factors[1], "float32"),)
        acc = core.matmul(factors[0], factors[1], wide_accumulator(a.type, None))
        return (self.rescaling(a.type, b.type, y).meaning(core, acc),)

    def takes_scales(self, ins: Values, outs: Sequence[Value]) -> bool:
        return products_taken(ins["a"].type, ins["b"].type, outs[0].type) and super().takes_scales(ins, outs)

    @staticmethod
    def rescaling(a: TensorType, b: TensorType, y: TensorType) -> Rescale:
        """How sums of products of codes become codes of y."""
        scales = np.float32(a.scale) * np.array(b.parameters.scale, np.float32)
        real = tuple(float(s) / y.scale for s in scales)
        return product_rescale(y, real, "NONE", "tflite", wide_accumulator(a, None))

    def dynamic(self, core: Core[T], a: T, b: T, ins: Operands[T]) -> T:
        """float32 rows of a times integer columns of b (eq. 41)."""
        rows, k = self.matrix(ins.values["a"], 0)
        leading = ins["a"].type.shape[:-2]
        count = ins["a"].type.size // k
        found = hybrid.quantized(core, core.reshape(a, (count, k)), self.asymmetric_inputs)
        codes = core.reshape(found.centred(core), (*leading, rows, k))
        acc = core.astype(core.matmul(codes, core.astype(b, "int32"), "int32"), "float32")
        scale = core.reshape(found.scale, (*leading, rows, 1))
        columns = core.const(np.array(ins["b"].type.parameters.scale, np.float32))
        return core.multiply(core.multiply(scale, columns), acc)
