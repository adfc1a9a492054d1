"""Cases of the ops on plain numbers, of scattered and placed elements, and of indices; part of `cases`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from draw import CODES, Case, Draw, Family, each

from tflite2q.dialect import ops
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import TensorType

EIGHT = ("uint8", "int8")
MOVED = ("uint8", "int8", "int16", "float32", "int32")
WHOLE = ("float32", "int32", "int64")


def _shapes(d: Draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Equal shapes, or shapes that broadcast."""
    a = d.shape(d.number(1, 4))
    if d.chance(0.5):
        return a, a
    b = tuple(1 if d.chance(0.5) else n for n in a)
    return (a, b) if d.chance(0.5) else (b, a)


def _unary(d: Draw, function: str, dtype: str) -> Case:
    x = TensorType((d.number(1, 300),), dtype)
    array = (d.rng.normal(size=x.shape) * d.pick((1, 10, 1000))).astype(dtype)
    return d.case(ops.Lookup, (d.input(x, array),), x.with_(shape=()), function=function)


def _real_function(d: Draw, function: str, dtype: str) -> Case:
    shapes = (d.shape(d.number(1, 4)),) * 2 if function == "ATAN2" else _shapes(d)
    kinds = [TensorType(shape, dtype) for shape in shapes]
    a, b = (d.data(kind) for kind in kinds)
    if dtype == "int32":
        a, b = (a % 13 - 6).astype(np.int32), np.abs(b % 9).astype(np.int32)
    elif function == "POW" and d.chance(0.7):
        a = np.abs(a)
    names = [d.input(kind, array) for kind, array in zip(kinds, (a, b), strict=True)]
    return d.case(ops.RealFunction, names, TensorType((), dtype), function=function)


def _bitwise(d: Draw, function: str, dtype: str) -> Case:
    kinds = [TensorType(shape, dtype) for shape in _shapes(d)]
    arrays = [d.rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, kind.shape, dtype, True) for kind in kinds]
    if function == "RIGHT_SHIFT" and d.chance(0.7):
        arrays[1] = (arrays[1] % np.dtype(dtype).type(40)).astype(dtype)
    names = [d.input(kind, array) for kind, array in zip(kinds, arrays, strict=True)]
    return d.case(ops.Bitwise, names, TensorType((), dtype), function=function)


def _add_n(d: Draw, dtype: str) -> Case:
    kind = TensorType(d.shape(d.number(1, 4)), dtype)
    return d.case(ops.AddN, [d.input(kind) for _ in range(d.number(2, 5))], kind.with_(shape=()))


def _fake_quant(d: Draw, dtype: str) -> Case:
    x = TensorType(d.shape(d.number(1, 4)), dtype)
    low, high = -abs(d.scale(0.01, 9.0)), d.scale(0.01, 9.0)
    low, high = d.pick(((low, high), (0.0, high), (low, 0.0)))
    bounds = {"low": float(np.float32(low)), "high": float(np.float32(high))}
    return d.case(ops.FakeQuant, (d.input(x),), x.with_(shape=()), **bounds, bits=d.number(2, 16))


def _one(d: Draw, cls: type[Op], dtype: str) -> Case:
    x = d.kind(d.shape(d.number(1, 4)), dtype)
    return d.case(cls, (d.input(x),), x.with_(shape=()))


def _cumsum(d: Draw, dtype: str) -> Case:
    x = TensorType(d.shape(d.number(1, 4), 9), dtype)
    axis = d.constant(np.array(d.number(-len(x.shape), len(x.shape) - 1), np.int32))
    options = {"exclusive": d.chance(0.5), "backwards": d.chance(0.5)}
    return d.case(ops.CumulativeSum, (d.input(x), axis), x.with_(shape=()), **options)


def _product(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(2, 4), 4), dtype)
    rank = len(x.shape)
    axes = [int(a) for a in d.rng.permutation(rank)[: d.number(1, rank)]]
    axes = [a - rank if d.chance(0.3) else a for a in axes]
    y = TensorType((), dtype)
    if dtype in CODES:
        count = int(np.prod([x.shape[a] for a in axes]))
        y = d.kind((), dtype, float(np.float32(min(max((x.scale * 40) ** count, 1e-20), 1e20))))
        y = (
            y
            if dtype == "int8"
            else d.kind((), dtype, float(np.float32(min(max((x.scale * 9000) ** count / 1e4, 1e-20), 1e20))))
        )
    return d.case(ops.Product, (d.input(x), d.ints(*axes)), y, keep_dims=d.chance(0.5))


def _reduce_logical(d: Draw, every: bool) -> Case:
    x = TensorType(d.shape(d.number(1, 4)), "bool")
    rank = len(x.shape)
    axes = d.ints(*(int(a) for a in d.rng.permutation(rank)[: d.number(1, rank)]))
    rare = d.rng.random(x.shape) < d.pick((0.1, 0.5, 0.9))
    return d.case(ops.ReduceLogical, (d.input(x, rare), axes), x.with_(shape=()), every=every, keep_dims=d.chance(0.5))


