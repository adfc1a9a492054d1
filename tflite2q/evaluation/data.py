"""Input data: images, arrays and labels, one sample at a time, in the types a model takes (`coding.py`).

Images are resized (bilinear) and laid into the input as `geometry` describes; cropped centrally unless another fit is
asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic import rounding
from tflite2q.dialect.types import STORAGE, WIDE_INTEGERS, Value
from tflite2q.errors import DataError, hint, require_count, require_one_of
from tflite2q.evaluation import arrays, images
from tflite2q.evaluation import labels as labels_of
from tflite2q.evaluation.coding import USUAL, Normalization, encode_at
from tflite2q.evaluation.geometry import FITS, Fit, Frame, whole
from tflite2q.evaluation.images import IMAGE_SUFFIXES, Pictures
from tflite2q.evaluation.labels import LABEL_KEYS, SKIP, UNKNOWN, and_more, whole_number

Array = npt.NDArray[Any]
FilePath = str | os.PathLike[str]
Source = FilePath | npt.ArrayLike | Mapping[str, npt.ArrayLike]

MEMORY = Path("the given data")  # how messages call arrays that come from no file
LISTS = ("labels.csv", "labels.txt", "labels.npy")  # that a folder of images may hold
SHOWN = 3  # reasons why samples are left out
SYNTHETIC_SAMPLES = 8


@dataclass(frozen=True)
class Dataset:
    """`len()` samples; iterating gives, for each, one array per model input, of that input's shape and dtype.

    `labels` are class numbers as the data counts them, one per sample, or None; `labels_from` says where they are from
    ("": `source`).  `pictures` are the image files that the samples are made of, which are decoded ahead, in threads;
    `synthetic` ones were made up.  `notes` say what was left out or not used.
    """

    source: str
    names: tuple[str, ...]
    make: Callable[[int], list[Array]]
    labels: npt.NDArray[np.int64] | None = None
    pictures: Pictures | None = None
    synthetic: bool = False
    notes: tuple[str, ...] = ()
    labels_from: str = ""

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[list[Array]]:
        if self.pictures is not None:
            return images.ahead(self.make, len(self))
        return (self.make(index) for index in range(len(self)))

    def frame(self, index: int, shape: tuple[int, ...]) -> Frame:
        """How a sample's picture lies in an input of `shape`; that of an array is the input itself."""
        if self.pictures is not None:
            return self.pictures.frame(index)
        return whole(shape[2], shape[1]) if len(shape) == 4 else whole(1, 1)

    def classes(self, count: int, offset: int | None) -> npt.NDArray[np.int64]:
        """The labels as a model of `count` classes counts them (`labels.align`).  Raises DataError."""
        if self.labels is None:
            raise DataError(f"{self.source}: has no labels")
        try:
            return labels_of.align(self.labels, count, offset, self.names)
        except DataError as error:
            raise error.at(self.labels_from or self.source) from error

    def only(self, kept: Sequence[int]) -> Dataset:
        """The samples of these numbers."""
        make, pictures = self.make, self.pictures
        return replace(
            self,
            names=tuple(self.names[index] for index in kept),
            make=lambda index: make(kept[index]),
            labels=None if self.labels is None else self.labels[list(kept)],
            pictures=pictures and replace(pictures, files=tuple(pictures.files[index] for index in kept)),
        )

    def first(self, count: int) -> Dataset:
        """At most `count` of the samples."""
        labels = None if self.labels is None else self.labels[:count]
        return replace(self, names=self.names[:count], labels=labels)


def load(
    source: Source,
    inputs: Sequence[Value],
    labels: FilePath | npt.ArrayLike | None = None,
    limit: int | None = None,
    pixels: Normalization = USUAL,
    fit: Fit = "crop",
    skip_bad: bool = False,
) -> Dataset:
    """Samples from a folder of images, one image, a CSV of `file,label`, a `.npy`, a `.npz`, or arrays in memory.

    `inputs` are the model's inputs; a model with several takes a `.npz` (or mapping) with an array for each, by name.
    `limit` keeps the first samples.  Files that are missing or cannot be read, and labels that are missing or no
    numbers, are a DataError, as is all else that does not fit; with `skip_bad` such samples are left out, with a note.
    A `limit` or `fit` that makes no sense is a UsageError.
    """
    require_one_of("fit", fit, FITS)
    if limit is not None:
        require_count("limit", limit, 1)
    if isinstance(source, str | os.PathLike):
        found = _from_file(Path(source), inputs, limit, pixels, fit, skip_bad)
    else:
        held = source if isinstance(source, Mapping) else {"": source}
        found = _arrays(MEMORY, _in_memory(held), inputs, limit, pixels)
    if isinstance(labels, str | os.PathLike):
        known, notes = labels_of.read(labels, found.names, limit is not None or skip_bad, skip_bad)
        found = replace(found, labels=known, labels_from=os.fspath(labels), notes=(*found.notes, *notes))
    elif labels is not None:
        known = labels_of.in_order(MEMORY, labels_of.as_labels(MEMORY, labels), found.names, True)
        found = replace(found, labels=known, labels_from=f"{MEMORY}: labels")
    return _labelled(found)


