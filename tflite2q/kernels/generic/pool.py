"""Average and maximum pooling of 8-bit (or 16-bit) codes for any LLVM target.

Vectors run over channels, loops over the part of the window that lies inside the image, so there is no padding to fill.
The average divides by multiplying with a reciprocal from a table by number of taps.  Memory traffic limits it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite2q.arithmetic.rounding import code_range
from tflite2q.kernels import layout
from tflite2q.kernels.contracts import PoolContract, Tensor
from tflite2q.kernels.frame import Arrays, ContractProgram, Name, Plan, Tensors
from tflite2q.kernels.loops import region
from tflite2q.kernels.tir import Buffer, Buffers, Expr, T, broadcast, load, local, store, vector

MOST_LANES = 32


@dataclass(frozen=True)
class Program(ContractProgram):
    """What the text of the function depends on: all of the contract."""

    contract: PoolContract

    @property
    def taps(self) -> int:
        return self.contract.window[0] * self.contract.window[1]

    @property
    def constants(self) -> Tensors:
        return {"reciprocals": Tensor((self.taps + 1,), "int64")}

    def pack(self) -> Arrays:
        """k[n] = floor(2**40 / n) + 1: floor(s / n) = (s * k[n]) >> 40 as long as s * n < 2**40.

        Then s * k exceeds s * 2**40 / n by at most s < 2**40 / n, and s / n lies at least 1 / n below the next integer.
        A sum of n codes of 8 bits stays below 2**8 * n, so n may be up to 65535 (for 16 bits, up to 4095).
        """
        return {"reciprocals": np.array([0] + [2**40 // n + 1 for n in range(1, self.taps + 1)], np.int64)}

    def emit(self, inputs: Sequence[Buffer], constants: Buffers, y: Buffer) -> None:
        (x,), reciprocals, p = inputs, constants["reciprocals"], self.contract
        lanes = layout.lane_count(p.channels, MOST_LANES)
        count = -(-p.channels // lanes)
        rows = p.batch * p.out_h
        with region(rows * p.out_w, p.output.size * p.window[0] * p.window[1] * 8) as pixel:
            n, row, column = pixel // (p.out_w * p.out_h), pixel // p.out_w % p.out_h, pixel % p.out_w
            top, left = row * p.strides[0] - p.padding[0], column * p.strides[1] - p.padding[1]
            y0, y1 = _inside(top, p.window[0], p.in_h, p.padding[0], p.padding[2])
            x0, x1 = _inside(left, p.window[1], p.in_w, p.padding[1], p.padding[3])
            with T.serial(count) as block:
                start = T.min(block * lanes, p.channels - lanes)
                state = local(lanes, "int32")
                initial = code_range(p.dtype)[0] if p.kind == "max" else 0
                store(state, broadcast(T.int32(initial), lanes), 0, lanes=lanes)
                with T.serial(y1 - y0) as i, T.serial(x1 - x0) as j:
                    value = T.cast(load(x, n, y0 + i, x0 + j, start, lanes=lanes), vector("int32", lanes))
                    old = load(state, 0, lanes=lanes)
                    store(state, T.max(old, value) if p.kind == "max" else old + value, 0, lanes=lanes)
                total = load(state, 0, lanes=lanes)
                if p.kind == "average":
                    taps = (y1 - y0) * (x1 - x0)
                    total = _divide(T.Bind(total - broadcast(taps * p.offset, lanes)), taps, reciprocals[taps], lanes)
                    total = total + broadcast(T.int32(p.offset), lanes)
                low, high = (broadcast(T.int32(b), lanes) for b in (p.low, p.high))
                store(
                    y,
                    T.cast(T.min(T.max(total, low), high), vector(p.dtype, lanes)),
                    n,
                    row,
                    column,
                    start,
                    lanes=lanes,
                )


class GenericPool:
    """Pool contracts; total."""

    name = "generic_pool"

    def plan(self, contract: PoolContract, target: Any) -> Plan:
        program = Program(contract)
        return Plan(Name(contract.dtype, f"{contract.kind}_pool"), program, program.pack)


def _inside(first: Expr, window: int, size: int, before: int, after: int) -> tuple[Expr, Expr]:
    """The part [begin, end) of a window starting at `first` that lies in range(size); plain where nothing is padded."""
    end = first + window
    return (T.max(first, 0) if before else first, T.min(end, size) if after else end)


def _divide(total: Expr, taps: Expr, reciprocal: Expr, lanes: int) -> Expr:
    """total / taps, ties away from zero."""
    sign = T.Bind(T.shift_right(total, broadcast(31, lanes)))
    magnitude = T.cast((total ^ sign) - sign + broadcast(taps // 2, lanes), vector("int64", lanes))
    quotient = T.shift_right(magnitude * broadcast(reciprocal, lanes), broadcast(T.int64(40), lanes))
    return (T.cast(quotient, vector("int32", lanes)) ^ sign) - sign
