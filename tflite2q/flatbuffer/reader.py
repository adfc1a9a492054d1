"""Records of a .tflite file to a verified graph."""

from __future__ import annotations

import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.fold import folded
from tflite2q.dialect.graph import Graph, Signature, used, verify
from tflite2q.dialect.op import Builtin, Op
from tflite2q.dialect.ops import BY_BUILTIN
from tflite2q.dialect.ops.opaque import Opaque
from tflite2q.dialect.types import STORAGE, Constant, Quantization, TensorType, Value
from tflite2q.errors import InvalidGraph, ModelError, Tflite2qError, UnsupportedError
from tflite2q.flatbuffer import flexbuffer, schema
from tflite2q.flatbuffer.records import ModelRecord, OperatorCode, OperatorRecord, SubgraphRecord, TensorRecord

# Operators that hold on to other subgraphs or to state outside the graph.
_STATEFUL = frozenset({"IF", "WHILE", "CALL", "CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"})
CONTROL_FLOW = "models with control flow or resource variables cannot be read: export the model without them"
FILES_LIMIT = 1 << 28  # bytes that associated files may unpack to
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, OSError, EOFError, RuntimeError)


def load(path: str | os.PathLike[str], allow_unsupported: bool = False) -> Graph:
    """Read a .tflite file.

    With `allow_unsupported`, operators that tflite2q does not implement become `q.opaque` ops, which can be written
    again but not run.  Raises ModelError if the file cannot be read or is damaged, UnsupportedError (naming every
    operator) if tflite2q lacks something it uses, InvalidGraph if it contradicts itself.  Messages start with the path.
    """
    try:
        return read(Path(path).read_bytes(), allow_unsupported)
    except OSError as error:
        raise ModelError(f"{os.fspath(path)}: cannot be read: {error.strerror}") from error
    except Tflite2qError as error:
        raise type(error)(f"{os.fspath(path)}: {error}") from error


def read(data: bytes, allow_unsupported: bool = False) -> Graph:
    """A verified graph of the bytes of a .tflite file; errors as for `load`."""
    model = schema.decode(data)
    if len(model.subgraphs) != 1:
        raise UnsupportedError(
            f"the model has {len(model.subgraphs)} subgraphs (control flow or shared parts); only models with one can "
            "be read: export it without control flow"
        )
    try:
        graph = _Reader(model, allow_unsupported).graph()
        return verify(used(_with_shapes(folded(graph.with_(files=_associated_files(data))))))
    except (IndexError, ValueError, TypeError, KeyError, ArithmeticError, AssertionError) as error:
        raise ModelError(f"the file is damaged: {error}") from error


def _associated_files(data: bytes) -> tuple[tuple[str, bytes], ...]:
    """Files (labels, vocabularies) that the metadata tools append to a model as a zip archive."""
    archived = io.BytesIO(data)
    if not zipfile.is_zipfile(archived):
        return ()
    try:
        with zipfile.ZipFile(archived) as archive:
            members = archive.infolist()
            size = sum(info.file_size for info in members)
            if size > FILES_LIMIT:
                raise ModelError(f"the files packed behind the model unpack to {size} bytes, more than {FILES_LIMIT}")
            return tuple((info.filename, archive.read(info)) for info in members)
    except _ZIP_ERRORS as error:
        raise ModelError(f"the files packed behind the model cannot be read ({error}); get an intact copy") from error


