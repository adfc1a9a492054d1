"""Records of a .tflite file to a verified graph."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph, Signature, fresh, used, verify
from tflite2q.dialect.op import Builtin, Op
from tflite2q.dialect.ops import BY_BUILTIN
from tflite2q.dialect.types import STORAGE, Constant, Quantization, TensorType, Value
from tflite2q.errors import InvalidGraph, ModelError, Tflite2qError, UnsupportedError
from tflite2q.flatbuffer import schema
from tflite2q.flatbuffer.records import ModelRecord, OperatorCode, OperatorRecord, SubgraphRecord, TensorRecord

ZIP_END = b"PK\x05\x06"


def load(path: str | os.PathLike[str]) -> Graph:
    """Read a .tflite file.

    Raises ModelError if it cannot be read or is damaged, UnsupportedError (naming every operator) if tflite2q lacks
    something it uses, InvalidGraph if it contradicts itself.  Each message starts with the path.
    """
    try:
        return read(Path(path).read_bytes())
    except OSError as error:
        raise ModelError(f"{os.fspath(path)}: cannot be read: {error.strerror}") from error
    except Tflite2qError as error:
        raise type(error)(f"{os.fspath(path)}: {error}") from error


def read(data: bytes) -> Graph:
    """A verified graph of the bytes of a .tflite file; errors as for `load`."""
    model = schema.decode(data)
    if len(model.subgraphs) != 1:
        raise UnsupportedError(
            f"the model has {len(model.subgraphs)} subgraphs (control flow or shared parts); only models with one can be "
            "read: export it without control flow"
        )
    try:
        graph = _Reader(model).graph()
        return verify(used(graph.with_(files=_associated_files(data))))
    except (IndexError, ValueError, TypeError, KeyError, ArithmeticError, AssertionError) as error:
        raise ModelError(f"the file is damaged: {error}") from error


def _associated_files(data: bytes) -> tuple[tuple[str, bytes], ...]:
    """Files (labels, vocabularies) that the metadata tools append to a model as a zip archive."""
    if ZIP_END not in data[-65557:]:  # an end record is 22 bytes and a comment of at most 65,535
        return ()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return tuple((info.filename, archive.read(info)) for info in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, RuntimeError) as error:
        raise ModelError(f"the files packed behind the model cannot be read ({error}); get an intact copy") from error


class _Reader:
    def __init__(self, model: ModelRecord) -> None:
        self.model = model
        self.subgraph: SubgraphRecord = model.subgraphs[0]
        self.names = _unique_names(self.subgraph.tensors)

    def graph(self) -> Graph:
        self.check_supported()
        graph = self.subgraph
        produced = {index for op in graph.operators for index in op.outputs} | set(graph.inputs)
        for index in (*graph.inputs, *graph.outputs):
            self.name(index)
        values = [self.value(i, tensor, i in produced) for i, tensor in enumerate(graph.tensors)]
        return Graph(
            inputs=self.some_names(graph.inputs),
            outputs=self.some_names(graph.outputs),
            values=tuple(values),
            ops=tuple(self.op(index, op) for index, op in enumerate(graph.operators)),
            name=graph.name,
            description=self.model.description,
            signatures=tuple(self.signatures()),
            metadata=tuple((name, bytes(self.buffer(buffer))) for name, buffer in self.model.metadata),
        )

    def check_supported(self) -> None:
        """Raise UnsupportedError that lists every operator the dialect lacks."""
        missing: list[str] = []
        for index, op in enumerate(self.subgraph.operators):
            code = self.code(op)
            if code.name not in BY_BUILTIN or BY_BUILTIN[code.name][1].custom != code.custom:
                missing.append(f"{index} {'custom ' if code.custom else ''}{code.name}")
        if missing:
            raise UnsupportedError(
                f"unsupported operators: {', '.join(missing)}; see docs/ops.md for what is supported"
            )

    def code(self, op: OperatorRecord) -> OperatorCode:
        if not 0 <= op.code < len(self.model.codes):
            raise ModelError(f"operator code {op.code} does not exist; the file is damaged")
        return self.model.codes[op.code]

    def buffer(self, index: int) -> bytes | memoryview:
        if not 0 <= index < len(self.model.buffers):
            raise ModelError(f"buffer {index} does not exist; the file is damaged")
        return self.model.buffers[index]

    def name(self, index: int) -> str:
        if not 0 <= index < len(self.names):
            raise ModelError(f"tensor {index} does not exist; the file is damaged")
        return self.names[index]

    def some_names(self, indices: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.name(index) for index in indices)

    def value(self, index: int, tensor: TensorRecord, produced: bool) -> Value:
        name = self.names[index]
        try:
            kind = TensorType(tensor.shape, tensor.dtype, _quantization(tensor))
            data = self.buffer(tensor.buffer)
            known = not produced and not tensor.variable and (len(data) > 0 or kind.size == 0)
            constant = Constant(_array(data, kind)) if known and tensor.dtype in STORAGE else None
        except InvalidGraph as error:
            raise InvalidGraph(f"tensor {index} {name!r}: {error}") from error
        if tensor.problem:
            raise UnsupportedError(f"tensor {index} {name!r} {tensor.problem}, which is not supported")
        dynamic = tensor.shape_signature if tensor.shape_signature and -1 in tensor.shape_signature else None
        return Value(name, kind, constant, tensor.variable, dynamic)

    def op(self, index: int, record: OperatorRecord) -> Op:
        cls, builtin = BY_BUILTIN[self.code(record).name]
        if not record.outputs:
            raise ModelError(f"operator {index} {builtin.name} has no outputs; the file is damaged")
        try:
            attributes = _attributes(cls, builtin, record)
        except UnsupportedError as error:
            raise UnsupportedError(f"operator {index} {builtin.name}: {error}") from error
        return cls(
            inputs=tuple(None if i == -1 else self.name(i) for i in record.inputs),
            outputs=self.some_names(record.outputs),
            version=self.code(record).version,
            **attributes,
        )

    def signatures(self) -> list[Signature]:
        def named(items: tuple[tuple[str, int], ...]) -> tuple[tuple[str, str], ...]:
            return tuple((name, self.name(index)) for name, index in items)

        return [Signature(s.key, named(s.inputs), named(s.outputs)) for s in self.model.signatures]


def _unique_names(tensors: Sequence[TensorRecord]) -> list[str]:
    """The tensors' names; unnamed ones get one, and of equal names all but the first a number."""
    taken: dict[str, None] = {}
    for index, tensor in enumerate(tensors):
        name = tensor.name or f"tensor_{index}"
        taken[name if name not in taken else fresh(taken, name)] = None
    return list(taken)


