"""Functions of 16-bit codes without tables of all of them: proven to give each of the 65,536 results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tflite2q.arithmetic import rounding, tables
from tflite2q.arithmetic.numpy_core import NUMPY
from tflite2q.arithmetic.rescale import multiply_fixed
from tflite2q.dialect.ops.lookup import Lookup
from tflite2q.dialect.types import Value
from tflite2q.micro.calls import Call
from tflite2q.micro.program import Array, Table

TWICE = 2  # in place of a nudge: products are rounded twice
PIECE = 128  # codes of a linear piece (eq. 22)
CODES = np.arange(-32768, 32768, dtype=np.int64)


def lookup(name: str, op: Lookup, x: Value, y: Value) -> Call:
    """The call of a function of int16 codes: the logistic one, tanh, functions that are linear on both sides of the
    zero point, those that are linear between the ends of 512 pieces, and others by a table of all codes (128 kB)."""
    size = x.type.size
    if op.function in ("LOGISTIC", "TANH"):
        m, half, shift = tables.argument_factor(x.type.scale, op.function == "TANH")
        samples = Table("q_sigmoid", tables.sigmoid_samples().astype(np.uint16))
        call = f"q_sigmoid16(q_sigmoid, {{x0}}, {{y0}}, {size}, {m}, {half}, {shift}, {int(op.function == 'TANH')});"
        return Call(call, ("lookup16",), "\0", (samples,), 0, 0)
    codes = op.table(x.type, y.type).astype(np.int64)
    ratio = np.float32(x.type.scale) / np.float32(y.type.scale)
    leaking = np.float32(np.float32(x.type.scale) * np.float32(op.alpha)) / np.float32(y.type.scale)
    slopes = (float(ratio), float(leaking), x.type.scale / y.type.scale)
    if (found := bent(codes, x.type.zero_point, y.type.zero_point, slopes)) is not None:
        struct = f"static const q_bend {name} = {found};\n"
        return Call(f"q_bent(&{name}, {{x0}}, {{y0}}, {size});", ("lookup16",), "\0" + struct, (), 0, 0)
    if (ends := pieces(codes)) is not None:
        table = Table(f"{name}_e", ends)
        return Call(f"q_pieces({name}_e, {{x0}}, {{y0}}, {size});", ("lookup16",), "\0", (table,), 0, 0)
    table = Table(f"{name}_t", codes.astype(np.int16))
    return Call(f"q_table16({name}_t, {{x0}}, {{y0}}, {size});", ("lookup16",), "\0", (table,), 0, 0)


def bent(codes: Array, zero: int, result_zero: int, slopes: Sequence[float] = ()) -> str | None:
    """The initializer of a q_bend that gives each of 65,536 results; None if there is none.

    On each side of the zero point, every result tells between which slopes that of the function is; or it is one of
    `slopes`, and products are rounded twice as eq. 8 has it.
    """
    low, high = int(codes.min()), int(codes.max())
    sides = []
    for side in (zero > CODES, zero <= CODES):
        away, want = CODES[side] - zero, codes[side]
        for m, n, nudge in _lines(away, want - result_zero, (want > low) & (want < high), slopes):
            if nudge == TWICE:
                found = multiply_fixed(NUMPY, away, m, -n)
            else:
                found = (away * m + (1 << (n - 1)) + nudge * (away * m < 0)) >> n
            if np.array_equal((found + result_zero).clip(low, high), want):
                sides.append((m, n, nudge))
                break
        else:
            return None
    pairs = ", ".join(f"{{{below}, {above}}}" for below, above in zip(*sides, strict=True))
    return f"{{{pairs}, {zero}, {result_zero}, {low}, {high}}}"


def _lines(away: Array, want: Array, inside: Array, slopes: Sequence[float]) -> Iterator[tuple[int, int, int]]:
    """(m, n, nudge) that may give results `want`, of which those `inside` are not clamped."""
    if not want.any():
        yield 0, 1, 0
        return
    inside = inside & (away != 0)
    if inside.any():
        ends = (want[inside][:, None] + [-0.5, 0.5]) / away[inside][:, None]
        slope = (ends.min(axis=1).max() + ends.max(axis=1).min()) / 2
        n = int(np.clip(29 - np.floor(np.log2(abs(slope))), 1, 46)) if slope else 1
        yield from ((int(np.rint(slope * 2.0**n)), n, nudge) for nudge in (0, -1))
    for slope in slopes:
        m, shift = (int(part) for part in rounding.quantize_multiplier(np.abs(slope)))
        if -31 < shift < 13:  # 17 bits and so many more are 30
            yield (m if slope >= 0 else -m), -shift, TWICE


def pieces(table: Array) -> Array | None:
    """int16 [513]: the ends of linear pieces that give each of 65,536 results; None if there are none."""
    wide = table.astype(np.int64)
    ends = np.append(wide[::PIECE], 0)
    around = ends[-2] + (wide[-1] - ends[-2]) * PIECE // (PIECE - 1)  # the last end lies behind the last code
    for last in sorted(range(int(around) - 2, int(around) + 3), key=lambda end: abs(end - around)):
        ends[-1] = min(max(last, -32768), 32767)
        if np.array_equal(between(ends), wide):
            return ends.astype(np.int16)
    return None


def between(ends: Array) -> Array:
    """What pieces give for each code, lowest first (eq. 22)."""
    index = 256 + (CODES >> 7)
    slope = (ends[index + 1] - ends[index]).astype(np.int16).astype(np.int64)
    found: Array = (ends[index] + ((slope * (CODES & 127) + 64) >> 7)).astype(np.int16).astype(np.int64)
    return found
