"""Functions of 16-bit codes without tables of all of them: proven to give each of the 65,536 results."""

from __future__ import annotations

import numpy as np

from tflite2q.arithmetic import tables
from tflite2q.dialect.ops.lookup import Lookup
from tflite2q.dialect.types import Value
from tflite2q.micro.products import Call
from tflite2q.micro.program import Array, Table

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
    if (found := bent(codes, x.type.zero_point, y.type.zero_point)) is not None:
        struct = f"static const q_bend {name} = {found};\n"
        return Call(f"q_bent(&{name}, {{x0}}, {{y0}}, {size});", ("lookup16",), "\0" + struct, (), 0, 0)
    if (ends := pieces(codes)) is not None:
        table = Table(f"{name}_e", ends)
        return Call(f"q_pieces({name}_e, {{x0}}, {{y0}}, {size});", ("lookup16",), "\0", (table,), 0, 0)
    table = Table(f"{name}_t", codes.astype(np.int16))
    return Call(f"q_table16({name}_t, {{x0}}, {{y0}}, {size});", ("lookup16",), "\0", (table,), 0, 0)


def bent(codes: Array, zero: int, result_zero: int) -> str | None:
    """The initializer of a q_bend that gives each of 65,536 results; None if there is none.

    On each side of the zero point, every result tells between which slopes that of the function is.
    """
    low, high = int(codes.min()), int(codes.max())
    sides = []
    for side in (zero > CODES, zero <= CODES):
        away, want = CODES[side] - zero, codes[side] - result_zero
        if not want.any():
            sides.append((0, 1, 0))
            continue
        inside = (away != 0) & (codes[side] > low) & (codes[side] < high)
        if not inside.any():
            return None
        ends = (want[inside][:, None] + [-0.5, 0.5]) / away[inside][:, None]
        slope = (ends.min(axis=1).max() + ends.max(axis=1).min()) / 2
        n = int(np.clip(29 - np.floor(np.log2(abs(slope))), 1, 46)) if slope else 1
        m = int(np.rint(slope * 2.0**n))
        for nudge in (0, -1):
            found = ((away * m + (1 << (n - 1)) + nudge * (away * m < 0)) >> n) + result_zero
            if np.array_equal(found.clip(low, high), codes[side]):
                sides.append((m, n, nudge))
                break
        else:
            return None
    pairs = ", ".join(f"{{{below}, {above}}}" for below, above in zip(*sides, strict=True))
    return f"{{{pairs}, {zero}, {result_zero}, {low}, {high}}}"


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
