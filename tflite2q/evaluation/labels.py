"""Class labels: texts and arrays become one class number for each sample."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q import limits
from tflite2q.errors import DataError, hint
from tflite2q.evaluation import arrays

Labels = npt.NDArray[np.int64]
LABEL_KEYS = ("labels", "label", "y")
INTEGER = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")
DELIMITERS = (",", ";", "\t")
UNKNOWN = -(2**63)  # stands for a label that `skip_bad` leaves out


def whole_number(text: str) -> int | None:
    """The integer that a text states, "7", "+7", "007" or "7.0"; None for another text."""
    return int(text.partition(".")[0]) if INTEGER.fullmatch(text) else None


def rows(where: Path) -> list[list[str]]:
    """The cells of a list, without spaces and quotes around them.

    Cells are separated by commas, semicolons or tabs. Without those, a last number after spaces is a cell, too.
    Raises DataError.
    """
    try:
        text = limits.text(where)
        delimiter = next((mark for mark in DELIMITERS if mark in text.partition("\n")[0]), ",")
        # Each line by itself: a quote that is not closed must not swallow the lines after it.
        lines = [row for line in io.StringIO(text, newline=None) for row in csv.reader([line], delimiter=delimiter)]
        found = [[cell.strip().strip("'\"").strip() for cell in row] for row in lines]
    except OSError as error:
        raise limits.unreadable(where, error, DataError) from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{where}: cannot be read as lines of file,label ({error}); give such a text") from error
    return [_parted(row) for row in found if any(row)]


def _parted(row: list[str]) -> list[str]:
    parts = row[0].rsplit(None, 1) if len(row) == 1 else []
    return parts if len(parts) == 2 and whole_number(parts[1]) is not None else row


def read(
    path: str | os.PathLike[str], names: Sequence[str], may_be_more: bool, skip_bad: bool
) -> tuple[Labels, list[str]]:
    """One class number for each sample, UNKNOWN where `skip_bad` lets it be unknown, and notes for the report.

    Found by file name where the file has a column for it, else in order.  Reads `.npy`, `.npz` (array `labels`) and
    text with a label, or `file,label`, a line; a heading is skipped.  `may_be_more` allows more labels than samples
    without a note, for those cut off by a limit.  Raises DataError.
    """
    where = Path(path)
    if where.suffix.lower() in (".npy", ".npz"):
        return in_order(where, of_arrays(where, arrays.load(where)), names, may_be_more), []
    found = rows(where)
    if found and _is_heading(found[0], names) and any(whole_number(row[-1]) is not None for row in found):
        found = found[1:]
    bad = [(number, row) for number, row in enumerate(found, start=1) if whole_number(row[-1]) is None]
    if bad and not skip_bad:
        number, row = bad[0]
        raise DataError(
            f"{where}: label {number} is {row[-1]!r}, not a whole number{and_more(len(bad) - 1)}; {hint(SKIP)}"
        )
    notes = [f"{where}: {len(bad)} labels are no whole numbers, the first {bad[0][1][-1]!r}"] if bad else []
    if any(len(row) > 1 for row in found):
        named = _by_name(where, found, names, may_be_more, skip_bad, notes)
        if named is not None:
            return named, notes
    numbers = [whole_number(row[-1]) for row in found]
    known = np.array([UNKNOWN if number is None else number for number in numbers], np.int64)
    return in_order(where, known, names, may_be_more), notes


def _is_heading(row: list[str], names: Sequence[str]) -> bool:
    """Whether a first row names no file, and its label is a word: what is meant as a label must not pass for one."""
    first, cell = row[0], row[-1]
    if Path(first).suffix or Path(first).name in {Path(name).name for name in names}:
        return False
    try:
        float(cell)
    except ValueError:
        return bool(cell) and whole_number(cell) is None
    return False


SKIP = "mend it, or leave such samples out with --skip-bad"


def _by_name(
    where: Path, found: list[list[str]], names: Sequence[str], may_be_more: bool, skip_bad: bool, notes: list[str]
) -> Labels | None:
    """The labels of files by their names; None where the list names none of them."""
    by_name: dict[str, int] = {}
    for row in found:
        label = whole_number(row[-1])
        if len(row) < 2 or label is None:
            continue
        name = Path(row[0]).name
        if by_name.setdefault(name, label) != label:
            raise DataError(f"{where}: {name} has label {by_name[name]} and label {label}; a name must be one file's")
    if not any(Path(name).name in by_name for name in names):
        return None
    missing = [name for name in names if Path(name).name not in by_name]
    if missing and not skip_bad:
        raise DataError(f"{where}: no label for {missing[0]}{and_more(len(missing) - 1)}; {hint(SKIP)}")
    surplus = sorted(by_name.keys() - {Path(name).name for name in names})
    if surplus and not may_be_more:
        notes.append(f"{where} has labels of files that are not in the data: {surplus[0]}{and_more(len(surplus) - 1)}")
    return np.array([by_name.get(Path(name).name, UNKNOWN) for name in names], np.int64)


def of_arrays(where: Path, stored: Any) -> Labels:
    """The labels among arrays: a row of integers.  Raises DataError."""
    keys = [key for key in LABEL_KEYS if key in stored] or list(stored)
    if not keys:
        raise DataError(f"{where}: holds no arrays")
    return as_labels(where, stored[keys[0]])


def as_labels(where: Path, given: Any) -> Labels:
    """Labels in memory as integers; real numbers that are whole count.  Raises DataError."""
    labels = arrays.as_array(given, f"{where}: labels")
    real = labels.dtype.kind == "f" and bool(np.all(np.isfinite(labels)) and np.all(np.mod(labels, 1) == 0))
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if (labels.dtype.kind not in "iu" and not real) or labels.ndim != 1:
        raise DataError(f"{where}: labels must be a row of integers, found {labels.dtype.name}{list(labels.shape)}")
    if labels.size and not -(2**62) < float(labels.min()) <= float(labels.max()) < 2**62:
        raise DataError(f"{where}: label {labels.max()} is too large to be a class")
    return labels.astype(np.int64)


def in_order(where: Path, labels: Labels, names: Sequence[str], may_be_more: bool) -> Labels:
    """Labels in the order of the samples.  Raises DataError for another number of them."""
    if len(labels) < len(names) or (len(labels) > len(names) and not may_be_more):
        raise DataError(f"{where}: {len(labels)} labels for {len(names)} samples")
    return np.asarray(labels[: len(names)], np.int64)


def align(labels: Labels, classes: int, offset: int | None = None, names: Sequence[str] = ()) -> Labels:
    """Labels as the model counts its `classes`: plus `offset`.

    Without one, labels of 0..999 and 1001 classes mean that class 0 is the background, as in the MobileNets, and 1 is
    added.
    Raises DataError for labels that the model does not have; `names` are the samples'.
    """
    if offset is None:
        # Not for labels below 0, which are none: 1 more would make the background of -1.
        offset = 1 if classes == 1001 and len(labels) and labels.min() >= 0 and labels.max() < 1000 else 0
    aligned = labels + offset
    wrong = np.flatnonzero((aligned < 0) | (aligned >= classes))
    if len(wrong):
        first = int(wrong[0])
        shift = f" after an offset of {offset}" if offset else ""
        raise DataError(
            f"{names[first] if names else f'sample {first}'}: label {aligned[first]}{shift} is not one of the model's "
            f"{classes} classes{and_more(len(wrong) - 1)}; {hint('mend it, or see --label-offset')}"
        )
    return aligned


def and_more(count: int) -> str:
    return f" (and {count} more)" if count > 0 else ""