def _scatter_nd(d: Draw, dtype: str) -> Case:
    kind = d.kind(d.shape(d.number(1, 4)), dtype)
    shape, depth = kind.shape, d.number(1, len(kind.shape))
    rows = d.shape(d.number(1, 2), 5)
    array = np.stack([d.rng.integers(0, n, rows) for n in shape[:depth]], axis=-1).astype(np.int32)
    indices = d.input(TensorType(array.shape, "int32"), array)
    updates = d.input(kind.with_(shape=(*rows, *shape[depth:])))
    return d.case(ops.ScatterNd, (indices, updates, d.ints(*shape)), kind.with_(shape=()))


def _sparse_to_dense(d: Draw, dtype: str) -> Case:
    shape, count = d.shape(d.number(1, 4)), d.number(1, 6)
    wide = d.pick(("int32", "int64"))
    array = np.stack([d.rng.integers(0, n, count) for n in shape], axis=-1).astype(wide)
    if len(shape) == 1 and d.chance(0.5):
        array = array[:, 0]
    kind = d.kind((), dtype)
    single = d.chance(0.3)
    values = d.input(kind.with_(shape=() if single else (count,)))
    default = d.constant(d.data(kind), kind)
    operands = (d.input(TensorType(array.shape, wide), array), d.constant(np.array(shape, wide)), values, default)
    return d.case(ops.SparseToDense, operands, kind)


def _segment(d: Draw, function: str, dtype: str) -> Case:
    x = TensorType(d.shape(d.number(1, 4)), dtype)
    array = d.data(x)
    if function == "UNSORTED_SEGMENT_PROD":
        array = (array % 5 - 2).astype(dtype)
    if function == "SEGMENT_SUM":
        ids = d.constant(np.cumsum([0, *d.rng.integers(0, 2, x.shape[0] - 1)]).astype(np.int32))
        return d.case(ops.Segment, (d.input(x, array), ids), x.with_(shape=()), function=function)
    rows, count = x.shape[: d.number(1, len(x.shape))], d.number(1, 5)
    ids = d.rng.integers(0, count, rows).astype(np.int32)
    operands = (d.input(x, array), d.input(TensorType(rows, "int32"), ids), d.constant(np.array(count, np.int32)))
    return d.case(ops.Segment, operands, x.with_(shape=()), function=function)


def _dynamic_update_slice(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(1, 4)), dtype)
    update = x.with_(shape=tuple(d.number(1, n) for n in x.shape))
    start = np.array([d.number(-2, n + 1) for n in x.shape], d.pick(("int32", "int64")))
    operands = (d.input(x), d.input(update), d.input(TensorType(start.shape, start.dtype.name), start))
    return d.case(ops.DynamicUpdateSlice, operands, x.with_(shape=()))


def _reverse_sequence(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(2, 4)), dtype)
    batch, sequence = (int(a) for a in d.rng.permutation(len(x.shape))[:2])
    wide = d.pick(("int32", "int64"))
    lengths = d.rng.integers(0, x.shape[sequence] + 1, x.shape[batch]).astype(wide)
    operands = (d.input(x), d.input(TensorType(lengths.shape, wide), lengths))
    return d.case(ops.ReverseSequence, operands, x.with_(shape=()), sequence_axis=sequence, batch_axis=batch)


def _matrix_set_diag(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(2, 4)), dtype)
    diagonal = x.with_(shape=(*x.shape[:-2], min(x.shape[-2:])))
    return d.case(ops.MatrixSetDiag, (d.input(x), d.input(diagonal)), x.with_(shape=()))


def _dilate(d: Draw, dtype: str) -> Case:
    x = d.kind(d.shape(d.number(1, 4), 4), dtype)
    filler = x.with_(shape=())
    operands = (d.input(x), d.ints(*(d.number(1, 3) for _ in x.shape)), d.input(filler))
    return d.case(ops.Dilate, operands, filler)


