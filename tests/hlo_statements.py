"""What StableHLO's specification says its operators are, in NumPy: the judge of those for which LiteRT has no kernel.

They are written from the words of the specification, with loops over indices rather than the operations that the
dialect uses.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from draw import Array, Case


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
