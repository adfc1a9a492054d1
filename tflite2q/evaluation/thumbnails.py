"""Small pictures of samples, as the models saw them, for reports."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.types import Value
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.figures import Change

Array = npt.NDArray[Any]

LONGEST = 128  # pixels of a side
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def pictured(changes: Sequence[Change], samples: Dataset, inputs: Sequence[Value]) -> tuple[Change, ...]:
    """The changes with pictures of their samples, where the only input is a picture."""
    if len(inputs) != 1 or samples.synthetic:
        return tuple(changes)
    shape = inputs[0].type.shape
    if len(shape) != 4 or shape[0] != 1 or shape[3] not in (1, 3) or min(shape[1:3]) < 2:
        return tuple(changes)
    return tuple(replace(change, picture=_picture(samples, change.index)) for change in changes)


def _picture(samples: Dataset, index: int) -> bytes:
    if samples.pictures is not None:
        return png(reduced(samples.pictures.codes(index)[0]))
    return png(reduced(_pixels(samples.make(index)[0][0])))


def _pixels(array: Array) -> Array:
    """Codes or real numbers of [height, width, channels] as pixels: bytes as they are, the rest from least (black) to
    greatest (white)."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.int8:
        return (array.astype(np.int16) + 128).astype(np.uint8)
    real = np.nan_to_num(array.astype(np.float64))
    low, high = float(real.min()), float(real.max())
    return np.rint((real - low) * (255 / (high - low if high > low else 1.0))).astype(np.uint8)


def reduced(pixels: Array) -> Array:
    """Pixels of [height, width, channels] with at most LONGEST on a side: means of squares of pixels."""
    by = -(-max(pixels.shape[:2]) // LONGEST)
    height, width = (max(side // by, 1) for side in pixels.shape[:2])
    if by == 1:
        return pixels
    rows, columns = min(by, pixels.shape[0]), min(by, pixels.shape[1])
    cut = pixels[: height * rows, : width * columns].astype(np.float64)
    squares = cut.reshape(height, rows, width, columns, pixels.shape[2])
    return np.asarray(np.rint(squares.mean(axis=(1, 3))), np.uint8)


def png(pixels: Array) -> bytes:
    """uint8 of [height, width, 1 or 3] as a PNG (W3C's Portable Network Graphics: 8 bits, no interlace, filter 0)."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    rows = np.ascontiguousarray(pixels, np.uint8).reshape(height, width * channels)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")
    return SIGNATURE + b"".join(_chunk(kind, content) for kind, content in parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
