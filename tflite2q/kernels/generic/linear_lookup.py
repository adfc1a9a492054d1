"""Look-ups whose table is a straight line, for any LLVM target: most changes of scale, from 8 bits to 8 or 16.

clamp(rint(code * slope + offset)) in float32 is tried for all 256 codes when a model is compiled; where it gives the
whole table it replaces 256 entries and a scalar load for each code by arithmetic on vectors.  Slope and offset lie in
the middle of what rounding allows every entry.  Memory, and the conversions between bytes and floats, limit it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tflite2q.arithmetic.rescale import MAGIC
from tflite2q.kernels import lookup
from tflite2q.kernels.contracts import Array, LookupContract
from tflite2q.kernels.frame import Plan
from tflite2q.kernels.lookup import Translate
from tflite2q.kernels.refusals import Because, Refusal
from tflite2q.kernels.tir import Buffer, Expr, T, broadcast, load, store, uncontracted, vector

LANES = 16
IN_FLIGHT = 4  # vectors


class GenericLinearLookup:
    """Lookup contracts of integer tables that are lines."""

    name = "generic_linear_lookup"

    def plan(self, contract: LookupContract, target: Any) -> Plan | Refusal:
        refused = lookup.refusal(contract, ("int8", "uint8", "int16"), 0)
        if refused:
            return refused
        line = _fit(contract)
        if line is None:
            return Refusal(Because.NUMBERS, "the table is no straight line")
        return lookup.plan(contract, line, IN_FLIGHT * LANES, _prepare, operation="linear_lookup")


def _fit(contract: LookupContract) -> Array | None:
    """float32 [slope, offset, lowest, highest] of a line that gives the table, or None."""
    x, table = np.arange(256) + float(contract.low), contract.table.astype(np.float64)
    lowest, highest = table.min(), table.max()
    # Where the line may pass: an entry at a clamp bounds it on one side only.
    least = np.where(table == lowest, -np.inf, table - 0.5)
    most = np.where(table == highest, np.inf, table + 0.5)
    run = x[None, :] - x[:, None]
    later = run > 0
    steepest = ((most[None, :] - least[:, None])[later] / run[later]).min()
    flattest = ((least[None, :] - most[:, None])[later] / run[later]).max()
    if not (np.isfinite(steepest) and np.isfinite(flattest)) or steepest < flattest:
        return None
    slope = (steepest + flattest) / 2
    bounds = (least - slope * x).max(), (most - slope * x).min()
    line = np.array([slope, sum(bounds) / 2, lowest, highest], np.float32)
    return line if np.isfinite(line).all() and (_evaluate(line, x) == table).all() else None


def _evaluate(line: Array, x: Array) -> Array:
    """The line at codes, rounded to float32 where the vectors are."""
    slope, offset, lowest, highest = line
    y = np.clip(x.astype(np.float32) * slope + offset, lowest, highest)
    return np.asarray((y + MAGIC) - MAGIC)


def _prepare(line: Buffer) -> Translate:
    def translate(source: Buffer, target: Buffer, at: Expr, count: int) -> None:
        lanes = min(count, LANES)
        for first in range(0, count, lanes):
            codes = load(source, at + first, lanes=lanes)
            store(target, _codes(codes, line, str(target.dtype), lanes), at + first, lanes=lanes)

    return translate


def _codes(codes: Expr, line: Buffer, dtype: str, lanes: int) -> Expr:
    slope, offset, lowest, highest = (T.Bind(broadcast(line[i], lanes)) for i in range(4))
    ints, floats = vector("int32", lanes), vector("float32", lanes)
    real = T.cast(T.cast(codes, ints), floats)
    moved = uncontracted(T.Bind(real * slope)) + offset
    # Adding 1.5 * 2**23 leaves the nearest integer in the low bits.
    shifted = T.min(T.max(moved, lowest), highest) + broadcast(T.float32(float(MAGIC)), lanes)
    rounded = T.reinterpret(ints, shifted) - broadcast(T.int32(int(MAGIC.view(np.int32))), lanes)
    return T.cast(rounded, vector(dtype, lanes))
