"""Cases at the corners of what operators take: attributes, parameters and sizes that usual models do not have.

LiteRT refuses some of them; what its reference kernels compute must be computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from draw import ACTIVATIONS, CODES, Case, Draw, Family, each

from tflite2q.dialect import ops
from tflite2q.dialect.graph import verify
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import Quantization, TensorType

EIGHT = ("uint8", "int8")
NUMBERS = (*CODES, "float32")
REACHES = (100, 2**20, 2**30, 2**31 - 1)


def _wide_scale(d: Draw, typical: float, low: float = -9, high: float = 6) -> float:
    """`typical` times e^low to e^high."""
    return float(np.float32(typical * np.exp(d.rng.uniform(low, high))))


def _weights(d: Draw, dtype: str, shape: tuple[int, ...], axis: int, zero_points: bool) -> tuple[str, Quantization]:
    weights = "uint8" if dtype == "uint8" else "int8"
    zero = d.zero_point(weights) if weights == "uint8" or zero_points else 0
    quantization = Quantization.per_tensor(d.scale(1e-5, 0.5), zero)
    if weights == "int8" and zero == 0 and d.chance(0.6) and shape[axis] > 1:
        quantization = Quantization.per_channel([d.scale(1e-5, 0.5) for _ in range(shape[axis])], axis)
    kind = TensorType(shape, weights, quantization)
    return d.constant(d.data(kind), kind), quantization


def _bias(
    d: Draw, dtype: str, x: TensorType, q: Quantization, count: int, depthwise: bool = False
) -> tuple[str, dict[str, str]]:
    """A bias as far out as its type goes, and what has to say its type; a depthwise one of int16 is always wide."""
    wide = d.pick(("int64",) if depthwise else ("int32", "int64")) if dtype == "int16" else "int32"
    reach = d.pick(REACHES if wide == "int32" else (*REACHES, 2**40, 2**47))
    stated = Quantization.per_channel([np.float32(x.scale) * np.float32(s) for s in q.scale], 0)
    array = d.rng.integers(-reach, reach + 1, count)
    ends = d.rng.random(count) < 0.3
    array = np.where(ends, np.where(d.rng.random(count) < 0.5, -reach, reach), array)
    said = {"bias_type": "INT32"} if wide == "int32" and dtype == "int16" else {}
    return d.constant(array, TensorType((count,), wide, stated)), said


def _convolution(d: Draw, cls: type[Op], dtype: str) -> Case:
    depthwise = cls is ops.DepthwiseConv2D
    c, groups = d.pick((1, 2, 3, 5, 16)), 1
    kernel = (d.pick((1, 1, 2, 3, 5)), d.pick((1, 1, 2, 3, 5)))
    image = (d.number(1, 3), d.number(1, 9), d.number(1, 9))
    if depthwise:
        channels = c * d.pick((1, 1, 2, 4))
        shape = (1, *kernel, channels)
    else:
        groups = d.pick((1, 1, c))
        channels = d.pick((1, 2, 7)) * groups
        shape = (channels, *kernel, c // groups)
    x = d.kind((*image, c), dtype)
    stride = d.number(1, 5)
    attributes: dict[str, Any] = {
        "padding": d.pick(("SAME", "VALID")),
        "stride_h": stride,
        "stride_w": stride if depthwise else d.number(1, 5),
        "dilation_h": d.pick((1, 1, 2, 3)),
        "dilation_w": d.pick((1, 1, 2, 4)),
        "activation": d.pick(ACTIVATIONS),
    }
    if depthwise:
        attributes["depth_multiplier"] = channels // c
    weights, q = _weights(d, dtype, shape, 3 if depthwise else 0, zero_points=False)
    terms = kernel[0] * kernel[1] * (1 if depthwise else shape[3])
    y = d.kind((), dtype, _wide_scale(d, x.scale * max(q.scale) * 48 * float(np.sqrt(terms))))
    name = d.input(x)
    if (depthwise or dtype == "int16") and d.chance(0.1):
        return d.case(cls, (name, weights), y, **attributes)
    bias, said = _bias(d, dtype, x, q, channels, depthwise)
    return d.case(cls, (name, weights, bias), y, **attributes, **said)


def _transpose_conv(d: Draw, dtype: str) -> Case:
    c, channels = d.number(1, 5), d.number(1, 5)
    k, strides = (d.number(1, 5), d.number(1, 5)), (d.number(1, 5), d.number(1, 5))
    padding = d.pick(("SAME", "VALID"))
    image = (d.number(1, 2), d.number(1, 5), d.number(1, 5))
    if padding == "SAME":
        out = [n * s - d.number(0, s - 1) for n, s in zip(image[1:], strides, strict=True)]
    else:
        out = [(n - 1) * s + kk + d.number(0, s - 1) for n, s, kk in zip(image[1:], strides, k, strict=True)]
    x = d.kind((*image, c), dtype)
    size = d.ints(image[0], *out, channels)
    weights, q = _weights(d, dtype, (channels, *k, c), 0, zero_points=False)
    y = d.kind((), dtype, _wide_scale(d, x.scale * max(q.scale) * 48 * float(np.sqrt(k[0] * k[1] * c))))
    attributes = {"padding": padding, "stride_h": strides[0], "stride_w": strides[1], "activation": d.pick(ACTIVATIONS)}
    name = d.input(x)
    if d.chance(0.2):
        return d.case(ops.TransposeConv, (size, weights, name), y, version=4, **attributes)
    bias, said = _bias(d, dtype, x, q, channels)
    return d.case(ops.TransposeConv, (size, weights, name, bias), y, version=4, **attributes, **said)


def _dense(d: Draw, dtype: str) -> Case:
    k, units, rows = d.pick((1, 2, 17, 300, 2000)), d.number(1, 9), d.number(1, 4)
    keep = d.chance(0.4)
    x = d.kind(d.pick(((2, rows, k), (rows, 1, 1, k))) if keep else d.pick(((rows, k), (1, rows, k))), dtype)
    name = d.input(x)
    weights, q = _weights(d, dtype, (units, k), 0, zero_points=True)
    attributes = {"keep_num_dims": keep, "activation": d.pick(ACTIVATIONS)}
    # Beyond 2^31 steps of the result, what LiteRT computes is undefined in C.
    step = x.scale * max(q.scale)
    if d.chance(0.1):
        y = d.kind((), dtype, max(_wide_scale(d, step * 48 * float(np.sqrt(k))), step * k * 2**-7))
        return d.case(ops.Dense, (name, weights, None), y, **attributes)
    bias, said = _bias(d, dtype, x, q, units)
    largest = np.abs(d.values[-1].data.astype(np.float64)).max()
    y = d.kind((), dtype, max(_wide_scale(d, step * 48 * float(np.sqrt(k))), step * (k * 2**-7 + largest * 2.0**-30)))
    return d.case(ops.Dense, (name, weights, bias), y, **attributes, **said)


def _batch_matmul(d: Draw, dtype: str) -> Case:
    n, k, m = d.number(1, 5), d.pick((1, 5, 300)), d.number(1, 5)
    batch = d.shape(d.number(0, 2), 3)
    other = tuple(1 if d.chance(0.5) else size for size in batch)[d.number(0, len(batch)) :]
    a, b = d.kind((*batch, n, k), dtype), d.kind((*other, k, m), dtype)
    pair = (a, b) if d.chance(0.7) else (a.with_(shape=(*other, n, k)), b.with_(shape=(*batch, k, m)))
    typical = a.scale * b.scale * (48 if dtype == "int8" else 12000) * float(np.sqrt(k))
    return d.case(ops.BatchMatmul, [d.input(v) for v in pair], d.kind((), dtype, _wide_scale(d, typical, -4, 4)))


def _int16_by_int8(d: Draw) -> Case:
    n, k, m, flip = d.number(1, 5), d.pick((1, 5, 300)), d.number(1, 5), d.chance(0.5)
    a, b = d.kind((d.number(1, 3), n, k), "int16"), d.kind((m, k) if flip else (k, m), "int8", None, 0)
    y = d.kind((), "int16", _wide_scale(d, a.scale * b.scale * 48 * float(np.sqrt(k)), -4, 4))
    second = d.constant(d.data(b), b) if d.chance(0.5) else d.input(b)
    return d.case(ops.BatchMatmul, (d.input(a), second), y, transpose_b=flip, version=4)


def _binary(d: Draw, cls: type[Op], dtype: str, **attributes: Any) -> Case:
    rank = d.number(0, 6)
    full = d.shape(rank, 4)
    shapes = [tuple(1 if d.chance(0.4) else n for n in full)[d.number(0, rank) if rank else 0 :] for _ in range(2)]
    if d.chance(0.5):
        shapes[d.number(0, 1)] = full
    kinds = [d.kind(shape, dtype) for shape in shapes]
    typical = {
        ops.Mul: kinds[0].scale * kinds[1].scale * 100,
        ops.Div: kinds[0].scale / kinds[1].scale / 50,
        ops.SquaredDifference: max(k.scale for k in kinds) ** 2 * 30,
    }.get(cls, max(k.scale for k in kinds) * 2)
    y = d.kind((), dtype, _wide_scale(d, typical, -3, 4))
    arrays = [d.data(kind) for kind in kinds]
    if cls is ops.Div:
        zero = kinds[1].zero_point
        arrays[1] = np.where(arrays[1] == zero, zero + (1 if zero < 100 else -1), arrays[1]).astype(arrays[1].dtype)
    if cls is ops.Extremum:
        kinds = [kind.with_(quantization=y.quantization) for kind in kinds]
    operands = [
        d.constant(array, kind) if index == 1 and d.chance(0.3) else d.input(kind, array)
        for index, (kind, array) in enumerate(zip(kinds, arrays, strict=True))
    ]
    if "activation" in {f.name for f in cls.attributes()}:
        attributes["activation"] = d.pick((*ACTIVATIONS, "TANH", "SIGN_BIT"))
    if "pot_scale_int16" in {f.name for f in cls.attributes()}:
        attributes["pot_scale_int16"] = False
    return d.case(cls, operands, y, **attributes)


def _reduce(d: Draw, cls: type[Op], dtype: str, same: bool = False, **attributes: Any) -> Case:
    big = d.chance(0.3)
    shape = (d.number(1, 2), d.pick((64, 128)), d.pick((100, 256)), d.number(1, 3)) if big else d.shape(d.number(1, 6))
    x = d.kind(shape, dtype)
    rank = len(shape)
    axes = [int(a) for a in d.rng.permutation(rank)[: d.number(1, rank)]]
    axes = [a - rank if d.chance(0.4) else a for a in axes]
    if d.chance(0.2):
        axes.append(axes[0] % rank)  # named twice
    y = x.with_(shape=()) if same or dtype not in CODES else d.kind((), dtype, _wide_scale(d, x.scale, -2, 5))
    return d.case(cls, (d.input(x), d.ints(*axes)), y, keep_dims=d.chance(0.5), **attributes)


def _bare_reduce(d: Draw, cls: type[Op], dtype: str) -> Case:
    """Codes without quantization parameters."""
    x = d.kind(d.shape(d.number(2, 4)), dtype)
    bare = x.with_(quantization=None)
    axis = d.ints(d.number(0, len(x.shape) - 1))
    return d.case(cls, (d.input(bare, d.data(x)), axis), bare.with_(shape=()), keep_dims=d.chance(0.5))


def _pool(d: Draw, cls: type[Op], dtype: str) -> Case:
    x = d.kind((d.number(1, 2), d.number(1, 20), d.number(1, 20), d.number(1, 18)), dtype)
    return d.case(
        cls,
        (d.input(x),),
        x.with_(shape=()) if d.chance(0.7) else d.kind((), dtype),
        padding=d.pick(("SAME", "VALID")),
        stride_h=d.number(1, 7),
        stride_w=d.number(1, 7),
        filter_h=d.number(1, 25),
        filter_w=d.number(1, 25),
        activation=d.pick(ACTIVATIONS),
    )


def _rows(d: Draw, cls: type[Op], dtype: str) -> Case:
    rank = d.number(1, 5)
    shape = (*d.shape(rank - 1, 4), d.pick((1, 2, 10, 300)))
    x = d.kind(shape, dtype, _wide_scale(d, 0.1, -10, 5))
    attributes = {}
    if cls is ops.Softmax:
        attributes["beta"] = float(np.float32(d.pick((1.0, 0.01, 0.1, 10.0, 100.0, 1e-6))))
    y = TensorType((), dtype)
    if dtype in CODES:
        y = y.with_(quantization=cls(inputs=("x",), outputs=("y",)).fixed_result(dtype))
    return d.case(cls, (d.input(x),), y, **attributes)


def _softmax_to_int16(d: Draw) -> Case:
    x = d.kind((*d.shape(d.number(0, 3), 4), d.pick((1, 2, 10, 300))), "int8", _wide_scale(d, 0.1, -4, 4))
    y = TensorType((), "int16", Quantization.per_tensor(1 / 65536, -32768))
    return d.case(ops.Softmax, (d.input(x),), y, beta=float(np.float32(d.pick((1.0, 0.3, 4.0)))))


def _lookup(d: Draw, function: str, dtype: str) -> Case:
    x = d.kind((256 if dtype != "int16" else 65536,), dtype, _wide_scale(d, 0.05, -9, 5))
    low, high = x.range
    array = np.arange(low, high + 1).astype(dtype)
    y = d.kind((), dtype, _wide_scale(d, x.scale, -3, 4))
    attributes: dict[str, Any] = {"function": function}
    if function == "LEAKY_RELU":
        attributes["alpha"] = float(np.float32(d.pick((0.0, -0.2, 1.0, 3.0, -2.0, 1e-6, 0.25))))
    if function == "GELU":
        attributes["approximate"] = d.chance(0.5)
    op = ops.Lookup(inputs=("x",), outputs=("y",), **attributes)
    fixed = op.fixed_result(dtype)
    if fixed is not None:
        y = y.with_(quantization=fixed)
    if function == "NEG":
        y = x.with_(shape=())
    if function in ("SQRT", "RSQRT", "LOG"):
        x = x.with_(quantization=Quantization.per_tensor(x.scale, low if dtype != "int16" else 0))
        array = np.maximum(array, x.zero_point + (0 if function == "SQRT" else 1)).astype(dtype)
    return d.case(ops.Lookup, (d.input(x, array),), y, **attributes)


def _requantize(d: Draw, source: str, target: str) -> Case:
    x = d.kind((70000 if source == "int16" else 300,), source, _wide_scale(d, 0.05, -9, 5))
    if source == "int32":
        x = TensorType((300,), source, Quantization.per_tensor(d.scale(1e-6, 1e-3), 0))
    array = d.data(x) if source != "float32" else d.rng.normal(size=x.shape).astype(np.float32) * d.pick((1, 100, 1e6))
    if source == "int32":
        array = d.rng.integers(-(2**31), 2**31, x.shape).astype(np.int32)
    y = d.kind((), target, _wide_scale(d, x.scale if source != "float32" else 0.1, -6, 8))
    if source == "float32":  # beyond 2^31 steps, what LiteRT computes is undefined in C
        array = np.clip(array, -y.scale * 2**30, y.scale * 2**30)
    return d.case(ops.Requantize, (d.input(x, array.astype(x.dtype)),), y)


def _prelu(d: Draw, dtype: str) -> Case:
    shape = d.shape(4)
    alpha_shape = tuple(1 if d.chance(0.5) else n for n in shape)[d.number(0, 3) :]
    x, alpha = d.kind(shape, dtype), d.kind(alpha_shape, dtype)
    y = d.kind((), dtype, _wide_scale(d, x.scale, -3, 4))
    slope = d.constant(d.data(alpha), alpha) if d.chance(0.7) else d.input(alpha)
    return d.case(ops.Prelu, (d.input(x), slope), y)


def _resize(d: Draw, cls: type[Op], dtype: str) -> Case:
    x = d.kind((d.number(1, 2), d.pick((1, 2, 3, 17, 64)), d.pick((1, 2, 5, 31, 100)), d.number(1, 3)), dtype)
    corners = d.chance(0.4)
    options = {"align_corners": corners, "half_pixel_centers": not corners and d.chance(0.6)}
    size = d.ints(d.pick((1, 2, 7, 33, 100)), d.pick((1, 2, 9, 50, 127)))
    return d.case(cls, (d.input(x), size), x.with_(shape=()), **options)


def _concat(d: Draw, dtype: str) -> Case:
    shape, count = d.shape(d.number(1, 5)), d.number(1, 9)
    axis = d.number(-len(shape), len(shape) - 1)
    y = d.kind((), dtype)
    names = []
    for _ in range(count):
        part = list(shape)
        part[axis] = d.number(1, 4)
        kind = d.kind(part, dtype) if dtype == "uint8" and d.chance(0.7) else y.with_(shape=tuple(part))
        names.append(d.constant(d.data(kind), kind) if names and d.chance(0.2) else d.input(kind))
    return d.case(ops.Concat, names, y, axis=axis)


def _strided_slice(d: Draw, dtype: str) -> Case:
    """Begins and ends behind the edges too, masks, and axes that vanish."""
    x = d.kind(d.shape(d.number(1, 5), 8), dtype)
    begin, end, strides, shrink = [], [], [], 0
    for axis, n in enumerate(x.shape):
        strides.append(d.pick((1, 1, 2, 3, -1, -2, 9)))
        begin.append(d.number(-n - 3, n + 3))
        end.append(d.number(-n - 3, n + 3))
        if d.chance(0.2) and axis > 0:
            shrink |= 1 << axis
            strides[-1], begin[-1] = 1, d.number(-n, n - 1)
            end[-1] = begin[-1] + 1
    rank = len(x.shape)
    masks = {name: sum(1 << a for a in range(rank) if d.chance(0.4)) for name in ("begin_mask", "end_mask")}
    operands = (d.input(x), d.ints(*begin), d.ints(*end), d.ints(*strides))
    return d.case(ops.StridedSlice, operands, x.with_(shape=()), shrink_axis_mask=shrink, **masks)


def _gather(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(1, 5)), dtype)
    rank = len(x.shape)
    axis = d.number(-rank, rank - 1)
    shape = d.shape(d.number(0, 3), 4)
    indices = d.rng.integers(0, x.shape[axis], shape).astype(np.int32)
    return d.case(ops.Gather, (d.input(x), d.input(TensorType(shape, "int32"), indices)), x.with_(shape=()), axis=axis)


def _detection(d: Draw, dtype: str, regular: bool) -> Case:
    """Several classes a box; scores of which no two are equal, whose order LiteRT leaves to its sorting routine."""
    boxes, classes = d.number(1, 24), d.number(1, 9)
    background = d.number(0, 1)
    box = d.kind((1, boxes, d.pick((4, 4, 6))), dtype, 0.06, 128)
    score = d.kind((1, boxes, classes + background), dtype, d.pick((1 / 256, 0.0037)), d.pick((0, 0, 3)))
    anchor = d.kind((boxes, 4), dtype, 1 / 200, 0)
    if dtype == "float32":
        scores = d.rng.permutation(score.size).astype(np.float32) / np.float32(score.size)
        anchors = d.rng.random(anchor.shape).astype(np.float32)
    else:
        scores = d.rng.permutation(256)[: score.size] if score.size <= 256 else d.data(score)
        anchors = np.maximum(d.data(anchor), 1)
    return d.case(
        ops.DetectionPostprocess,
        (d.input(box), d.input(score, scores.reshape(score.shape).astype(dtype)), d.constant(anchors, anchor)),
        *[TensorType((), "float32")] * 4,
        max_detections=d.number(1, 12),
        num_classes=classes,
        max_classes_per_detection=1 if regular else d.number(1, classes + 2),
        detections_per_class=d.number(1, 10),
        regular=regular,
        score_threshold=float(np.float32(d.pick((1e-8, 0.3, 0.6)))),
        iou_threshold=float(np.float32(d.pick((0.01, 0.3, 0.5, 0.6, 1.0)))),
    )


LOOKUPS = {
    **dict.fromkeys(("LOGISTIC", "TANH", "LEAKY_RELU", "GELU", "RELU", "RELU6"), CODES),
    **dict.fromkeys(("HARD_SWISH", "RELU_N1_TO_1", "RELU_0_TO_1"), EIGHT),
    **dict.fromkeys(("EXP", "LOG", "ABS", "RSQRT", "SQRT", "NEG"), ("int8", "int16")),
}
PAIRS = (("uint8", "uint8"), ("uint8", "int8"), ("int8", "uint8"), ("int8", "int8"), ("int16", "int16"),
         ("int16", "int8"), ("int8", "int16"), ("int32", "int16"), ("int32", "int8"), ("float32", "uint8"),
         ("float32", "int8"), ("float32", "int16"))  # fmt: skip
COMPARISONS = ("EQUAL", "LESS", "GREATER_EQUAL")


def _offset_slice(d: Draw, dtype: str) -> Case:
    """Ends that count from where ranges begin, at the front too where a mask says so."""
    x = d.kind(d.shape(d.number(1, 5), 8), dtype)
    begin, end, mask = [], [], 0
    for axis, n in enumerate(x.shape):
        begin.append(d.number(-n, n - 1))
        end.append(d.number(1, n - begin[-1] % n))
        mask |= (1 << axis) * d.chance(0.2)
    operands = (d.input(x), d.ints(*begin), d.ints(*end), d.ints(*[1] * len(begin)))
    return d.case(ops.StridedSlice, operands, x.with_(shape=()), begin_mask=mask, offset=True)


def _quantize_channels(d: Draw, dtype: str) -> Case:
    """Real numbers to codes with parameters for each slice along an axis."""
    shape = tuple(d.number(2, 5) for _ in range(d.number(1, 4)))
    axis = d.number(0, len(shape) - 1)
    scales = tuple(d.scale() for _ in range(shape[axis]))
    zeros = tuple(d.zero_point(dtype) for _ in scales)
    return d.case(
        ops.Requantize,
        (d.input(TensorType(shape, "float32")),),
        TensorType((), dtype, Quantization(scales, zeros, axis)),
        version=3,
    )


def _bare_binary(d: Draw, cls: type[Op], dtype: str, **attributes: Any) -> Case:
    """Codes without parameters, taken as they are."""
    shape = d.shape(3)
    kinds = TensorType(shape, dtype), TensorType(shape[d.number(0, 2) :], dtype)
    arrays = [d.data(kind) for kind in kinds]
    if cls is ops.FloorDiv:
        arrays[0] = np.maximum(arrays[0], np.iinfo(dtype).min + 1)  # by -1, that one is undefined in C
        arrays[1] = np.where(arrays[1] == 0, -1, arrays[1]).astype(dtype)
    y = TensorType((), "bool" if cls is ops.Compare else dtype)
    return d.case(cls, [d.input(kind, array) for kind, array in zip(kinds, arrays, strict=True)], y, **attributes)


def _bare_pool(d: Draw, cls: type[Op], dtype: str) -> Case:
    case = _pool(d, cls, dtype)
    values = tuple(v.with_(type=v.type.with_(quantization=None)) for v in case.graph.values)
    op = case.graph.ops[0].with_(activation="NONE")
    return replace(case, graph=verify(case.graph.with_(values=values, ops=(op,))))


CORNERS: Mapping[str, Family] = {
    **each("CONV_2D", CODES, _convolution, ops.Conv2D),
    **each("DEPTHWISE_CONV_2D", CODES, _convolution, ops.DepthwiseConv2D),
    **each("TRANSPOSE_CONV", CODES, _transpose_conv),
    **each("FULLY_CONNECTED", CODES, _dense),
    **each("BATCH_MATMUL", ("int8", "int16"), _batch_matmul),
    "BATCH_MATMUL-int16-int8": _int16_by_int8,
    **each("ADD", CODES, _binary, ops.Add),
    **each("SUB", CODES, _binary, ops.Add, subtract=True),
    **each("MUL", CODES, _binary, ops.Mul),
    **each("DIV", CODES, _binary, ops.Div),
    **each("SQUARED_DIFFERENCE", ("int8",), _binary, ops.SquaredDifference),
    **each("MAXIMUM", CODES, _binary, ops.Extremum),
    **each("MEAN", NUMBERS, _reduce, ops.Mean),
    **each("SUM", ("uint8", "int32"), _reduce, ops.Sum),
    **each("MEAN-bare", CODES, _bare_reduce, ops.Mean),
    **each("SUM-bare", ("uint8",), _bare_reduce, ops.Sum),
    **each("REDUCE_MAX-bare", CODES, _bare_reduce, ops.ReduceExtremum),
    **each("QUANTIZE-channels", CODES, _quantize_channels),
    **each("MAXIMUM-bare", CODES, _bare_binary, ops.Extremum),
    **each("MINIMUM-bare", CODES, _bare_binary, ops.Extremum, smallest=True),
    **each("FLOOR_DIV-bare", ("int8", "int16"), _bare_binary, ops.FloorDiv),
    **each("FLOOR_MOD-bare", ("int8", "int16"), _bare_binary, ops.FloorDiv, remainder=True),
    **each("LESS-bare", ("int16",), _bare_binary, ops.Compare, relation="LESS"),
    **each("EQUAL-bare", ("int16",), _bare_binary, ops.Compare, relation="EQUAL"),
    **each("AVERAGE_POOL_2D-bare", CODES, _bare_pool, ops.AveragePool2D),
    **each("MAX_POOL_2D-bare", CODES, _bare_pool, ops.MaxPool2D),
    **each("REDUCE_MAX", (*NUMBERS, "int32"), _reduce, ops.ReduceExtremum, same=True, smallest=False),
    **each("REDUCE_MIN", (*NUMBERS, "int32"), _reduce, ops.ReduceExtremum, same=True, smallest=True),
    **each("AVERAGE_POOL_2D", NUMBERS, _pool, ops.AveragePool2D),
    **each("MAX_POOL_2D", NUMBERS, _pool, ops.MaxPool2D),
    **each("SOFTMAX", NUMBERS, _rows, ops.Softmax),
    "SOFTMAX-int8-int16": _softmax_to_int16,
    **each("LOG_SOFTMAX", (*EIGHT, "float32"), _rows, ops.LogSoftmax),
    **each("L2_NORMALIZATION", (*EIGHT, "float32"), _rows, ops.L2Norm),
    **{k: f for name, dtypes in LOOKUPS.items() for k, f in each(name, dtypes, _lookup, name).items()},
    **{f"QUANTIZE-{a}-{b}": lambda d, a=a, b=b: _requantize(d, a, b) for a, b in PAIRS},
    **each("PRELU", EIGHT, _prelu),
    **each("RESIZE_BILINEAR", NUMBERS, _resize, ops.ResizeBilinear),
    **each("RESIZE_NEAREST_NEIGHBOR", NUMBERS, _resize, ops.ResizeNearest),
    **each("CONCATENATION", NUMBERS, _concat),
    **each("STRIDED_SLICE", NUMBERS, _strided_slice),
    **each("STRIDED_SLICE-offset", NUMBERS, _offset_slice),
    **each("GATHER", NUMBERS, _gather),
    **each("TFLite_Detection_PostProcess", ("uint8", "float32"), _detection, regular=False),
    **each("TFLite_Detection_PostProcess-regular", ("uint8", "float32"), _detection, regular=True),
}