def _bitcast(d: Draw, source: str, target: str) -> Case:
    old, new = np.dtype(source).itemsize, np.dtype(target).itemsize
    shape = d.shape(d.number(1, 3))
    x = TensorType((*shape, new // old) if new > old else shape, source)
    array = d.rng.integers(0, 256, (*x.shape, old)).astype(np.uint8).view(source)[..., 0]
    if "float" in (source + target):
        array = np.ascontiguousarray(np.ones(x.shape) * 3).astype(source)
    return d.case(ops.Bitcast, (d.input(x, array),), TensorType((), target))


def _range(d: Draw, dtype: str) -> Case:
    start, delta = d.number(-9, 9), d.number(1, 4) * d.pick((1, -1))
    entries = [start, start + delta * d.number(2, 9) - d.pick((0, np.sign(delta))), delta]
    if dtype == "float32":
        entries = [float(e) * 0.3 for e in entries]
    d.input(TensorType((1,), "float32"))  # a model needs an input
    return d.case(ops.Range, [d.constant(np.array(e, dtype)) for e in entries], TensorType((), dtype))


def _broadcast_args(d: Draw, dtype: str) -> Case:
    a, b = _shapes(d)
    names = [d.input(TensorType((len(s),), dtype), np.array(s, dtype)) for s in (a[d.number(0, len(a) - 1) :], b)]
    return d.case(ops.BroadcastArgs, names, TensorType((), dtype))


def _bucketize(d: Draw, dtype: str) -> Case:
    limits = sorted(float(np.float32(v)) for v in d.rng.integers(-20, 20, d.number(1, 9)))
    x = TensorType(d.shape(d.number(1, 3)), dtype)
    array = d.rng.integers(-25, 25, x.shape).astype(dtype)
    return d.case(ops.Bucketize, (d.input(x, array),), TensorType((), "int32"), boundaries=tuple(limits))


def _where(d: Draw, dtype: str) -> Case:
    shape = d.shape(d.number(1, 4))
    d.input(TensorType((1,), "float32"))
    return d.case(ops.Where, (d.constant(d.rng.integers(0, 2, shape).astype(dtype)),), TensorType((), "int64"))


def _unique(d: Draw, dtype: str) -> Case:
    d.input(TensorType((1,), "float32"))
    x, wide = d.constant(d.rng.integers(0, 9, d.number(1, 30)).astype(dtype)), d.pick(("int32", "int64"))
    return d.case(ops.Unique, (x,), TensorType((), dtype), TensorType((), wide), index_type=wide.upper())


SEGMENTS = ("UNSORTED_SEGMENT_SUM", "UNSORTED_SEGMENT_PROD", "UNSORTED_SEGMENT_MAX", "UNSORTED_SEGMENT_MIN")
BITS = (("int32", "float32"), ("float32", "int32"), ("int32", "int8"), ("int8", "int32"), ("int64", "int16"),
        ("uint8", "int64"), ("int32", "uint32"), ("uint8", "int8"))  # fmt: skip


def _family(name: str, make: Any, *args: Any) -> dict[str, Family]:
    return {name: lambda d: make(d, *args)}


FAMILIES: Mapping[str, Family] = {
    **each("SIN", ("float32",), _unary, "SIN"),
    **each("COS", ("float32",), _unary, "COS"),
    **each("SIGN", ("int32",), _unary, "SIGN"),
    **each("POW", ("float32", "int32"), _real_function, "POW"),
    **each("ATAN2", ("float32",), _real_function, "ATAN2"),
    **each("BITWISE_XOR", ("uint8", "int8", "int16", "int32", "uint32"), _bitwise, "BITWISE_XOR"),
    **each("RIGHT_SHIFT", ("uint8", "int8", "int16", "int32", "uint32"), _bitwise, "RIGHT_SHIFT"),
    **each("ADD_N", ("float32", "int32"), _add_n),
    **each("FAKE_QUANT", ("float32",), _fake_quant),
    **each("ZEROS_LIKE", WHOLE, _one, ops.ZerosLike),
    **each("CUMSUM", WHOLE, _cumsum),
    **each("REDUCE_PROD", ("int8", "int16", *WHOLE), _product),
    **_family("REDUCE_ANY", _reduce_logical, False),
    **_family("REDUCE_ALL", _reduce_logical, True),
    **each("SCATTER_ND", (*EIGHT, *WHOLE, "bool"), _scatter_nd),
    **each("SPARSE_TO_DENSE", (*EIGHT, *WHOLE), _sparse_to_dense),
    **{k: f for name in SEGMENTS for k, f in each(name, ("float32", "int32"), _segment, name).items()},
    **each("SEGMENT_SUM", ("float32", "int32"), _segment, "SEGMENT_SUM"),
    **each("DYNAMIC_UPDATE_SLICE", ("int8", *WHOLE, "bool"), _dynamic_update_slice),
    **each("REVERSE_SEQUENCE", ("uint8", "int16", *WHOLE), _reverse_sequence),
    **each("MATRIX_DIAG", (*MOVED, "int64"), _one, ops.MatrixDiag),
    **each("MATRIX_SET_DIAG", (*MOVED, "int64"), _matrix_set_diag),
    **each("DILATE", (*MOVED, "int64"), _dilate),
    **{f"BITCAST-{a}-{b}": f for a, b in BITS for f in _family("", _bitcast, a, b).values()},
    **each("RANGE", WHOLE, _range),
    **each("BROADCAST_ARGS", ("int32", "int64"), _broadcast_args),
    **each("BUCKETIZE", WHOLE, _bucketize),
    **each("WHERE", ("bool", *EIGHT, *WHOLE), _where),
    **each("UNIQUE", (*MOVED, "int64"), _unique),
}
