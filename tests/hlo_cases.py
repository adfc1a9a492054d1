"""Cases of StableHLO's operators; part of `cases`.  LiteRT judges a few of them, `hlo_statements` the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from draw import Case, Draw, Family, each

from tflite2q.dialect import ops
from tflite2q.dialect.types import TensorType

WHOLE = ("float32", "int32", "int64")
MOVED = ("float32", "int32", "int8")


def _unary(d: Draw, function: str, dtype: str) -> Case:
    x = TensorType(d.shape(d.number(1, 4)), dtype)
    array = d.data(x)
    if function in ("LOG", "RSQRT"):
        array = np.abs(array) + np.float32(0.01)
    return d.case(ops.HloUnary, (d.input(x, array),), x.with_(shape=()), function=function)


def _binary(d: Draw, function: str, dtype: str) -> Case:
    x = TensorType(d.shape(d.number(1, 4)), dtype)
    a, b = d.data(x), d.data(x)
    if dtype not in ("bool", "float32"):
        a, b = (v.astype(dtype) for v in (a, b))
    if function in ("DIVIDE", "REMAINDER"):
        b = np.where(b == 0, 1, b).astype(dtype)
    if function == "POWER":
        a = np.abs(a)
    if function == "SHIFT_LEFT":
        a, b = (a % 50).astype(dtype), (np.abs(b) % np.iinfo(dtype).bits).astype(dtype)
    return d.case(ops.HloBinary, (d.input(x, a), d.input(x, b)), x.with_(shape=()), function=function)


def _compare(d: Draw, dtype: str) -> Case:
    x = TensorType(d.shape(d.number(1, 4)), dtype)
    a, b = ((d.data(x) // 1 % 3).astype(dtype) if dtype != "bool" else d.data(x) for _ in range(2))
    direction = f"STABLEHLO_COMPARISON_DIRECTION_{d.pick(('EQ', 'NE', 'GE', 'GT', 'LE', 'LT'))}"
    return d.case(ops.HloCompare, (d.input(x, a), d.input(x, b)), TensorType((), "bool"), direction=direction)


def _select(d: Draw, clamp: bool, dtype: str) -> Case:
    x = TensorType(d.shape(d.number(1, 4)), dtype)
    alone = [x.with_(shape=() if d.chance(0.4) else x.shape) for _ in range(2)]
    if not clamp:
        return d.case(
            ops.HloSelect,
            (d.input(alone[0].with_(dtype="bool")), d.input(x), d.input(x)),
            x.with_(shape=()),
            clamp=False,
        )
    low, high = (np.abs(d.data(kind)) // 2 for kind in alone)
    names = d.input(alone[0], (-low).astype(dtype)), d.input(x), d.input(alone[1], high.astype(dtype))
    return d.case(ops.HloSelect, names, x.with_(shape=()), clamp=True)


def _convert(d: Draw, source: str, target: str) -> Case:
    x = TensorType(d.shape(d.number(1, 4)), source)
    array = (d.data(x) // 16).astype(source) if source != "bool" else d.data(x)
    return d.case(ops.HloConvert, (d.input(x, array),), TensorType((), target))


def _reshape(d: Draw, dtype: str) -> Case:
    x = TensorType(d.shape(d.number(1, 4)), dtype)
    shape = tuple(int(n) for n in d.rng.permutation((*x.shape, 1)))
    return d.case(ops.HloReshape, (d.input(x),), x.with_(shape=shape))


def _transpose(d: Draw, dtype: str) -> Case:
    x = TensorType(d.shape(d.number(1, 5), 4), dtype)
    order = tuple(int(a) for a in d.rng.permutation(len(x.shape)))
    return d.case(ops.HloTranspose, (d.input(x),), x.with_(shape=()), order=order)


def _broadcast(d: Draw, dtype: str) -> Case:
    want = d.shape(d.number(1, 4))
    axes = tuple(int(a) for a in d.rng.permutation(len(want))[: d.number(0, len(want))])
    x = TensorType(tuple(1 if d.chance(0.3) else want[a] for a in axes), dtype)
    return d.case(ops.HloBroadcast, (d.input(x),), x.with_(shape=want), axes=axes)


def _slice(d: Draw, dtype: str) -> Case:
    x = TensorType(d.shape(d.number(1, 4), 7), dtype)
    start = tuple(d.number(0, n - 1) for n in x.shape)
    limit = tuple(d.number(a + 1, n) for a, n in zip(start, x.shape, strict=True))
    strides = tuple(d.number(1, 3) for _ in x.shape)
    return d.case(ops.HloSlice, (d.input(x),), x.with_(shape=()), start=start, limit=limit, strides=strides)


def _concat(d: Draw, dtype: str) -> Case:
    shape = list(d.shape(d.number(1, 4)))
    axis, names = d.number(0, len(shape) - 1), []
    for _ in range(d.number(1, 4)):
        shape[axis] = d.number(1, 4)
        names.append(d.input(TensorType(tuple(shape), dtype)))
    return d.case(ops.HloConcat, names, TensorType((), dtype), axis=axis)


def _iota(d: Draw, dtype: str) -> Case:
    d.input(TensorType((1,), "float32"))
    shape = d.shape(d.number(1, 4))
    return d.case(ops.HloIota, (), TensorType(shape, dtype), axis=d.number(0, len(shape) - 1))


def _pad(d: Draw, dtype: str) -> Case:
    x = TensorType(d.shape(d.number(1, 4)), dtype)
    interior = tuple(d.number(0, 2) for _ in x.shape)
    wide = [n + (n - 1) * i for n, i in zip(x.shape, interior, strict=True)]
    if d.chance(0.3):  # margins that drop more than there is take the rest from the other side
        ends = [(d.number(-n - 2, -1), d.number(n + 3, n + 5)) for n in wide]
        low, high = zip(*(pair if d.chance(0.5) else pair[::-1] for pair in ends), strict=True)
    else:
        low = tuple(d.number(-((n - 1) // 2), 3) for n in wide)
        high = tuple(d.number(-((n - 1) // 2), 3) for n in wide)
    value = TensorType((), dtype)
    operands = (d.input(x), d.constant(d.data(value)))
    return d.case(ops.HloPad, operands, value, low=low, high=high, interior=interior)


def _starts(d: Draw, shape: tuple[int, ...]) -> list[str]:
    wide = d.pick(("int32", "int64"))
    return [d.input(TensorType((), wide), np.array(d.number(-3, n + 2), wide)) for n in shape]


def _dynamic_slice(d: Draw, dtype: str) -> Case:
    x = TensorType(d.shape(d.number(1, 4)), dtype)
    sizes = tuple(d.number(1, n) for n in x.shape)
    return d.case(ops.HloDynamicSlice, (d.input(x), *_starts(d, x.shape)), x.with_(shape=()), sizes=sizes)


def _dynamic_update_slice(d: Draw, dtype: str) -> Case:
    x = TensorType(d.shape(d.number(1, 4)), dtype)
    update = x.with_(shape=tuple(d.number(1, n) for n in x.shape))
    operands = (d.input(x), d.input(update), *_starts(d, x.shape))
    return d.case(ops.HloDynamicUpdateSlice, operands, x.with_(shape=()))


def _gather(d: Draw, dtype: str) -> Case:
    x = TensorType(d.shape(d.number(1, 4)), dtype)
    rank = len(x.shape)
    start_map = tuple(int(a) for a in d.rng.permutation(rank)[: d.number(1, rank)])
    collapsed = tuple(axis for axis in range(rank) if d.chance(0.4))
    sizes = tuple(1 if axis in collapsed else d.number(1, n) for axis, n in enumerate(x.shape))
    batch = d.shape(d.number(1, 2), 3)
    place = d.number(0, len(batch))
    shape = (*batch[:place], len(start_map), *batch[place:])
    kept = rank - len(collapsed)
    offsets = tuple(sorted(int(a) for a in d.rng.permutation(kept + len(batch))[:kept]))
    array = d.rng.integers(-2, 8, shape).astype(d.pick(("int32", "int64")))
    operands = (d.input(x), d.input(TensorType(shape, array.dtype.name), array))
    options = {"offset_axes": offsets, "collapsed": collapsed, "start_map": start_map}
    return d.case(ops.HloGather, operands, x.with_(shape=()), **options, index_axis=place, sizes=sizes)


def _dot(d: Draw, dtype: str) -> Case:
    batch, contracted = d.shape(d.number(0, 2), 3), d.shape(d.number(0, 2), 4)
    named = [("batch", n) for n in batch], [("contract", n) for n in contracted]
    operands, options = [], {}
    orders = []
    for side in "ab":
        axes = [*((0, i) for i in range(len(batch))), *((1, i) for i in range(len(contracted)))]
        free = d.shape(d.number(0, 2), 4)
        axes += [(2, i) for i in range(len(free))]
        order = [axes[int(i)] for i in d.rng.permutation(len(axes))]
        sizes = [batch, contracted, free]
        operands.append(d.input(TensorType(tuple(sizes[kind][i] for kind, i in order), dtype)))
        orders.append(order)
        options[f"batch_{side}"] = tuple(order.index((0, i)) for i in range(len(named[0])))
        options[f"contract_{side}"] = tuple(order.index((1, i)) for i in range(len(named[1])))
    kind = TensorType((), dtype)
    return d.case(ops.HloDot, operands, kind, **options)


def _convolution(d: Draw, dtype: str) -> Case:
    count, groups = d.number(1, 2), d.pick((1, 1, 2))
    n, c, o = d.number(1, 2), d.number(1, 3) * groups, d.number(1, 3) * groups
    kernel, image = d.shape(count, 3), [d.number(6, 9) for _ in range(count)]
    orders = [[int(a) for a in d.rng.permutation(count + 2)] for _ in range(3)]

    def placed(order: list[int], sizes: list[int]) -> tuple[int, ...]:
        shape = [0] * len(sizes)
        for axis, size in zip(order, sizes, strict=True):
            shape[axis] = size
        return tuple(shape)

    x = TensorType(placed(orders[0], [n, c, *image]), dtype)
    weights = TensorType(placed(orders[1], [c // groups, o, *kernel]), dtype)
    names = {
        **dict(zip(("batch", "feature"), orders[0], strict=False)),
        **dict(zip(("kernel_feature", "kernel_filter"), orders[1], strict=False)),
        **dict(zip(("out_batch", "out_feature"), orders[2], strict=False)),
    }
    return d.case(
        ops.HloConvolution,
        (d.input(x), d.constant(d.data(weights))),
        TensorType((), dtype),
        **names,
        spatial=tuple(orders[0][2:]),
        kernel_spatial=tuple(orders[1][2:]),
        out_spatial=tuple(orders[2][2:]),
        strides=tuple(d.number(1, 2) for _ in range(count)),
        padding=tuple(d.number(0, 2) for _ in range(2 * count)),
        spread=tuple(d.number(1, 2) for _ in range(count)),
        dilation=tuple(d.number(1, 2) for _ in range(count)),
        reversal=tuple(d.chance(0.3) for _ in range(count)),
        groups=groups,
        batch_groups=1,
    )


UNARY = ("LOGISTIC", "COSINE", "EXPONENTIAL", "FLOOR", "LOG", "RSQRT", "TANH", "CBRT")
CONVERTS = (("float32", "int32"), ("int32", "float32"), ("float32", "bool"), ("bool", "float32"), ("int64", "int8"),
            ("float32", "int8"), ("int8", "float32"))  # fmt: skip


def _all(name: str, dtypes: tuple[str, ...], make: Any, *args: Any) -> dict[str, Family]:
    return each(f"STABLEHLO_{name}", dtypes, make, *args)


FAMILIES: Mapping[str, Family] = {
    **{k: f for name in UNARY for k, f in _all(name, ("float32",), _unary, name).items()},
    **{k: f for name in ("ABS", "NEGATE") for k, f in _all(name, WHOLE, _unary, name).items()},
    **{
        k: f
        for name, dtypes in {
            **dict.fromkeys(("ADD", "MULTIPLY", "MAXIMUM", "MINIMUM", "SUBTRACT"), ("float32", "int32", "int64")),
            **dict.fromkeys(("DIVIDE", "REMAINDER"), WHOLE),
            "POWER": ("float32",),
            **dict.fromkeys(("AND", "OR"), ("bool", "int32", "int8")),
            "SHIFT_LEFT": ("int8", "int16", "int32"),
        }.items()
        for k, f in _all(name, dtypes, _binary, name).items()
    },
    **_all("COMPARE", (*WHOLE, "bool"), _compare),
    **_all("SELECT", (*MOVED, "bool"), _select, False),
    **_all("CLAMP", ("float32", "int32"), _select, True),
    **{f"STABLEHLO_CONVERT-{a}-{b}": lambda d, a=a, b=b: _convert(d, a, b) for a, b in CONVERTS},
    **_all("RESHAPE", MOVED, _reshape),
    **_all("TRANSPOSE", MOVED, _transpose),
    **_all("BROADCAST_IN_DIM", MOVED, _broadcast),
    **_all("SLICE", MOVED, _slice),
    **_all("CONCATENATE", MOVED, _concat),
    **_all("IOTA", WHOLE, _iota),
    **_all("PAD", (*MOVED, "int64"), _pad),
    **_all("DYNAMIC_SLICE", MOVED, _dynamic_slice),
    **_all("DYNAMIC_UPDATE_SLICE", MOVED, _dynamic_update_slice),
    **_all("GATHER", (*MOVED, "int64"), _gather),
    **_all("DOT_GENERAL", ("float32",), _dot),
    **_all("CONVOLUTION", ("float32",), _convolution),
}
