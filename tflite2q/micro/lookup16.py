"""Functions of 16-bit codes without tables of all of them: proven to give each of the 65,536 results."""

from __future__ import annotations

import numpy as np

from tflite2q.arithmetic import tables
from tflite2q.dialect.ops.lookup import Lookup
from tflite2q.dialect.types import Value
from tflite2q.errors import UnsupportedError
from tflite2q.micro.products import Call
from tflite2q.micro.program import Array, Table

PIECE = 128  # codes of a linear piece (eq. 22)
CODES = np.arange(-32768, 32768, dtype=np.int64)


def lookup(name: str, op: Lookup, x: Value, y: Value) -> Call:
    """The call of a function of int16 codes.  Raises UnsupportedError for functions that are neither linear between the
    ends of 512 pieces, nor the logistic one or tanh."""
    size = x.type.size
    if op.function in ("LOGISTIC", "TANH"):
        m, half, shift = tables.argument_factor(x.type.scale, op.function == "TANH")
        samples = Table("q_sigmoid", tables.sigmoid_samples().astype(np.uint16))
        call = f"q_sigmoid16(q_sigmoid, {{x0}}, {{y0}}, {size}, {m}, {half}, {shift}, {int(op.function == 'TANH')});"
        return Call(call, ("lookup16",), "\0", (samples,), 0, 0)
    ends = pieces(op.table(x.type, y.type))
    if ends is None:
        raise UnsupportedError(f"{op.function} of int16 needs a table of 128 kB, for which there is no kernel")
    table = Table(f"{name}_e", ends)
    return Call(f"q_pieces({name}_e, {{x0}}, {{y0}}, {size});", ("lookup16",), "\0", (table,), 0, 0)


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
