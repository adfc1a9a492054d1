"""Tables of the format that the dialect cannot represent, to plain Python values and back, by a description of them.

They are carried from file to file: sparsity, blockwise quantization, and the fields beside them.  The fields of a
table are listed in the order of the schema, under TFLite's names.  Source: TFLite's schema.fbs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from flatbuffers import number_types
from flatbuffers.table import Table

Fields = dict[str, Any]
Charge = Callable[[int, int], None]  # takes a vector's length and the bytes of an element from a budget

NUMBERS = ("bool", "int8", "uint8", "uint16", "int32", "uint32", "int64", "float32")

# A field is a number, [number], a table, [table] or a union, which takes two places: its kind and its table.
TABLES: Mapping[str, Mapping[str, str]] = {
    "QuantizationParameters": {
        "min": "[float32]",
        "max": "[float32]",
        "scale": "[float32]",
        "zero_point": "[int64]",
        "details": "QuantizationDetails",
        "quantized_dimension": "int32",
    },
    "CustomQuantization": {"custom": "[uint8]"},
    "BlockwiseQuantization": {
        "scales": "int32",
        "zero_points": "int32",
        "block_size": "int32",
        "block_shape": "[int32]",
    },
    "MultiAxisQuantization": {
        "scales": "int32",
        "zero_points": "int32",
        "block_size": "int32",
        "quantized_dimensions": "[int32]",
    },
    "SparsityParameters": {
        "traversal_order": "[int32]",
        "block_map": "[int32]",
        "dim_metadata": "[DimensionMetadata]",
    },
    "DimensionMetadata": {
        "format": "int8",
        "dense_size": "int32",
        "array_segments": "SparseIndexVector",
        "array_indices": "SparseIndexVector",
    },
    "Int32Vector": {"values": "[int32]"},
    "Uint16Vector": {"values": "[uint16]"},
    "Uint8Vector": {"values": "[uint8]"},
    "VariantSubType": {"shape": "[int32]", "type": "int8", "has_rank": "bool"},
}
UNIONS: Mapping[str, tuple[str, ...]] = {
    "QuantizationDetails": ("CustomQuantization", "BlockwiseQuantization", "MultiAxisQuantization"),
    "SparseIndexVector": ("Int32Vector", "Uint16Vector", "Uint8Vector"),
}
REFERENCES = ("scales", "zero_points")  # fields that are the index of another tensor


def newer_than(table: Table, fields: int) -> bool:
    """Whether a table of the file has a value in a field after the first `fields`."""
    vtable = table.Pos - table.Get(number_types.SOffsetTFlags, table.Pos)
    size = table.Get(number_types.VOffsetTFlags, vtable)
    return any(table.Offset(slot) for slot in range(4 + 2 * fields, size, 2))


def read(table: Table, name: str, charge: Charge) -> Fields:
    """The fields that table `table` of kind `name` has.  Raises ValueError for one that is not known."""
    found: Fields = {}
    slot = 4
    for field, kind in TABLES[name].items():
        value = _read_union(table, slot, kind, charge) if kind in UNIONS else _read_field(table, slot, kind, charge)
        slot += 4 if kind in UNIONS else 2
        if value is not None:
            found[field] = value
    if newer_than(table, (slot - 4) // 2):
        raise ValueError(f"{name} has fields newer than the schema known here")
    return found


def _read_field(table: Table, slot: int, kind: str, charge: Charge) -> Any:
    """A field by its place in the vtable; None where the file leaves it out."""
    offset = table.Offset(slot)
    if not offset:
        return None
    if kind in NUMBERS:
        return table.Get(_flags(kind), table.Pos + offset)
    item = kind.strip("[]")
    if item == kind:
        return read(Table(table.Bytes, table.Indirect(table.Pos + offset)), kind, charge)
    length, start = table.VectorLen(offset), table.Vector(offset)
    charge(length, 4 if item in TABLES else np.dtype(item).itemsize)
    if item in TABLES:
        places = range(start, start + 4 * length, 4)
        return [read(Table(table.Bytes, table.Indirect(place)), item, charge) for place in places]
    return np.frombuffer(table.Bytes, np.dtype(item).newbyteorder("<"), length, start).tolist()


def _read_union(table: Table, slot: int, union: str, charge: Charge) -> list[Any] | None:
    """[kind, fields] of the table in a union."""
    kind = _read_field(table, slot, "uint8", charge)
    if not kind:
        return None
    if kind > len(UNIONS[union]):
        raise ValueError(f"{union} of kind {kind} is newer than the schema known here")
    name = UNIONS[union][kind - 1]
    return [name, _read_field(table, slot + 2, name, charge) or {}]


def _flags(kind: str) -> Any:
    return getattr(number_types, f"{kind.capitalize()}Flags")


class Output:
    """Writes a flatbuffer from its end to its start; each method returns the offset of what it wrote.

    Equal vectors of numbers are written once, which the format allows: tensors have many equal shapes and zero points.
    """

    def __init__(self, builder: flatbuffers.Builder) -> None:
        self.builder = builder
        self.written: dict[tuple[str, bytes], int] = {}  # vectors of numbers

    def string(self, text: str) -> int:
        return int(self.builder.CreateString(text.encode("utf-8", "surrogateescape")))

    def offsets(self, items: Sequence[int]) -> int:
        self.builder.StartVector(4, len(items), 4)
        for item in reversed(items):
            self.builder.PrependUOffsetTRelative(item)
        return int(self.builder.EndVector())

    def vector(self, values: Iterable[int | float] | None, dtype: str) -> int | None:
        if values is None:
            return None
        array = np.array(list(values), dtype)
        key = array.dtype.str, array.tobytes()
        if key not in self.written:
            self.written[key] = int(self.builder.CreateNumpyVector(array))
        return self.written[key]

    def data(self, data: bytes | memoryview, alignment: int) -> int:
        """A byte vector whose first byte is aligned."""
        self.builder.StartVector(1, len(data), alignment)
        self.builder.head -= len(data)
        head = self.builder.head
        self.builder.Bytes[head : head + len(data)] = data
        self.builder.vectorNumElems = len(data)
        return int(self.builder.EndVector())

    def described(self, name: str, fields: Fields) -> int:
        """A table of kind `name` of TABLES."""
        made = {field: self._made(kind, fields[field]) for field, kind in TABLES[name].items() if field in fields}
        self.builder.StartObject(sum(2 if kind in UNIONS else 1 for kind in TABLES[name].values()))
        place = 0
        for field, kind in TABLES[name].items():
            if field in made and kind in NUMBERS:
                getattr(self.builder, f"Prepend{kind.capitalize()}Slot")(place, made[field], None)
            elif field in made:
                if kind in UNIONS:
                    self.builder.PrependUint8Slot(place, UNIONS[kind].index(fields[field][0]) + 1, 0)
                self.builder.PrependUOffsetTRelativeSlot(place + (kind in UNIONS), made[field], 0)
            place += 2 if kind in UNIONS else 1
        return int(self.builder.EndObject())

    def _made(self, kind: str, value: Any) -> Any:
        """A number itself; for anything else the offset at which it was written."""
        if kind in NUMBERS:
            return value
        if kind in UNIONS:
            return self.described(value[0], value[1])
        item = kind.strip("[]")
        if item == kind:
            return self.described(kind, value)
        if item in NUMBERS:
            return self.vector(value, item)
        return self.offsets([self.described(item, each) for each in value])