class _Reader:
    def __init__(self, model: ModelRecord, allow_unsupported: bool) -> None:
        self.model = model
        self.allow_unsupported = allow_unsupported
        self.subgraph: SubgraphRecord = model.subgraphs[0]
        self.names = _unique_names(self.subgraph.tensors)
        self.constants: dict[tuple[int, str, tuple[int, ...]], Constant] = {}
        self.room = 2 * sum(len(data) for data in model.buffers)  # for copies; tensors may share buffers

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
            metadata=self.metadata(),
        )

    def check_supported(self) -> None:
        """Raise UnsupportedError that lists every operator the dialect lacks, with its index."""
        missing: list[str] = []
        hints: dict[str, None] = {}
        for index, op in enumerate(self.subgraph.operators):
            code = self.code(op)
            if not _supported(code):
                missing.append(f"{index} {'custom ' if code.custom else ''}{code.name}")
                hints[_remedy(code)] = None
        if not missing or (self.allow_unsupported and CONTROL_FLOW not in hints):
            return
        raise UnsupportedError(f"unsupported operators: {', '.join(missing)}; {'; '.join(hints)}")

    def code(self, op: OperatorRecord) -> OperatorCode:
        if not 0 <= op.code < len(self.model.codes):
            raise ModelError(f"operator code {op.code} does not exist; the file is damaged")
        return self.model.codes[op.code]

    def buffer(self, index: int) -> bytes | memoryview:
        if index == 0 and not self.model.buffers:
            return b""  # 0 stands for "no data", and some writers leave out the empty buffer itself
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
            constant = self.constant(tensor.buffer, kind) if known and tensor.dtype in STORAGE else None
        except InvalidGraph as error:
            raise InvalidGraph(f"tensor {index} {name!r}: {error}") from error
        if tensor.problem:
            raise UnsupportedError(f"tensor {index} {name!r} {tensor.problem}, which is not supported")
        dynamic = tensor.shape_signature if tensor.shape_signature and -1 in tensor.shape_signature else None
        return Value(name, kind, constant, tensor.variable, dynamic)

    def constant(self, buffer: int, kind: TensorType) -> Constant:
        """The data of a tensor, one object for all tensors of the same buffer and type."""
        key = buffer, kind.dtype, kind.shape
        if key not in self.constants:
            self.take(len(self.buffer(buffer)))
            self.constants[key] = Constant(_array(self.buffer(buffer), kind))
        return self.constants[key]

    def metadata(self) -> tuple[tuple[str, bytes], ...]:
        data: dict[int, bytes] = {}
        for _, buffer in self.model.metadata:
            if buffer not in data:
                self.take(len(self.buffer(buffer)))
                data[buffer] = bytes(self.buffer(buffer))
        return tuple((name, data[buffer]) for name, buffer in self.model.metadata)

    def take(self, size: int) -> None:
        self.room -= size
        if self.room < 0:
            raise ModelError("the file is damaged: many tensors of different types share a buffer")

    def op(self, index: int, record: OperatorRecord) -> Op:
        code = self.code(record)
        cls, builtin = BY_BUILTIN[code.name] if _supported(code) else (Opaque, None)
        if not record.outputs:
            raise ModelError(f"operator {index} {code.name} has no outputs; the file is damaged")
        try:
            attributes = _opaque(code, record) if builtin is None else _attributes(cls, builtin, record)
        except UnsupportedError as error:
            raise UnsupportedError(f"operator {index} {code.name}: {error}") from error
        inside = self.subgraph.tensors
        return cls(
            inputs=tuple(None if i == -1 else self.name(i) for i in record.inputs),
            outputs=self.some_names(record.outputs),
            version=code.version,
            intermediates=tuple(self.value(i, inside[i], True) for i in record.intermediates if self.name(i)),
            **attributes,
        )

    def signatures(self) -> list[Signature]:
        def named(items: tuple[tuple[str, int], ...]) -> tuple[tuple[str, str], ...]:
            return tuple((name, self.name(index)) for name, index in items)

        return [Signature(s.key, named(s.inputs), named(s.outputs)) for s in self.model.signatures]


def _with_shapes(graph: Graph) -> Graph:
    """rewrite: shapes that the file leaves open ([] of a result that is no scalar, as TOCO wrote custom operators)."""
    values = dict(graph.by_name)
    for op in graph.ops:
        outs = [values[name] for name in op.outputs]
        if all(y.type.shape != () for y in outs):
            continue
        op.check_operands()
        ins = [None if name is None else values[name] for name in op.inputs]
        for y, shape in zip(outs, op.infer(ins, outs), strict=True):
            if y.type.shape == () and y.type.shape != tuple(shape):
                values[y.name] = y.with_(type=y.type.with_(shape=tuple(shape)))
    return graph.with_(values=tuple(values[v.name] for v in graph.values))


def _supported(code: OperatorCode) -> bool:
    return code.name in BY_BUILTIN and BY_BUILTIN[code.name][1].custom == code.custom


def _remedy(code: OperatorCode) -> str:
    """What a user can do about an operator that the dialect lacks."""
    if not code.custom and code.name in _STATEFUL:
        return CONTROL_FLOW
    return "--allow-unsupported converts the rest of the model around them, docs/ops.md lists what is supported"


def _unique_names(tensors: Sequence[TensorRecord]) -> list[str]:
    """The tensors' names; unnamed ones get one, and of equal names all but the first a number."""
    taken: dict[str, int] = {}  # -> the number to try next, so that thousands of equal names take no time
    for index, tensor in enumerate(tensors):
        wish = name = tensor.name or f"tensor_{index}"
        while name in taken:
            taken[wish] += 1
            name = f"{wish}_{taken[wish]}"
        taken[name] = 0
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
    options = flexbuffer.decode(record.custom_options) if builtin.custom else dict(record.options)
    for field in cls.attributes():
        option, enum = field.metadata["option"], field.metadata["enum"]
        if option in options:
            value = options.pop(option)
            if enum is not None and value not in schema.enum_names(enum):
                raise UnsupportedError(f"{option} {value!r} is unknown")
            found[field.name] = value if enum is None else schema.enum_names(enum)[int(value)]  # type: ignore[arg-type]
    if builtin.custom:  # TFLite's custom kernels, too, ignore keys that they do not know
        return found
    defaults = schema.option_defaults(record.options_type) if record.options_type else {}
    for option, value in options.items():
        if value != defaults[option]:
            raise UnsupportedError(f"option {option} = {value!r} is not supported")
    return found


def _opaque(code: OperatorCode, record: OperatorRecord) -> dict[str, Any]:
    """Everything needed to write an unsupported operator again."""
    if not code.custom and code.name not in schema.enum_values("BuiltinOperator"):
        raise UnsupportedError("is newer than the schema known here; update the tflite package")
    return {
        "code": code.name,
        "custom": code.custom,
        "options_type": record.options_type,
        "options": tuple(record.options.items()),
        "custom_options": record.custom_options,
    }
