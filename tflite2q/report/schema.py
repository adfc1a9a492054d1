"""The JSON Schema of a comparison's JSON, made from the records that the document is made from."""

from __future__ import annotations

import types
import typing
from dataclasses import fields, is_dataclass
from typing import Any

from tflite2q.evaluation.figures import Figure
from tflite2q.evaluation.results import Comparison, Environment, Gate
from tflite2q.report.json import SCHEMA_VERSION

Schema = dict[str, Any]

PLAIN: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def comparison() -> Schema:
    """The schema of `compare --json`: one comparison, or several under `comparisons`.

    Every key is always there.  Later versions of tflite2q may add keys, so that others are allowed.
    """
    one = _of(Comparison)
    version = {"const": SCHEMA_VERSION}
    single = {**one, "properties": {"schema_version": version, **one["properties"]}}
    single["required"] = ["schema_version", *one["required"]]
    several = {
        "type": "object",
        "properties": {"schema_version": version, "comparisons": {"type": "array", "items": single}},
        "required": ["schema_version", "comparisons"],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tflite2q compare --json",
        "anyOf": [single, several],
    }


def _of(kind: Any) -> Schema:
    """The schema of a record."""
    hints = typing.get_type_hints(kind)
    found = {field.name: _type(hints[field.name]) for field in fields(kind) if field.metadata.get("json", True)}
    if kind is Figure:
        found["value"] = {"type": ["number", "null"]}  # null: infinite, as of outputs without noise
    if kind is Gate:
        found["figure"] = {"type": ["number", "null"]}
        found["passed"] = {"type": "boolean"}
    if kind is Environment:
        found["versions"] = {"type": "object", "additionalProperties": {"type": "string"}}
    text = " ".join((kind.__doc__ or "").split())
    return {"type": "object", "description": text, "properties": found, "required": list(found)}


def _type(hint: Any) -> Schema:
    """The schema of a field's type."""
    if hint in PLAIN:
        return {"type": PLAIN[hint]}
    if is_dataclass(hint):
        return _of(hint)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return {"type": "array", "items": _type(inner[0])}
    if origin in (typing.Union, types.UnionType):
        parts = [_type(part) for part in inner]
        if all(set(part) == {"type"} for part in parts):
            return {"type": [part["type"] for part in parts]}
        return {"anyOf": parts}
    raise TypeError(f"no schema for {hint}")
