"""Bytes of a model's buffers to arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.types import STORAGE, Constant, TensorType
from tflite2q.errors import InvalidGraph, ModelError, UnsupportedError
from tflite2q.flatbuffer.records import ModelRecord

MOST_OPERATORS = 1 << 14  # of all regions of a model: each may run others many times


class Constants:
    """The model's buffers; copies of them are charged to a budget, for tensors may share them, and so are operators of
    regions."""

    def __init__(self, model: ModelRecord) -> None:
        self.model = model
        self.made: dict[tuple[int, str, tuple[int, ...]], Constant] = {}
        self.room = 2 * sum(len(data) for data in model.buffers)
        self.operators = MOST_OPERATORS

    def buffer(self, index: int) -> bytes | memoryview:
        if index == 0 and not self.model.buffers:
            return b""  # 0 stands for "no data", and some writers leave out the empty buffer itself
        if not 0 <= index < len(self.model.buffers):
            raise ModelError(f"buffer {index} does not exist; the file is damaged")
        return self.model.buffers[index]

    def constant(self, buffer: int, kind: TensorType | None) -> Constant:
        """The data of a tensor, its bytes if `kind` is None; one object for all tensors of a buffer and type."""
        data = self.buffer(buffer)
        key = (buffer, "", ()) if kind is None else (buffer, kind.dtype, kind.shape)
        if key not in self.made:
            self.take(len(data))
            self.made[key] = Constant(np.frombuffer(data, np.uint8) if kind is None else _array(data, kind))
        return self.made[key]

    def metadata(self) -> tuple[tuple[str, bytes], ...]:
        data: dict[int, bytes] = {}
        for _, buffer in self.model.metadata:
            if buffer not in data:
                self.take(len(self.buffer(buffer)))
                data[buffer] = bytes(self.buffer(buffer))
        return tuple((name, data[buffer]) for name, buffer in self.model.metadata)

    def run(self, operators: int) -> None:
        """Charge one more region of so many operators.  Raises UnsupportedError where it is too much."""
        self.operators -= operators + 1
        if self.operators < 0:
            raise UnsupportedError(f"branches and loops of more than {MOST_OPERATORS} operators are not supported")

    def take(self, size: int) -> None:
        self.room -= size
        if self.room < 0:
            raise ModelError("the file is damaged: many tensors of different types share a buffer")


def _array(data: bytes | memoryview, kind: TensorType) -> npt.NDArray[Any]:
    """The elements of a constant, in the dtype's storage.  Raises InvalidGraph if there are too few bytes; like
    interpreters, it heeds no more than it needs, for some writers fill buffers up."""
    four_bits, dtype = kind.dtype == "int4", np.dtype(STORAGE[kind.dtype])
    needed = (kind.size + 1) // 2 if four_bits else kind.size * dtype.itemsize
    if not 0 <= needed <= len(data):
        raise InvalidGraph(f"{len(data)} bytes of data for {kind.dtype}{list(kind.shape)}")
    if four_bits:
        return _unpack_int4(np.frombuffer(data, np.uint8, needed), kind)
    return np.frombuffer(data[:needed], dtype).reshape(kind.shape)


def _unpack_int4(packed: npt.NDArray[np.uint8], kind: TensorType) -> npt.NDArray[np.int8]:
    """Two elements per byte, the first in the low four bits."""
    nibbles = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[: kind.size].astype(np.int8)
    return ((nibbles ^ 8) - 8).reshape(kind.shape)
