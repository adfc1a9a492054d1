"""Checks of the arrays that a model is called with, the same for every way to run it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.types import STORAGE, Value
from tflite2q.errors import DataError

Array = npt.NDArray[Any]


class Inputs:
    """The values that a model's inputs are checked against; what is known about them is worked out once."""

    def __init__(self, values: Iterable[Value]) -> None:
        self._expected = _expected(values)

    def checked(self, given: Sequence[npt.ArrayLike]) -> list[Array]:
        """The inputs as arrays.  Raises DataError if their number, shapes, dtypes or prescribed data do not fit."""
        if len(given) != len(self._expected):
            raise DataError(f"the model takes {len(self._expected)} inputs, got {len(given)}")
        arrays = [np.asarray(each) for each in given]
        for (value, shape, dtype), array in zip(self._expected, arrays, strict=True):
            if array.shape != shape or array.dtype != dtype:
                raise DataError(
                    f"input {value.name!r} must be {value.type.dtype}{list(shape)}, "
                    f"got {array.dtype.name}{list(array.shape)}; convert it first"
                )
            check_prescribed(value, array)
        return arrays


def check_prescribed(value: Value, array: Array) -> None:
    """Raise DataError if an input differs from the value with which the model's shapes were computed."""
    if value.constant is not None and not np.array_equal(value.data, array):
        need, given = value.data.reshape(-1).tolist(), array.reshape(-1).tolist()
        raise DataError(f"input {value.name!r} sets a shape and must be {need}, as the model declares; got {given}")


class Outputs:
    """The values that a model's outputs are written to arrays as; what is known about them is worked out once."""

    def __init__(self, values: Iterable[Value]) -> None:
        self._expected = _expected(values)

    def made(self) -> list[Array]:
        """New arrays for all outputs."""
        return [np.empty(shape, dtype) for _, shape, dtype in self._expected]

    def checked(self, given: Sequence[Array]) -> Sequence[Array]:
        """The arrays that results are written to.  Raises DataError if they do not fit or cannot be written to."""
        if len(given) != len(self._expected):
            raise DataError(f"the model has {len(self._expected)} outputs, got {len(given)} arrays for them")
        for (value, shape, dtype), array in zip(self._expected, given, strict=True):
            if not (isinstance(array, np.ndarray) and array.shape == shape and array.dtype == dtype):
                raise DataError(f"the array for output {value.name!r} must be {value.type.dtype}{list(shape)}")
            if not array.flags.writeable:
                raise DataError(f"the array for output {value.name!r} is read-only")
        return given


def _expected(values: Iterable[Value]) -> list[tuple[Value, tuple[int, ...], np.dtype[Any]]]:
    return [(value, value.type.shape, np.dtype(STORAGE[value.type.dtype])) for value in values]
