"""The only user of the `tflite` package: bytes of a .tflite file to plain records and back.

The package's generated code reads wherever an offset points, so a damaged file can raise almost anything or ask for
absurd lengths, also in sum: many tables may point to one long vector.  Everything that is unpacked is therefore charged
to a budget that follows from the file's length, and whatever else goes wrong becomes a ModelError.
Source: TFLite's schema.fbs and https://flatbuffers.dev/internals.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import flatbuffers
import numpy as np
import tflite
from flatbuffers import number_types

from tflite2q.dialect.types import STORAGE
from tflite2q.errors import ModelError, UnsupportedError
from tflite2q.flatbuffer import tables
from tflite2q.flatbuffer.flexbuffer import DAMAGE
from tflite2q.flatbuffer.names import (
    enum_names,
    enum_number,
    enum_values,
    option_fields,
    option_places,
    option_vector,
)
from tflite2q.flatbuffer.records import (
    ModelRecord,
    OperatorCode,
    OperatorRecord,
    OptionValue,
    SignatureRecord,
    SubgraphRecord,
    TensorRecord,
)

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
DEPRECATED_BUILTIN_CODE, BUILTIN_CODE = 4, 10  # places in the vtable of OperatorCode: an int8, an int32
EXTERNAL_BUFFERS = 22  # place in the vtable of Model; newer than the package
TENSOR_TABLES = {"Quantization": "QuantizationParameters", "Sparsity": "SparsityParameters"}
PLACEHOLDER = 127  # deprecated_builtin_code is one byte; larger codes are only in builtin_code
ALIGNMENT = 16  # of buffer data, `force_align` in the schema
LARGEST = (1 << 31) - (1 << 26)  # bytes of constants: offsets have 31 bits, and tables come on top
ROOM = 256  # bytes that a tensor or a buffer takes beside its data, so that the memory seldom grows
TABLE_COST = 16  # bytes charged for a table: its place in a vector, its own vtable offset and two fields


# ------------------------------------------------------------------------------------------------------------ decode


def decode(data: bytes) -> ModelRecord:
    """Records of a .tflite file.  Raises ModelError if it is no .tflite or is damaged, UnsupportedError if its
    constants are in other files."""
    if not data:
        raise ModelError("the file is empty; expected a .tflite model")
    if data[4:8] != IDENTIFIER:
        raise ModelError("this is not a .tflite model: bytes 4 to 7 should be 'TFL3'")
    try:
        return _Decoder(data).model()
    except (ModelError, UnsupportedError):
        raise
    except DAMAGE as error:
        beyond = isinstance(error, struct.error | IndexError)  # whose words are Python's
        why = f"it refers to what lies behind its {len(data):,} bytes" if beyond else error
        raise ModelError(f"the file is truncated or damaged ({why}); get an intact copy") from error


class _Decoder:
    def __init__(self, data: bytes) -> None:
        self.data = data
        # An honest file unpacks to less than its own length, or a little more where strings and vectors are shared.
        self.budget = 4 * len(data) + 65536

    def model(self) -> ModelRecord:
        model = tflite.Model.GetRootAs(self.data, 0)
        if model.Version() != SCHEMA_VERSION:
            raise ModelError(f"schema version {model.Version()} is not supported, only {SCHEMA_VERSION}")
        if model._tab.Offset(EXTERNAL_BUFFERS):
            raise UnsupportedError("the model keeps its constants in other files, which is not supported; embed them")
        return ModelRecord(
            description=self.text(model.Description()) or "",
            codes=self.each(model.OperatorCodesLength(), model.OperatorCodes, self.code),
            buffers=self.each(model.BuffersLength(), model.Buffers, self.buffer),
            subgraphs=self.each(model.SubgraphsLength(), model.Subgraphs, self.subgraph),
            signatures=self.each(model.SignatureDefsLength(), model.SignatureDefs, self.signature),
            metadata=self.each(model.MetadataLength(), model.Metadata, self.metadata),
        )

    def each(self, length: int, get: Callable[[int], Any], decode_one: Callable[[Any], Any]) -> tuple[Any, ...]:
        self.charge(length, TABLE_COST)
        return tuple(decode_one(get(index)) for index in range(length))

    def charge(self, length: int, item: int) -> None:
        """Take a vector of `length` elements of `item` bytes from the budget."""
        self.budget -= length * item
        if self.budget < 0:
            claim = f"a vector of {length} elements"
            raise ModelError(f"the file is damaged: its {len(self.data)} bytes cannot hold all it claims, {claim}")

    def text(self, raw: bytes | None) -> str | None:
        if raw is None:
            return None
        self.charge(len(raw), 1)
        return raw.decode("utf-8", "surrogateescape")

    def numbers(self, table: Any, field: str, item: int = 4) -> tuple[Any, ...]:
        """A vector of numbers as a tuple of Python numbers; () where absent."""
        length = getattr(table, f"{field}Length")()
        self.charge(length, item)
        return tuple(getattr(table, f"{field}AsNumpy")().tolist()) if length else ()

    def bytes_at(self, offset: int, size: int, what: str) -> memoryview:
        """`size` bytes stored outside the flatbuffer."""
        self.charge(size, 1)
        if offset + size > len(self.data):
            where = f"{offset}..{offset + size} of a file of {len(self.data)} bytes"
            raise ModelError(f"{what} lies at {where}: the file is truncated; get an intact copy")
        return memoryview(self.data)[offset : offset + size]

    def code(self, code: Any) -> OperatorCode:
        # Files of before operator 127 have only the old field, some later ones only the new one, and an absent field
        # reads as 0, which is ADD.  The package's own BuiltinCode() returns the old one below 127: read both raw.
        number = max(_field(code, DEPRECATED_BUILTIN_CODE, "Int8"), _field(code, BUILTIN_CODE, "Int32"))
        name = enum_names("BuiltinOperator").get(number, f"BUILTIN_{number}")
        if name == "CUSTOM":
            return OperatorCode(self.text(code.CustomCode()) or "(unnamed)", code.Version(), custom=True)
        return OperatorCode(name, code.Version())

    def buffer(self, buffer: Any) -> memoryview | bytes:
        # Offsets 0 and 1 are the writer's placeholders for "inside".
        if buffer.Offset() > 1:
            return self.bytes_at(buffer.Offset(), buffer.Size(), "a buffer")
        length = buffer.DataLength()
        self.charge(length, 1)
        return memoryview(buffer.DataAsNumpy()) if length else b""

    def subgraph(self, graph: Any) -> SubgraphRecord:
        return SubgraphRecord(
            name=self.text(graph.Name()) or "",
            tensors=self.each(graph.TensorsLength(), graph.Tensors, self.tensor),
            inputs=self.numbers(graph, "Inputs"),
            outputs=self.numbers(graph, "Outputs"),
            operators=self.each(graph.OperatorsLength(), graph.Operators, self.operator),
        )

    def tensor(self, tensor: Any) -> TensorRecord:
        q, problem = tensor.Quantization(), None
        if tensor.Sparsity() is not None:
            problem = "is sparse"
        elif q is not None and q.DetailsType():
            problem = "has blockwise or custom quantization"
        elif tensor.VariantTensorsLength():
            problem = "is a variant"
        dtype = enum_names("TensorType").get(tensor.Type(), f"type {tensor.Type()}").lower()
        signature = self.numbers(tensor, "ShapeSignature")
        return TensorRecord(
            name=self.text(tensor.Name()) or None,
            shape=self.numbers(tensor, "Shape"),
            dtype=dtype,
            buffer=tensor.Buffer(),
            scale=() if q is None else self.numbers(q, "Scale"),
            zero_point=() if q is None else self.numbers(q, "ZeroPoint", 8),
            axis=0 if q is None else q.QuantizedDimension(),
            variable=tensor.IsVariable(),
            shape_signature=signature or None,
            problem=problem,
            beyond=self.beyond(tensor) if problem or dtype not in STORAGE else {},
        )

    def beyond(self, tensor: Any) -> Mapping[str, Any]:
        """The fields of a tensor of an unknown kind, apart from shape, type and data, to be written again."""
        found = {}
        for field, name in TENSOR_TABLES.items():
            table = getattr(tensor, field)()
            if table is not None:
                found[field] = tables.read(table._tab, name, self.charge)
        count = tensor.VariantTensorsLength()
        self.charge(count, TABLE_COST)
        variants = [tables.read(tensor.VariantTensors(i)._tab, "VariantSubType", self.charge) for i in range(count)]
        return {**found, "VariantTensors": variants} if variants else found

    def operator(self, op: Any) -> OperatorRecord:
        kind, options, problem = self.options(op)
        custom = b""
        if op.LargeCustomOptionsOffset() > 1:
            where = op.LargeCustomOptionsOffset(), op.LargeCustomOptionsSize()
            custom = bytes(self.bytes_at(*where, "an operator's custom options"))
        elif op.CustomOptionsLength():
            self.charge(op.CustomOptionsLength(), 1)
            custom = op.CustomOptionsAsNumpy().tobytes()
        return OperatorRecord(
            code=op.OpcodeIndex(),
            inputs=self.numbers(op, "Inputs"),
            outputs=self.numbers(op, "Outputs"),
            intermediates=self.numbers(op, "Intermediates"),
            options_type=kind,
            options=options,
            custom_options=custom,
            problem=problem,
        )

    def options(self, op: Any) -> tuple[str | None, dict[str, OptionValue], str | None]:
        """The name of the options table, its fields, and those that cannot be represented, if any."""
        for enum, number, table in (
            ("BuiltinOptions", op.BuiltinOptionsType(), op.BuiltinOptions()),
            ("BuiltinOptions2", op.BuiltinOptions2Type(), op.BuiltinOptions2()),
        ):
            if number and table is not None:
                kind = enum_names(enum).get(number)
                if kind is None:
                    return None, {}, f"has options of kind {number}, which are newer than the schema known here"
                reader = getattr(tflite, kind)()
                reader.Init(table.Bytes, table.Pos)
                newer = tables.newer_than(reader._tab, option_places(kind))
                problem = f"has {kind} newer than the schema known here" if newer else None
                return kind, {name: self.option(reader, kind, name) for name in option_fields(kind)}, problem
        return None, {}, None

    def option(self, reader: Any, table: str, name: str) -> OptionValue:
        dtype = option_vector(table, name)
        if dtype is not None:
            return self.numbers(reader, name, np.dtype(dtype).itemsize)
        value: OptionValue | None = getattr(reader, name)()
        return b"" if value is None else value

    def metadata(self, entry: Any) -> tuple[str, int]:
        return self.text(entry.Name()) or "", entry.Buffer()

    def signature(self, signature: Any) -> SignatureRecord:
        def one(item: Any) -> tuple[str, int]:
            return self.text(item.Name()) or "", item.TensorIndex()

        return SignatureRecord(
            key=self.text(signature.SignatureKey()) or "",
            inputs=self.each(signature.InputsLength(), signature.Inputs, one),
            outputs=self.each(signature.OutputsLength(), signature.Outputs, one),
            subgraph=signature.SubgraphIndex(),
        )


def _field(table: Any, slot: int, kind: str) -> int:
    """A scalar of a table by its place in the vtable; 0 where the file leaves it out."""
    offset = table._tab.Offset(slot)
    return int(table._tab.Get(getattr(number_types, f"{kind}Flags"), offset + table._tab.Pos)) if offset else 0


# ------------------------------------------------------------------------------------------------------------ encode


def encode(model: ModelRecord) -> bytes:
    """The bytes of a .tflite file; equal records give equal bytes."""
    return bytes(encoded(model))


def encoded(model: ModelRecord) -> memoryview:
    """As `encode`, in the memory in which they were made."""
    if sum(len(b) for b in model.buffers) > LARGEST:
        raise UnsupportedError("the constants are more than the 2 GB that one flatbuffer holds")
    size = sum(len(b) + ROOM for b in model.buffers) + ROOM * sum(len(g.tensors) for g in model.subgraphs) + 4096
    encoder = _Encoder(flatbuffers.Builder(size))
    builder = encoder.builder
    # What is written first lies last in the file: large data go to the end, behind the tables.
    buffers = encoder.offsets([encoder.buffer(data) for data in model.buffers])
    codes = encoder.offsets([encoder.code(code) for code in model.codes])
    subgraphs = encoder.offsets([encoder.subgraph(graph) for graph in model.subgraphs])
    metadata = encoder.offsets(
        [encoder.table("Metadata", Name=encoder.string(name), Buffer=buffer) for name, buffer in model.metadata]
    )
    signatures = encoder.offsets([encoder.signature(signature) for signature in model.signatures])
    root = encoder.table(
        "Model",
        Version=SCHEMA_VERSION,
        OperatorCodes=codes,
        Subgraphs=subgraphs,
        Description=encoder.string(model.description),
        Buffers=buffers,
        Metadata=metadata if model.metadata else None,
        SignatureDefs=signatures if model.signatures else None,
    )
    builder.Finish(root, IDENTIFIER)
    return memoryview(builder.Bytes)[builder.Head() :].toreadonly()


class _Encoder(tables.Output):
    def table(self, name: str, **fields: Any) -> int:
        """A table of the schema; fields that are None are left out."""
        getattr(tflite, f"{name}Start")(self.builder)
        for field, value in fields.items():
            if value is not None:
                getattr(tflite, f"{name}Add{field}")(self.builder, value)
        return int(getattr(tflite, f"{name}End")(self.builder))

    def buffer(self, data: bytes | memoryview) -> int:
        return self.table("Buffer", Data=self.data(data, ALIGNMENT) if len(data) else None)

    def code(self, code: OperatorCode) -> int:
        number = enum_number("BuiltinOperator", "CUSTOM" if code.custom else code.name)
        return self.table(
            "OperatorCode",
            CustomCode=self.string(code.name) if code.custom else None,
            DeprecatedBuiltinCode=min(number, PLACEHOLDER),
            BuiltinCode=number,
            Version=code.version,
        )

    def subgraph(self, graph: SubgraphRecord) -> int:
        name = self.string(graph.name) if graph.name else None
        tensors = self.offsets([self.tensor(tensor) for tensor in graph.tensors])
        operators = self.offsets([self.operator(op) for op in graph.operators])
        return self.table(
            "SubGraph",
            Tensors=tensors,
            Inputs=self.vector(graph.inputs, "int32"),
            Outputs=self.vector(graph.outputs, "int32"),
            Operators=operators,
            Name=name,
        )

    def tensor(self, tensor: TensorRecord) -> int:
        quantization, sparsity, variants = self.beyond(tensor.beyond)
        if tensor.scale and not tensor.beyond:
            scale = self.vector(tensor.scale, "float32")
            zero_point = self.vector(tensor.zero_point, "int64")
            quantization = self.table(
                "QuantizationParameters", Scale=scale, ZeroPoint=zero_point, QuantizedDimension=tensor.axis
            )
        return self.table(
            "Tensor",
            Shape=self.vector(tensor.shape, "int32"),
            Type=enum_number("TensorType", tensor.dtype.upper()),
            Buffer=tensor.buffer,
            Name=None if tensor.name is None else self.string(tensor.name),
            Quantization=quantization,
            Sparsity=sparsity,
            VariantTensors=variants,
            IsVariable=tensor.variable,
            ShapeSignature=self.vector(tensor.shape_signature, "int32"),
            HasRank=True,
        )

    def beyond(self, fields: Mapping[str, Any]) -> tuple[int | None, int | None, int | None]:
        """The quantization, sparsity and variants of a tensor of an unknown kind."""
        quantization, sparsity = (
            self.described(name, fields[field]) if field in fields else None for field, name in TENSOR_TABLES.items()
        )
        variants = [self.described("VariantSubType", each) for each in fields.get("VariantTensors", ())]
        return quantization, sparsity, self.offsets(variants) if variants else None

    def operator(self, op: OperatorRecord) -> int:
        custom = self.data(op.custom_options, ALIGNMENT) if op.custom_options else None
        where, options = self.options(op)
        return self.table(
            "Operator",
            OpcodeIndex=op.code,
            Inputs=self.vector(op.inputs, "int32"),
            Outputs=self.vector(op.outputs, "int32"),
            CustomOptions=custom,
            Intermediates=self.vector(op.intermediates or None, "int32"),
            **where,
            **options,
        )

    def options(self, op: OperatorRecord) -> tuple[dict[str, int], dict[str, int]]:
        """The operator's options table and the field that says which table it is."""
        if op.options_type is None:
            return {}, {}
        fields: dict[str, Any] = {}
        for name, value in op.options.items():
            if isinstance(value, tuple):
                fields[name] = self.vector(value, option_vector(op.options_type, name) or "int32") if value else None
            elif isinstance(value, bytes):
                fields[name] = int(self.builder.CreateString(value)) if value else None
            else:
                fields[name] = value
        offset = self.table(op.options_type, **fields)
        union = "BuiltinOptions" if op.options_type in enum_values("BuiltinOptions") else "BuiltinOptions2"
        return {f"{union}Type": enum_values(union)[op.options_type]}, {union: offset}

    def signature(self, signature: SignatureRecord) -> int:
        def maps(items: tuple[tuple[str, int], ...]) -> int:
            tables = [self.table("TensorMap", Name=self.string(n), TensorIndex=i) for n, i in items]
            return self.offsets(tables)

        inputs, outputs = maps(signature.inputs), maps(signature.outputs)
        key = self.string(signature.key)
        return self.table(
            "SignatureDef", Inputs=inputs, Outputs=outputs, SignatureKey=key, SubgraphIndex=signature.subgraph
        )
