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

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tflite2q.arithmetic.rescale import MAGIC, Rescale
from tflite2q.kernels.contracts import Array
from tflite2q.kernels.tir import Buffers, Expr, T, broadcast, load, vector

_INT31 = 2**31


@dataclass(frozen=True)
class Epilogue(ABC):
    """Everything but the numbers of a `Rescale`; each arithmetic is a class."""

    zero_point: int
    low: int
    high: int
    dtype: str

    @staticmethod
    def of(rescale: Rescale, bound: Array, accumulator: str = "int32") -> Epilogue:
        """`bound`: the largest magnitude each output channel's accumulator, of dtype `accumulator`, can have."""
        codes = rescale.zero_point, rescale.low, rescale.high, rescale.dtype
        if rescale.arithmetic in _REAL:
            return _REAL[rescale.arithmetic](*codes)
        kind = _INTEGER[rescale.arithmetic]
        left, right = kind.shifts(rescale)
        reach = np.minimum(bound.astype(np.float64), _INT31) * 2.0**left
        half = np.where(right > 0, 2.0 ** (right - 1), 0.0)
        return kind(
            *codes, left=bool(left.any()), right=bool(right.any()), right_everywhere=bool((right > 0).all()),
            wide=accumulator == "int64" or kind is Fixed16 or bool((reach + half >= _INT31 - 1).any()),
        )  # fmt: skip

    @property
    @abstractmethod
    def constants(self) -> Mapping[str, str]:
        """Dtype of each constant, of which every output channel has one."""

    @abstractmethod
    def numbers(self, rescale: Rescale) -> dict[str, Array]:
        """The constants, one for each multiplier."""

    @abstractmethod
    def scaled(self, v: Expr, loads: dict[str, Expr], lanes: int) -> Expr:
        """Accumulators times multipliers as int32, before the zero point and the clamp; `loads` are the constants."""

    def pack(self, rescale: Rescale, channels: Array) -> dict[str, Array]:
        """The constants, arranged as the index array `channels` says."""
        values = self.numbers(rescale)
        return {name: spread(values[name].astype(dtype), channels) for name, dtype in self.constants.items()}

    def codes(self, v: Expr, constants: Buffers, index: tuple[Expr, ...], lanes: int) -> Expr:
        """Codes, as int32, of accumulators `v` (`lanes` of them), whose constants start at `index`."""
        rounded = self.rounded(v, constants, index, lanes)
        low, high = (broadcast(b - self.zero_point, lanes) for b in (self.low, self.high))
        clamped = T.min(T.max(rounded, low), high)
        return clamped + broadcast(self.zero_point, lanes) if self.zero_point else clamped

    def rounded(self, v: Expr, constants: Buffers, index: tuple[Expr, ...], lanes: int) -> Expr:
        """The rescaled accumulators as int32, before the zero point and the clamp."""
        return self.scaled(v, {name: load(constants[name], *index, lanes=lanes) for name in self.constants}, lanes)


@dataclass(frozen=True)
class Real(Epilogue):
    """Products of real numbers."""

    real: ClassVar[str]  # their dtype

    @property
    def constants(self) -> Mapping[str, str]:
        return {"multiplier": self.real}

    def numbers(self, rescale: Rescale) -> dict[str, Array]:
        return {"multiplier": np.array(rescale.real)}

    def _clipped(self, v: Expr, loads: dict[str, Expr], lanes: int) -> Expr:
        low, high = (broadcast(T.FloatImm(self.real, float(b - self.zero_point)), lanes) for b in (self.low, self.high))
        return T.min(T.max(T.cast(v, vector(self.real, lanes)) * loads["multiplier"], low), high)


@dataclass(frozen=True)
class Float32(Real):
    real: ClassVar[str] = "float32"

    def scaled(self, v: Expr, loads: dict[str, Expr], lanes: int) -> Expr:
        t = self._clipped(v, loads, lanes) + broadcast(T.float32(float(MAGIC)), lanes)
        return T.reinterpret(vector("int32", lanes), t) - broadcast(int(MAGIC.view(np.int32)), lanes)


@dataclass(frozen=True)
class Float64(Real):
    real: ClassVar[str] = "float64"

    def scaled(self, v: Expr, loads: dict[str, Expr], lanes: int) -> Expr:
        t = T.Bind(self._clipped(v, loads, lanes))
        half, minus = (broadcast(T.float64(float(np.nextafter(h, 0.0))), lanes) for h in (0.5, -0.5))
        away = T.Select(t < broadcast(T.float64(0.0), lanes), minus, half)
        return T.cast(t + away, vector("int32", lanes))


