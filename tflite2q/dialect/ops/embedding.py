"""EMBEDDING_LOOKUP: rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Builtin, Op, Operand, Operands, Shape, Values, require, supported
from tflite2q.dialect.ops.hybrid import check_hybrid, is_hybrid
from tflite2q.dialect.ops.movement import within
from tflite2q.dialect.types import Value

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class EmbeddingLookup(Op):
    """Rows of `weights` [count, ...] at computed indices; integers become real numbers where the result is float32."""

    mnemonic: ClassVar[str] = "q.embedding_lookup"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("EMBEDDING_LOOKUP", None, {"int4": 4}),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("indices", "plain"), Operand("weights", "weights"))
    floats: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = ()
    hybrid_weights: ClassVar[Mapping[str, int]] = {"int8": 4, "int4": 4}
    blockwise: ClassVar[bool] = True

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        indices, weights = ins["indices"], ins["weights"]
        require(indices.type.dtype == "int32", f"indices are {indices.type.dtype}, not int32")
        require(len(indices.type.shape) == 1, f"indices must have 1 axis, have {len(indices.type.shape)}")
        require(len(weights.type.shape) >= 2, f"the table must have 2 axes or more, has {len(weights.type.shape)}")
        if is_hybrid(outs[0].type, weights.type):
            check_hybrid(self, weights)
            return
        same = (weights.type.dtype, weights.type.quantization) == (outs[0].type.dtype, outs[0].type.quantization)
        supported(same, f"the table is {weights.type.dtype}, the result {outs[0].type.dtype} of other parameters")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return ((*ins["indices"].type.shape, *ins["weights"].type.shape[1:]),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        weights = ins["weights"]
        shape = weights.type.shape
        index = within(core, ins["indices"].data, (shape[0],), self)
        rows = core.take(weights.data, index, 0)
        if not is_hybrid(outs[0].type, weights.type):
            return (rows,)
        q, count = weights.type.parameters, outs[0].type.shape[0]
        scales = np.array(q.scale, np.float32)
        if q.axis is None:
            return (core.multiply(core.astype(rows, "float32"), core.const(scales)),)
        parts = shape[-1] // q.block if q.block else 1
        scale = core.take(core.const(scales.reshape(shape[0], parts, 1)), index, 0)
        flat = core.reshape(core.astype(rows, "float32"), (count, parts, int(np.prod(shape[1:])) // parts))
        return (core.reshape(core.multiply(flat, scale), outs[0].type.shape),)
