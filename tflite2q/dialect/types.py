"""Types and values of the dialect: what a tensor is, not what is done with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic.rounding import RANGES
from tflite2q.errors import InvalidGraph, UnsupportedError

# dtype -> the NumPy dtype its elements are held in (int4 is held unpacked, one element a byte; complex64 as pairs).
STORAGE = {name: name for name in ("uint8", "int8", "int16", "int32", "int64", "float32", "float64", "bool")} | {
    "uint16": "uint16",
    "uint32": "uint32",
    "float16": "float16",
    "int4": "int8",
    "complex64": "float32",
}

WIDE_INTEGERS = ("int32", "int64")  # of indices, lengths and counts, if they are not sums of products
PAIRS = ("complex64",)  # dtypes whose elements are held as two numbers each, on a first axis of their own


@dataclass(frozen=True)
class Quantization:
    """real = scale * (code - zero_point) (eq. 1), for the whole tensor (axis None) or for each slice along `axis`.

    With a `block`, each slice has a scale for every `block` elements along the last axis, first to last.
    Scales are float32 values, held exactly in Python floats.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None
    block: int = 0

    def __post_init__(self) -> None:
        if len(self.scale) != len(self.zero_point) or not self.scale:
            raise InvalidGraph(f"{len(self.scale)} scales with {len(self.zero_point)} zero points")
        if self.axis is None and len(self.scale) != 1:
            raise InvalidGraph(f"{len(self.scale)} scales without an axis")
        scales = np.array(self.scale, np.float64)
        with np.errstate(over="ignore"):
            held = np.isfinite(scales) & (scales > 0) & (scales.astype(np.float32) == scales)
        if not held.all():
            raise InvalidGraph(f"a scale must be a positive, finite float32, not {scales[~held][0]:g}")

    @staticmethod
    def per_tensor(scale: float, zero_point: int) -> Quantization:
        with np.errstate(over="ignore"):  # an infinite scale is refused
            return Quantization((float(np.float32(scale)),), (int(zero_point),))

    @staticmethod
    def per_channel(scales: npt.ArrayLike, axis: int) -> Quantization:
        """Symmetric: every zero point 0."""
        values = tuple(np.asarray(scales, np.float32).tolist())
        return Quantization(values, (0,) * len(values), axis if len(values) > 1 else None)

    @property
    def symmetric(self) -> bool:
        return not any(self.zero_point)

    def real(self, codes: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """What codes stand for (eq. 1), exact: a scale has 24 significant bits and a code at most 16."""
        scale, zero = np.array(self.scale, np.float64), np.array(self.zero_point, np.float64)
        if self.axis is not None:
            thin = [1] * codes.ndim
            thin[self.axis] = codes.shape[self.axis]
            if self.block:
                thin[-1] = codes.shape[-1] // self.block
            scale, zero = (np.repeat(each.reshape(thin), self.block or 1, -1) for each in (scale, zero))
        return np.asarray((codes - zero) * scale)

    def scales(self, channels: int) -> npt.NDArray[np.float32]:
        """One scale for each of `channels` channels."""
        return np.broadcast_to(np.array(self.scale, np.float32), (channels,))

    def zero_points(self, channels: int) -> npt.NDArray[np.int64]:
        """One zero point for each of `channels` channels."""
        return np.broadcast_to(np.array(self.zero_point, np.int64), (channels,))


@dataclass(frozen=True)
class TensorType:
    """Shape (static), dtype and, for quantized tensors, quantization parameters."""

    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def held(self) -> tuple[int, ...]:
        """The shape of the array that holds the elements."""
        return (2, *self.shape) if self.dtype in PAIRS else self.shape

    @property
    def quantized(self) -> bool:
        return self.quantization is not None and self.dtype in RANGES

    @property
    def parameters(self) -> Quantization:
        """Quantization parameters.  Raises InvalidGraph where there are none."""
        if self.quantization is None:
            raise InvalidGraph("has no quantization parameters")
        return self.quantization

    @property
    def scale(self) -> float:
        """The per-tensor scale."""
        self._check_single()
        return self.parameters.scale[0]

    @property
    def zero_point(self) -> int:
        """The per-tensor zero point."""
        self._check_single()
        return self.parameters.zero_point[0]

    @property
    def range(self) -> tuple[int, int]:
        """Lowest and highest code of the dtype."""
        return RANGES[self.dtype]

    def with_(self, **changes: Any) -> TensorType:
        return replace(self, **changes)

    def _check_single(self) -> None:
        if len(self.parameters.scale) != 1:
            raise InvalidGraph("is quantized per channel where one scale for the whole tensor is needed")


class UnknownUntilRun(UnsupportedError):
    """A number that decides shapes is computed or given only when the model runs; `value` is its name."""

    def __init__(self, value: str, operand: str = "") -> None:
        self.value = value
        what = f"{operand} ({value!r})" if operand else repr(value)
        super().__init__(f"{what} is known only at run time, which is not supported; make it constant")


class Constant:
    """Immutable array data with value equality; `array` is read-only and of the type's storage dtype."""

    __slots__ = ("__weakref__", "_hash", "array")

    def __init__(self, array: npt.NDArray[Any]) -> None:
        frozen = np.ascontiguousarray(array).reshape(np.shape(array))
        if (frozen is array or frozen.base is not None) and not _unchanging(frozen):
            frozen = frozen.copy()
        frozen.flags.writeable = False
        self.array = frozen
        self._hash: int | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Constant):
            return NotImplemented
        a, b = self.array, other.array
        if a is b or a.dtype != b.dtype or a.shape != b.shape:
            return a is b
        return all(x.tobytes() == y.tobytes() for x, y in zip(_pieces(a), _pieces(b), strict=True))

    def __hash__(self) -> int:
        if self._hash is None:
            parts = tuple(hash(piece.tobytes()) for piece in _pieces(self.array))
            self._hash = hash((self.array.dtype.str, self.array.shape, parts))
        return self._hash

    def __repr__(self) -> str:
        return f"Constant({self.array.dtype.name}{list(self.array.shape)})"


