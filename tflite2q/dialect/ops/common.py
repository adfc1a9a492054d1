"""What op classes share: facts about types, axes and broadcasting, and a few idioms over the core vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.core import Core
from tflite2q.dialect.op import Shape, require, supported
from tflite2q.dialect.types import TensorType, Value

T = TypeVar("T")

CODES = ("uint8", "int8", "int16")  # dtypes of quantized activations
PLAIN = ("float32", "int32", "int64")  # dtypes whose elements are the numbers themselves
FUSED = ("RELU", "RELU6", "RELU_N1_TO_1")  # activations that kernels with a fused one share


def states_shape(value: Value) -> bool:
    """Whether the file says what shape a value has, leaving nothing open."""
    return value.type.shape != () and -1 not in (value.shape_signature or ())


def is_codes(kind: TensorType) -> bool:
    """Whether elements are codes of an 8 or 16-bit quantization; integers of 32 bits count as plain numbers."""
    return kind.quantized and kind.dtype in CODES


def check_codes(*values: Value | None) -> None:
    """All quantized, all of one dtype."""
    present = [value for value in values if value is not None]
    for value in present:
        require(is_codes(value.type), f"{value.name!r} ({value.type.dtype}) has no quantization parameters")
        same = value.type.dtype == present[0].type.dtype
        supported(same, f"{value.name!r} is {value.type.dtype}, not {present[0].type.dtype}")


def check_numbers(*values: Value | None, bare: Sequence[str] = ()) -> None:
    """All quantized with one dtype, or all plain numbers of one dtype, among them codes of `bare` without parameters,
    for operators that take codes as they are."""
    present = [value for value in values if value is not None]
    if any(is_codes(value.type) for value in present):
        check_codes(*present)
        return
    for value in present:
        kind = value.type.dtype
        supported(
            kind in (*PLAIN, *bare), f"{value.name!r} is {kind}; expected quantized codes, float32, int32 or int64"
        )
        supported(kind == present[0].type.dtype, f"{value.name!r} is {kind}, not {present[0].type.dtype}")


def axis_of(axis: int, rank: int) -> int:
    """`axis` counted from the front.  Raises InvalidGraph if there is no such axis."""
    require(-rank <= axis < rank, f"axis {axis} does not fit {rank} axes")
    return axis % rank


def integers(value: Value) -> list[int]:
    """The entries of a constant integer operand, flattened.  Raises InvalidGraph if it is not constant."""
    require(value.data.dtype.kind in "iub", f"{value.name!r} is {value.type.dtype} where integers are needed")
    return [int(entry) for entry in value.data.reshape(-1)]


def integer(value: Value) -> int:
    """The one entry of a constant integer operand.  Raises InvalidGraph if it has none or is not constant."""
    entries = integers(value)
    require(len(entries) == 1, f"{value.name!r} has {len(entries)} entries, not one")
    return entries[0]


def broadcast_shape(*values: Value) -> Shape:
    """The common shape of broadcast operands.  Raises InvalidGraph if there is none."""
    shapes = [value.type.shape for value in values]
    try:
        return tuple(np.broadcast_shapes(*shapes))
    except ValueError:
        require(False, f"shapes {' and '.join(str(list(s)) for s in shapes)} do not broadcast")
        raise


def centred(core: Core[T], x: T, zero_point: int | Sequence[int], dtype: str = "int32") -> T:
    """x - zero_point in a wider integer type; no operation for a zero point of 0."""
    wide = core.astype(x, dtype)
    zero_points = np.atleast_1d(np.array(zero_point, dtype))
    return core.subtract(wide, core.const(zero_points)) if zero_points.any() else wide


def number(core: Core[T], value: float, dtype: str) -> T:
    """A scalar constant that broadcasts against any operand of `dtype`."""
    return core.const(np.array([value]).astype(dtype))


def float32(value: float) -> npt.NDArray[np.float32]:
    """A float32 constant that broadcasts against any operand."""
    return np.array([value], np.float32)


FLOAT_BOUNDS = {"RELU": (0.0, None), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}


FINITE = float(np.finfo(np.float32).max)


def activated(core: Core[T], x: T, activation: str, dtype: str, finite: bool = False) -> T:
    """A fused activation on plain numbers of `dtype`; RELU6 and its kin clamp, others than those are unknown here.

    NaN stays NaN.  With `finite`, real numbers beyond the largest finite ones become these.
    """
    require(activation in ("NONE", *FLOAT_BOUNDS), f"fused activation {activation} is not supported")
    low, high = FLOAT_BOUNDS.get(activation, (None, None))
    if finite and dtype == "float32":
        low, high = -FINITE if low is None else low, FINITE if high is None else high
    if low is not None:
        bound = number(core, low, dtype)
        x = core.where(core.less(x, bound), bound, x)
    if high is not None:
        bound = number(core, high, dtype)
        x = core.where(core.less(bound, x), bound, x)
    return x


def gather_constant(core: Core[T], x: T, indices: npt.ArrayLike, axis: int) -> T:
    """Slices of x along `axis` at constant indices, in that order."""
    return core.take(x, core.const(np.asarray(indices, np.int32)), axis)


def negated(core: Core[T], condition: T) -> T:
    return core.where(condition, core.const(np.zeros(1, np.bool_)), core.const(np.ones(1, np.bool_)))
