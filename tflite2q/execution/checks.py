"""Checks of the arrays that a model is called with, the same for every way to run it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.types import STORAGE, Value
from tflite2q.errors import DataError

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
        """The inputs as arrays.  Raises DataError if their number, shapes, dtypes or prescribed data do not fit."""
        arrays = [array if type(array) is np.ndarray else np.asarray(array) for array in given]
        if len(arrays) != len(self._kinds):
            self._refuse(arrays)
        for array, (shape, dtype) in zip(arrays, self._kinds, strict=False):  # `strict` takes as long as the rest
            if array.shape != shape or array.dtype != dtype:
                self._refuse(arrays)
        for index, value in self._prescribed:
            check_prescribed(value, arrays[index])
        return arrays

    def _refuse(self, arrays: Sequence[Array]) -> NoReturn:
        expected, given = len(self._values), len(arrays)
        if given != expected:
            raise DataError(f"the model takes {expected} {'input' if expected == 1 else 'inputs'}, got {given}")
        value, array = next(
            (value, array)
            for value, kind, array in zip(self._values, self._kinds, arrays, strict=True)
            if (array.shape, array.dtype) != kind
        )
        raise DataError(
            f"input {value.name!r} must be {value.type.dtype}{list(value.type.shape)}, "
            f"got {array.dtype.name}{list(array.shape)}; convert it first"
        )


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
        """New arrays for all outputs."""
        return [np.empty(shape, dtype) for shape, dtype in self._kinds]

    def checked(self, given: Sequence[Array]) -> Sequence[Array]:
        """The arrays that results are written to.  Raises DataError if they do not fit or cannot be written to."""
        if len(given) != len(self._kinds):
            raise DataError(
                f"out must hold an array for each output of the model, {len(self._kinds)}; got {len(given)}"
            )
        for value, kind, array in zip(self._values, self._kinds, given, strict=False):
            if not isinstance(array, np.ndarray) or (array.shape, array.dtype) != kind:
                raise DataError(f"the array for output {value.name!r} must be {value.type.dtype}{list(kind[0])}")
            if not array.flags.writeable:
                raise DataError(f"the array for output {value.name!r} is read-only")
        return given


def kinds(values: Iterable[Value]) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
    """The shape and dtype of each value's arrays."""
    return [(value.type.shape, np.dtype(STORAGE[value.type.dtype])) for value in values]
