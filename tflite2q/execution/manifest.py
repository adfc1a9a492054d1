"""The manifest of a compiled library: inputs, outputs, target and processor features, readable without loading it."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import STORAGE, Constant, Quantization, TensorType, Value
from tflite2q.errors import DataError, InvalidGraph

SCHEMA_VERSION = 1
STATES_VERSION = 2  # of libraries with states, which take more arguments than readers of version 1 would give

# In a library's file: this, the length of the JSON text in eight decimal digits, and the text in UTF-8.
MARK = b"\0tflite2q-manifest\0"
MOST_BYTES = 100_000_000  # more than eight digits of length can announce


@dataclass(frozen=True)
class Manifest:
    """`target` is the name as given, `spec` the TVM target that it stands for; `features` are those of the processor
    that the code may use, under LLVM's names; `kernels` lists (op, kernel) in execution order.  `states` are the
    variables, whose `constant` is the data before the first run: the code takes them after the inputs and returns them
    after the outputs.
    """

    version: str
    model: str
    target: str
    spec: Mapping[str, Any]
    features: tuple[str, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    kernels: tuple[tuple[str, str], ...] = ()
    states: tuple[Value, ...] = ()

    def encode(self) -> bytes:
        """The bytes that a library carries."""
        content: dict[str, Any] = {
            "schema_version": STATES_VERSION if self.states else SCHEMA_VERSION,
            "tflite2q": self.version,
            "model": self.model,
            "target": self.target,
            "spec": dict(self.spec),
            "features": list(self.features),
            "inputs": [_tensor(value) for value in self.inputs],
            "outputs": [_tensor(value) for value in self.outputs],
            "kernels": [list(pair) for pair in self.kernels],
        }
        if self.states:
            content["states"] = [_tensor(value) for value in self.states]
        text = json.dumps(content, separators=(",", ":")).encode()
        return MARK + b"%08d" % len(text) + text


def decode(data: bytes) -> Manifest:
    """The manifest in `encode`d bytes.  Raises DataError if they are damaged or of another version."""
    try:
        start = len(MARK) + 8
        content = json.loads(data[start : start + int(data[len(MARK) : start])])
        if content["schema_version"] not in (SCHEMA_VERSION, STATES_VERSION):
            raise ValueError(f"version {content['schema_version']}, not {SCHEMA_VERSION} or {STATES_VERSION}")
        return Manifest(
            content["tflite2q"],
            content["model"],
            content["target"],
            content["spec"],
            tuple(content["features"]),
            tuple(_value(tensor) for tensor in content["inputs"]),
            tuple(_value(tensor) for tensor in content["outputs"]),
            tuple((op, kernel) for op, kernel in content["kernels"]),
            tuple(_value(tensor) for tensor in content.get("states", ())),
        )
    except (KeyError, ValueError, TypeError, InvalidGraph) as error:
        raise DataError(f"its manifest cannot be read ({error}); compile it again") from error


def read(path: str | os.PathLike[str]) -> Manifest:
    """The manifest inside the library at `path`, whatever processor it is for.  Raises DataError if there is none."""
    where = os.fspath(path)
    try:
        with open(where, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise DataError("is empty, not a library that tflite2q compiled")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                found = content.find(MARK)
                if found < 0:
                    raise DataError("is not a library that tflite2q compiled; make one with `convert --lib`")
                return decode(content[found : found + MOST_BYTES])
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror}") from error
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _tensor(value: Value) -> dict[str, Any]:
    kind = value.type
    found: dict[str, Any] = {"name": value.name, "dtype": kind.dtype, "shape": list(kind.shape)}
    q = kind.quantization
    if q is not None:
        found["quantization"] = {"scale": list(q.scale), "zero_point": list(q.zero_point), "axis": q.axis}
    if value.constant is not None:
        flat = value.data.reshape(-1)
        same = flat.size > 1 and bool((flat == flat[0]).all())  # one element stands for all
        found["data"] = flat[: 1 if same else None].tolist()
    return found


def _value(tensor: Mapping[str, Any]) -> Value:
    q = tensor.get("quantization")
    parameters = None if q is None else Quantization(tuple(q["scale"]), tuple(q["zero_point"]), q["axis"])
    kind = TensorType(tuple(tensor["shape"]), tensor["dtype"], parameters)
    prescribed = tensor.get("data")
    constant = None if prescribed is None else Constant(_filled(prescribed, kind))
    return Value(tensor["name"], kind, constant)


def _filled(elements: Sequence[Any], kind: TensorType) -> npt.NDArray[Any]:
    array = np.array(elements, STORAGE[kind.dtype])
    return np.broadcast_to(array, kind.shape) if array.size == 1 else array.reshape(kind.shape)


def initial_states(graph: Graph) -> tuple[Value, ...]:
    """The states of a graph as a manifest keeps them."""
    return tuple(Value(value.name, value.type, Constant(value.initial)) for value in graph.states)


def bare(values: Sequence[Value]) -> tuple[Value, ...]:
    """The values as a manifest keeps them: names, types, and data where an input's is prescribed."""
    return tuple(Value(value.name, value.type, value.constant) for value in values)