def _in_memory(given: Mapping[str, Any]) -> dict[str, Array]:
    return {str(key): arrays.as_array(item, f"{MEMORY}{f', {key!r}' if key else ''}") for key, item in given.items()}


def _labelled(found: Dataset) -> Dataset:
    """The samples without those whose label is not known."""
    if found.labels is None or not (found.labels == UNKNOWN).any():
        return found
    without = [found.names[index] for index in np.flatnonzero(found.labels == UNKNOWN)]
    kept = np.flatnonzero(found.labels != UNKNOWN).tolist()
    if not kept:
        raise DataError(f"{found.source}: no sample has a label")
    note = f"{len(without)} of {len(found)} samples have no usable label and are left out: {without[0]}"
    return replace(found.only(kept), notes=(*found.notes, note + and_more(len(without) - 1)))


def synthetic(inputs: Sequence[Value], samples: int = SYNTHETIC_SAMPLES, seed: int = 0) -> Dataset:
    """Random codes over the whole range of each input's dtype (reals: uniform in [-1, 1)), equal for equal seeds.

    Inputs with prescribed data get that data.
    """

    def make(index: int) -> list[Array]:
        generator = np.random.default_rng((seed, index))
        return [_random(generator, value) if value.constant is None else np.array(value.data) for value in inputs]

    names = tuple(f"random {index}" for index in range(samples))
    return Dataset("synthetic inputs", names, make, synthetic=True)


def _from_file(
    where: Path, inputs: Sequence[Value], limit: int | None, pixels: Normalization, fit: Fit, skip_bad: bool
) -> Dataset:
    if not os.path.exists(where):  # False for names that no file can have, too
        raise DataError(f"{where}: no such file or folder")
    if where.suffix.lower() in (".npy", ".npz"):
        return _arrays(where, arrays.load(where), inputs, limit, pixels)
    if len(inputs) != 1:
        raise DataError(f"{where}: the model takes {len(inputs)} inputs; give a .npz with an array named for each")
    return _images(where, inputs[0], limit, pixels, fit, skip_bad)


def _images(where: Path, value: Value, limit: int | None, pixels: Normalization, fit: Fit, skip_bad: bool) -> Dataset:
    files, labels, notes = _image_files(where, skip_bad)
    files, labels = files[:limit], None if labels is None else labels[:limit]
    shape = value.type.shape
    if len(shape) != 4 or shape[0] != 1 or shape[3] not in (1, 3):
        raise DataError(f"{where}: images need an input of [1, height, width, 1 or 3]; {value.name!r} is {list(shape)}")
    names = tuple(file.name for file in files)
    if len(set(names)) != len(names):
        names = tuple(str(file) for file in files)
    found = Pictures(tuple(files), shape, fit)

    def make(index: int) -> list[Array]:
        return [encode_at(found.codes(index), value, pixels, str(files[index]))]

    samples = Dataset(str(where), names, make, labels, found, notes=tuple(notes))
    return _readable(samples, found) if skip_bad else samples


def _readable(samples: Dataset, pictures: Pictures) -> Dataset:
    """The samples whose pictures can be read; decodes all of them."""
    bad = images.unreadable(pictures)
    if len(bad) == len(samples):
        raise DataError(f"{samples.source}: no picture can be used; {next(iter(bad.values()))}")
    if not bad:
        return samples
    note = f"{len(bad)} of {len(samples)} pictures are left out: {'; '.join(list(bad.values())[:SHOWN])}"
    kept = [index for index in range(len(samples)) if index not in bad]
    return replace(samples.only(kept), notes=(*samples.notes, note + and_more(len(bad) - SHOWN)))


