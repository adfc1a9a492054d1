"""Results in benchmarks/results: a JSON file each, with where it was measured and a row for each thing measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.environment import Environment
from benchmarks.models import RESULTS

Result = Mapping[str, Any]
Row = Mapping[str, Any]


def read(name: str) -> Result:
    """The kept result of that name, such as "speed".  Raises FileNotFoundError if there is none."""
    found: Result = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    return found


def write(name: str, result: Result, folder: Path = RESULTS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return path


def joined(name: str, new: Result, folder: Path = RESULTS, anywhere: bool = False) -> dict[str, Any]:
    """`new` rows in place of all kept ones of the same model, scheme and option, the other kept ones as they are;
    those measured on another processor or with other packages are dropped, for they do not compare.

    With `anywhere` they compare, as accuracy does: they stay, and `measured` says of each row where that was.
    """
    path = folder / f"{name}.json"
    old: Result = json.loads(path.read_text("utf-8")) if path.exists() else {"environment": {}, "rows": []}
    same = all(old["environment"].get(key) == new["environment"][key] for key in ("processor", "versions"))

    def by_key(rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
        found: dict[tuple[Any, ...], list[Row]] = {}
        for row in rows:
            key = tuple(row.get(field) for field in ("model", "scheme", "option", "threads", "processor"))
            found.setdefault(key, []).append(row)
        return found

    if anywhere:
        groups = by_key(_placed(old)) | by_key(_placed(new))
    else:
        groups = by_key(old["rows"] if same else []) | by_key(new["rows"])
    return {**new, "rows": [row for group in groups.values() for row in group]}


def _placed(result: Result) -> list[Row]:
    """Rows that say where they were measured."""
    if not result["rows"]:
        return []
    here = Environment(**result["environment"]).sentence()
    return [{**row, "measured": row.get("measured") or here} for row in result["rows"]]


def rows(name: str) -> Sequence[Row]:
    """Those of the kept result; none if there is no such result."""
    try:
        found: Sequence[Row] = read(name)["rows"]
    except FileNotFoundError:
        return []
    return found
