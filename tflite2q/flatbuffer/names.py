"""Names of the format: members of enumerations, and fields of the operators' options with their defaults.

Source: TFLite's schema.fbs, as the `tflite` package has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import flatbuffers
import numpy as np
import tflite

from tflite2q.flatbuffer.records import OptionValue

# Members that the package lacks; what they stand for is carried, not understood.
NEWER_NAMES: Mapping[str, Mapping[int, str]] = {
    "BuiltinOperator": {209: "STABLEHLO_CASE"},
    "TensorType": {19: "INT2", 20: "UINT4", 21: "FLOAT8_E4M3FN", 22: "FLOAT8_E5M2"},
}


@cache
def enum_names(enum: str) -> Mapping[int, str]:
    """Value -> member name of a TFLite enumeration."""
    members = vars(getattr(tflite, enum)).items()
    known = {value: name for name, value in members if isinstance(value, int) and not name.startswith("_")}
    return {**NEWER_NAMES.get(enum, {}), **known}


@cache
def enum_values(enum: str) -> Mapping[str, int]:
    """Member name -> value of a TFLite enumeration."""
    return {name: value for value, name in enum_names(enum).items()}


@cache
def option_fields(table: str) -> tuple[str, ...]:
    """Fields of an options table, in the order of the schema."""
    prefix = f"{table}Add"
    return tuple(name[len(prefix) :] for name in vars(tflite) if name.startswith(prefix))


@cache
def option_places(table: str) -> int:
    """The number of fields of an options table in the schema known here."""
    builder = flatbuffers.Builder(64)
    getattr(tflite, f"{table}Start")(builder)
    return len(builder.current_vtable)


@cache
def option_vector(table: str, field: str) -> str | None:
    """The dtype of the numbers in a field of an options table that holds many; None for other fields."""
    if not hasattr(getattr(tflite, table), f"{field}AsNumpy"):
        return None
    builder = flatbuffers.Builder(64)
    numbers = builder.CreateNumpyVector(np.zeros(0, np.int8))
    getattr(tflite, f"{table}Start")(builder)
    getattr(tflite, f"{table}Add{field}")(builder, numbers)
    return str(getattr(_reader(table, builder), f"{field}AsNumpy")().dtype.name)


@cache
def option_defaults(table: str) -> Mapping[str, OptionValue]:
    """The default of each field of an options table, used where a file leaves it out."""
    builder = flatbuffers.Builder(64)
    getattr(tflite, f"{table}Start")(builder)
    reader = _reader(table, builder)
    found: dict[str, OptionValue] = {}
    for name in option_fields(table):
        plain = () if option_vector(table, name) else getattr(reader, name)()
        found[name] = b"" if plain is None else plain
    return found


@cache
def option_zeros(table: str) -> Mapping[str, OptionValue]:
    """The options of an operator without its options table: TFLite's kernels then find all of them 0."""
    return {name: type(default)() for name, default in option_defaults(table).items()}


def _reader(table: str, builder: flatbuffers.Builder) -> Any:
    """A reader of the options table that `builder` has begun."""
    builder.Finish(getattr(tflite, f"{table}End")(builder))
    return getattr(tflite, table).GetRootAs(bytes(builder.Output()), 0)


def enum_number(enum: str, name: str) -> int:
    """The number of a member, also of one without a known name ("type 30", "BUILTIN_300")."""
    known = enum_values(enum).get(name)
    return int(re.split("[ _]", name)[-1]) if known is None else known
