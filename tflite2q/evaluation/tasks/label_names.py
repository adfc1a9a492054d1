"""Names of classes: from a file, or from the label files that are appended to a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from tflite2q import limits
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import Value
from tflite2q.errors import DataError

NOTHING = ("", "???", "background", "__background__", "dummy")  # names of a class 0 that is not a class


def read(names: Any) -> tuple[str, ...]:
    """The names in a file, a line for each class (numbers before all of them are cut off), or those of a sequence.

    Raises DataError if the file cannot be read or is empty.
    """
    if not isinstance(names, str | os.PathLike):
        return tuple(str(name) for name in names)
    try:
        text = limits.text(names)
    except OSError as error:
        raise limits.unreadable(names, error, DataError) from error
    except ValueError as error:
        raise DataError(f"{os.fspath(names)}: names of classes are a text file, a name a line") from error
    found = lines(text)
    if not found:
        raise DataError(f"{os.fspath(names)}: holds no names")
    return found


def lines(text: str) -> tuple[str, ...]:
    """One name a line; "3 cat", "3: cat" and "3,cat" are "cat" if every line counts on from the first."""
    rows = [line.strip() for line in text.splitlines()]
    while rows and not rows[-1]:
        rows.pop()
    parts = [_numbered(row) for row in rows]
    first = parts[0][0] if parts else None
    if first is not None and [number for number, _ in parts] == list(range(first, first + len(rows))):
        return tuple("" for _ in range(first)) + tuple(name for _, name in parts) if first <= 1 else tuple(rows)
    return tuple(rows)


def of(graph: Graph | None, outputs: Sequence[Value]) -> tuple[str, ...] | None:
    """The names that come with a model: of its text files, one with a line for each class, or for all but the
    background; None if there is none."""
    if graph is None:
        return None
    sizes = {value.type.shape[-1] for value in outputs if value.type.shape}
    sizes |= {count for op in graph.ops for count in [getattr(op, "num_classes", None)] if isinstance(count, int)}
    candidates = []
    for name, content in graph.files:
        if not name.lower().endswith(".txt"):
            continue
        try:
            found = lines(content.decode("utf-8-sig"))
        except UnicodeDecodeError:
            continue
        if any(_fitted(found, size) is not None for size in sizes):
            candidates.append(("label" not in name.lower(), name, found))
    return min(candidates)[2] if candidates else None


def fitting(names: tuple[str, ...], classes: int) -> tuple[str, ...]:
    """Names for each of `classes`: without a first "background" or "???" where there is one too many, with one where it
    is missing from 1001 classes.  Raises DataError for another number of names."""
    found = _fitted(names, classes)
    if found is None:
        raise DataError(f"{len(names)} names for a model of {classes} classes; give a line for each class")
    return found


def _fitted(names: tuple[str, ...], classes: int) -> tuple[str, ...] | None:
    if len(names) == classes:
        return names
    if len(names) == classes + 1 and names[0].lower() in NOTHING:
        return names[1:]
    return ("background", *names) if (classes, len(names)) == (1001, 1000) else None


def _numbered(row: str) -> tuple[int | None, str]:
    """A line's number and the rest."""
    digits = len(row) - len(row.lstrip("0123456789"))
    rest = row[digits:]
    if not digits or not rest or rest[0] not in " \t:,":
        return None, row
    return int(row[:digits]), rest.lstrip(" \t:,")
