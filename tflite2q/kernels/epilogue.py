"""From an accumulator to an output code, in TIR: the second implementation of `tflite2q.arithmetic.rescale.Rescale`.

Written once for all kernels, on vectors of any width.  An `Epilogue` is what the text of a kernel depends on; the
multipliers themselves are packed constants, one vector per block of output channels.  Bias is not here: kernels start
their accumulators with it.

fixed    eq. 8 rounds twice: H = (v * m + 2**30) >> 31, then (H + half - (H < 0)) >> n with half = 2**(n - 1).  The
         second rounding's half joins the first constant, R = 2**30 + half * 2**31: (v * m + R) >> 31 is H + half.  The
         sign of v serves as the sign of H (they differ only where v < 0 and H = 0; (half - 1) >> n is then 0 as
         well).  If the clamp cuts off everything below the zero point, a negative H ends at the clamp with or without
         its correction, and the correction is left out.
fixed16  (v * m + half) >> n (eq. 20), in 64 bits, of which the low 32 are kept; `tflite2q.kernels.split_rescale` does
         it in 32 bits where it can.
float64  trunc(t + copysign(c, t)) with c the largest number below 0.5 rounds half away from zero (eq. 10).
float32  adding 1.5 * 2**23 leaves the nearest integer in the low bits (eq. 11); they are used as an integer.
shift    (v + half) >> n (eq. 12).

All are exact for every accumulator: if a layer's int32 accumulator could come so near to 2**31 that an int32 step
would overflow, or if it is an int64 one (`wide`), that step is done in 64 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tflite2q.arithmetic.rescale import MAGIC, Rescale
from tflite2q.kernels.contracts import Array
from tflite2q.kernels.tir import Buffers, Expr, T, broadcast, load, vector

_INT31 = 2**31


@dataclass(frozen=True)
class Epilogue:
    """Everything but the numbers of a `Rescale`.

    `left`, `right`: some multiplier shifts that way; `right_everywhere`: all do.  `wide`: see the module.
    """

    arithmetic: str
    zero_point: int
    low: int
    high: int
    dtype: str
    left: bool
    right: bool
    right_everywhere: bool
    wide: bool

    @staticmethod
    def of(rescale: Rescale, bound: Array, accumulator: str = "int32") -> Epilogue:
        """`bound`: the largest magnitude each output channel's accumulator, of dtype `accumulator`, can have."""
        left, right = shifts(rescale)
        reach = np.minimum(bound.astype(np.float64), _INT31) * 2.0**left
        half = np.where(right > 0, 2.0 ** (right - 1), 0.0)
        return Epilogue(
            rescale.arithmetic, rescale.zero_point, rescale.low, rescale.high, rescale.dtype,
            left=bool(left.any()), right=bool(right.any()), right_everywhere=bool((right > 0).all()),
            wide=accumulator == "int64" or rescale.arithmetic == "fixed16" or bool((reach + half >= _INT31 - 1).any()),
        )  # fmt: skip

    @property
    def corrects_negatives(self) -> bool:
        """Whether the fixed point needs its correction for negative numbers."""
        return self.right and self.low < self.zero_point

    @property
    def constants(self) -> Mapping[str, str]:
        """Dtype of each constant, of which every output channel has one."""
        shifts = {"right": "int32"} if self.right else {}
        shifts |= {"left": "int32"} if self.left else {}
        if self.arithmetic == "fixed" or self.arithmetic == "fixed16":
            return {"multiplier": "int32", "rounding": "int64", **shifts}
        if self.arithmetic == "shift":
            return {"rounding": "int64" if self.wide else "int32", **shifts}
        return {"multiplier": self.arithmetic}

    def pack(self, rescale: Rescale, channels: Array) -> dict[str, Array]:
        """The constants, arranged as the index array `channels` says."""
        left, right = shifts(rescale)
        half = np.where(right > 0, np.left_shift(np.int64(1), np.maximum(right - 1, 0)), 0)
        values = {"multiplier": np.array(rescale.real), "rounding": half, "right": right, "left": left}
        if self.arithmetic == "fixed":
            values |= {"multiplier": rescale.fixed_point()[0], "rounding": 2**30 + (half << 31)}
        elif self.arithmetic == "fixed16":
            values["multiplier"] = rescale.fixed16()[0]
        return {name: spread(values[name].astype(dtype), channels) for name, dtype in self.constants.items()}

    def codes(self, v: Expr, constants: Buffers, index: tuple[Expr, ...], lanes: int) -> Expr:
        """Codes, as int32, of accumulators `v` (`lanes` of them), whose constants start at `index`."""
        rounded = self.rounded(v, constants, index, lanes)
        low, high = (broadcast(b - self.zero_point, lanes) for b in (self.low, self.high))
        clamped = T.min(T.max(rounded, low), high)
        return clamped + broadcast(self.zero_point, lanes) if self.zero_point else clamped

    def rounded(self, v: Expr, constants: Buffers, index: tuple[Expr, ...], lanes: int) -> Expr:
        """The rescaled accumulators as int32, before the zero point and the clamp."""
        loads = {name: load(constants[name], *index, lanes=lanes) for name in self.constants}
        if self.arithmetic in ("float32", "float64"):
            return (self._float32 if self.arithmetic == "float32" else self._float64)(v, loads["multiplier"], lanes)
        scaled = {"fixed": self._fixed, "fixed16": self._fixed16, "shift": self._shift}[self.arithmetic]
        wide = scaled(v, loads, lanes)
        if not self.wide:
            return wide
        if self.arithmetic == "fixed16":
            return T.cast(wide, vector("int32", lanes))
        low, high = (broadcast(T.int64(b - self.zero_point), lanes) for b in (self.low, self.high))
        return T.cast(T.min(T.max(wide, low), high), vector("int32", lanes))

    def _fixed(self, v: Expr, loads: dict[str, Expr], lanes: int) -> Expr:
        wide = vector("int64", lanes)
        if self.left:
            v = T.Bind(T.shift_left(v, loads["left"]))
        product = T.cast(v, wide) * T.cast(loads["multiplier"], wide) + loads["rounding"]
        scaled = T.shift_right(product, broadcast(T.int64(31), lanes))
        if not self.wide:
            scaled = T.cast(scaled, vector("int32", lanes))
        if not self.right:
            return scaled
        count = T.cast(loads["right"], wide) if self.wide else loads["right"]
        if self.corrects_negatives:
            negative = T.cast(T.shift_right(v, broadcast(31, lanes)), wide if self.wide else vector("int32", lanes))
            if not self.right_everywhere:
                zero = T.cast(broadcast(0, lanes), wide) if self.wide else broadcast(0, lanes)
                negative = T.Select(count > zero, negative, zero)
            scaled = scaled + negative
        return T.shift_right(scaled, count)

    def _fixed16(self, v: Expr, loads: dict[str, Expr], lanes: int) -> Expr:
        wide = vector("int64", lanes)
        return self._shift(T.cast(v, wide) * T.cast(loads["multiplier"], wide), loads, lanes)

    def _shift(self, v: Expr, loads: dict[str, Expr], lanes: int) -> Expr:
        if self.wide:
            v = T.cast(v, vector("int64", lanes))
            loads = {name: T.cast(value, vector("int64", lanes)) for name, value in loads.items()}
        if self.left:
            v = T.shift_left(v, loads["left"])
        return T.shift_right(v + loads["rounding"], loads["right"]) if self.right else v

    def _float32(self, v: Expr, real: Expr, lanes: int) -> Expr:
        t = T.cast(v, vector("float32", lanes)) * real
        t = self._clip(t, "float32", lanes) + broadcast(T.float32(float(MAGIC)), lanes)
        return T.reinterpret(vector("int32", lanes), t) - broadcast(int(MAGIC.view(np.int32)), lanes)

    def _float64(self, v: Expr, real: Expr, lanes: int) -> Expr:
        t = T.Bind(self._clip(T.cast(v, vector("float64", lanes)) * real, "float64", lanes))
        half, minus = (broadcast(T.float64(float(np.nextafter(h, 0.0))), lanes) for h in (0.5, -0.5))
        away = T.Select(t < broadcast(T.float64(0.0), lanes), minus, half)
        return T.cast(t + away, vector("int32", lanes))

    def _clip(self, t: Expr, dtype: str, lanes: int) -> Expr:
        low, high = (broadcast(T.FloatImm(dtype, float(b - self.zero_point)), lanes) for b in (self.low, self.high))
        return T.min(T.max(t, low), high)


def shifts(rescale: Rescale) -> tuple[Array, Array]:
    """(left, right) shift counts per multiplier, none negative."""
    if rescale.arithmetic == "fixed":
        shift = rescale.fixed_point()[1]
        return np.maximum(shift, 0) & 31, np.maximum(-shift, 0)
    if rescale.arithmetic in ("shift", "fixed16"):
        shift = rescale.shifts() if rescale.arithmetic == "shift" else rescale.fixed16()[1]
        # A count beyond 62 gives zero, as 62 does, and would not fit the machine's shift.
        return np.maximum(-shift, 0), np.clip(shift, 0, 62)
    none = np.zeros(len(rescale.real), np.int64)
    return none, none


def spread(values: Array, channels: Array) -> Array:
    """`values` (one, or one per channel) picked by `channels`."""
    return np.ascontiguousarray(values[channels] if len(values) > 1 else np.broadcast_to(values, channels.shape))
