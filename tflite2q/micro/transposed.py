"""Transposed convolutions as calls of a kernel."""

from __future__ import annotations

import numpy as np

from tflite2q.dialect.op import Values
from tflite2q.dialect.ops.transpose_conv import TransposeConv
from tflite2q.dialect.types import TensorType, Value
from tflite2q.errors import UnsupportedError
from tflite2q.micro.calls import Call, kind_of, rescale_text, wrapper
from tflite2q.micro.program import CTYPES, Table
from tflite2q.micro.rescaling import form_of


def transposed(name: str, op: TransposeConv, ins: Values, y: Value) -> Call:
    """The call of a TRANSPOSE_CONV.  Raises UnsupportedError for types that the kernels lack."""
    x, filters, bias = ins["x"].type, ins["weights"], ins.get("bias")
    if (x.dtype, filters.type.dtype) not in (("int8", "int8"), ("uint8", "uint8"), ("int16", "int8")):
        raise UnsupportedError(f"codes are {x.dtype} with {filters.type.dtype} weights, for which there is no kernel")
    if filters.constant is None or (bias is not None and bias.constant is None):
        raise UnsupportedError("weights or biases are computed when the model runs")
    weight_zero = filters.type.parameters.zero_point[0]
    weights = filters.data.astype(np.int64) - weight_zero
    if x.dtype != "uint8" and (weights.min(initial=0) < -128 or weights.max(initial=0) > 127):
        raise UnsupportedError("weights minus their zero point need more than 8 bits; convert to int8")
    if x.dtype == "int16" and x.zero_point:
        raise UnsupportedError(f"16-bit codes with zero point {x.zero_point}")
    out_c = len(weights)
    biases = np.zeros(out_c, np.int64) if bias is None else bias.data.reshape(-1).astype(np.int64)
    reach = 2.0**15 if x.dtype == "int16" else 383.0  # 128 for codes, 255 with zero points
    bound = reach * np.abs(weights).sum(axis=(1, 2, 3)) + np.abs(biases)
    wide = bool(bound.max() >= 2**31)
    if (wide and x.dtype != "int16") or max(*x.shape, *y.type.shape, *weights.shape) > 65535:
        raise UnsupportedError("sums may leave 32 bits, or an extent is above 65535")
    form = form_of(op.rescaling(ins, y), out_c, bound)
    if wide and form.kind not in ("linear", "double", "float32"):
        raise UnsupportedError("sums of 64 bits in this arithmetic")
    rescale, tables = rescale_text(name, form)
    sums = (Table(f"{name}_s", weights.sum(axis=3).astype(np.int32)),) if x.dtype == "int8" else ()
    zero = x.zero_point - 256 if x.zero_point > 127 else x.zero_point  # a byte, whatever its sign
    struct = (
        f"static const q_transposed {name} = {{{name}_w, {f'{name}_s' if sums else '0'}, {name}_b, {rescale}, "
        f"{_geometry(op, x, y.type, weights.shape)}, {zero}, {weight_zero if x.dtype == 'uint8' else 0}}};\n"
    )
    kind = kind_of(form)
    kernel = {"int8": "q_transpose", "uint8": "q_transpose_bytes", "int16": "q_transpose_wide"}[x.dtype]
    function = f"{kernel}_{kind[2:].lower()}{'_64' if wide else ''}"
    types = (CTYPES[x.dtype], CTYPES[y.type.dtype])
    passed = f"{kind}, {int(wide)}" if x.dtype == "int16" else kind
    shared = wrapper(function, kernel, "q_transposed", passed, types, False)
    codes = filters.data.view(np.int8) if x.dtype == "uint8" else weights.astype(np.int8)
    own = (Table(f"{name}_w", codes, True), Table(f"{name}_b", biases.astype(np.int64 if wide else np.int32), True))
    call = f"{function}(&{name}, {{x0}}, {{y0}});"
    return Call(call, ("dot", "transposed"), shared + "\0" + struct, (*own, *sums, *tables), 0, None)


def _geometry(op: TransposeConv, x: TensorType, y: TensorType, weights: tuple[int, ...]) -> str:
    top, left = op.cropped(weights[1:3], y.shape)  # type: ignore[arg-type]
    (batch, in_h, in_w, in_c), (_, out_h, out_w, out_c) = x.shape, y.shape
    sizes = (in_h, in_w, in_c, out_h, out_w, out_c, batch, top, left, *weights[1:3], op.stride_h, op.stride_w)
    return ", ".join(map(str, sizes))
