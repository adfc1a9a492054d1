"""Weights with a scale for each block of a row: in the file, their scales are the data of another tensor.

Source: `BlockwiseQuantization` of TFLite's schema.fbs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tflite2q.dialect.types import Quantization, TensorType, Value
from tflite2q.errors import UnsupportedError
from tflite2q.flatbuffer.constants import Constants
from tflite2q.flatbuffer.records import TensorRecord

DETAILS = "BlockwiseQuantization"
ABSENT = -1
SCALES = "float16"  # the dtype of scales that LiteRT's kernels read


def blockwise(tensor: TensorRecord, tensors: Sequence[TensorRecord], constants: Constants) -> Quantization | None:
    """The parameters of `tensor`, one of `tensors`, if it has a scale for each block of a row and no zero points.

    None for other tensors, and for what the dialect cannot represent.  Raises InvalidGraph for scales that are none.
    """
    details = tensor.beyond.get("Quantization", {}).get("details")
    if set(tensor.beyond) != {"Quantization"} or not details or details[0] != DETAILS:
        return None
    fields: Mapping[str, int] = details[1]
    place, block = fields.get("scales", ABSENT), fields.get("block_size", 0)
    plain = (
        fields.get("zero_points", ABSENT) == ABSENT and tensor.beyond["Quantization"].get("quantized_dimension", 0) == 0
    )
    if not plain or not 0 <= place < len(tensors) or block <= 0 or len(tensor.shape) != 2:
        return None
    found = tensors[place]
    if found.dtype != SCALES or len(constants.buffer(found.buffer)) == 0:
        return None
    scales = constants.constant(found.buffer, TensorType(found.shape, found.dtype)).array.reshape(-1).astype(float)
    return Quantization(tuple(scales.tolist()), (0,) * len(scales), 0, block)


def described(place: int, block: int) -> dict[str, Any]:
    """The fields of a tensor whose scales are in the tensor at `place`."""
    return {"Quantization": {"details": [DETAILS, {"scales": place, "zero_points": ABSENT, "block_size": block}]}}


def scales_of(value: Value, name: str, buffer: int) -> TensorRecord:
    """The tensor of the scales of a value that has blocks; `buffer` holds `scale_bytes(value)`."""
    q, (units, columns) = value.type.parameters, value.type.shape
    return TensorRecord(name, (units, columns // q.block), SCALES, buffer)


def scale_bytes(value: Value) -> bytes:
    """Raises UnsupportedError for scales that the format cannot hold."""
    scales = np.array(value.type.parameters.scale)
    stored = scales.astype(np.float16)
    if (stored != scales).any() or len(value.type.shape) != 2:
        raise UnsupportedError(f"{value.name!r}: a .tflite holds scales of blocks of matrices only, as float16")
    return stored.tobytes()
