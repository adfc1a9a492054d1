"""Products of two computed matrices (BATCH_MATMUL) as calls of a kernel."""

from __future__ import annotations

import math

import numpy as np

from tflite2q.dialect.op import Values
from tflite2q.dialect.ops.dense import BatchMatmul
from tflite2q.dialect.types import STORAGE, Value
from tflite2q.errors import UnsupportedError
from tflite2q.kernels.generic.eltwise import Loops
from tflite2q.micro.calls import Call, kind_of, rescale_text
from tflite2q.micro.elements import head, place
from tflite2q.micro.program import CTYPES
from tflite2q.micro.rescaling import form_of


def matmul(name: str, op: BatchMatmul, ins: Values, y: Value) -> Call:
    """The call of a BATCH_MATMUL.  Raises UnsupportedError for types that the kernel lacks."""
    a, b = ins["a"], ins["b"]
    dtype, factor = a.type.dtype, b.type.dtype
    if (dtype, factor) not in (("int8", "int8"), ("int16", "int16"), ("int16", "int8")):
        raise UnsupportedError(f"codes are {dtype} and {factor}; there are kernels for int8 and int16")
    zeros = (a.type.parameters.zero_point[0], b.type.parameters.zero_point[0])
    if dtype == "int16" and any(zeros):
        raise UnsupportedError("16-bit codes with a zero point other than 0")
    (rows, depth), (_, columns) = op.matrix(a, 0), op.matrix(b, 1)
    bound = depth * math.prod(255.0 if each == "int8" else 2.0**15 for each in (dtype, factor))
    if dtype == "int8" and bound >= 2**31:
        raise UnsupportedError("sums may leave 32 bits")
    form = form_of(op.rescaling(a.type, b.type, y.type), columns, bound)
    rescale, tables = rescale_text(name, form)
    kind = kind_of(form)
    apart = (1, rows) if op.transpose_a else (depth, 1), (1, depth) if op.transpose_b else (columns, 1)
    struct = (
        f"static const q_matrices {name} = {{{rescale}, {rows}, {depth}, {columns}, {apart[0][0]}, {apart[0][1]}, "
        f"{apart[1][0]}, {apart[1][1]}, {zeros[0]}, {zeros[1]}}};\n"
    )
    kernel = f"q_matmul_{dtype}_{factor}_{kind[2:].lower()}"
    types = f"{CTYPES[dtype]}, {CTYPES[factor]}"
    how = "int32_t, q_dot, q_code" if dtype == "int8" else "int64_t, q_dot16, q_code64"
    loops = Loops.of(y.type.shape[:-2], [a.type.shape[:-2], b.type.shape[:-2]])
    heads = "\n  ".join(head(axis, extent) for axis, extent in enumerate(loops.extents))
    lines = (
        f"    {kernel}(&{name}, x0 + ({place(loops, 0)}) * {rows * depth}, x1 + ({place(loops, 1)}) * "
        f"{depth * columns}, y, scratch);\n    y += {rows * columns};"
    )
    own = (
        f"Q_KERNEL void {name}_all(const {CTYPES[dtype]} *x0, const {CTYPES[factor]} *x1, {CTYPES[dtype]} *y, "
        f"int8_t *scratch) {{\n  {heads} {{\n{lines}\n  }}\n}}\n"
    )
    width = np.dtype(STORAGE[dtype]).itemsize
    scratch = -(-(4 * rows + width * depth * (1 + (rows if op.transpose_a else 0))) // 4) * 4
    return Call(
        f"{name}_all({{x0}}, {{x1}}, {{y0}}, {{scratch}});", ("dot", "matmul"),
        f"Q_MATMUL({kernel}, {types}, {how}, {kind})\n\0{struct}{own}", tables, scratch, None,
    )  # fmt: skip
