"""Resizing of images [N,H,W,C] to a constant size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.core import Core
from tflite2q.arithmetic.rescale import int_const
from tflite2q.arithmetic.rounding import round_half_away
from tflite2q.dialect.op import Builtin, Operand, Operands, Shape, Values, attribute, require
from tflite2q.dialect.ops.common import CODES, gather_constant, integers
from tflite2q.dialect.ops.shape import Movement
from tflite2q.dialect.types import Value

T = TypeVar("T")
Indices = npt.NDArray[np.int64]

FRACTION_BITS = 10  # of positions between pixels in the signed integer kernel


@dataclass(frozen=True, kw_only=True)
class Resize(Movement):
    """What both kinds share: the size is the second operand, output pixels map to input positions by two options."""

    align_corners: bool = attribute("AlignCorners", False)
    half_pixel_centers: bool = attribute("HalfPixelCenters", False)

    operands: ClassVar[tuple[Operand, ...]] = (Operand("x"), Operand("size", "plain"))
    dtypes: ClassVar[tuple[str, ...]] = CODES

    def infer(self, ins: Values, outs: Sequence[Value]) -> tuple[Shape, ...]:
        shape, size = ins["x"].type.shape, integers(ins["size"])
        require(len(shape) == 4 and len(size) == 2 and min(size) > 0, f"size {size} for shape {list(shape)}")
        return ((shape[0], size[0], size[1], shape[3]),)

    def ratio(self, extent: int, out: int) -> np.float32:
        """Input pixels for each output pixel."""
        corners = int(self.align_corners and out > 1)
        ratio: np.float32 = np.float32(extent - corners) / np.float32(out - corners)
        return ratio


@dataclass(frozen=True, kw_only=True)
class ResizeNearest(Resize):
    """The nearest input pixel."""

    mnemonic: ClassVar[str] = "q.resize_nearest"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions", {"int8": 2, "int16": 4}),
    )

    def taken(self, extent: int, out: int) -> Indices:
        """The input index of each output index."""
        offset = np.float32(0.5 if self.half_pixel_centers else 0)
        at = (np.arange(out, dtype=np.float32) + offset) * self.ratio(extent, out)
        nearest = round_half_away(at) if self.align_corners else np.floor(at)
        index: Indices = np.minimum(nearest.astype(np.int64), extent - 1)
        return np.maximum(index, 0) if self.half_pixel_centers else index

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x = ins["x"].data
        for axis in (1, 2):
            x = gather_constant(core, x, self.taken(ins["x"].type.shape[axis], outs[0].type.shape[axis]), axis)
        return (x,)


@dataclass(frozen=True, kw_only=True)
class ResizeBilinear(Resize):
    """The weighted mean of the four input pixels around a position: float32 for uint8, integer for signed codes."""

    mnemonic: ClassVar[str] = "q.resize_bilinear"
    contract: ClassVar[str | None] = "resize_bilinear"
    builtins: ClassVar[tuple[Builtin, ...]] = (
        Builtin("RESIZE_BILINEAR", "ResizeBilinearOptions", {"int8": 2, "int16": 4}),
    )

    def positions(self, extent: int, out: int) -> tuple[Indices, Indices, npt.NDArray[np.float32]]:
        """Indices of the two pixels around each position and how far it is beyond the first (eq. 29)."""
        ratio, index = self.ratio(extent, out), np.arange(out, dtype=np.float32)
        half = np.float32(0.5)
        at = (index + half) * ratio - half if self.half_pixel_centers else index * ratio
        first = np.maximum(np.floor(at), 0).astype(np.int64)
        second = np.minimum(np.ceil(at).astype(np.int64), extent - 1)
        return first, second, at - first.astype(np.float32)

    def fixed_positions(self, extent: int, out: int) -> tuple[Indices, Indices, Indices]:
        """The same in steps of 2**-10 pixels (eq. 30)."""
        one = 1 << FRACTION_BITS
        if self.align_corners and out > 1:
            ratio = (one * (extent - 1) + (out - 1) // 2) // (out - 1)
        else:
            ratio = (one * extent + out // 2) // out
        at = np.arange(out, dtype=np.int64) * ratio
        if self.half_pixel_centers:
            at = at + ratio // 2 - one // 2
        first = np.maximum(np.trunc(at / one).astype(np.int64), 0)
        second = np.minimum(np.trunc((at + one - 1) / one).astype(np.int64), extent - 1)
        return first, second, at - one * first

    def meaning(self, core: Core[T], ins: Operands[T], outs: Sequence[Value]) -> tuple[T, ...]:
        x, y = ins["x"], outs[0].type
        if x.type.dtype in ("int8", "int16"):
            return (self.in_integers(core, x.data, x.type.shape, y.shape, y.dtype),)
        return (self.in_float32(core, x.data, x.type.shape, y.shape, y.dtype),)

    def in_float32(self, core: Core[T], x: T, shape: Shape, y: Shape, dtype: str) -> T:
        (y0, y1, fy), (x0, x1, fx) = (self.positions(shape[axis], y[axis]) for axis in (1, 2))
        one = np.float32(1)
        down, right = fy[None, :, None, None], fx[None, None, :, None]
        terms: list[T] = []
        for rows, columns, row_weight, column_weight in (
            (y0, x0, one - down, one - right),
            (y1, x0, down, one - right),
            (y0, x1, one - down, right),
            (y1, x1, down, right),
        ):
            corner = gather_constant(core, gather_constant(core, x, rows, 1), columns, 2)
            term = core.multiply(core.astype(corner, "float32"), core.const(row_weight))
            terms.append(core.multiply(term, core.const(column_weight)))
        rounding = 0.0 if dtype == "float32" else 0.5  # adding 0 turns -0 into 0
        total = core.add(reduce(core.add, terms), core.const(np.array([rounding], np.float32)))
        return total if dtype == "float32" else core.astype(total, dtype)

    def in_integers(self, core: Core[T], x: T, shape: Shape, y: Shape, dtype: str) -> T:
        (y0, y1, fy), (x0, x1, fx) = (self.fixed_positions(shape[axis], y[axis]) for axis in (1, 2))
        one = 1 << FRACTION_BITS
        total = core.astype(x, "int64")
        for axis, first, second, beyond in ((2, x0, x1, fx), (1, y0, y1, fy)):
            behind = (-1, *(1 for _ in shape[axis + 1 :]))
            near = core.multiply(gather_constant(core, total, first, axis), core.const((one - beyond).reshape(behind)))
            far = core.multiply(gather_constant(core, total, second, axis), core.const(beyond.reshape(behind)))
            total = core.add(near, far)
        # Divided by 2**20 to nearest, ties away from zero: on the magnitude, then signed again.
        bits = 2 * FRACTION_BITS
        rounded = core.right_shift(core.add(core.abs(total), int_const(core, 1 << (bits - 1))), int_const(core, bits))
        signed = core.where(core.less(total, int_const(core, 0)), core.negative(rounded), rounded)
        return core.astype(signed, dtype)
