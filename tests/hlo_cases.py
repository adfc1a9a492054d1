"""Cases of StableHLO's operators, and what the specification says they are, in NumPy; part of `cases`.

LiteRT has kernels for a few of them.  The others are judged by `STATEMENTS`, the words of the specification, with loops
over indices rather than the operations that the dialect uses.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from draw import Array, Case, Draw, Family, each

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


# ------------------------------------------------------------------------------------------------ the specification


def _each(shape: tuple[int, ...]) -> Any:
    return itertools.product(*(range(n) for n in shape))


def _said_broadcast(op: Any, y: Array, x: Array) -> None:
    for at in _each(y.shape):
        y[at] = x[tuple(0 if n == 1 else at[axis] for n, axis in zip(x.shape, op.axes, strict=True))]


def _said_slice(op: Any, y: Array, x: Array) -> None:
    for at in _each(y.shape):
        y[at] = x[tuple(a + i * s for a, i, s in zip(op.start, at, op.strides, strict=True))]


def _said_dynamic_slice(op: Any, y: Array, x: Array, *starts: Array) -> None:
    for at in _each(y.shape):
        first = [min(max(int(s), 0), n - k) for s, n, k in zip(starts, x.shape, y.shape, strict=True)]
        y[at] = x[tuple(f + i for f, i in zip(first, at, strict=True))]


def _said_dynamic_update_slice(op: Any, y: Array, x: Array, update: Array, *starts: Array) -> None:
    y[...] = x
    first = [min(max(int(s), 0), n - k) for s, n, k in zip(starts, x.shape, update.shape, strict=True)]
    for at in _each(update.shape):
        y[tuple(f + i for f, i in zip(first, at, strict=True))] = update[at]


def _said_iota(op: Any, y: Array, *unused: Array) -> None:
    for at in _each(y.shape):
        y[at] = at[op.axis]


def _said_dot(op: Any, y: Array, a: Array, b: Array) -> None:
    letters = iter("abcdefghijklmnop")
    names: list[dict[int, str]] = [{}, {}]
    for one, other in ((op.batch_a, op.batch_b), (op.contract_a, op.contract_b)):
        for i, j in zip(one, other, strict=True):
            names[0][i] = names[1][j] = next(letters)
    for side, array in enumerate((a, b)):
        for axis in range(array.ndim):
            names[side].setdefault(axis, next(letters))
    free = [
        names[side][axis]
        for side, used in ((0, (*op.batch_a, *op.contract_a)), (1, (*op.batch_b, *op.contract_b)))
        for axis in range((a, b)[side].ndim)
        if axis not in used
    ]
    sides = ["".join(names[side][axis] for axis in range(array.ndim)) for side, array in enumerate((a, b))]
    target = "".join(names[0][axis] for axis in op.batch_a) + "".join(free)
    y[...] = np.einsum(f"{sides[0]},{sides[1]}->{target}", a.astype(np.float64), b.astype(np.float64))


def _said_convolution(op: Any, y: Array, x: Array, w: Array) -> None:
    x = np.transpose(x, (op.batch, op.feature, *op.spatial)).astype(np.float64)
    w = np.transpose(w, (op.kernel_filter, op.kernel_feature, *op.kernel_spatial)).astype(np.float64)
    out = np.transpose(y, (op.out_batch, op.out_feature, *op.out_spatial))
    per_group = out.shape[1] // op.groups
    for at in _each(out.shape):
        n, o, *place = at
        total = 0.0
        for tap in _each(w.shape[1:]):
            c, *k = tap
            source = [
                i * s + t * e - p
                for i, s, t, e, p in zip(place, op.strides, k, op.dilation, op.padding[0::2], strict=True)
            ]
            inside = all(
                q % b == 0 and 0 <= q // b < extent for q, b, extent in zip(source, op.spread, x.shape[2:], strict=True)
            )
            if not inside:
                continue
            flipped = [m - 1 - t if back else t for t, m, back in zip(k, w.shape[2:], op.reversal, strict=True)]
            pixel = tuple(q // b for q, b in zip(source, op.spread, strict=True))
            total += x[(n, (o // per_group) * w.shape[1] + c, *pixel)] * w[(o, c, *flipped)]
        out[at] = total


def _element(function: Callable[..., Any]) -> Callable[..., None]:
    def said(op: Any, y: Array, *arrays: Array) -> None:
        wide = np.broadcast_arrays(*arrays)
        for at in _each(y.shape):
            y[at] = function(*(array[at].item() for array in wide))

    return said


COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "EQ": lambda a, b: a == b,
    "NE": lambda a, b: a != b,
    "GE": lambda a, b: a >= b,
    "GT": lambda a, b: a > b,
    "LE": lambda a, b: a <= b,
    "LT": lambda a, b: a < b,
}


def _said_compare(op: Any, y: Array, a: Array, b: Array) -> None:
    _element(COMPARISONS[op.direction.rsplit("_", 1)[1]])(op, y, a, b)


def _wrapped(function: Callable[..., Any]) -> Callable[..., None]:
    """Integers modulo their width."""

    def said(op: Any, y: Array, *arrays: Array) -> None:
        if y.dtype.kind == "f":
            _element(function)(op, y, *arrays)
            return
        bits = 8 * y.dtype.itemsize
        _element(lambda *v: (function(*v) + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1))(op, y, *arrays)

    return said


STATEMENTS: Mapping[str, Callable[..., None]] = {
    "LOGISTIC": _element(lambda x: 1 / (1 + math.exp(-x))),
    "ABS": _wrapped(abs),
    "COSINE": _element(math.cos),
    "EXPONENTIAL": _element(math.exp),
    "FLOOR": _element(math.floor),
    "LOG": _element(math.log),
    "NEGATE": _wrapped(lambda x: -x),
    "RSQRT": _element(lambda x: x**-0.5),
    "TANH": _element(math.tanh),
    "CBRT": _element(lambda x: math.copysign(abs(x) ** (1 / 3), x)),
    "SUBTRACT": _wrapped(lambda a, b: a - b),
    "DIVIDE": _element(lambda a, b: a / b if isinstance(a, float) else (abs(a) // abs(b)) * (1 if a * b > 0 else -1)),
    "REMAINDER": _element(lambda a, b: math.fmod(a, b)),
    "POWER": _element(lambda a, b: a**b),
    "OR": _element(lambda a, b: a | b),
    "COMPARE": _said_compare,
    "SELECT": _element(lambda condition, a, b: a if condition else b),
    "CLAMP": _element(lambda low, x, high: min(max(x, low), high)),
    "CONVERT": lambda op, y, x: np.copyto(y, x != 0 if y.dtype == bool else np.trunc(x), casting="unsafe"),
    "RESHAPE": lambda op, y, x: np.copyto(y.reshape(-1), x.reshape(-1)),
    "TRANSPOSE": lambda op, y, x: [y.__setitem__(tuple(at[a] for a in op.order), x[at]) for at in _each(x.shape)],
    "BROADCAST_IN_DIM": _said_broadcast,
    "SLICE": _said_slice,
    "CONCATENATE": lambda op, y, *parts: np.copyto(y, np.concatenate(parts, op.axis)),
    "IOTA": _said_iota,
    "DYNAMIC_SLICE": _said_dynamic_slice,
    "DYNAMIC_UPDATE_SLICE": _said_dynamic_update_slice,
    "DOT_GENERAL": _said_dot,
    "CONVOLUTION": _said_convolution,
}  # fmt: skip
WITHOUT_KERNEL = tuple(f"STABLEHLO_{name}" for name in STATEMENTS)


def stated(case: Case) -> list[Array]:
    """What the specification says of a case of an operator for which LiteRT has no kernel."""
    op, (kind,) = case.graph.ops[0], (case.graph[name].type for name in case.graph.outputs)
    data = dict(zip(case.graph.inputs, case.inputs, strict=True))
    operands = [data[n] if n in data else case.graph[n].data for n in op.inputs if n is not None]
    y = np.zeros(kind.shape, kind.dtype)
    STATEMENTS[op.builtin.name.removeprefix("STABLEHLO_")](op, y, *operands)
    return [y]


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
