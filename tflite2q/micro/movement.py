"""Ops that only move codes, as nests of copies: found by running the op's own meaning on positions instead of codes.

Every element of operand k is replaced by k * 2^40 + its place + 2^39, which no code is; what comes out says where each
element comes from, or which constant it is.  Equal steps along an axis become a loop, and a row of neighbours a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

# Operands of the core vocabulary that may be positions: those that an operation moves.
MOVED: Mapping[str, tuple[int, ...]] = {
    "const": (0,), "reshape": (0,), "permute_dims": (0,), "broadcast_to": (0,), "concat": (0,), "pad": (0,),
    "strided_slice": (0,), "take": (0,), "where": (1, 2),
}  # fmt: skip


class _Moves:
    """NumPy's reading of the core vocabulary, which computes with no position: what came out would look like a code."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(NUMPY, name)

        def guarded(*operands: Any, **options: Any) -> Any:
            for index, operand in enumerate((*operands, *options.values())):
                if index not in MOVED.get(name, ()) and _holds_positions(operand):
                    raise UnsupportedError("computes with what it moves")
            return function(*operands, **options)

        return guarded


def _holds_positions(operand: Any) -> bool:
    if isinstance(operand, list | tuple):
        return any(map(_holds_positions, operand))
    wide = isinstance(operand, np.ndarray | np.generic) and operand.dtype == np.int64
    return wide and not bool(np.all(_constant(operand)))


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
        results = op.compute(_Moves(), Operands(op, tensors), outs)
    except (TypeError, ValueError, IndexError, UnsupportedError):
        return None
    return [np.asarray(r) for r in results] if all(np.asarray(r).dtype == np.int64 for r in results) else None


def identity(found: Positions) -> bool:
    """Whether the result is operand 0 as it is."""
    return bool((found.reshape(-1) == np.arange(found.size) + FIRST).all())


Steps = Mapping[int, int]  # by operand, how many elements further on


@dataclass
class _Writer:
    dtype: str
    lines: list[str] = field(default_factory=list)

    def nest(self, found: Positions, depth: int, places: Mapping[int, str]) -> None:
        """Code that writes the elements `found` one after the other; `places` are what loops add to those of each
        operand."""
        if len(self.lines) > MOST_LINES:
            raise UnsupportedError("moves elements without order")
        while found.ndim and found.shape[0] == 1:
            found = found[0]
        pad = "  " * depth
        if self._row(found.reshape(-1), pad, places):
            return
        groups = _groups(found)
        if len(groups) > 2:
            for part in (2, 3, 4, 8):  # a pattern that repeats, as when an image is enlarged
                fits = found.shape[0] > part and found.shape[0] % part == 0
                folded = found.reshape(-1, part, *found.shape[1:]) if fits else None
                if folded is not None and len(_groups(folded)) == 1:
                    self.nest(folded, depth, places)
                    return
        for first, count, steps in groups:
            if count == 1:
                self.nest(found[first], depth, places)
                continue
            name = f"i{depth}"
            more = {k: places.get(k, "") + f" + {name} * {step}" for k, step in steps.items() if step}
            self.lines.append(f"{pad}for (int32_t {name} = 0; {name} < {count}; {name}++) {{")
            self.nest(found[first], depth + 1, {**places, **more})
            self.lines.append(f"{pad}}}")

    def _row(self, flat: Positions, pad: str, places: Mapping[int, str]) -> bool:
        """A copy or fill, if all of `flat` is one."""
        if (flat == flat[0]).all() and _constant(flat[0]):
            self._fill(int(flat[0]), flat.size, pad)
            return True
        if _constant(flat[0]) or not (np.diff(flat) == 1).all():
            return False
        operand, at = _source(flat[0])
        place = f"x{operand} + {at}{places.get(operand, '')}"
        if flat.size == 1:
            self.lines.append(f"{pad}*y++ = *({place});")
        else:
            size = flat.size * np.dtype(self.dtype).itemsize
            self.lines.append(f"{pad}q_copy(y, {place}, {size}); y += {flat.size};")
        return True

    def _fill(self, value: int, count: int, pad: str) -> None:
        if np.dtype(self.dtype).itemsize == 1 and count > 1:
            self.lines.append(f"{pad}q_fill(y, {value}, {count}); y += {count};")
        else:
            self.lines.append(f"{pad}for (int32_t k = 0; k < {count}; k++) *y++ = {value};")


def _constant(at: Any) -> Any:
    """Whether codes at these places are constants."""
    return at < FIRST >> 1


def _source(at: np.int64) -> tuple[int, int]:
    """Operand and place in it."""
    return divmod(int(at) - int(FIRST), int(BASE))


def _groups(found: Positions) -> list[tuple[int, int, Steps]]:
    """(first, count, steps) along the first axis: slices that move as the first does, each some steps further on."""
    rows = found.reshape(found.shape[0], -1)
    operands = np.where(rows < FIRST >> 1, -1, (rows - FIRST) // BASE)
    kinds = [int(k) for k in np.unique(operands)]
    groups: list[tuple[int, int, Steps]] = []
    first = 0
    while first < len(rows):
        count, steps = 1, dict[int, int]()
        while first + count < len(rows):
            if (operands[first + count] != operands[first]).any():
                break
            difference = rows[first + count] - rows[first + count - 1]
            found_steps = {k: difference[operands[first] == k] for k in kinds}
            if any(d.size and (d != d[0]).any() for d in found_steps.values()):
                break
            now = {k: int(d[0]) for k, d in found_steps.items() if d.size}
            if now.pop(-1, 0) or (count > 1 and now != steps):
                break
            steps, count = now, count + 1
        groups.append((first, count, steps))
        first += count
    return groups


def function(name: str, found: Positions, operands: int, dtype: str) -> str:
    """The C function `NAME(x0, ..., y)`.  Raises UnsupportedError where the order is too irregular."""
    writer = _Writer(dtype)
    writer.nest(found, 1, {})
    parameters = [f"const {CTYPES[dtype]} *x{k}" for k in range(operands)]
    unused = "".join(f"  (void)x{k};\n" for k in range(operands))
    body = "\n".join(writer.lines)
    return f"Q_KERNEL void {name}({', '.join([*parameters, f'{CTYPES[dtype]} *y'])}) {{\n{unused}{body}\n}}\n"
