"""NumPy files: read only if the data that they declare fit the file and the memory."""

from __future__ import annotations

import math
import os
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tflite2q import limits
from tflite2q.errors import DataError, Tflite2qError

Array = npt.NDArray[Any]

SUFFIX = ".npy"  # of the members of an archive that are arrays


def load(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays of a .npz by name, or that of a .npy as "".

    Raises DataError, before memory is spent, for arrays of Python objects, for two of one name, for files that are cut
    short, and for what needs more than `limits.memory()`.
    """
    where = Path(path)
    try:
        if where.exists() and not where.is_file():  # what never ends would be searched to its end
            raise DataError(f"{where}: is not a file; give a .npy or .npz")
        if zipfile.is_zipfile(where):
            return _archive(where)
        with where.open("rb") as file:
            _checked(where, "", file, os.fstat(file.fileno()).st_size)
            file.seek(0)
            return {"": _native(np.load(file, allow_pickle=False))}
    except Tflite2qError as error:
        raise error from None
    except FileNotFoundError as error:
        raise limits.unreadable(where, error, DataError) from error
    except MemoryError as error:
        raise DataError(f"{where}: too little memory to read it") from error
    except Exception as error:  # NumPy and zipfile raise almost anything for a broken file
        raise DataError(f"{where}: not a readable NumPy file") from error


def as_array(given: Any, what: str) -> Array:
    """An array, or a list, as an array.  Raises DataError for lists of unequal lengths and for Python objects."""
    try:
        found = np.asarray(given)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{what}: lists of unequal lengths make no array; make them equal") from error
    if found.dtype.kind in "OUSV":
        raise DataError(f"{what}: holds {found.dtype.name}, not numbers; give an array of numbers")
    return found


def _archive(where: Path) -> dict[str, Array]:
    with zipfile.ZipFile(where) as archive:
        names = [info.filename for info in archive.infolist()]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise DataError(f"{where}: holds {twice[0]!r} {names.count(twice[0])} times; write it once")
        members = {i.filename.removesuffix(SUFFIX): i for i in archive.infolist() if i.filename.endswith(SUFFIX)}
        total = 0
        for name, info in members.items():
            with archive.open(info) as member:
                total += _checked(where, name, member, info.file_size)  # type: ignore[arg-type]
        limits.require_memory(total, f"{where}: unpacked, it", DataError)
        found = {}
        for name, info in members.items():  # and no others, which nothing bounds
            with archive.open(info) as member:
                found[name] = _native(np.lib.format.read_array(member, allow_pickle=False))
        return found


def _native(array: Array) -> Array:
    """The array in this machine's order of bytes."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _checked(where: Path, name: str, file: BinaryIO, length: int) -> int:
    """The bytes of the array that a file of `length` bytes begins; its header alone is read."""
    what = f"{where}: array {name!r}" if name else str(where)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise DataError(f"{what} holds Python objects, which could run code; save an array of numbers")
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size > length:
        raise DataError(
            f"{what} claims {dtype.name}{list(shape)}, which its {length:,} bytes cannot hold; it is cut short"
        )
    limits.require_memory(size, what, DataError)
    return int(size)


def not_finite(where: str, name: str, array: Array, samples: Mapping[int, str] | None = None) -> None:
    """Raise DataError if real numbers, samples on the first axis, are NaN or infinite: how many, and where first."""
    if array.dtype.kind not in "fc" or not array.size:
        return
    bad = ~np.isfinite(array).reshape(len(array), -1)
    if not bad.any():
        return
    rows = np.flatnonzero(bad.any(axis=1))
    nans = int(np.isnan(array).sum())
    kinds = " and ".join(f"{n} {kind}" for n, kind in ((nans, "NaN"), (int(bad.sum()) - nans, "infinite")) if n)
    first = samples[int(rows[0])] if samples else f"sample {rows[0]}"
    many = f" in {len(rows)} samples, the first" if len(rows) > 1 else ""
    raise DataError(f"{where}: input {name!r} has {kinds} numbers{many} in {first}; no code stands for them, repair it")
