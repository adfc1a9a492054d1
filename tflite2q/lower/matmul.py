"""BATCH_MATMUL as a kernel contract: as a dense layer where b is one constant matrix, else as a product of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tflite2q.arithmetic.rescale import Rescale
from tflite2q.dialect.op import Op, Values
from tflite2q.dialect.ops.conv import wide_accumulator
from tflite2q.dialect.ops.dense import BatchMatmul
from tflite2q.dialect.ops.hybrid import is_hybrid
from tflite2q.dialect.types import Value
from tflite2q.kernels import layout
from tflite2q.kernels.contracts import (
    Contract,
    DenseContract,
    FloatConv2DContract,
    MatmulContract,
    Tensor,
)
from tflite2q.lower import real
from tflite2q.lower.real import FLOAT

INT8, INT16 = CODES = ("int8", "int16")


def matmul(op: Op, ins: Values, outs: Sequence[Value]) -> Contract | None:
    """None where leading axes broadcast in both factors, and for columns that are quantized."""
    a, b, y = ins["a"], ins["b"], outs[0]
    if not isinstance(op, BatchMatmul) or (a.type.dtype, b.type.dtype) not in (
        (FLOAT, FLOAT), (FLOAT, INT8), (INT8, INT8), (INT16, INT16), (INT16, INT8),
    ):  # fmt: skip
        return None
    batches = [math.prod(value.type.shape[:-2]) for value in (a, b)]
    whole = math.prod(y.type.shape[:-2])
    # Rows that are quantized must lie in order; copied there, TVM would let their codes overwrite them too early.
    scattered = is_hybrid(a.type, b.type) and op.transpose_a
    if scattered or any(n not in (1, whole) for n in batches):
        return None
    if b.constant is not None and batches[1] == 1 and not op.transpose_a and b.type.dtype != INT16:
        return _dense(op, a, b, y)
    return _matmul(op, a, b, y, batches)


def _matmul(op: BatchMatmul, a: Value, b: Value, y: Value, batches: Sequence[int]) -> MatmulContract | None:
    shapes = [(n, *value.type.shape[-2:]) for n, value in zip(batches, (a, b), strict=True)]
    facts: dict[str, Any] = {
        "a": Tensor(shapes[0], a.type.dtype),
        "b": Tensor(shapes[1], b.type.dtype),
        "transposed": (op.transpose_a, op.transpose_b),
    }
    depth = op.matrix(a, 0)[1]
    if is_hybrid(a.type, b.type):
        facts |= {"scales": _scales(op, b), "asymmetric": op.asymmetric_inputs}
    elif a.type.dtype in CODES:
        facts |= {
            "zero_points": (a.type.zero_point, b.type.parameters.zero_point[0]),
            "rescale": op.rescaling(a.type, b.type, y.type),
        }
    return MatmulContract(**facts) if depth < MOST_DEPTH[a.type.dtype, b.type.dtype] else None


# Sums of codes fit 32 bits; those of 16-bit ones leave room for multipliers.
MOST_DEPTH = {
    (FLOAT, FLOAT): math.inf, (FLOAT, INT8): 2**31 // 255**2, (INT8, INT8): 2**31 // 255**2,
    (INT16, INT16): layout.MOST >> 30, (INT16, INT8): layout.MOST >> 22,
}  # fmt: skip


def _scales(op: BatchMatmul, b: Value) -> Any:
    """float32 [columns]."""
    return np.array(np.broadcast_to(np.array(b.type.parameters.scale, np.float32), (op.matrix(b, 1)[1],)))


def _dense(op: BatchMatmul, a: Value, b: Value, y: Value) -> Contract | None:
    depth, units = op.matrix(b, 1)
    matrix = b.data.reshape(b.type.shape[-2:])
    columns = np.ascontiguousarray(matrix if op.transpose_b else matrix.T)  # [units, depth]
    if a.type.dtype in CODES:
        rescale: Rescale = op.rescaling(a.type, b.type, y.type)
        contract = DenseContract(
            rows=a.type.size // depth, depth=depth, units=units, weights=columns, rescale=rescale,
            x_dtype=a.type.dtype, x_zero_point=a.type.zero_point, weight_zero_points=b.type.parameters.zero_point[:1],
            bias=None, accumulator=wide_accumulator(a.type, None),
        )  # fmt: skip
        return contract if layout.accumulator_bound(contract.conv2d()).max(initial=0) < layout.MOST else None
    facts = {**real.dense(a, columns.T), "bias": None}
    if b.type.dtype == FLOAT:
        return FloatConv2DContract(**facts)
    return real.dynamic(facts, _scales(op, b), op.asymmetric_inputs)
