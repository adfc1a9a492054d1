"""Slices at computed indices (GATHER, GATHER_ND) as C of their own."""

from __future__ import annotations

import math

import numpy as np

from tflite2q.dialect.op import Values
from tflite2q.dialect.ops.movement import Gather, GatherNd
from tflite2q.dialect.types import STORAGE
from tflite2q.errors import UnsupportedError
from tflite2q.micro.calls import Call
from tflite2q.micro.program import CTYPES

INDICES = ("int8", "int16", "int32", "int64")


def gather(name: str, op: Gather | GatherNd, ins: Values) -> Call:
    """The call of a function that copies slices; an index out of range makes the run fail."""
    x, indices = ins["x"].type, ins["indices"].type
    dtype = STORAGE[x.dtype]
    if indices.dtype not in INDICES or dtype not in CTYPES:
        raise UnsupportedError(f"takes {x.dtype} at indices of {indices.dtype}, for which there is no kernel")
    lines = _gather(op, ins) if isinstance(op, Gather) else _gather_nd(x.shape, indices.shape)
    body = "\n".join(f"  {line}" for line in lines)
    width = np.dtype(dtype).itemsize
    own = (
        f"Q_KERNEL void {name}(const {CTYPES[dtype]} *x, const {CTYPES[indices.dtype]} *at, {CTYPES[dtype]} *y, "
        f"int *failed) {{\n{body.replace('WIDTH', str(width))}\n}}\n"
    )
    return Call(f"{name}({{x0}}, {{x1}}, {{y0}}, &failed);", (), "\0" + own, (), 0, None)


def _checked(index: str, extent: int) -> list[str]:
    return [f"    int64_t v = {index};", f"    if (v < 0 || v >= {extent}) *failed = 1, v = 0;"]


def _gather(op: Gather, ins: Values) -> list[str]:
    """Batches, what lies before the axis, and indices of a batch, in the order of the result."""
    axis, batch = op.axes(ins)
    shape, indices = ins["x"].type.shape, ins["indices"].type.shape
    batches, middle = math.prod(shape[:batch]), math.prod(shape[batch:axis])
    count, inner = math.prod(indices[batch:]), math.prod(shape[axis + 1 :])
    return [
        f"for (int32_t b = 0; b < {batches}; b++, at += {count})",
        f"  for (int32_t m = 0; m < {middle}; m++, x += {shape[axis] * inner})",
        f"  for (int32_t j = 0; j < {count}; j++) {{",
        *_checked("at[j]", shape[axis]),
        f"    q_copy(y, x + (int32_t)v * {inner}, {inner} * WIDTH);",
        f"    y += {inner};",
        "  }",
    ]


def _gather_nd(shape: tuple[int, ...], indices: tuple[int, ...]) -> list[str]:
    depth, rows = indices[-1], math.prod(indices[:-1])
    inner = math.prod(shape[depth:])
    lines = [f"for (int32_t r = 0; r < {rows}; r++, at += {depth}, y += {inner}) {{", "  int32_t place = 0;"]
    for axis in range(depth):
        step = math.prod(shape[axis + 1 :])
        lines += ["  {", *_checked(f"at[{axis}]", shape[axis]), f"    place += (int32_t)v * {step};", "  }"]
    return [*lines, f"  q_copy(y, x + place, {inner} * WIDTH);", "}"]
