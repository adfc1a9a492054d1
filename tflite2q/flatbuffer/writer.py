"""A graph to the bytes of a .tflite file: the inverse of the reader.

The same graph always gives the same bytes, and reading them gives the same graph.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q import files
from tflite2q.dialect.graph import Graph, Signature, fresh, verify
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.opaque import Opaque
from tflite2q.dialect.text import TEXT_SUFFIX, print_graph
from tflite2q.dialect.types import Resource, Value
from tflite2q.errors import UnsupportedError
from tflite2q.flatbuffer import blocks, flexbuffer, names, schema, tables, variables
from tflite2q.flatbuffer.records import (
    ModelRecord,
    OperatorCode,
    OperatorRecord,
    OptionValue,
    SignatureRecord,
    SubgraphRecord,
    TensorRecord,
)
from tflite2q.flatbuffer.subgraph import references

ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # associated files carry no time, so that equal graphs give equal bytes


def save(graph: Graph, path: str | os.PathLike[str], force: bool = False) -> None:
    """Write `graph` to `path`, whole or not at all; in the text form if the path ends in .q.txt.

    Raises UsageError if the file exists and `force` is not given, or cannot be written.
    """
    files.write(Path(path), content(graph, path), force=force)


def content(graph: Graph, path: str | os.PathLike[str]) -> bytes | memoryview:
    """What a file of that name holds: the text form if it ends in .q.txt, else as `written`."""
    return print_graph(graph).encode() if os.fspath(path).endswith(TEXT_SUFFIX) else written(graph)


def write(graph: Graph) -> bytes:
    """The bytes of a .tflite file.  Raises InvalidGraph, or UnsupportedError where the format cannot express an op."""
    return bytes(written(graph))


def written(graph: Graph) -> memoryview:
    """As `write`, in the memory in which they were made: large models are not copied once more."""
    data = schema.encoded(_model(verify(graph)))
    if not graph.files:
        return data
    stream = io.BytesIO(data)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        for name, content in graph.files:
            archive.writestr(zipfile.ZipInfo(name, ZIP_EPOCH), content)
    return stream.getbuffer().toreadonly()


class _Shared:
    """The parts that all subgraphs of a model share: buffers, operator codes and regions, each once.

    Regions become subgraphs from number `first` on.
    """

    def __init__(self, first: int) -> None:
        self.buffers: list[bytes | memoryview] = [b""]
        self.places: dict[bytes, int] = {_digest(b""): 0}  # by digest: the data are not held twice
        self.codes: dict[OperatorCode, int] = {}
        self.first = first
        self.regions: list[Graph] = []

    def buffer(self, data: bytes | memoryview) -> int:
        """Index of a buffer with these bytes; equal constants share one."""
        place = self.places.setdefault(_digest(data), len(self.buffers))
        if place == len(self.buffers):
            self.buffers.append(data)
        return place

    def code(self, code: OperatorCode) -> int:
        return self.codes.setdefault(code, len(self.codes))

    def region(self, graph: Graph) -> int:
        """Number of the subgraph that a region becomes."""
        if graph not in self.regions:
            self.regions.append(graph)
        return self.first + self.regions.index(graph)


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.sha256(data).digest()


def _model(graph: Graph) -> ModelRecord:
    ordered = (*graph.others[: graph.place], graph, *graph.others[graph.place :])
    initialized, called = _initialized(graph, ordered)
    shared = _Shared(len(ordered) + bool(initialized))
    metadata = tuple((name, shared.buffer(data)) for name, data in graph.metadata)
    writers = [_Writer(each, index, shared) for index, each in enumerate(ordered)]
    writers[graph.place].once = (*called, len(writers)) if initialized else called
    subgraphs = [writer.subgraph() for writer in writers]
    if initialized:
        subgraphs.append(_initialization(initialized, shared))
    for region in shared.regions:  # which grows by the regions of regions
        subgraphs.append(_Writer(region, len(subgraphs), shared).subgraph())
    return ModelRecord(
        description=graph.description,
        codes=tuple(shared.codes),
        buffers=tuple(shared.buffers),
        subgraphs=tuple(subgraphs),
        signatures=tuple(signature for writer in writers for signature in writer.signatures()),
        metadata=metadata,
    )


def _initialized(graph: Graph, ordered: Sequence[Graph]) -> tuple[list[tuple[Value, Resource]], tuple[int, ...]]:
    """The variables that get initial data from a subgraph to be made, and the subgraphs that give them to others."""
    made, called = list[tuple[Value, Resource]](), set[int]()
    for value in graph.values:
        if value.resource is not None and value.resource.initial is not None:
            place = next(variables.initializations(value, ordered), None)
            if place is None:
                made.append((value, value.resource))
            else:
                called.add(place)
    return made, tuple(sorted(called))


def _initialization(states: Sequence[tuple[Value, Resource]], shared: _Shared) -> SubgraphRecord:
    """The subgraph that CALL_ONCE runs: it assigns each variable its initial data."""
    tensors: list[TensorRecord] = []
    operators: list[OperatorRecord] = []
    for state, resource in states:
        handle, data = len(tensors), Value(f"{state.name}/initial", state.type, resource.initial)
        tensors += [variables.handle_tensor(state.name), _tensor(data, shared.buffer(_bytes(data)))]
        operators.append(variables.handle_operator(resource, handle, shared.code(OperatorCode(variables.HANDLE))))
        operators.append(OperatorRecord(shared.code(OperatorCode(variables.ASSIGN)), (handle, handle + 1), ()))
    return SubgraphRecord("initialization", tuple(tensors), (), (), tuple(operators))


class _Writer:
    """One subgraph; `once` are those that initialize its variables."""

    def __init__(self, graph: Graph, place: int, shared: _Shared) -> None:
        self.graph, self.place, self.shared = graph, place, shared
        self.once: tuple[int, ...] = ()
        inside = {value.name: value for op in graph.ops for value in op.intermediates}
        self.tensors = (*graph.values, *inside.values())
        self.index = {value.name: index for index, value in enumerate(self.tensors)}
        # Weights with a scale for each block have these in tensors of their own, behind all others.
        divided = [value for value in self.tensors if value.type.quantization and value.type.quantization.block]
        self.scales = {value.name: len(self.tensors) + index for index, value in enumerate(divided)}

    def subgraph(self) -> SubgraphRecord:
        graph = self.graph
        return SubgraphRecord(
            name=graph.name,
            tensors=(*(self.tensor(value) for value in self.tensors), *self.scale_tensors()),
            inputs=self.indices(graph.inputs),
            outputs=self.indices(graph.outputs),
            operators=(*self.preparation(), *(self.operator(op) for op in graph.ops)),
        )

    def preparation(self) -> Iterator[OperatorRecord]:
        """What comes before the ops: the initialization of variables, and their handles."""
        for subgraph in self.once:
            yield variables.once_operator(subgraph, self.shared.code(OperatorCode(variables.ONCE)))
        for value in self.graph.values:
            if value.resource is not None:
                code = self.shared.code(OperatorCode(variables.HANDLE))
                yield variables.handle_operator(value.resource, self.index[value.name], code)

    def signatures(self) -> tuple[SignatureRecord, ...]:
        def made(signature: Signature) -> SignatureRecord:
            inputs, outputs = self.public(signature.inputs), self.public(signature.outputs)
            return SignatureRecord(signature.key, inputs, outputs, self.place)

        return tuple(made(signature) for signature in self.graph.signatures)

    def indices(self, names: tuple[str | None, ...]) -> tuple[int, ...]:
        return tuple(-1 if name is None else self.index[name] for name in names)

    def public(self, names: tuple[tuple[str, str], ...]) -> tuple[tuple[str, int], ...]:
        return tuple((public, self.index[name]) for public, name in names)

    def scale_tensors(self) -> Iterator[TensorRecord]:
        for name in self.scales:
            value = self.graph[name]
            buffer = self.shared.buffer(blocks.scale_bytes(value))
            yield blocks.scales_of(value, fresh(self.index, f"{name}_scales"), buffer)

    def tensor(self, value: Value) -> TensorRecord:
        if value.resource is not None:
            return variables.handle_tensor(value.name)
        buffer = self.shared.buffer(b"" if self.computed(value) else _bytes(value))
        plain = value.with_(type=value.type.with_(quantization=None)) if value.name in self.scales else value
        return _tensor(plain, buffer, self.beyond(value))

    def computed(self, value: Value) -> bool:
        """Whether the interpreter gets a value's data from elsewhere than the file."""
        return value.name in self.graph.producers or value.name in self.graph.inputs

    def beyond(self, value: Value) -> dict[str, Any]:
        """The fields of a tensor that refers to others, with these references as indices."""
        if value.name in self.scales:
            return blocks.described(self.scales[value.name], value.type.parameters.block)
        carried = value.carried
        if carried is None:
            return {}
        fields: dict[str, Any] = json.loads(carried.fields)
        for reference in references(fields):
            for field in tables.REFERENCES:
                if 0 <= reference[field] < len(carried.names):
                    reference[field] = self.index[carried.names[reference[field]]]
        return fields

    def operator(self, op: Op) -> OperatorRecord:
        builtin = op.builtin
        code = OperatorCode(builtin.name, op.version, builtin.custom)
        options_type, options, custom_options = _all_options(op)
        options.update(zip(op.subgraphs, map(self.shared.region, op.regions), strict=True))
        return OperatorRecord(
            code=self.shared.code(code),
            inputs=self.indices(op.inputs),
            outputs=self.indices(op.outputs),
            intermediates=tuple(self.index[value.name] for value in op.intermediates),
            options_type=options_type,
            options=options,
            custom_options=custom_options,
        )


