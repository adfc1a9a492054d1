"""Spectra: RFFT2D, and the parts of complex numbers.

A complex64 value stands between operators only.  Over the core vocabulary it is float32 with a first axis of two, the
real and the imaginary part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Builtin, Op, Operand, Operands, Shape, Values, attribute, require, supported
from tflite2q.dialect.ops.common import integers
from tflite2q.dialect.types import Value

T = TypeVar("T")

TINY = 1e-9  # what rounding leaves of a cosine or sine of 0
LONGEST = 1 << 12  # of a transform, whose cosines are a matrix


def _waves(
    rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], period: int
) -> tuple[npt.NDArray[np.float32], ...]:
    """cos and sin of 2 pi rows[i] columns[j] / period."""
    angle = 2 * np.pi * (np.outer(rows, columns) % period) / period
    exact = (np.where(np.abs(wave) < TINY, 0.0, wave) for wave in (np.cos(angle), np.sin(angle)))
    return tuple(wave.astype(np.float32) for wave in exact)


@dataclass(frozen=True, kw_only=True)
class RealTransform(Op):
    """The discrete Fourier transform of the last two axes, cropped or filled with zeros to the constant lengths.

    Of the last axis only the half that is not the mirror image of the other.
    """

    mnemonic: ClassVar[str] = "q.rfft2d"
    builtins: ClassVar[tuple[Builtin, ...]] = (Builtin("RFFT2D", "Rfft2dOptions"),)
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "fixed"), Operand("lengths", "plain"))
    dtypes: ClassVar[tuple[str, ...]] = ()
    complexes: ClassVar[bool] = True
    deviation: ClassVar[str] = "within 1e-5 of the largest result; complex64 tensors stand between operators only"

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        supported(ins["x"].type.dtype == "float32", f"a transform of {ins['x'].type.dtype}")
        require(outs[0].type.dtype == "complex64", f"result is {outs[0].type.dtype}, not complex64")
        require(len(ins["x"].type.shape) >= 2, f"input must have 2 axes, has {len(ins['x'].type.shape)}")

    def lengths(self, ins: Values) -> tuple[int, int]:
        lengths = integers(ins["lengths"])
        require(len(lengths) == 2 and min(lengths) > 0, f"lengths {lengths}")
        supported(max(lengths) <= LONGEST, f"a transform of {lengths}; {LONGEST} are possible")
        supported(all(n & (n - 1) == 0 for n in lengths), f"lengths {lengths} that are no powers of two, as in LiteRT")
        return lengths[0], lengths[1]

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        height, width = self.lengths(ins)
        return ((*ins["x"].type.shape[:-2], height, width // 2 + 1),)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        shape, (height, width) = ins["x"].type.shape, self.lengths(ins.values)
        count, used = math.prod(shape[:-2]), (min(shape[-2], height), min(shape[-1], width))
        x = core.reshape(ins["x"].data, (count, *shape[-2:]))
        x = core.strided_slice(x, (1, 2), (0, 0), used, (1, 1))
        half = width // 2 + 1
        cosine, sine = _waves(np.arange(used[1]), np.arange(half), width)
        # Both parts go through the same products, side by side: the real one first.
        rows = core.broadcast_to(core.reshape(x, (1, count * used[0], used[1])), (2, count * used[0], used[1]))
        pair = core.matmul(rows, core.const(np.stack([cosine, -sine])), "float32")
        if (used[0], height) != (1, 1):
            cosine, sine = _waves(np.arange(height), np.arange(used[0]), height)
            pair = core.reshape(pair, (2, count, used[0], half))
            # -i (a + ib) = b - ia
            turned = core.strided_slice(pair, (0,), (1,), (-1,), (-1,))
            turned = core.multiply(turned, core.const(np.array([1, -1], np.float32).reshape(2, 1, 1, 1)))
            pair = core.add(_product(core, cosine, pair, count), _product(core, sine, turned, count))
        return (core.reshape(pair, outs[0].type.held),)


def _product(core: Core[T], wave: npt.NDArray[np.float32], pair: T, count: int) -> T:
    """wave times each matrix of pair [2, count, ...]."""
    return core.matmul(core.broadcast_to(core.const(wave[None, None]), (2, count, *wave.shape)), pair, "float32")


@dataclass(frozen=True, kw_only=True)
class ComplexPart(Op):
    """The real part, the imaginary part or the length of complex numbers."""

    function: str = attribute(None, "REAL")

    mnemonic: ClassVar[str] = "q.complex_part"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("REAL", None, {}, {"function": "REAL"}),
        Builtin("IMAG", None, {}, {"function": "IMAG"}),
        Builtin("COMPLEX_ABS", None, {}, {"function": "COMPLEX_ABS"}),
    )
    operands: ClassVar[tuple[Operand, ...]] = (Operand("x", "fixed"),)
    dtypes: ClassVar[tuple[str, ...]] = ()
    complexes: ClassVar[bool] = True
    deviation: ClassVar[str] = "COMPLEX_ABS within 1e-5; complex64 tensors stand between operators only"

    def verify(self, ins: Values, outs: Sequence[Value]) -> None:
        supported(ins["x"].type.dtype == "complex64", f"{self.function} of {ins['x'].type.dtype}")
        require(outs[0].type.dtype == "float32", f"result is {outs[0].type.dtype}, not float32")

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        return (ins["x"].type.shape,)

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        shape = outs[0].type.shape
        slices = (core.strided_slice(ins["x"].data, (0,), (i,), (i + 1,), (1,)) for i in range(2))
        real, imaginary = (core.reshape(part, shape) for part in slices)
        if self.function == "COMPLEX_ABS":
            squares = core.add(core.multiply(real, real), core.multiply(imaginary, imaginary))
            return (core.sqrt(squares),)
        return (real if self.function == "REAL" else imaginary,)
