"""Cases of the ops that move codes, resize, recur or detect; part of `cases`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from draw import Case, Draw, Family, each

from tflite2q.dialect import ops
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import Quantization, TensorType, Value

EIGHT = ("uint8", "int8")
MOVED = ("uint8", "int8", "int16", "float32", "int32")


def _one(d: Draw, x: TensorType, cls: type[Op], *rest: str, **attributes: Any) -> Case:
    """A case whose result has the type of its input, whatever its shape."""
    return d.case(cls, (d.input(x), *rest), x.with_(shape=()), **attributes)


def _reshape(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(3), dtype)
    shape = tuple(int(n) for n in d.rng.permutation(x.shape)) if d.chance(0.5) else (x.size, 1)
    name = d.input(x)
    return d.case(ops.Reshape, (name, d.ints(*shape)), x.with_(shape=shape), new_shape=shape)


def _squeeze(d: Draw, dtype: str) -> Case:
    a, b = d.number(2, 5), d.number(2, 5)
    x = d.kind((1, a, 1, b), dtype)
    return d.case(ops.Reshape, (d.input(x),), x.with_(shape=(a, 1, b)), kind="squeeze", squeeze_dims=(0,))


def _expand_dims(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(2), dtype)
    y = x.with_(shape=(x.shape[0], 1, x.shape[1]))
    return d.case(ops.Reshape, (d.input(x), d.constant(np.array(1, np.int32))), y, kind="expand_dims")


def _transpose(d: Draw, dtype: str) -> Case:
    rank = d.number(2, 5)
    order = d.ints(*(int(a) for a in d.rng.permutation(rank)))
    return _one(d, d.kind(d.shape(rank), dtype), ops.Transpose, order)


def _slice(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(1, 4)), dtype)
    begin = [d.number(0, n - 1) for n in x.shape]
    size = [-1 if d.chance(0.3) else d.number(1, n - b) for n, b in zip(x.shape, begin, strict=True)]
    return _one(d, x, ops.Slice, d.ints(*begin), d.ints(*size))


def _strided_slice(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(1, 4), 8), dtype)
    begin, end, strides, shrink = [], [], [], 0
    for axis, n in enumerate(x.shape):
        stride = d.pick((1, 1, 2, 3, -1, -2))
        first, last = sorted((d.number(0, n - 1), d.number(0, n - 1)))
        if stride > 0:
            first, last = first, last + 1
        else:
            first, last = last, first - 1 if first > 0 else -n - 1
        if d.chance(0.2) and axis > 0:
            shrink, stride, last = shrink | 1 << axis, 1, first + 1
        begin.append(first - n if d.chance(0.3) else first)
        end.append(last)
        strides.append(stride)
    positive = [axis for axis, s in enumerate(strides) if not shrink >> axis & 1]
    masks = {
        "begin_mask": sum(1 << a for a in positive if d.chance(0.2)),
        "end_mask": sum(1 << a for a in positive if d.chance(0.2)),
    }
    kind = x.with_(shape=())
    operands = (d.input(x), d.ints(*begin), d.ints(*end), d.ints(*strides))
    return d.case(ops.StridedSlice, operands, kind, shrink_axis_mask=shrink, **masks)


def _split(d: Draw, dtype: str) -> Case:
    parts, axis = d.number(1, 4), d.number(0, 2)
    shape = list(d.shape(3))
    shape[axis] *= parts
    x = d.kind(shape, dtype)
    which = d.constant(np.array(axis - 3 if d.chance(0.3) else axis, np.int32))
    return d.case(ops.Split, (which, d.input(x)), *[x.with_(shape=())] * parts, count=parts)


def _split_v(d: Draw, dtype: str) -> Case:
    sizes, axis = [d.number(1, 4) for _ in range(d.number(1, 4))], d.number(0, 2)
    shape = list(d.shape(3))
    shape[axis] = sum(sizes)
    x = d.kind(shape, dtype)
    if d.chance(0.4):
        sizes[d.number(0, len(sizes) - 1)] = -1
    operands = (d.input(x), d.ints(*sizes), d.constant(np.array(axis, np.int32)))
    return d.case(ops.Split, operands, *[x.with_(shape=())] * len(sizes), kind="split_v", count=len(sizes))


def _pack(d: Draw, dtype: str) -> Case:
    x, count = d.kind(d.shape(d.number(1, 3)), dtype), d.number(1, 4)
    axis = d.number(-len(x.shape) - 1, len(x.shape))
    return d.case(ops.Pack, [d.input(x) for _ in range(count)], x.with_(shape=()), count=count, axis=axis)


def _unpack(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(2, 4)), dtype)
    axis = d.number(-len(x.shape), len(x.shape) - 1)
    count = x.shape[axis]
    return d.case(ops.Unpack, (d.input(x),), *[x.with_(shape=())] * count, count=count, axis=axis)


def _concat(d: Draw, dtype: str) -> Case:
    shape, count = d.shape(d.number(1, 4)), d.number(2, 4)
    axis = d.number(-len(shape), len(shape) - 1)
    y = d.kind((), dtype)
    names = []
    for _ in range(count):
        part = list(shape)
        part[axis] = d.number(1, 4)
        kind = d.kind(part, dtype) if dtype == "uint8" and d.chance(0.5) else y.with_(shape=tuple(part))
        names.append(d.input(kind))
    return d.case(ops.Concat, names, y, axis=axis)


def _gather(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(1, 4)), dtype)
    axis = d.number(0, len(x.shape) - 1)
    batch = d.number(0, axis) if d.chance(0.3) else 0
    shape = (*x.shape[:batch], *d.shape(d.number(0 if batch else 1, 2)))
    if dtype == "int16" or not shape:
        batch, shape = 0, d.shape(1)
    indices = d.input(TensorType(shape, "int32"), d.rng.integers(0, x.shape[axis], shape).astype(np.int32))
    return d.case(ops.Gather, (d.input(x), indices), x.with_(shape=()), axis=axis, batch_axes=batch)


def _gather_nd(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(1, 4)), dtype)
    depth, rows = d.number(1, len(x.shape)), d.number(1, 5)
    columns = [d.rng.integers(0, n, rows) for n in x.shape[:depth]]
    array = np.stack(columns, axis=1).astype(np.int32)
    return d.case(ops.GatherNd, (d.input(x), d.input(TensorType(array.shape, "int32"), array)), x.with_(shape=()))


def _tile(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(1, 4), 4), dtype)
    return _one(d, x, ops.Tile, d.ints(*(d.number(1, 3) for _ in x.shape)))


def _broadcast_to(d: Draw, dtype: str) -> Case:
    full = d.shape(d.number(1, 4))
    part = tuple(1 if d.chance(0.5) else n for n in full)[d.number(0, len(full) - 1) :]
    return _one(d, d.kind(part, dtype), ops.BroadcastTo, d.ints(*full))


def _reverse(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(1, 4)), dtype)
    return _one(d, x, ops.Reverse, d.ints(d.number(0, len(x.shape) - 1)))


def _space_depth(d: Draw, dtype: str, to_depth: bool) -> Case:
    block, (n, h, w, c) = d.number(1, 3), d.shape(4, 4)
    shape = (n, h * block, w * block, c) if to_depth else (n, h, w, c * block * block)
    return _one(d, d.kind(shape, dtype), ops.SpaceDepth, block=block, to_depth=to_depth)


def _space_batch(d: Draw, dtype: str, to_batch: bool) -> Case:
    count = d.pick((2, 2, 1))
    block = [d.number(1, 3) for _ in range(count)]
    if to_batch:
        margins = [(d.number(0, 2), d.number(0, 2)) for _ in block]
        extent = [max(b * d.number(1, 3) - p - q, 0) for b, (p, q) in zip(block, margins, strict=True)]
        extent = [n if n > 0 else n + b * 3 for n, b in zip(extent, block, strict=True)]
        extent = [n + (-(n + p + q)) % b for n, b, (p, q) in zip(extent, block, margins, strict=True)]
        shape = (d.number(1, 2), *extent, d.number(1, 3))
    else:
        extent = [d.number(2, 4) for _ in block]
        margins = [(d.number(0, b // 2), d.number(0, b // 2)) for b in block]
        shape = (int(np.prod(block)) * d.number(1, 2), *extent, d.number(1, 3))
    table = d.constant(np.array(margins, np.int32))
    return _one(d, d.kind(shape, dtype), ops.SpaceBatch, d.ints(*block), table, to_batch=to_batch)


def _pad(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(1, 4)), dtype)
    margins = [(d.number(0, 3), d.number(0, 3)) for _ in x.shape]
    return _one(d, x, ops.Pad, d.constant(np.array(margins, np.int32)))


def _padv2(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(1, 4)), dtype)
    margins = d.constant(np.array([(d.number(0, 3), d.number(0, 3)) for _ in x.shape], np.int32))
    filler = x.with_(shape=(1,))
    return _one(d, x, ops.Pad, margins, d.constant(d.data(filler), filler), kind="padv2")


def _mirror_pad(d: Draw, dtype: str) -> Case:
    x, mode = d.kind(d.shape(d.number(1, 4)), dtype), d.pick(("REFLECT", "SYMMETRIC"))
    most = [n - (mode == "REFLECT") for n in x.shape]
    margins = [(d.number(0, min(m, 3)), d.number(0, min(m, 3))) for m in most]
    return _one(d, x, ops.MirrorPad, d.constant(np.array(margins, np.int32)), mode=mode)


def _resize(d: Draw, cls: type[Op], dtype: str) -> Case:
    x = d.kind((d.number(1, 2), d.number(1, 9), d.number(1, 9), d.number(1, 3)), dtype)
    corners = d.chance(0.4)
    options = {"align_corners": corners, "half_pixel_centers": not corners and d.chance(0.6)}
    return _one(d, x, cls, d.ints(d.number(1, 20), d.number(1, 20)), **options)


def _shape_of(d: Draw, rank: bool, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(1, 4)), dtype)
    return d.case(ops.ShapeOf, (d.input(x),), TensorType(() if rank else (len(x.shape),), "int32"), rank=rank)


def _fill(d: Draw, dtype: str) -> Case:
    kind = d.kind((), dtype)
    value = d.constant(d.data(kind.with_(shape=(1,)))[0], kind)
    y = kind.with_(shape=d.shape(d.number(0, 4)))
    d.input(TensorType((1,), "float32"))  # a model needs an input
    return d.case(ops.Fill, (d.ints(*y.shape), value), y)


def _one_hot(d: Draw, dtype: str) -> Case:
    x, depth = TensorType(d.shape(d.number(1, 3)), "int32"), d.number(1, 6)
    kind = TensorType((), dtype)
    on, off = (d.constant(np.array(v, dtype)) for v in (d.number(1, 9), d.number(-3, 0)))
    index = d.input(x, d.rng.integers(0, depth, x.shape).astype(np.int32))
    axis = d.number(-1, len(x.shape))
    return d.case(ops.OneHot, (index, d.constant(np.array(depth, np.int32)), on, off), kind, axis=axis)


def _lstm(d: Draw, time_major: bool, coupled: bool) -> Case:
    """coupled: no input gate of its own (CIFG)."""
    batch, steps, depth, units = d.number(1, 3), d.number(1, 4), d.number(1, 6), d.number(1, 6)
    x = d.kind((steps, batch, depth) if time_major else (batch, steps, depth), "int8", d.scale(0.005, 0.1))
    hidden_step = 1 / 128 if d.chance(0.5) else d.scale(0.004, 0.01)
    hidden = TensorType((batch, units), "int8", Quantization.per_tensor(hidden_step, d.number(-5, 5)))
    cell = TensorType((batch, units), "int16", Quantization.per_tensor(2.0 ** -d.number(9, 14), 0))
    gates = range(1, 4) if coupled else range(4)
    operands: list[str | None] = [None] * 24
    operands[0] = d.input(x)
    for gate in gates:
        scales = d.scale(0.005, 0.05), d.scale(0.005, 0.05)
        for first, size, scale in ((1, depth, scales[0]), (5, units, scales[1])):
            kind = TensorType((units, size), "int8", Quantization.per_tensor(scale, 0))
            operands[first + gate] = d.constant(np.maximum(d.data(kind), -127), kind)
        bias = TensorType((units,), "int32", Quantization.per_tensor(scales[0] * x.scale, 0))
        operands[12 + gate] = d.constant(d.rng.integers(-3000, 3000, units), bias)
    operands[18], operands[19] = d.state(hidden), d.state(cell)
    inside = [Value(f"inside{i}", TensorType((), "int16", Quantization.per_tensor(2.0**-12, 0))) for i in range(4)]
    inside.append(Value("inside4", TensorType((), "int8", hidden.quantization)))
    clip = float(np.float32(d.pick((0.0, 0.0, 1.0))))
    options = {"time_major": time_major, "cell_clip": clip, "intermediates": tuple(inside)}
    return d.case(ops.Lstm, operands, hidden.with_(shape=()), **options)


def _svdf(d: Draw) -> Case:
    batch, depth, units, rank, memory = (d.number(1, 4) for _ in range(5))
    x = d.kind((batch, depth), "int8", d.scale(0.005, 0.1))
    filters = units * rank
    features = TensorType((filters, depth), "int8", Quantization.per_tensor(d.scale(0.005, 0.05), 0))
    times = TensorType((filters, memory), "int16", Quantization.per_tensor(d.scale(1e-5, 1e-4), 0))
    state = TensorType((batch, memory * filters), "int16", Quantization.per_tensor(d.scale(1e-4, 1e-3), 0))
    bias = TensorType((units,), "int32", Quantization.per_tensor(state.scale * times.scale, 0))
    small = d.constant(np.maximum(d.data(features), -127), features)
    long = d.constant(d.data(times) // 8, times)
    operands = (d.input(x), small, long, d.constant(d.rng.integers(-9999, 9999, units), bias), d.state(state))
    return d.case(ops.Svdf, operands, d.kind((), "int8"), rank=rank, activation="RELU")


def _detection(d: Draw, dtype: str, regular: bool) -> Case:
    boxes, classes, most = d.number(1, 30), d.number(1, 5), d.number(1, 8)
    background = d.number(0, 1)
    plain = dtype == "float32"
    box = d.kind((1, boxes, 4), dtype, 0.06, 128)
    score = d.kind((1, boxes, classes + background), dtype, 1 / 256, 0)
    anchor = d.kind((boxes, 4), dtype, 1 / 200, 0)
    scores = d.rng.random(score.shape).astype(np.float32) if plain else d.data(score)
    anchors = (d.rng.random(anchor.shape) if plain else d.data(anchor)).astype(dtype)
    return d.case(
        ops.DetectionPostprocess,
        (d.input(box), d.input(score, scores), d.constant(anchors, anchor)),
        *[TensorType((), "float32")] * 4,
        max_detections=most,
        num_classes=classes,
        max_classes_per_detection=1,
        detections_per_class=d.number(1, 10),
        regular=regular,
        score_threshold=float(np.float32(d.pick((1e-8, 0.3, 0.6)))),
        iou_threshold=float(np.float32(d.pick((0.3, 0.5, 0.6)))),
    )


FAMILIES: Mapping[str, Family] = {
    **each("RESHAPE", MOVED, _reshape),
    **each("SQUEEZE", MOVED, _squeeze),
    **each("EXPAND_DIMS", MOVED, _expand_dims),
    **each("TRANSPOSE", MOVED, _transpose),
    **each("SLICE", MOVED, _slice),
    **each("STRIDED_SLICE", MOVED, _strided_slice),
    **each("SPLIT", MOVED, _split),
    **each("SPLIT_V", MOVED, _split_v),
    **each("PACK", MOVED, _pack),
    **each("UNPACK", MOVED, _unpack),
    **each("CONCATENATION", MOVED, _concat),
    **each("GATHER", MOVED, _gather),
    **each("GATHER_ND", MOVED, _gather_nd),
    **each("TILE", MOVED, _tile),
    **each("BROADCAST_TO", MOVED, _broadcast_to),
    **each("REVERSE_V2", MOVED, _reverse),
    **each("SPACE_TO_DEPTH", (*EIGHT, "float32", "int32"), _space_depth, to_depth=True),
    **each("DEPTH_TO_SPACE", (*EIGHT, "float32", "int32"), _space_depth, to_depth=False),
    **each("SPACE_TO_BATCH_ND", MOVED, _space_batch, to_batch=True),
    **each("BATCH_TO_SPACE_ND", MOVED, _space_batch, to_batch=False),
    **each("PAD", MOVED, _pad),
    **each("PADV2", MOVED, _padv2),
    **each("MIRROR_PAD", MOVED, _mirror_pad),
    **each("RESIZE_BILINEAR", ("uint8", "int8", "int16", "float32"), _resize, ops.ResizeBilinear),
    **each("RESIZE_NEAREST_NEIGHBOR", ("uint8", "int8", "int16", "float32"), _resize, ops.ResizeNearest),
    **each("SHAPE", ("int8",), _shape_of, False),
    **each("RANK", ("int8",), _shape_of, True),
    **each("FILL", MOVED, _fill),
    **each("ONE_HOT", ("int8", "float32", "int32"), _one_hot),
    "UNIDIRECTIONAL_SEQUENCE_LSTM-int8": lambda d: _lstm(d, d.chance(0.5), False),
    "UNIDIRECTIONAL_SEQUENCE_LSTM-coupled": lambda d: _lstm(d, d.chance(0.5), True),
    "SVDF-int8": _svdf,
    **each("TFLite_Detection_PostProcess", ("uint8", "float32"), _detection, regular=False),
    **each("TFLite_Detection_PostProcess-regular", ("uint8", "float32"), _detection, regular=True),
}