@dataclass(frozen=True)
class Integer(Epilogue):
    """Shifts, after products of integers or without.

    `left`, `right`: some multiplier shifts that way; `right_everywhere`: all do.  `wide`: see the module.
    """

    left: bool
    right: bool
    right_everywhere: bool
    wide: bool

    @staticmethod
    @abstractmethod
    def shifts(rescale: Rescale) -> tuple[Array, Array]:
        """(left, right) shift counts per multiplier, none negative."""

    @abstractmethod
    def shifted(self, v: Expr, loads: dict[str, Expr], lanes: int) -> Expr:
        """As `scaled`, in int64 and not clamped if it is `wide`."""

    @property
    def constants(self) -> Mapping[str, str]:
        return {
            "rounding": "int64" if self.wide else "int32",
            **({"right": "int32"} if self.right else {}),
            **({"left": "int32"} if self.left else {}),
        }

    def numbers(self, rescale: Rescale) -> dict[str, Array]:
        left, right = self.shifts(rescale)
        half = np.where(right > 0, np.left_shift(np.int64(1), np.maximum(right - 1, 0)), 0)
        return {"rounding": half, "right": right, "left": left}

    def scaled(self, v: Expr, loads: dict[str, Expr], lanes: int) -> Expr:
        shifted = self.shifted(v, loads, lanes)
        if not self.wide:
            return shifted
        low, high = (broadcast(T.int64(b - self.zero_point), lanes) for b in (self.low, self.high))
        return T.cast(T.min(T.max(shifted, low), high), vector("int32", lanes))


@dataclass(frozen=True)
class Shift(Integer):
    @staticmethod
    def shifts(rescale: Rescale) -> tuple[Array, Array]:
        return _of_machines(rescale.shifts())

    def shifted(self, v: Expr, loads: dict[str, Expr], lanes: int) -> Expr:
        if self.wide:
            v = T.cast(v, vector("int64", lanes))
            loads = {name: T.cast(value, vector("int64", lanes)) for name, value in loads.items()}
        if self.left:
            v = T.shift_left(v, loads["left"])
        return T.shift_right(v + loads["rounding"], loads["right"]) if self.right else v


@dataclass(frozen=True)
class Fixed16(Shift):
    """Always `wide`."""

    @staticmethod
    def shifts(rescale: Rescale) -> tuple[Array, Array]:
        return _of_machines(rescale.fixed16()[1])

    @property
    def constants(self) -> Mapping[str, str]:
        return {"multiplier": "int32", **super().constants}

    def numbers(self, rescale: Rescale) -> dict[str, Array]:
        return {**super().numbers(rescale), "multiplier": rescale.fixed16()[0]}

    def scaled(self, v: Expr, loads: dict[str, Expr], lanes: int) -> Expr:
        wide = vector("int64", lanes)
        product = T.cast(v, wide) * T.cast(loads["multiplier"], wide)
        return T.cast(self.shifted(product, loads, lanes), vector("int32", lanes))


@dataclass(frozen=True)
class Fixed(Integer):
    @staticmethod
    def shifts(rescale: Rescale) -> tuple[Array, Array]:
        shift = rescale.fixed_point()[1]
        return np.maximum(shift, 0) & 31, np.maximum(-shift, 0)

    @property
    def corrects_negatives(self) -> bool:
        """Whether the fixed point needs its correction for negative numbers."""
        return self.right and self.low < self.zero_point

    @property
    def constants(self) -> Mapping[str, str]:
        return {"multiplier": "int32", **super().constants, "rounding": "int64"}

    def numbers(self, rescale: Rescale) -> dict[str, Array]:
        found = super().numbers(rescale)
        return {**found, "multiplier": rescale.fixed_point()[0], "rounding": 2**30 + (found["rounding"] << 31)}

    def shifted(self, v: Expr, loads: dict[str, Expr], lanes: int) -> Expr:
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


def _of_machines(shift: Array) -> tuple[Array, Array]:
    """(left, right) counts of shifts to the right: one beyond 62 gives zero, as 62 does, and would not fit."""
    return np.maximum(-shift, 0), np.clip(shift, 0, 62)


_REAL: Mapping[str, type[Real]] = {"float32": Float32, "float64": Float64}
_INTEGER: Mapping[str, type[Integer]] = {"fixed": Fixed, "fixed16": Fixed16, "shift": Shift}


def spread(values: Array, channels: Array) -> Array:
    """`values` (one, or one per channel) picked by `channels`."""
    return np.ascontiguousarray(values[channels] if len(values) > 1 else np.broadcast_to(values, channels.shape))
