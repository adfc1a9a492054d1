"""Small .tflite files made for tests, right or wrong in ways that no converter's are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tflite2q.flatbuffer import schema
from tflite2q.flatbuffer.records import (
    ModelRecord,
    OperatorCode,
    OperatorRecord,
    SignatureRecord,
    SubgraphRecord,
    TensorRecord,
)

WEIGHTS = np.arange(18, dtype=np.uint8).tobytes()
BIAS = np.array([100, -100], np.int32).tobytes()
CONV_OPTIONS = {"Padding": 0, "StrideW": 1, "StrideH": 1, "DilationWFactor": 1, "DilationHFactor": 1}

TENSORS = (
    TensorRecord("image", (1, 4, 4, 1), "uint8", 0, (0.5,), (128,)),
    TensorRecord("weights", (2, 3, 3, 1), "uint8", 1, (0.25,), (9,)),
    TensorRecord("bias", (2,), "int32", 2, (0.125,), (0,)),
    TensorRecord("conv", (1, 4, 4, 2), "uint8", 0, (2.0,), (128,)),
    TensorRecord("scores", (1, 4, 4, 2), "uint8", 0, (1 / 256,), (0,)),
)
OPERATORS = (
    OperatorRecord(0, (0, 1, 2), (3,), options_type="Conv2DOptions", options=CONV_OPTIONS),
    OperatorRecord(1, (3,), (4,), options_type="SoftmaxOptions", options={"Beta": 1.0}),
)


def model(**changes: Any) -> ModelRecord:
    """A convolution and a softmax, with two constants, a signature and metadata."""
    return replace(
        ModelRecord(
            description="made by hand",
            codes=(OperatorCode("CONV_2D"), OperatorCode("SOFTMAX")),
            buffers=(b"", WEIGHTS, BIAS, b"1.5.0"),
            subgraphs=(SubgraphRecord("main", TENSORS, (0,), (4,), OPERATORS),),
            signatures=(SignatureRecord("serving_default", (("image", 0),), (("scores", 4),)),),
            metadata=(("min_runtime_version", 3),),
        ),
        **changes,
    )


def with_subgraph(**changes: Any) -> ModelRecord:
    made = model()
    return replace(made, subgraphs=(replace(made.subgraphs[0], **changes),))


def with_tensor(index: int, **changes: Any) -> ModelRecord:
    """The model with fields of one tensor changed."""
    tensors = list(TENSORS)
    tensors[index] = replace(tensors[index], **changes)
    return with_subgraph(tensors=tuple(tensors))


def with_operator(index: int, **changes: Any) -> ModelRecord:
    """The model with fields of one operator changed."""
    operators = list(OPERATORS)
    operators[index] = replace(operators[index], **changes)
    return with_subgraph(operators=tuple(operators))


def with_external_buffers(record: ModelRecord) -> bytes:
    """The file with the data of its buffers behind the flatbuffer, where large models keep them."""
    sizes = [len(data) for data in record.buffers]
    starts = list(np.cumsum([16, *sizes]))

    def encode(base: int) -> bytes:
        places = iter([(base + int(start), size) for start, size in zip(starts, sizes, strict=False)])

        class Encoder(schema._Encoder):
            def buffer(self, data: bytes | memoryview) -> int:
                offset, size = next(places)
                return self.table("Buffer", Offset=offset, Size=size) if size else self.table("Buffer")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(schema, "_Encoder", Encoder)
            return schema.encode(record)

    table = encode(len(encode(1 << 20)))  # the length does not depend on the offsets
    return table + bytes(16) + b"".join(bytes(data) for data in record.buffers)
