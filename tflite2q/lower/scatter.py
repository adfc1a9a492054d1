"""Scattering: rows worked into a tensor at computed places, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tflite2q.kernels.contracts import Tensor
from tflite2q.kernels.tir import Buffer, Expr, T, function, view

# What becomes of an element and its update.
REDUCTIONS: Mapping[str, Callable[[Expr, Expr], Expr]] = {
    "update": lambda old, new: new,
    "add": lambda old, new: old + new,
    "multiply": lambda old, new: old * new,
    "minimum": lambda old, new: T.min(old, new),
    "maximum": lambda old, new: T.max(old, new),
}


def scattering(tensor: Tensor, updates: Tensor, reduction: str) -> Any:
    """A PrimFunc of (x, indices int32[n], updates[n, ...], y): y is x with every update in its row."""
    rows = tensor.shape[0]
    count, width = updates.shape[0], tensor.size // rows
    reduced = REDUCTIONS[reduction]

    def body(x: Buffer, indices: Buffer, new: Buffer, y: Buffer) -> None:
        flat, made = view(x, (tensor.size,)), view(y, (tensor.size,))
        fresh = view(new, (updates.size,))
        with T.serial(tensor.size) as i:
            T.buffer_store(made, flat[i], [i])
        with T.serial(count) as n, T.serial(width) as i:
            place = indices[n] * width + i
            T.buffer_store(made, reduced(made[place], fresh[n * width + i]), [place])

    return function([tensor, Tensor((count,), "int32"), updates], [], tensor, body)
