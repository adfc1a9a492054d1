"""Options of custom operators: a map in the flexbuffer format, https://flatbuffers.dev/flexbuffers."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from flatbuffers import flexbuffers

from tflite2q.errors import ModelError
from tflite2q.flatbuffer.records import OptionValue

# What readers of flatbuffers and flexbuffers raise when they follow an offset to where nothing sensible is.
DAMAGE = (struct.error, ValueError, IndexError, TypeError, KeyError, OverflowError, AttributeError)


def decode(data: bytes) -> dict[str, OptionValue]:
    """The scalars of a flexbuffer map; empty for no bytes.  Raises ModelError if they are no such map.

    Vectors and maps within are left out: no custom operator of the dialect has any, and those of a damaged file may
    share their parts so that they unpack to exponentially many.
    """
    if not data:
        return {}
    try:
        root = flexbuffers.GetRoot(data)
        if not root.IsMap or len(root.AsMap) > len(data):
            raise ValueError("no map")
        items = zip(root.AsMap.Keys, root.AsMap.Values, strict=True)
        return {key.AsKey: value.Value for key, value in items if _is_scalar(value)}
    except DAMAGE as error:
        raise ModelError(f"a custom operator's options are damaged ({error}); get an intact copy") from error


def _is_scalar(value: Any) -> bool:
    return bool(value.IsBool or value.IsInt or value.IsFloat or value.IsString or value.IsBlob)


def encode(options: Mapping[str, OptionValue]) -> bytes:
    """The inverse of `decode`."""
    return bytes(flexbuffers.Dumps(dict(options)))
