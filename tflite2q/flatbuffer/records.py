"""A .tflite file as plain records: what `schema.py` decodes from bytes and encodes to bytes.

Indices are those of the file; names of enumerations are spelled as in TFLite's schema.  A table of options is the name
of its table and a mapping from field to int, float, bool, bytes or tuple of ints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OptionValue = int | float | bool | bytes | tuple[int | float, ...]


@dataclass(frozen=True)
class OperatorCode:
    """`name` is the builtin operator's, or the custom code where `custom` is set."""

    name: str
    version: int = 1
    custom: bool = False


@dataclass(frozen=True)
class TensorRecord:
    """`dtype` is our spelling ("int8"); `problem` says what of this tensor cannot be represented, if anything, and
    `beyond` is what such a tensor has instead of quantization parameters, by field (see `tables`)."""

    name: str | None
    shape: tuple[int, ...]
    dtype: str
    buffer: int
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    axis: int = 0
    variable: bool = False
    shape_signature: tuple[int, ...] | None = None
    problem: str | None = None
    beyond: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OperatorRecord:
    """-1 among `inputs` is an absent optional operand; `problem` says what cannot even be carried, if anything."""

    code: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    intermediates: tuple[int, ...] = ()
    options_type: str | None = None
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    custom_options: bytes = b""
    problem: str | None = None


@dataclass(frozen=True)
class SubgraphRecord:
    name: str
    tensors: tuple[TensorRecord, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operators: tuple[OperatorRecord, ...]


@dataclass(frozen=True)
class SignatureRecord:
    key: str
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]
    subgraph: int = 0


@dataclass(frozen=True)
class ModelRecord:
    """`buffers` are the tensors' and metadata's bytes; buffer 0 is empty by convention."""

    description: str
    codes: tuple[OperatorCode, ...]
    buffers: tuple[bytes | memoryview, ...]
    subgraphs: tuple[SubgraphRecord, ...]
    signatures: tuple[SignatureRecord, ...] = ()
    metadata: tuple[tuple[str, int], ...] = ()