def _tensor(value: Value, buffer: int, beyond: Mapping[str, Any] | None = None) -> TensorRecord:
    q = value.type.quantization
    return TensorRecord(
        name=value.name,
        shape=value.type.shape,
        dtype=value.type.dtype,
        buffer=buffer,
        scale=() if q is None else q.scale,
        zero_point=() if q is None else q.zero_point,
        axis=0 if q is None or q.axis is None else q.axis,
        variable=value.variable,
        shape_signature=value.shape_signature,
        beyond=beyond or {},
    )


def _bytes(value: Value) -> bytes | memoryview:
    """The constant's bytes as the format stores them; b"" for other values."""
    if value.constant is None:
        return b""
    array = value.constant.array
    if value.type.dtype != "int4" or value.carried is not None:
        return array.reshape(-1).view(np.uint8).data
    flat = array.reshape(-1).astype(np.uint8) & 15
    padded = np.append(flat, np.zeros(flat.size % 2, np.uint8))
    packed: npt.NDArray[np.uint8] = padded[0::2] | (padded[1::2] << 4)
    return packed.tobytes()


def _all_options(op: Op) -> tuple[str | None, dict[str, OptionValue], bytes]:
    """The name of the op's options table, its fields, and the options of a custom operator."""
    if isinstance(op, Opaque):
        return op.options_type, dict(op.options), op.custom_options
    builtin = op.builtin
    if builtin.custom:
        named = {f.metadata["option"]: getattr(op, f.name) for f in op.attributes()}
        return None, {}, flexbuffer.encode({k: v for k, v in named.items() if k is not None})
    return builtin.options, {} if builtin.options is None else _options(op, builtin.options), b""


def _options(op: Op, table: str) -> dict[str, OptionValue]:
    """The op's attributes as fields of its options table.

    Raises UnsupportedError for an attribute that the table cannot hold, unless it has its default value.
    """
    fields = names.option_fields(table)
    found: dict[str, OptionValue] = {}
    for field in op.attributes():
        option, enum = field.metadata["option"], field.metadata["enum"]
        value: Any = getattr(op, field.name)
        if option in fields:
            found[option] = value if enum is None else names.enum_values(enum)[value]
        elif option is not None and value != field.default:
            raise UnsupportedError(f"{op.mnemonic} {op.name!r}: a .tflite cannot express {field.name} = {value!r}")
    return found
