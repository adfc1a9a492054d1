"""The JSON Schema in docs describes what `compare --json` writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report.test_reports import COMPARISON

from tflite2q.report import json as report
from tflite2q.report import schema

KINDS = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None), "object": dict,
         "array": list}  # fmt: skip


def faults(value: Any, rule: Any, place: str = "$") -> list[str]:
    """What is wrong with a value: the part of JSON Schema that our schema uses, and no key that it does not name."""
    if "const" in rule:
        return [] if value == rule["const"] else [f"{place}: {value!r} is not {rule['const']!r}"]
    if "anyOf" in rule:
        tried = [faults(value, part, place) for part in rule["anyOf"]]
        return [] if any(not found for found in tried) else min(tried, key=len)
    kinds = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    if not any(
        isinstance(value, KINDS[kind]) and not (isinstance(value, bool) and kind != "boolean") for kind in kinds
    ):
        return [f"{place}: {value!r} is not {kinds}"]
    if isinstance(value, list):
        return [fault for k, held in enumerate(value) for fault in faults(held, rule["items"], f"{place}[{k}]")]
    if not isinstance(value, dict):
        return []
    known = rule.get("properties", {})
    found = [f"{place}: lacks {key}" for key in rule.get("required", []) if key not in value]
    for key, held in value.items():
        inner = known.get(key, rule.get("additionalProperties"))
        found += [f"{place}: {key} is not described"] if inner is None else faults(held, inner, f"{place}.{key}")
    return found


def test_the_schema_in_docs_is_that_of_the_records(root: Path) -> None:
    written = json.loads((root / "docs" / "compare.schema.json").read_text(encoding="utf-8"))
    assert written == schema.comparison()


def test_a_full_report_and_several_follow_it() -> None:
    for document in (report.comparison(COMPARISON), report.comparisons([COMPARISON, COMPARISON])):
        assert faults(json.loads(json.dumps(document)), schema.comparison()) == []


def test_a_document_with_a_fault_does_not() -> None:
    document = report.comparison(COMPARISON)
    assert faults({**document, "model": 3}, schema.comparison())
    assert faults({key: held for key, held in document.items() if key != "gates"}, schema.comparison())
    assert faults({**document, "schema_version": 0}, schema.comparison())


def test_what_the_command_writes_follows_it(cli: Callable[..., Any], digits: Path) -> None:
    outcome = cli("compare", digits, "--scheme", "int8", "--limit", 2, "--no-speed", "--json", "-")
    document = json.loads(outcome.out)
    assert faults(document, schema.comparison()) == []
    validator = pytest.importorskip("jsonschema")
    validator.validate(document, schema.comparison())
