"""The manifest of a compiled library: inputs, outputs, target and processor features, readable without loading it."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph, check_value
from tflite2q.dialect.types import STORAGE, Constant, Quantization, TensorType, Value
from tflite2q.errors import DataError, InvalidGraph

T = TypeVar("T")

SCHEMA_VERSION = 1
STATES_VERSION = 2  # of libraries with states, which take more arguments than readers of version 1 would give

# In a library's file: this, the length of the JSON text in eight decimal digits, and the text in UTF-8.
MARK = b"\0tflite2q-manifest\0"
MOST_BYTES = 100_000_000  # more than eight digits of length can announce

# The end of a library's file: this and the SHA-256 of all bytes before it.  Loaders of ELF files do not read what
# follows the last section, and readers of archives not what follows their end; loaders of other systems may check the
# whole file, which gets none.
SEAL = b"\0tflite2q-sha256\0"
SEALED = len(SEAL) + hashlib.sha256().digest_size  # bytes
ELF = b"\x7fELF"
TAR, TAR_PLACE = b"ustar", 257  # where an archive says that it is one
RECORD = 10240  # bytes of which an archive has a multiple
BLOCK = 1 << 20


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
        if not isinstance(content, dict):
            raise ValueError("it is not an object")
        version = content.get("schema_version")
        if type(version) is not int or version not in (SCHEMA_VERSION, STATES_VERSION):
            raise ValueError(f"version {version}, not {SCHEMA_VERSION} or {STATES_VERSION}")
        pairs = [_list_of(str, pair, "kernels") for pair in _list_of(list, content.get("kernels"), "kernels")]
        return Manifest(
            _a(str, content.get("tflite2q"), "tflite2q"),
            _a(str, content.get("model"), "model"),
            _a(str, content.get("target"), "target"),
            _spec(content.get("spec")),
            tuple(_list_of(str, content.get("features"), "features")),
            _values(content.get("inputs"), "inputs"),
            _values(content.get("outputs"), "outputs"),
            tuple((op, kernel) for op, kernel in pairs),
            _values(content.get("states", []), "states"),
        )
    except (ValueError, OverflowError, RecursionError, InvalidGraph) as error:
        raise DataError(f"its manifest cannot be read ({error}); compile it again") from error


def seal(path: str | os.PathLike[str]) -> None:
    """Append to the library at `path` what tells later whether it is whole; files that are neither ELF nor archives
    stay as they are."""
    with open(path, "r+b") as file:
        kind = _sealed(file)
        if kind is None:
            return
        size = file.seek(0, os.SEEK_END)
        size += file.write(bytes(-(size + SEALED) % RECORD if kind == TAR else 0))
        file.write(SEAL + _digest(file, size))


def check_whole(path: str | os.PathLike[str]) -> None:
    """Raise DataError if the library at `path` is cut short or was changed: loading such a one can end the process."""
    with open(path, "rb") as file:
        kind = _sealed(file)
        end = os.fstat(file.fileno()).st_size - SEALED
        file.seek(max(end, 0))
        mark, digest = file.read(len(SEAL)), file.read()
        if mark != SEAL and kind is not None:
            raise DataError("is cut short, or of an earlier version; copy it again whole, or compile it again")
        if mark == SEAL and _digest(file, end) != digest:
            raise DataError("was changed after it was compiled; copy it again, or compile it again")


def _sealed(file: BinaryIO) -> bytes | None:
    """ELF or TAR, of which a file is; None for others, which are not sealed."""
    head = file.read(TAR_PLACE + len(TAR))
    return ELF if head.startswith(ELF) else TAR if head[TAR_PLACE:] == TAR else None


def _digest(file: BinaryIO, size: int) -> bytes:
    """SHA-256 of the first `size` bytes."""
    found = hashlib.sha256()
    file.seek(0)
    while size > 0 and (block := file.read(min(size, BLOCK))):
        found.update(block)
        size -= len(block)
    return found.digest()


def read(path: str | os.PathLike[str]) -> Manifest:
    """The manifest inside the library at `path`, whatever processor it is for.

    Raises DataError if there is none, or if the file is not what was written.
    """
    where = os.fspath(path)
    try:
        with open(where, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise DataError("is empty, not a library that tflite2q compiled")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                found = content.find(MARK)
                if found < 0:
                    raise DataError("is not a library that tflite2q compiled; make one with `convert --lib`")
                description = decode(content[found : found + MOST_BYTES])
        check_whole(where)
        return description
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


def _values(tensors: Any, what: str) -> tuple[Value, ...]:
    return tuple(_value(tensor) for tensor in _list_of(dict, tensors, what))


def _value(tensor: Mapping[str, Any]) -> Value:
    name = _a(str, tensor.get("name"), "name")
    shape = tuple(_list_of(int, tensor.get("shape"), f"shape of {name}"))
    dtype = _a(str, tensor.get("dtype"), f"dtype of {name}")
    if dtype not in STORAGE or any(not 0 <= dimension < 2**31 for dimension in shape):
        raise ValueError(f"{name} is {dtype[:20]}{list(shape)[:8]}")
    q, parameters = tensor.get("quantization"), None
    if q is not None:
        where = f"quantization of {name}"
        scale = [float(each) for each in _list_of(float, _a(dict, q, where).get("scale"), where)]
        zero_point, axis = _list_of(int, q.get("zero_point"), where), q.get("axis")
        parameters = Quantization(tuple(scale), tuple(zero_point), None if axis is None else _a(int, axis, where))
    kind = TensorType(shape, dtype, parameters)
    prescribed = tensor.get("data")
    constant = None if prescribed is None else Constant(_filled(_list_of(float, prescribed, f"data of {name}"), kind))
    value = Value(name, kind, constant)
    check_value(value)
    return value


def _spec(found: Any) -> dict[str, Any]:
    """TVM's target, whose triple and processor are texts."""
    spec = _a(dict, found, "spec")
    for key in ("mtriple", "mcpu"):
        _a(str, spec.get(key, ""), f"spec.{key}")
    return spec


def _a(kind: type[T], found: Any, what: str) -> T:
    """`found`, if it is of that kind; numbers without a point are real numbers, too.  Raises ValueError."""
    kinds = (float, int) if kind is float else kind
    if not isinstance(found, kinds) or (isinstance(found, bool) and kind is not bool and "data" not in what):
        raise ValueError(f"{what} is {type(found).__name__}, not {kind.__name__}")
    return cast(T, found)


def _list_of(kind: type[T], found: Any, what: str) -> list[T]:
    return [_a(kind, each, what) for each in _a(list, found, what)]


def _filled(elements: Sequence[Any], kind: TensorType) -> npt.NDArray[Any]:
    array = np.array(elements, STORAGE[kind.dtype])
    return np.broadcast_to(array, kind.shape) if array.size == 1 else array.reshape(kind.shape)


def initial_states(graph: Graph) -> tuple[Value, ...]:
    """The states of a graph as a manifest keeps them."""
    return tuple(Value(value.name, value.type, Constant(value.initial)) for value in graph.states)


def bare(values: Sequence[Value]) -> tuple[Value, ...]:
    """The values as a manifest keeps them: names, types, and data where an input's is prescribed."""
    return tuple(Value(value.name, value.type, value.constant) for value in values)
