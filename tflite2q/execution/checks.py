"""Checks of the arrays that a model is called with, the same for every way to run it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.types import STORAGE, Value
from tflite2q.errors import DataError
from tflite2q.lower.entry import ALIGNMENT

Array = npt.NDArray[Any]


class Inputs:
    """The values that a model's inputs are checked against.

    It happens at every call of a model, of which some take ten microseconds.  So what is expected is worked out once,
    and what does not fit is described only where something does not.
    """

    def __init__(self, values: Iterable[Value]) -> None:
        self._values = tuple(values)
        self._kinds = kinds(self._values)
        self._prescribed = [(index, value) for index, value in enumerate(self._values) if value.constant is not None]

    def checked(self, given: Sequence[npt.ArrayLike]) -> list[Array]:
        """The inputs as arrays, in this machine's byte order.

        Raises DataError if their number, shapes, dtypes or prescribed data do not fit, or one is no array.
        """
        arrays = [array if type(array) is np.ndarray else _read(array) for array in given]
        if len(arrays) != len(self._kinds):
            expected, count = len(self._kinds), len(arrays)
            raise DataError(f"the model takes {expected} {'input' if expected == 1 else 'inputs'}, got {count}")
        for array, (shape, dtype) in zip(arrays, self._kinds, strict=False):  # `strict` takes as long as the rest
            if array.shape != shape or array.dtype != dtype:
                arrays = [self._turned(*each) for each in zip(self._values, self._kinds, arrays, given, strict=True)]
                break
        for index, value in self._prescribed:
            check_prescribed(value, arrays[index])
        return arrays

    def _turned(self, value: Value, kind: tuple[tuple[int, ...], Any], array: Array, given: object) -> Array:
        """An array in this machine's byte order.  Raises DataError if there is more that does not fit."""
        if (array.shape, array.dtype.newbyteorder("=")) == kind:
            return array.astype(kind[1], copy=False)
        wanted = f"{value.type.dtype}{list(value.type.shape)}"
        raise DataError(f"input {value.name!r} must be {wanted}, got {_described(array, given)}; convert it first")


def _read(given: object) -> Array:
    """What another library, or Python, holds as an array, without a copy where that can be.  Raises DataError."""
    try:
        if hasattr(given, "__dlpack__") and not hasattr(given, "__array__"):
            return np.from_dlpack(given)
        return np.asarray(given)
    except Exception as error:  # of any library
        raise DataError(f"an input of type {_name(given)} is not a readable array: {error}") from error


def _described(array: Array, given: object) -> str:
    """An array's dtype and shape; what became one of objects or texts is called what it was."""
    if array.dtype.kind not in "biufc" and not isinstance(given, np.ndarray):
        return _name(given)
    order = "" if array.dtype.isnative else " of another byte order"
    return f"{array.dtype.name}{list(array.shape)}{order}"


def check_prescribed(value: Value, array: Array) -> None:
    """Raise DataError if an input differs from the value with which the model's shapes were computed."""
    if value.constant is not None and not np.array_equal(value.data, array):
        need, given = value.data.reshape(-1).tolist(), array.reshape(-1).tolist()
        raise DataError(f"input {value.name!r} sets a shape and must be {need}, as the model declares; got {given}")


class Outputs:
    """The values that a model's outputs are written to arrays as; what is known about them is worked out once."""

    def __init__(self, values: Iterable[Value]) -> None:
        self._values = tuple(values)
        self._kinds = kinds(self._values)

    def made(self) -> list[Array]:
        """New arrays for all outputs, in memory that compiled code takes (`ALIGNMENT`)."""
        return [_made(shape, dtype) for shape, dtype in self._kinds]

    def checked(self, given: Sequence[Any]) -> list[Array]:
        """The arrays that results are written to: NumPy's, or of other libraries that share memory by DLPack.

        Raises DataError if they do not fit or cannot be written to.
        """
        if type(given) is list and len(given) == len(self._kinds) and all(map(_fits, given, self._kinds)):
            return given  # as nearly always; what follows takes as long as a small layer
        if isinstance(given, np.ndarray | str) or not isinstance(given, Sequence):
            raise DataError(f"out must be a list of arrays, one for each output of the model; got {_name(given)}")
        if len(given) != len(self._kinds):
            raise DataError(
                f"out must hold an array for each output of the model, {len(self._kinds)}; got {len(given)}"
            )
        arrays = [place if isinstance(place, np.ndarray) else _shared(place) for place in given]
        for value, kind, array in zip(self._values, self._kinds, arrays, strict=False):
            if array is None or (array.shape, array.dtype) != kind:
                found = "" if array is None else f", got {_described(array, array)}"
                raise DataError(f"the array for output {value.name!r} must be {value.type.dtype}{list(kind[0])}{found}")
            if not array.flags.writeable:
                raise DataError(f"the array for output {value.name!r} is read-only")
        return [array for array in arrays if array is not None]


def _fits(array: object, kind: tuple[tuple[int, ...], np.dtype[Any]]) -> bool:
    """Whether NumPy's array of that shape and dtype can be written to."""
    return type(array) is np.ndarray and (array.shape, array.dtype) == kind and array.flags.writeable


def _made(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A new array that starts at a multiple of ALIGNMENT; NumPy's own start at one of 16."""
    size = prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _shared(given: object) -> Array | None:
    """The memory of another library's array; None if it shares none."""
    if not hasattr(given, "__dlpack__"):
        return None
    try:
        return np.from_dlpack(given)
    except Exception as error:  # of any library
        raise DataError(f"out: the memory of {_name(given)} is not writable: {error}") from error


def _name(given: object) -> str:
    return type(given).__name__


def kinds(values: Iterable[Value]) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
    """The shape and dtype of each value's arrays."""
    return [(value.type.shape, np.dtype(STORAGE[value.type.dtype])) for value in values]
