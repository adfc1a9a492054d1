"""Numbers as a model's inputs, and what its codes stand for.

How a number becomes a model's input, in this order:

- codes of the input's own dtype are taken as they are;
- pixels (uint8, from an image or an array) are taken as codes by a uint8 input and as pixel - 128 by an int8 input,
  which is how quantized image models are made; other inputs take the real number (pixel - 127.5) / 127.5;
- a given `mean` or `std` replaces that: the real number (pixel - mean) / std is quantized by the input's parameters;
- real numbers are quantized by the input's scale and zero point (eq. 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic import rounding
from tflite2q.dialect.types import STORAGE, Value
from tflite2q.errors import DataError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Normalization:
    """real = (pixel - mean) / std; `given` tells a choice of the user from the default."""

    mean: float = 127.5
    std: float = 127.5
    given: bool = False

    def __post_init__(self) -> None:
        with np.errstate(all="ignore"):  # as `encode` computes, in float32
            ends = (np.array([0, 255], np.float32) - np.float32(self.mean)) / np.float32(self.std)
        if not np.isfinite(ends).all():
            raise DataError(
                f"pixels have no values with a mean of {self.mean:g} and a standard deviation of {self.std:g}"
            )

    @staticmethod
    def of(mean: float | None, std: float | None) -> Normalization:
        """The user's values, with defaults for those not given."""
        default = Normalization()
        return Normalization(
            default.mean if mean is None else mean,
            default.std if std is None else std,
            given=mean is not None or std is not None,
        )


USUAL = Normalization()


def transfer(arrays: Sequence[Array], source: Sequence[Value], target: Sequence[Value]) -> list[Array]:
    """The same real inputs for another graph of the same model, whose inputs may have other types."""
    if len(source) != len(target):
        raise DataError(f"the models take {len(source)} and {len(target)} inputs, so they cannot be compared")
    return [_transfer(array, a, b) for array, a, b in zip(arrays, source, target, strict=True)]


def real(codes: Array, value: Value) -> Array:
    """The real numbers that the codes of `value` stand for, float32; other values are only cast (eq. 1)."""
    if not value.type.quantized:
        return codes.astype(np.float32)
    q = value.type.parameters
    if q.axis is None:
        return rounding.dequantize(codes, q.scale[0], q.zero_point[0])
    shape = [1] * codes.ndim
    shape[q.axis] = -1
    scale = np.array(q.scale, np.float64).reshape(shape)
    zero_point = np.array(q.zero_point, np.int64).reshape(shape)
    return (scale * (codes.astype(np.int64) - zero_point)).astype(np.float32)


def encode(array: Array, value: Value, pixels: Normalization = USUAL) -> Array:
    """Turn numbers into the dtype of `value` by the rules at the head of this file; the shape stays.

    Raises DataError for a dtype that cannot be converted, or integers outside the range.
    """
    dtype = value.type.dtype
    if array.dtype == np.uint8 and pixels.given:
        array = (array.astype(np.float32) - np.float32(pixels.mean)) / np.float32(pixels.std)
    if array.dtype.name == STORAGE[dtype]:
        return array
    if array.dtype == np.uint8 and dtype == "int8":
        return (array.astype(np.int16) - 128).astype(np.int8)
    if array.dtype == np.uint8 and (dtype.startswith("float") or value.type.quantized):
        array = (array.astype(np.float32) - np.float32(pixels.mean)) / np.float32(pixels.std)
    if array.dtype.kind == "f":
        return _from_real(array, value)
    if array.dtype.kind in "iu" and dtype in rounding.RANGES:
        low, high = rounding.code_range(dtype)
        if array.size and (int(array.min()) < low or int(array.max()) > high):
            held = f"{array.min()} to {array.max()}"
            raise DataError(f"input {value.name!r} takes {dtype} codes, the data has {held}; {_wanted(value)}")
        return array.astype(STORAGE[dtype])
    raise DataError(f"input {value.name!r} takes {dtype}, the data is {array.dtype.name}; {_wanted(value)}")


def _wanted(value: Value) -> str:
    """What to give to an input, by the rules at the head of this file."""
    dtype = value.type.dtype
    kinds = [f"{dtype} codes" if value.type.quantized else dtype]
    if dtype in rounding.RANGES:
        low, high = rounding.code_range(dtype)
        kinds[0] += f" from {low} to {high}"
    if value.type.quantized:
        kinds.append("real numbers as float32")
    if dtype != "uint8" and (value.type.quantized or dtype.startswith("float")):
        kinds.append("pixels as uint8")
    return f"give {' or '.join(kinds)}"


def encode_at(array: Array, value: Value, pixels: Normalization, place: str) -> Array:
    """As `encode`, with the place of the numbers in messages."""
    try:
        return encode(array, value, pixels)
    except DataError as error:
        raise error.at(place) from error


def _transfer(array: Array, source: Value, target: Value) -> Array:
    if array.shape != target.type.shape:
        raise DataError(
            f"input {source.name!r} is {list(array.shape)} in one model and {list(target.type.shape)} in the other"
        )
    if source.type.with_(shape=()) == target.type.with_(shape=()):
        return array
    return encode(real(array, source), target)


def _from_real(array: Array, value: Value) -> Array:
    dtype = value.type.dtype
    if dtype.startswith("float"):
        with np.errstate(over="ignore"):
            found = array.astype(STORAGE[dtype])
        if array.dtype.itemsize > found.dtype.itemsize and not np.isfinite(found).all():
            raise DataError(f"input {value.name!r} takes {dtype}, and the data has numbers beyond it; scale them")
        return found
    if not value.type.quantized:
        raise DataError(f"input {value.name!r} takes {dtype} without quantization parameters; give integers, not reals")
    scale, zero_point = value.type.scale, value.type.zero_point
    if array.dtype.itemsize > 4:  # what no code stands for may have no float32 either
        low, high = rounding.code_range(dtype)
        array = np.clip(array, (low - zero_point - 1) * float(scale), (high - zero_point + 1) * float(scale))
    return rounding.quantize(array, scale, zero_point, dtype)
