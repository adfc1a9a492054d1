"""All ops of the dialect, in one explicit tuple."""

from __future__ import annotations

from collections.abc import Mapping

from tflite2q.dialect.op import Builtin, Op
from tflite2q.dialect.ops.conv import Conv2D, DepthwiseConv2D
from tflite2q.dialect.ops.dense import Dense
from tflite2q.dialect.ops.eltwise import Add, Dequantize, Mul, Requantize
from tflite2q.dialect.ops.pool import AveragePool2D, MaxPool2D, Mean
from tflite2q.dialect.ops.shape import Concat, Pad, Reshape
from tflite2q.dialect.ops.softmax import Softmax

OPS: tuple[type[Op], ...] = (
    Conv2D,
    DepthwiseConv2D,
    Dense,
    AveragePool2D,
    MaxPool2D,
    Mean,
    Add,
    Mul,
    Requantize,
    Dequantize,
    Softmax,
    Reshape,
    Pad,
    Concat,
)

BY_MNEMONIC: Mapping[str, type[Op]] = {op.mnemonic: op for op in OPS}
BY_BUILTIN: Mapping[str, tuple[type[Op], Builtin]] = {b.name: (op, b) for op in OPS for b in op.builtins}
