"""Transposed convolutions of 8-bit codes as calls of a kernel."""

from __future__ import annotations

import numpy as np

from tflite2q.dialect.op import Values
from tflite2q.dialect.ops.transpose_conv import TransposeConv
from tflite2q.dialect.types import Value
from tflite2q.errors import UnsupportedError
from tflite2q.micro.products import Call, kind_of, rescale_text, wrapper
from tflite2q.micro.program import Table
from tflite2q.micro.rescaling import form_of


def transposed(name: str, op: TransposeConv, ins: Values, y: Value) -> Call:
    """The call of a TRANSPOSE_CONV.  Raises UnsupportedError for types that the kernel lacks."""
    x, filters, bias = ins["x"].type, ins["weights"], ins.get("bias")
    if x.dtype != "int8" or filters.type.dtype != "int8":
        raise UnsupportedError(f"codes are {x.dtype} with {filters.type.dtype} weights; there are kernels for int8")
    if filters.constant is None or (bias is not None and bias.constant is None):
        raise UnsupportedError("weights or biases are computed when the model runs")
    weights = filters.data.astype(np.int64) - filters.type.parameters.zero_point[0]
    if weights.min(initial=0) < -128 or weights.max(initial=0) > 127:
        raise UnsupportedError("weights with their zero point taken off need more than 8 bits; convert to int8")
    out_c, kernel_h, kernel_w, _ = weights.shape
    biases = np.zeros(out_c, np.int64) if bias is None else bias.data.reshape(-1).astype(np.int64)
    bound = 383.0 * np.abs(weights).sum(axis=(1, 2, 3)) + np.abs(biases)  # 128 for codes, 255 with zero points
    extents = (*x.shape, *y.type.shape, *weights.shape)
    if bound.max() >= 2**31 or max(extents) > 65535:
        raise UnsupportedError("sums may leave 32 bits, or an extent is above 65535")
    form = form_of(op.rescaling(ins, y), out_c, bound)
    rescale, tables = rescale_text(name, form)
    top, left = op.cropped((kernel_h, kernel_w), y.type.shape)
    (batch, in_h, in_w, in_c), (_, out_h, out_w, _) = x.shape, y.type.shape
    struct = (
        f"static const q_transposed {name} = {{{name}_w, {name}_s, {name}_b, {rescale}, {in_h}, {in_w}, {in_c}, "
        f"{out_h}, {out_w}, {out_c}, {batch}, {top}, {left}, {kernel_h}, {kernel_w}, {op.stride_h}, {op.stride_w}, "
        f"{x.zero_point}}};\n"
    )
    kind = kind_of(form)
    function = f"q_transpose_{kind[2:].lower()}"
    shared = wrapper(function, "q_transpose", "q_transposed", kind, ("int8_t", "int8_t"), False)
    own = (
        Table(f"{name}_w", weights.astype(np.int8), True), Table(f"{name}_s", weights.sum(axis=3).astype(np.int32)),
        Table(f"{name}_b", biases.astype(np.int32), True),
    )  # fmt: skip
    call = f"{function}(&{name}, {{x0}}, {{y0}});"
    return Call(call, ("dot", "transposed"), shared + "\0" + struct, (*own, *tables), 0, None)
