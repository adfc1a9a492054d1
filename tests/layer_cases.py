"""Cases of float layers: volumes, windows, normalization, suppression; part of `cases`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from draw import ACTIVATIONS, Case, Draw, Family, each

from tflite2q.dialect import ops
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import TensorType, Value

REAL = ("float32",)
SPREAD = 0.3


def _geometry(d: Draw) -> dict[str, int | str]:
    strides = {f"stride_{axis}": d.number(1, 3) for axis in "dhw"}
    return {"padding": d.pick(("SAME", "VALID")), "activation": d.pick(ACTIVATIONS), **strides}


def _conv3d(d: Draw, dtype: str) -> Case:
    kernel, channels, filters = d.shape(3, 3), d.number(1, 4), d.number(1, 4)
    x = TensorType((d.number(1, 2), *(d.number(5, 8) for _ in range(3)), channels), dtype)
    weights = TensorType((*kernel, channels, filters), dtype)
    operands = [d.input(x, d.data(x, SPREAD)), d.constant(d.data(weights, SPREAD))]
    if d.chance(0.6):
        operands.append(d.constant(d.data(TensorType((filters,), dtype), SPREAD)))
    dilations = {f"dilation_{axis}": d.pick((1, 1, 2)) for axis in "dhw"}
    return d.case(ops.Conv3D, operands, TensorType((), dtype), **_geometry(d), **dilations)


def _conv3d_transpose(d: Draw, dtype: str) -> Case:
    kernel, channels, filters, options = d.shape(3, 3), d.number(1, 4), d.number(1, 4), _geometry(d)
    out = [d.number(4, 7) for _ in range(3)]
    strides = [int(options[f"stride_{axis}"]) for axis in "dhw"]
    pairs = zip(out, kernel, strides, strict=True)
    sizes = [-(-o // s) if options["padding"] == "SAME" else (o - k + s) // s for o, k, s in pairs]
    x = TensorType((d.number(1, 2), *sizes, channels), dtype)
    weights = TensorType((*kernel, filters, channels), dtype)
    shape = d.ints(x.shape[0], *out, filters)
    operands = [shape, d.constant(d.data(weights, SPREAD)), d.input(x, d.data(x, SPREAD))]
    if d.chance(0.6):
        operands.append(d.constant(d.data(TensorType((filters,), dtype), SPREAD)))
    return d.case(ops.Conv3DTranspose, operands, TensorType((), dtype), **options)


def _l2_pool(d: Draw, dtype: str) -> Case:
    x = TensorType((d.number(1, 2), d.number(4, 9), d.number(4, 9), d.number(1, 5)), dtype)
    sizes = {name: d.number(1, 3) for name in ("stride_h", "stride_w", "filter_h", "filter_w")}
    options = {"padding": d.pick(("SAME", "VALID")), "activation": d.pick(ACTIVATIONS)}
    return d.case(ops.L2Pool2D, (d.input(x),), x.with_(shape=()), **sizes, **options)


def _local_response(d: Draw, dtype: str) -> Case:
    x = TensorType((*d.shape(3), d.number(1, 12)), dtype)
    reals = {name: float(np.float32(d.scale(0.05, 2.0))) for name in ("bias", "alpha", "beta")}
    return d.case(ops.LocalResponse, (d.input(x),), x.with_(shape=()), radius=d.number(0, 6), **reals)


def _reduce_window(d: Draw, function: str, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(1, 4), 7), dtype)
    rank = len(x.shape)
    steps = [d.pick((1, 1, 2)) for _ in range(rank)]
    sizes = [d.number(1, min((n - 1) // s + 1, 3)) for n, s in zip(x.shape, steps, strict=True)]
    strides = [d.number(1, 3) for _ in range(rank)]
    array = d.data(x)
    if function == "MUL":
        array = (array % 3 - 1).astype(array.dtype)
    settings = [d.constant(np.array(numbers, np.int64)) for numbers in (sizes, strides, steps)]
    kind = x.with_(shape=())
    start = d.constant(d.data(kind), kind)
    return d.case(ops.ReduceWindow, (d.input(x, array), start, *settings), kind, function=function)


def _suppression(d: Draw, soft: bool) -> Case:
    count, most = d.number(1, 20), d.number(1, 8)
    corners = d.rng.random((count, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners[:, 0], corners[:, 0] + (d.rng.random((count, 2)) - 0.2)], 1).astype(np.float32)
    scores = d.rng.permutation(count).astype(np.float32) / np.float32(count)
    operands = [d.input(TensorType((count, 4), "float32"), boxes), d.input(TensorType((count,), "float32"), scores)]
    numbers = [np.array(d.pick((0.2, 0.5, 0.7)), np.float32), np.array(d.pick((0.0, 0.2)), np.float32)]
    if soft:
        numbers.append(np.array(d.pick((0.0, 0.3, 1.0)), np.float32))
    operands += [d.constant(np.array(most, np.int32)), *(d.constant(number) for number in numbers)]
    index, score = TensorType((), "int32"), TensorType((), "float32")
    kinds = (index, score, index) if soft else (index, index)
    return d.case(ops.NonMaxSuppression, operands, *kinds, soft=soft)


def _spectrum(d: Draw, builtin: str, function: str) -> Case:
    """A transform, sometimes moved to another shape, and a part of it, for complex tensors stand inside models only."""
    front = d.shape(d.number(0, 2), 3)
    height, width = 2 ** d.number(0, 3), 2 ** d.number(1, 6)
    x = TensorType((*front, d.number(max(height // 2, 1), height + 2), d.number(width // 2, width + 3)), "float32")
    name, lengths = d.input(x), d.ints(height, width)
    spectrum = TensorType((*front, height, width // 2 + 1), "complex64")
    chain: list[Op] = [ops.RealTransform(inputs=(name, lengths), outputs=("spectrum",))]
    values = [Value("spectrum", spectrum)]
    if d.chance(0.5):
        spectrum = spectrum.with_(shape=(1, *spectrum.shape))
        shape = d.ints(*spectrum.shape)
        chain.append(ops.Reshape(inputs=("spectrum", shape), outputs=("moved",), new_shape=spectrum.shape))
        values.append(Value("moved", spectrum))
    chain.append(ops.ComplexPart(inputs=(values[-1].name,), outputs=("y",), function=function))
    values.append(Value("y", spectrum.with_(dtype="float32")))
    graph = Graph((name,), ("y",), (*d.values, *values), tuple(chain))
    return Case(verify(graph), tuple(d.arrays), builtin)


FAMILIES: Mapping[str, Family] = {
    **each("CONV_3D", REAL, _conv3d),
    **each("CONV_3D_TRANSPOSE", REAL, _conv3d_transpose),
    **each("L2_POOL_2D", REAL, _l2_pool),
    **each("LOCAL_RESPONSE_NORMALIZATION", REAL, _local_response),
    **{
        f"REDUCE_WINDOW-{name}-{dtype}": lambda d, f=name, t=dtype: _reduce_window(d, f, t)
        for name, dtypes in {
            "ADD": ("float32", "int32", "int8", "uint8", "int16"),
            "MUL": ("float32", "int32"),
            "MINIMUM": ("float32", "int8"),
            "MAXIMUM": ("float32", "uint8"),
            "ALL": ("bool",),
            "ANY": ("bool",),
        }.items()
        for dtype in dtypes
    },
    **{
        f"{name}{suffix}": lambda d, b=name, f=function: _spectrum(d, b, f)
        for name, suffix, function in (
            ("RFFT2D", "-REAL", "REAL"),
            ("RFFT2D", "-IMAG", "IMAG"),
            ("REAL", "", "REAL"),
            ("IMAG", "", "IMAG"),
            ("COMPLEX_ABS", "", "COMPLEX_ABS"),
        )
    },
    "NON_MAX_SUPPRESSION_V4": lambda d: _suppression(d, False),
    "NON_MAX_SUPPRESSION_V5": lambda d: _suppression(d, True),
}