def _quantization(tensor: TensorRecord) -> Quantization | None:
    if not tensor.scale:
        return None
    count = len(tensor.scale)
    zero_point = tensor.zero_point or (0,)
    if len(zero_point) not in (1, count):
        raise InvalidGraph(f"{count} scales with {len(zero_point)} zero points")
    if len(zero_point) != count:
        zero_point = zero_point * count
    axis = 0 if len(tensor.shape) == 1 else tensor.axis  # some writers keep the weights' axis on a bias
    return Quantization(tensor.scale, zero_point, axis if count > 1 else None)


def _array(data: bytes | memoryview, kind: TensorType) -> npt.NDArray[Any]:
    """The elements of a constant, in the dtype's storage.  Raises InvalidGraph if the number of bytes is wrong."""
    if kind.dtype == "int4":
        return _unpack_int4(np.frombuffer(data, np.uint8), kind)
    dtype = np.dtype(STORAGE[kind.dtype])
    if len(data) != kind.size * dtype.itemsize:
        raise InvalidGraph(f"{len(data)} bytes of data for {kind.dtype}{list(kind.shape)}")
    return np.frombuffer(data, dtype).reshape(kind.shape)


def _unpack_int4(packed: npt.NDArray[np.uint8], kind: TensorType) -> npt.NDArray[np.int8]:
    """Two elements a byte, the first in the low four bits."""
    if packed.size != (kind.size + 1) // 2:
        raise InvalidGraph(f"{packed.size} bytes of data for int4{list(kind.shape)}")
    nibbles = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[: kind.size].astype(np.int8)
    return ((nibbles ^ 8) - 8).reshape(kind.shape)


def _attributes(cls: type[Op], builtin: Builtin, record: OperatorRecord) -> dict[str, Any]:
    """Attribute values of an op from its options; an option the op does not know must have its default value."""
    found: dict[str, Any] = dict(builtin.fixed)
    options = dict(record.options)
    for field in cls.attributes():
        option, enum = field.metadata["option"], field.metadata["enum"]
        if option in options:
            value = options.pop(option)
            if enum is not None and value not in schema.enum_names(enum):
                raise UnsupportedError(f"{option} {value} is unknown")
            found[field.name] = value if enum is None else schema.enum_names(enum)[int(value)]  # type: ignore[arg-type]
    defaults = schema.option_defaults(record.options_type) if record.options_type else {}
    for option, value in options.items():
        if value != defaults[option]:
            raise UnsupportedError(f"option {option} = {value!r} is not supported")
    return found
