"""Ops that only move codes, as nests of copies: found by running the op's own meaning on positions instead of codes.

Every element of operand k is replaced by k * 2^40 + its place + 2^39, which no code is; what comes out says where each
element comes from, or which constant it is.  Equal steps along an axis become a loop, and a row of neighbours a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.numpy_core import NUMPY
from tflite2q.dialect.op import Op, Operands, Tensor, Values
from tflite2q.dialect.types import Value
from tflite2q.errors import UnsupportedError
from tflite2q.micro.program import CTYPES

BASE, FIRST = np.int64(1) << 40, np.int64(1) << 39
MOST_LINES = 400  # of one function: what moves without order is not supported

Positions = npt.NDArray[np.int64]


def positions(op: Op, ins: Values, outs: Sequence[Value], moved: Sequence[int]) -> list[Positions] | None:
    """Where each element of each result comes from; None if the op does more than move the operands `moved`."""
    tensors: list[Any] = []
    for index, value in enumerate(ins):
        if value is None:
            tensors.append(None)
        elif index in moved:
            size = value.type.size
            data = np.arange(size, dtype=np.int64).reshape(value.type.shape) + FIRST + moved.index(index) * BASE
            tensors.append(Tensor(value, data))
        else:
            tensors.append(Tensor(value, value.data))
    try:
        results = op.compute(NUMPY, Operands(op, tensors), outs)
    except (TypeError, ValueError, IndexError, UnsupportedError):
        return None
    return [np.asarray(r) for r in results] if all(np.asarray(r).dtype == np.int64 for r in results) else None


def identity(found: Positions) -> bool:
    """Whether the result is operand 0 as it is."""
    return bool((found.reshape(-1) == np.arange(found.size) + FIRST).all())


@dataclass
class _Writer:
    dtype: str
    lines: list[str] = field(default_factory=list)

    def nest(self, found: Positions, indent: int, place: str) -> None:
        """Code that writes the elements `found` one after the other; `place` is what loops add to their places."""
        if len(self.lines) > MOST_LINES:
            raise UnsupportedError("moves elements without order")
        while found.ndim and found.shape[0] == 1:
            found = found[0]
        pad = "  " * indent
        if found.ndim == 0 or self._row(found, pad, place):
            if found.ndim == 0:
                self._element(int(found), pad, place)
            return
        groups = _groups(found)
        if len(groups) > 2:
            for part in (2, 3, 4, 8):  # a pattern that repeats, as when an image is enlarged
                folded = found.reshape(-1, part, *found.shape[1:]) if found.shape[0] % part == 0 else None
                if folded is not None and len(_groups(folded)) == 1:
                    return self.nest(folded, indent, place)
        for first, count, step in groups:
            if count == 1:
                self.nest(found[first], indent, place)
                continue
            name = f"i{indent}"
            more = "" if step is None else f" + {name} * {step}"
            self.lines.append(f"{pad}for (int32_t {name} = 0; {name} < {count}; {name}++) {{")
            self.nest(found[first], indent + 1, place + more)
            self.lines.append(f"{pad}}}")

    def _row(self, found: Positions, pad: str, place: str) -> bool:
        """A copy or fill, if all of `found` is one."""
        flat = found.reshape(-1)
        if (flat == flat[0]).all() and flat[0] < FIRST >> 1:
            self._fill(int(flat[0]), flat.size, pad)
            return True
        if flat[0] >= FIRST >> 1 and (np.diff(flat) == 1).all():
            source = _source(int(flat[0]))
            size = flat.size * np.dtype(self.dtype).itemsize
            self.lines.append(f"{pad}q_copy(y, {source}{place}, {size}); y += {flat.size};")
            return True
        return False

    def _element(self, at: int, pad: str, place: str) -> None:
        if at < FIRST >> 1:
            self._fill(at, 1, pad)
        else:
            self.lines.append(f"{pad}*y++ = *({_source(at)}{place});")

    def _fill(self, value: int, count: int, pad: str) -> None:
        if np.dtype(self.dtype).itemsize == 1 and count > 1:
            self.lines.append(f"{pad}q_fill(y, {value}, {count}); y += {count};")
        else:
            self.lines.append(f"{pad}for (int32_t k = 0; k < {count}; k++) *y++ = {value};")


def _source(at: int) -> str:
    operand, place = divmod(at - int(FIRST), int(BASE))
    return f"x{operand} + {place}"


def _groups(found: Positions) -> list[tuple[int, int, int | None]]:
    """(first, count, step) along the first axis: slices that move as the first does, each `step` further on."""
    rows = found.reshape(found.shape[0], -1)
    constant = rows < FIRST >> 1
    groups: list[tuple[int, int, int | None]] = []
    first = 0
    while first < len(rows):
        count, step = 1, None
        while first + count < len(rows):
            now, before = rows[first + count], rows[first + count - 1]
            if (constant[first + count] != constant[first]).any():
                break
            moves = np.unique((now - before)[~constant[first]])
            fixed = bool((now == rows[first])[constant[first]].all())
            if not fixed or moves.size > 1 or (moves.size and abs(int(moves[0])) >= int(FIRST)):
                break
            this = int(moves[0]) if moves.size else 0
            if step is not None and this != step:
                break
            step = this
            count += 1
        groups.append((first, count, step))
        first += count
    return groups


def function(name: str, found: Positions, operands: int, dtype: str) -> str:
    """The C function `NAME(x0, ..., y)`.  Raises UnsupportedError where the order is too irregular."""
    writer = _Writer(dtype)
    writer.nest(found, 1, "")
    parameters = [f"const {CTYPES[dtype]} *x{k}" for k in range(operands)]
    unused = "".join(f"  (void)x{k};\n" for k in range(operands))
    body = "\n".join(writer.lines)
    return f"Q_KERNEL void {name}({', '.join([*parameters, f'{CTYPES[dtype]} *y'])}) {{\n{unused}{body}\n}}\n"
