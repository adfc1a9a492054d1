"""Ways to damage a model: bytes, the tables of the flatbuffer, and the fields of well-formed records.

Each takes random numbers, so that a seed gives the same file again.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

import flatbuffers.table
import pytest
from flatbuffers.builder import OffsetArithmeticError

from tflite2q.errors import Tflite2qError
from tflite2q.flatbuffer import schema
from tflite2q.flatbuffer.names import enum_values, option_fields
from tflite2q.flatbuffer.records import ModelRecord, OperatorRecord, SubgraphRecord, TensorRecord

T = TypeVar("T")

NUMBERS = (0, 1, -1, 2, 3, 5, 16, 127, 255, 4096, 2**15, 2**16, 2**24, 2**31 - 1, -(2**31))
# Numbers at which offsets, lengths, indices and dimensions go wrong.
WORDS = [struct.pack("<i", n) for n in (0, 1, -1, 4, 127, 255, 2**16, 2**24, 2**31 - 1, -(2**31), 2**30)]
SMALL = [struct.pack("<i", n) for n in (2, 3, 5, 6, 7, 8)]  # that may well be right
ELEMENTS = (5, 6, 7, 8)  # of the kinds of damage to tables
REALS = (0.0, -1.0, 1e-45, 1e-30, 0.5, 1.0, 1e30, 3e38, float("inf"), float("nan"))
DTYPES = ("int8", "uint8", "int16", "int32", "int64", "float32", "float16", "bool", "string", "int4", "resource")
# What the writer raises for records that no file can hold.
UNWRITABLE = (TypeError, OverflowError, ValueError, KeyError, struct.error, OffsetArithmeticError)
NAMES = ("", "a", "\udcff\udcfe", "\0", "a\nb", "x" * 300, "\u202e")


# ------------------------------------------------------------------------------------------------------------- bytes


def damaged(data: bytes, numbers: random.Random) -> bytes:
    """The file cut short, or with a few bits, bytes or numbers changed, taken out or copied elsewhere.

    Tables lie at the ends of a file and constants between them, so most damage is done near the ends.
    """
    size = len(data)
    if numbers.random() < 0.1:
        return data[: numbers.randrange(size)]
    found = bytearray(data)
    kind = numbers.randrange(5)
    for _ in range(numbers.choice([1, 1, 1, 2, 4, 16])):
        place = numbers.choice(
            [numbers.randrange(size), numbers.randrange(min(size, 4096)), -numbers.randrange(1, 20_000)]
        )
        place = max(place % size, 8) if place >= 0 else max(size + place, 8)
        if kind == 0:
            found[place % len(found)] ^= 1 << numbers.randrange(8)
        elif kind == 1:
            found[place % len(found)] = numbers.choice([0, 1, 127, 128, 255])
        elif kind == 2:
            found[place // 4 * 4 : place // 4 * 4 + 4] = numbers.choice([*WORDS, struct.pack("<i", size - place)])
        elif kind == 3:
            del found[place : place + numbers.randrange(1, 9)]
        else:
            source = numbers.randrange(size)
            found[place : place + 8] = data[source : source + 8]
    return bytes(found)


# ------------------------------------------------------------------------------------------------------------ tables


@contextmanager
def _noted(found: set[int]) -> Any:
    """Notes where the tables lie that are read in the block."""
    before = flatbuffers.table.Table.__init__

    def noting(self: Any, data: Any, place: int) -> None:
        found.add(place)
        before(self, data, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flatbuffers.table.Table, "__init__", noting)
        yield


@lru_cache(maxsize=8192)
def tables(data: bytes) -> tuple[int, ...]:
    """Where the tables of a good file lie."""
    found: set[int] = set()
    with _noted(found):
        schema.decode(data)
    return tuple(sorted(place for place in found if 4 <= place <= len(data) - 4))


def _fields(data: bytes, table: int) -> list[int]:
    """Where the fields of a table lie, and the entries of its vtable."""
    (back,) = struct.unpack_from("<i", data, table)
    vtable = table - back
    if not 0 <= vtable <= len(data) - 4:
        return [table]
    (size,) = struct.unpack_from("<H", data, vtable)
    entries = [place for place in range(vtable + 4, vtable + size, 2) if place + 2 <= len(data)]
    offsets = [struct.unpack_from("<H", data, place)[0] for place in entries]
    fields = [table + offset for offset in offsets if offset and table + offset + 4 <= len(data)]
    return [*fields, *fields, *entries, table]


def table_damaged(data: bytes, numbers: random.Random) -> bytes:
    """The file with one to three fields, offsets, lengths or vtable entries of its tables changed.

    An offset may come to lead to a table of another type, or to a vector that it shares.
    """
    places = tables(data)
    if not places:
        return damaged(data, numbers)
    found = bytearray(data)
    for _ in range(numbers.choice([1, 1, 2, 3])):
        place = numbers.choice(_fields(data, numbers.choice(places)))
        if place + 4 > len(found):
            continue
        (value,) = struct.unpack_from("<i", data, place)
        kind = numbers.randrange(10)
        if kind == 0:  # to another table
            new = struct.pack("<i", numbers.choice(places) - place)
        elif kind == 1 and 0 < value < len(data) - place - 8:  # what the field leads to: a length, a vtable
            place += value
            new = numbers.choice([*WORDS, struct.pack("<i", len(data) - place), struct.pack("<I", 2**32 - 1)])
        elif kind in ELEMENTS and 0 < value < len(data) - place - 8:  # an element of the vector that it leads to
            place += value + 4 * numbers.randrange(1, 6)
            new = numbers.choice([*WORDS, *SMALL, struct.pack("<f", numbers.choice(REALS))])
        elif kind == 2:
            new = numbers.choice([*WORDS, *SMALL])
        elif kind == 3:
            new = struct.pack("<f", numbers.choice(REALS))
        elif kind == 4:
            new = struct.pack("<H", numbers.choice([0, 4, 6, 8, 12, 40, 65535]))
        else:
            new = bytes([numbers.choice([0, 1, 2, 3, 5, 9, 17, 100, 127, 128, 255])])
        found[place : place + len(new)] = new
    return bytes(found[: len(data)])


# ------------------------------------------------------------------------------------------------------------ fields

Change = Callable[[ModelRecord, SubgraphRecord, random.Random], tuple[ModelRecord, SubgraphRecord]]


def mutated(model: ModelRecord, numbers: random.Random) -> ModelRecord:
    """The model with one to three things changed; `schema.encode` may find that a field cannot hold its number."""
    for _ in range(numbers.choice([1, 1, 2, 3])):
        place = numbers.randrange(len(model.subgraphs))
        changed, graph = numbers.choice(CHANGES)(model, model.subgraphs[place], numbers)
        graphs = (*changed.subgraphs[:place], graph, *changed.subgraphs[place + 1 :])
        model = replace(changed, subgraphs=graphs)
    return model


def written(model: ModelRecord, numbers: random.Random) -> bytes:
    """The bytes of a model with one to three things changed that a file can hold."""
    while True:
        try:
            return schema.encode(mutated(model, numbers))
        except UNWRITABLE:
            continue


@lru_cache(maxsize=8192)
def records(data: bytes) -> ModelRecord | None:
    """The records of a file, None of one that is no model."""
    try:
        return schema.decode(data)
    except Tflite2qError:
        return None


def _put(items: Sequence[T], index: int, item: T) -> tuple[T, ...]:
    return (*items[:index], item, *items[index + 1 :])


def _operator(graph: SubgraphRecord, numbers: random.Random) -> tuple[int, OperatorRecord] | None:
    if not graph.operators:
        return None
    index = numbers.randrange(len(graph.operators))
    return index, graph.operators[index]


def _with_operator(graph: SubgraphRecord, index: int, **changes: Any) -> SubgraphRecord:
    return replace(graph, operators=_put(graph.operators, index, replace(graph.operators[index], **changes)))


def _option(model: ModelRecord, graph: SubgraphRecord, numbers: random.Random) -> tuple[ModelRecord, SubgraphRecord]:
    chosen = _operator(graph, numbers)
    if chosen is None or not chosen[1].options:
        return _shape(model, graph, numbers)
    index, op = chosen
    name = numbers.choice(sorted(op.options))
    value: Any = op.options[name]
    if isinstance(value, bool):
        value = not value
    elif isinstance(value, float):
        value = numbers.choice(REALS)
    elif isinstance(value, int):
        value = numbers.choice(NUMBERS)
    elif isinstance(value, tuple):
        value = tuple(numbers.choice(NUMBERS) for _ in range(numbers.randrange(5)))
    return model, _with_operator(graph, index, options={**op.options, name: value})


def _options_of_another(
    model: ModelRecord, graph: SubgraphRecord, numbers: random.Random
) -> tuple[ModelRecord, SubgraphRecord]:
    """A table of options of another operator, or none."""
    chosen = _operator(graph, numbers)
    if chosen is None:
        return model, graph
    if numbers.random() < 0.2:
        return model, _with_operator(graph, chosen[0], options={}, options_type=None)
    kind = numbers.choice([name for name in enum_values("BuiltinOptions") if name != "NONE"])
    numbers_of = {name: numbers.choice(NUMBERS) for name in option_fields(kind) if numbers.random() < 0.5}
    return model, _with_operator(graph, chosen[0], options=numbers_of, options_type=kind)


def _code(model: ModelRecord, graph: SubgraphRecord, numbers: random.Random) -> tuple[ModelRecord, SubgraphRecord]:
    """Another operator for the same operands, or another version."""
    if not model.codes:
        return model, graph
    index = numbers.randrange(len(model.codes))
    if numbers.random() < 0.3:
        code = replace(model.codes[index], version=numbers.choice(NUMBERS))
    else:
        code = replace(model.codes[index], name=numbers.choice(sorted(enum_values("BuiltinOperator"))), custom=False)
    return replace(model, codes=_put(model.codes, index, code)), graph


def _shape(model: ModelRecord, graph: SubgraphRecord, numbers: random.Random) -> tuple[ModelRecord, SubgraphRecord]:
    if not graph.tensors:
        return model, graph
    index = numbers.randrange(len(graph.tensors))
    shape = list(graph.tensors[index].shape)
    kind = numbers.randrange(4)
    if kind == 0 or not shape:
        shape.insert(numbers.randrange(len(shape) + 1), numbers.choice([1, 1, 2, 0]))
    elif kind == 1:
        del shape[numbers.randrange(len(shape))]
    else:
        shape[numbers.randrange(len(shape))] = numbers.choice(NUMBERS)
    return model, _with_tensor(graph, index, shape=tuple(shape))


def _operand(model: ModelRecord, graph: SubgraphRecord, numbers: random.Random) -> tuple[ModelRecord, SubgraphRecord]:
    chosen = _operator(graph, numbers)
    field = numbers.choice(["inputs", "inputs", "inputs", "outputs", "outputs", "intermediates"])
    names = list(getattr(chosen[1], field)) if chosen else []
    kind = numbers.randrange(4)
    if kind == 0 and names:
        del names[numbers.randrange(len(names))]
    elif kind == 1 and names:
        names[numbers.randrange(len(names))] = numbers.randrange(-1, len(graph.tensors))
    elif kind == 2 and len(names) > 1:
        numbers.shuffle(names)
    else:
        names.insert(numbers.randrange(len(names) + 1), numbers.randrange(-1, len(graph.tensors)))
    return model, _with_operator(graph, chosen[0], **{field: tuple(names)}) if chosen else graph


def _border(model: ModelRecord, graph: SubgraphRecord, numbers: random.Random) -> tuple[ModelRecord, SubgraphRecord]:
    """Another tensor among the inputs or outputs of the subgraph, or one less."""
    field = numbers.choice(["inputs", "outputs"])
    places = list(getattr(graph, field))
    if places and numbers.random() < 0.3:
        del places[numbers.randrange(len(places))]
    elif graph.tensors:
        places.insert(numbers.randrange(len(places) + 1), numbers.randrange(len(graph.tensors)))
    return model, replace(graph, **{field: tuple(places)})


def _tensor(model: ModelRecord, graph: SubgraphRecord, numbers: random.Random) -> tuple[ModelRecord, SubgraphRecord]:
    if not graph.tensors:
        return model, graph
    index = numbers.randrange(len(graph.tensors))
    tensor = graph.tensors[index]
    many = numbers.choice([1, 2, 3, len(tensor.scale) or 1])
    change: dict[str, Any] = numbers.choice(
        [
            {"dtype": numbers.choice(DTYPES)},
            {"dtype": numbers.choice(DTYPES)},
            {"scale": (numbers.choice(REALS),), "zero_point": (0,)},
            {"scale": tuple(numbers.choice(REALS) for _ in range(many)), "zero_point": (0,) * many},
            {"zero_point": (numbers.choice(NUMBERS),)},
            {"scale": (), "zero_point": ()},
            {"scale": (0.5, 0.25), "zero_point": (0, 0), "axis": numbers.randrange(4)},
            {"axis": numbers.choice(NUMBERS)},
            {"variable": not tensor.variable},
            {"buffer": 0},
            {"buffer": numbers.randrange(len(model.buffers) + 1)},
            {"name": numbers.choice([*NAMES, *(other.name for other in graph.tensors)])},
            {"shape_signature": tuple(numbers.choice([-1, 1, 4]) for _ in tensor.shape)},
        ]
    )
    return model, _with_tensor(graph, index, **change)


def _data(model: ModelRecord, graph: SubgraphRecord, numbers: random.Random) -> tuple[ModelRecord, SubgraphRecord]:
    """Another number in a constant of 32 bits (a shape or an axis for example), or a constant that is cut."""
    places = [t.buffer for t in graph.tensors if 0 <= t.buffer < len(model.buffers)]
    places = [place for place in places if len(model.buffers[place]) >= 4]
    if not places:
        return _option(model, graph, numbers)
    narrow = {t.buffer for t in graph.tensors if t.dtype == "int32"}
    place = numbers.choice([*places, *(p for p in places if p in narrow)])
    content = bytearray(model.buffers[place])
    if numbers.random() < 0.2:
        content = content[: numbers.randrange(len(content))]
    else:
        at = numbers.randrange(len(content) // 4) * 4
        word = struct.pack("<f", numbers.choice(REALS)) if numbers.random() < 0.3 else numbers.choice(WORDS)
        content[at : at + 4] = word
    return replace(model, buffers=_put(model.buffers, place, bytes(content))), graph


def _extra(model: ModelRecord, graph: SubgraphRecord, numbers: random.Random) -> tuple[ModelRecord, SubgraphRecord]:
    """An operator twice, or none; signatures and metadata that lead nowhere."""
    kind = numbers.randrange(4)
    if kind == 0 and graph.operators:
        return model, replace(graph, operators=(*graph.operators, numbers.choice(graph.operators)))
    if kind == 1 and graph.operators:
        operators = list(graph.operators)
        del operators[numbers.randrange(len(operators))]
        return model, replace(graph, operators=tuple(operators))
    if kind == 2:
        return replace(model, metadata=(*model.metadata, (numbers.choice(NAMES), numbers.choice(NUMBERS[:6])))), graph
    places = tuple((numbers.choice(NAMES), numbers.choice([0, 1, 2, 9])) for _ in range(numbers.randrange(3)))
    signature = replace(model.signatures[0], inputs=places) if model.signatures else None
    return replace(model, signatures=(signature,)) if signature else model, graph


TABLES = 0.65  # share of damage to bytes and tables, which takes a tenth of the time that writing records does

CHANGES: tuple[Change, ...] = (
    _option, _option, _option, _shape, _shape, _shape, _operand, _operand, _tensor, _tensor, _tensor, _data, _data,
    _options_of_another, _code, _border, _extra,
)  # fmt: skip


def _with_tensor(graph: SubgraphRecord, index: int, **changes: Any) -> SubgraphRecord:
    tensor: TensorRecord = replace(graph.tensors[index], **changes)
    return replace(graph, tensors=_put(graph.tensors, index, tensor))


def any_damage(data: bytes, numbers: random.Random) -> bytes:
    """Bytes, tables or fields of a file changed; of one that is no model its bytes."""
    kind = numbers.random()
    if kind < 0.1:
        return damaged(data, numbers)
    if kind < TABLES:
        return table_damaged(data, numbers)
    model = records(data)
    return damaged(data, numbers) if model is None or not model.subgraphs else written(model, numbers)