def _image_files(where: Path, skip_bad: bool) -> tuple[list[Path], npt.NDArray[np.int64] | None, list[str]]:
    """The image files that `where` names, their labels if it is a list that has them, and notes."""
    if where.is_dir():
        files = sorted(file for file in where.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise DataError(f"{where}: no images in this folder ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return files, None, []
    if where.suffix.lower() in IMAGE_SUFFIXES:
        return [where], None, []
    if where.suffix.lower() != ".csv":
        raise DataError(f"{where}: data is a folder of images, an image, a .csv of file,label, a .npy or a .npz")
    rows = labels_of.rows(where)
    if rows and not Path(rows[0][0]).suffix and not (where.parent / rows[0][0]).is_file():
        rows = rows[1:]  # a heading
    if not rows:
        raise DataError(f"{where}: lists no image files; expected lines of file,label")
    files, notes = [where.parent / row[0] for row in rows], []
    absent = [file for file in files if not file.is_file()]
    if absent and (not skip_bad or len(absent) == len(files)):
        raise DataError(f"{where}: {absent[0]} does not exist{and_more(len(absent) - 1)}; {hint(SKIP)}")
    if absent:
        notes.append(f"{where}: {len(absent)} of {len(files)} files do not exist, the first {absent[0].name}")
        rows = [row for row, file in zip(rows, files, strict=True) if file.is_file()]
        files = [file for file in files if file.is_file()]
    return files, _listed_labels(where, rows, skip_bad), notes


def _listed_labels(where: Path, rows: list[list[str]], skip_bad: bool) -> npt.NDArray[np.int64] | None:
    """The labels in the second column of a list of files; None where it has none."""
    numbers = [whole_number(row[1]) if len(row) > 1 else None for row in rows]
    if all(number is None for number in numbers):
        return None
    bad = [row for row, number in zip(rows, numbers, strict=True) if number is None]
    if bad and not skip_bad:
        label = repr(bad[0][1]) if len(bad[0]) > 1 else "missing"
        raise DataError(f"{where}: the label of {bad[0][0]} is {label}{and_more(len(bad) - 1)}; {hint(SKIP)}")
    return np.array([UNKNOWN if number is None else number for number in numbers], np.int64)


def unused_labels(source: Any) -> str | None:
    """A list of labels that lies in a folder of images, if there is one."""
    if not isinstance(source, str | os.PathLike) or not Path(source).is_dir():
        return None
    return next((str(Path(source, name)) for name in LISTS if Path(source, name).is_file()), None)


def _arrays(
    where: Path, stored: Mapping[str, Array], inputs: Sequence[Value], limit: int | None, pixels: Normalization
) -> Dataset:
    columns = []
    for value in inputs:
        array = _array_for(where, value, inputs, stored)
        columns.append(_samples(where, array, value)[:limit])
    counts = {len(column) for column in columns}
    if len(counts) != 1 or 0 in counts:
        raise DataError(
            f"{where}: the arrays hold {sorted(counts)} samples; each input needs the same number, at least 1"
        )
    names = tuple(f"{where.name}[{index}]" for index in range(counts.pop()))
    for column, value in zip(columns, inputs, strict=True):
        arrays.not_finite(str(where), value.name, column, dict(enumerate(names)))
    labels = next((stored[key] for key in LABEL_KEYS if key in stored and key not in {v.name for v in inputs}), None)
    if labels is not None:
        labels = labels_of.in_order(where, labels_of.as_labels(where, labels), names, True)

    def make(index: int) -> list[Array]:
        place = f"{where}: sample {index}"
        return [encode_at(column[index], value, pixels, place) for column, value in zip(columns, inputs, strict=True)]

    return Dataset(str(where), names, make, labels)


def _array_for(where: Path, value: Value, inputs: Sequence[Value], stored: Mapping[str, Array]) -> Array:
    if value.name in stored:
        return stored[value.name]
    candidates = [key for key in stored if key not in LABEL_KEYS]
    if len(inputs) == 1 and len(candidates) == 1:
        return stored[candidates[0]]
    wanted = ", ".join(repr(v.name) for v in inputs)
    held = ", ".join(repr(key) for key in stored if key) or ("one array" if stored else "no array")
    raise DataError(f"{where}: holds {held}; the model needs a .npz with an array named for each input: {wanted}")


def _samples(where: Path, array: Array, value: Value) -> Array:
    """`array` with samples on the first axis and each of exactly the input's shape."""
    shape = value.type.shape
    inner = shape[1:] if shape and shape[0] == 1 else shape
    if array.shape[1:] == shape and array.ndim:
        return array
    if array.shape[1:] == inner and array.ndim:
        return array.reshape(len(array), *shape)
    if array.shape in (shape, inner):
        return array.reshape(1, *shape)
    raise DataError(f"{where}: input {value.name!r} takes samples of {list(shape)}, the array is {list(array.shape)}")


def _random(generator: np.random.Generator, value: Value) -> Array:
    dtype, shape = value.type.dtype, value.type.shape
    if dtype.startswith("float"):
        return generator.uniform(-1, 1, shape).astype(STORAGE[dtype])
    if dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    # Wide integers are indices or counts: small ones are the likeliest to be valid, and end a loop soon.
    whole = value.type.quantized and dtype not in WIDE_INTEGERS
    low, high = rounding.code_range(dtype) if whole else (0, 1)
    return generator.integers(low, high + 1, shape, dtype=np.int64).astype(STORAGE[dtype])