PIECE = 1 << 18  # elements that are compared at a time, so that large constants are never copied whole


def _pieces(array: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    flat = array.reshape(-1)
    return [flat[start : start + PIECE] for start in range(0, flat.size, PIECE)]


def _unchanging(array: npt.NDArray[Any]) -> bool:
    """Whether nothing can change the memory of an array: it is a part of `bytes`, and aligned."""
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return type(base) is bytes and bool(array.flags.aligned)


@dataclass(frozen=True)
class Carried:
    """What a tensor that the dialect cannot represent is beside its shape, dtype and data, to be written again.

    `reason` says why it cannot ("is sparse"), `fields` is what the file has in JSON, and `names` are the tensors that
    it refers to, by their place in this tuple.
    """

    reason: str
    fields: str = "{}"
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resource:
    """How the file knows a variable that READ_VARIABLE and ASSIGN_VARIABLE use: its container and shared name.

    `initial` is its data before the first run, None where every run assigns before it reads.
    """

    container: str
    shared_name: str
    initial: Constant | None = None


@dataclass(frozen=True)
class Value:
    """A tensor of a graph.  Its name is unique in the graph and is the TFLite tensor's name.

    `constant` is its data if known: of a value that an op computes, what it computes for the shapes the graph has now;
    of a graph's input, what alone may be given, for it decides shapes.  `variable` marks state that survives between
    the runs of a stream, a `resource` what the file keeps outside its tensors; `shape_signature` is the shape with -1
    for dimensions the file declares dynamic, or None.  A `carried` value is only read and made by ops that are carried
    too; its data are bytes.
    """

    name: str
    type: TensorType
    constant: Constant | None = None
    variable: bool = False
    shape_signature: tuple[int, ...] | None = None
    carried: Carried | None = None
    resource: Resource | None = None

    @property
    def initial(self) -> npt.NDArray[Any]:
        """A variable before the first run: as its resource says, else real 0."""
        stated = None if self.resource is None else self.resource.initial
        return initial_state(self.type) if stated is None else stated.array

    @property
    def data(self) -> npt.NDArray[Any]:
        """The constant's array.  Raises UnknownUntilRun where the value is not constant."""
        if self.constant is None:
            raise UnknownUntilRun(self.name)
        return self.constant.array

    def with_(self, **changes: Any) -> Value:
        return replace(self, **changes)


def initial_state(kind: TensorType) -> npt.NDArray[Any]:
    """A tensor of state before the first run: real 0, so 8-bit codes start at their zero point and int16 ones at 0."""
    start = kind.zero_point if kind.quantized and kind.dtype in ("int8", "uint8") else 0
    return np.full(kind.shape, start, STORAGE[kind.dtype])
