"""Input data: images, arrays and labels, one sample at a time, in the types a model takes.

How a number becomes a model's input, in this order:

- codes of the input's own dtype are taken as they are;
- pixels (uint8, from an image or an array) are taken as codes by a uint8 input and as pixel - 128 by an int8 input,
  which is how quantized image models are made; other inputs take the real number (pixel - 127.5) / 127.5;
- a given `mean` or `std` replaces that: the real number (pixel - mean) / std is quantized by the input's parameters;
- real numbers are quantized by the input's scale and zero point (eq. 2).

Images are resized (bilinear) and laid into the input as `geometry` describes; cropped centrally unless another fit is
asked for.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.arithmetic import rounding
from tflite2q.dialect.types import STORAGE, WIDE_INTEGERS, Value
from tflite2q.errors import DataError
from tflite2q.evaluation import images
from tflite2q.evaluation.geometry import Fit, Frame, whole
from tflite2q.evaluation.images import IMAGE_SUFFIXES, Pictures

Array = npt.NDArray[Any]
FilePath = str | os.PathLike[str]
Source = FilePath | Array | Mapping[str, Array]

MEMORY = Path("the given data")  # how messages call arrays that come from no file
LABEL_KEYS = ("labels", "label", "y")
SYNTHETIC_SAMPLES = 8


@dataclass(frozen=True)
class Dataset:
    """`len()` samples; iterating gives, for each, one array per model input, of that input's shape and dtype.

    `labels` are class numbers as the data counts them, one per sample, or None; `pictures` are the image files that the
    samples are made of, which are decoded ahead, in threads; `synthetic` ones were made up.
    """

    source: str
    names: tuple[str, ...]
    make: Callable[[int], list[Array]]
    labels: npt.NDArray[np.int64] | None = None
    pictures: Pictures | None = None
    synthetic: bool = False

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

    def first(self, count: int) -> Dataset:
        """At most `count` of the samples."""
        labels = None if self.labels is None else self.labels[:count]
        return replace(self, names=self.names[:count], labels=labels)


@dataclass(frozen=True)
class Normalization:
    """real = (pixel - mean) / std; `given` tells a choice of the user from the default."""

    mean: float = 127.5
    std: float = 127.5
    given: bool = False

    def __post_init__(self) -> None:
        if self.std == 0:
            raise DataError("the standard deviation of pixels (std) must not be 0")

    @staticmethod
    def of(mean: float | None, std: float | None) -> Normalization:
        """The user's values, with defaults for those not given."""
        default = Normalization()
        return Normalization(
            default.mean if mean is None else mean,
            default.std if std is None else std,
            given=mean is not None or std is not None,
        )


def load(
    source: Source,
    inputs: Sequence[Value],
    labels: FilePath | npt.ArrayLike | None = None,
    limit: int | None = None,
    pixels: Normalization = Normalization(),
    fit: Fit = "crop",
) -> Dataset:
    """Samples from a folder of images, one image, a CSV of `file,label`, a `.npy`, a `.npz`, or arrays in memory.

    `inputs` are the model's inputs; a model with several takes a `.npz` (or mapping) with an array for each, by name.
    `limit` keeps the first samples.  Raises DataError where the data cannot be read or does not fit.
    """
    if limit is not None and limit < 1:
        raise DataError(f"a limit of {limit} samples leaves nothing; give at least 1")
    if isinstance(source, np.ndarray):
        found = _arrays(MEMORY, {"": source}, inputs, limit, pixels)
    elif isinstance(source, Mapping):
        found = _arrays(MEMORY, source, inputs, limit, pixels)
    else:
        found = _from_file(Path(source), inputs, limit, pixels, fit)
    if labels is None:
        return found
    if not isinstance(labels, str | os.PathLike):
        return replace(
            found, labels=_in_order(MEMORY, _label_array(MEMORY, {"": np.asarray(labels)}), found.names, True)
        )
    return replace(found, labels=read_labels(labels, found.names, limit is not None))


def synthetic(inputs: Sequence[Value], samples: int = SYNTHETIC_SAMPLES, seed: int = 0) -> Dataset:
    """Random codes over the whole range of each input's dtype (reals: uniform in [-1, 1)), equal for equal seeds.

    Inputs with prescribed data get that data.
    """

    def make(index: int) -> list[Array]:
        generator = np.random.default_rng((seed, index))
        return [_random(generator, value) if value.constant is None else np.array(value.data) for value in inputs]

    names = tuple(f"random {index}" for index in range(samples))
    return Dataset("synthetic inputs", names, make, synthetic=True)


def transfer(arrays: Sequence[Array], source: Sequence[Value], target: Sequence[Value]) -> list[Array]:
    """The same real inputs for another graph of the same model, whose inputs may have other types."""
    if len(source) != len(target):
        raise DataError(f"the models take {len(source)} and {len(target)} inputs, so they cannot be compared")
    return [_transfer(array, a, b) for array, a, b in zip(arrays, source, target, strict=True)]


def real(codes: Array, value: Value) -> Array:
    """The real numbers that the codes of `value` stand for, float32; other values are only cast (eq. 1)."""
    if not value.type.quantized:
        return codes.astype(np.float32)
    q = value.type.parameters
    if q.axis is None:
        return rounding.dequantize(codes, q.scale[0], q.zero_point[0])
    shape = [1] * codes.ndim
    shape[q.axis] = -1
    scale = np.array(q.scale, np.float64).reshape(shape)
    zero_point = np.array(q.zero_point, np.int64).reshape(shape)
    return (scale * (codes.astype(np.int64) - zero_point)).astype(np.float32)


def encode(array: Array, value: Value, pixels: Normalization = Normalization()) -> Array:
    """Turn numbers into the dtype of `value` by the rules at the head of this file; the shape stays.

    Raises DataError for a dtype that cannot be converted, or integers outside the range.
    """
    dtype = value.type.dtype
    if array.dtype == np.uint8 and pixels.given:
        array = (array.astype(np.float32) - np.float32(pixels.mean)) / np.float32(pixels.std)
    if array.dtype.name == STORAGE[dtype]:
        return array
    if array.dtype == np.uint8 and dtype == "int8":
        return (array.astype(np.int16) - 128).astype(np.int8)
    if array.dtype == np.uint8 and (dtype.startswith("float") or value.type.quantized):
        array = (array.astype(np.float32) - np.float32(pixels.mean)) / np.float32(pixels.std)
    if array.dtype.kind == "f":
        return _from_real(array, value)
    if array.dtype.kind in "iu" and dtype in rounding.RANGES:
        low, high = rounding.code_range(dtype)
        if array.size and (int(array.min()) < low or int(array.max()) > high):
            raise DataError(f"input {value.name!r} takes {dtype} codes, the data has {array.min()} to {array.max()}")
        return array.astype(STORAGE[dtype])
    raise DataError(f"input {value.name!r} takes {dtype}, the data is {array.dtype.name}; convert it first")


def read_labels(path: FilePath, names: Sequence[str], may_be_more: bool = False) -> npt.NDArray[np.int64]:
    """One class number for each sample: by file name where the file has a column for it, else in order.

    Reads `.npy`, `.npz` (array `labels`) and text with a label, or `file,label`, a line; a heading is skipped.
    `may_be_more` allows more labels than samples, for those cut off by a limit.
    """
    where = Path(path)
    if where.suffix.lower() in (".npy", ".npz"):
        return _in_order(where, _label_array(where, _load_arrays(where)), names, may_be_more)
    rows = _rows(where)
    if rows and not _is_integer(rows[0][-1]):
        rows = rows[1:]
    for number, row in enumerate(rows, start=1):
        if not _is_integer(row[-1]):
            raise DataError(f"{where}: label {number} is {row[-1]!r}, not a whole number")
    by_name = {Path(row[0]).name: int(row[-1]) for row in rows if len(row) > 1}
    if any(Path(name).name in by_name for name in names):
        missing = [name for name in names if Path(name).name not in by_name]
        if missing:
            raise DataError(f"{where}: no label for {missing[0]}" + _and_more(len(missing) - 1))
        return np.array([by_name[Path(name).name] for name in names], np.int64)
    return _in_order(where, np.array([int(row[-1]) for row in rows], np.int64), names, may_be_more)


def align_labels(labels: npt.NDArray[np.int64], classes: int, offset: int | None = None) -> npt.NDArray[np.int64]:
    """Labels as the model counts its `classes`: plus `offset`.

    Without one, labels of 0..999 and 1001 classes mean that class 0 is the background, as in the MobileNets, and 1 is
    added.
    Raises DataError for labels that the model does not have.
    """
    if offset is None:
        offset = 1 if classes == 1001 and len(labels) and labels.max() < 1000 else 0
    aligned = labels + offset
    wrong = aligned[(aligned < 0) | (aligned >= classes)]
    if len(wrong):
        shift = f" after an offset of {offset}" if offset else ""
        raise DataError(f"label {wrong[0]}{shift} is not one of the model's {classes} classes; see --label-offset")
    return aligned


def _from_file(where: Path, inputs: Sequence[Value], limit: int | None, pixels: Normalization, fit: Fit) -> Dataset:
    if not where.exists():
        raise DataError(f"{where}: no such file or folder")
    if where.suffix.lower() in (".npy", ".npz"):
        return _arrays(where, _load_arrays(where), inputs, limit, pixels)
    if len(inputs) != 1:
        raise DataError(f"{where}: the model takes {len(inputs)} inputs; give a .npz with an array named for each")
    return _images(where, inputs[0], limit, pixels, fit)


def _images(where: Path, value: Value, limit: int | None, pixels: Normalization, fit: Fit) -> Dataset:
    files, labels = _image_files(where)
    files, labels = files[:limit], None if labels is None else labels[:limit]
    shape = value.type.shape
    if len(shape) != 4 or shape[0] != 1 or shape[3] not in (1, 3):
        raise DataError(f"{where}: images need an input of [1, height, width, 1 or 3]; {value.name!r} is {list(shape)}")
    names = tuple(file.name for file in files)
    if len(set(names)) != len(names):
        names = tuple(str(file) for file in files)
    found = Pictures(tuple(files), shape, fit)
    return Dataset(str(where), names, lambda index: [encode(found.codes(index), value, pixels)], labels, found)


def _image_files(where: Path) -> tuple[list[Path], npt.NDArray[np.int64] | None]:
    """The image files that `where` names and, for a CSV with such a column, their labels."""
    if where.is_dir():
        files = sorted(file for file in where.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise DataError(f"{where}: no images in this folder ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return files, None
    if where.suffix.lower() in IMAGE_SUFFIXES:
        return [where], None
    if where.suffix.lower() != ".csv":
        raise DataError(f"{where}: data is a folder of images, an image, a .csv of file,label, a .npy or a .npz")
    rows = _rows(where)
    if rows and Path(rows[0][0]).suffix.lower() not in IMAGE_SUFFIXES:
        rows = rows[1:]
    if not rows:
        raise DataError(f"{where}: lists no image files; expected lines of file,label")
    files = [where.parent / row[0] for row in rows]
    absent = [file for file in files if not file.exists()]
    if absent:
        raise DataError(f"{where}: {absent[0]} does not exist" + _and_more(len(absent) - 1))
    if not all(len(row) > 1 and _is_integer(row[1]) for row in rows):
        return files, None
    return files, np.array([int(row[1]) for row in rows], np.int64)


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
    labels = next((stored[key] for key in LABEL_KEYS if key in stored and key not in {v.name for v in inputs}), None)

    def make(index: int) -> list[Array]:
        return [encode(column[index], value, pixels) for column, value in zip(columns, inputs, strict=True)]

    names = tuple(f"{where.name}[{index}]" for index in range(counts.pop()))
    return Dataset(str(where), names, make, None if labels is None else _in_order(where, labels, names, True))


def _load_arrays(where: Path) -> Mapping[str, Array]:
    try:
        loaded = np.load(where, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    except Exception as error:  # np.load raises zipfile, OS, value and end-of-file errors for a broken file
        raise DataError(f"{where}: not a readable NumPy file") from error


def _array_for(where: Path, value: Value, inputs: Sequence[Value], stored: Mapping[str, Array]) -> Array:
    if value.name in stored:
        return stored[value.name]
    candidates = [key for key in stored if key not in LABEL_KEYS]
    if len(inputs) == 1 and len(candidates) == 1:
        return stored[candidates[0]]
    wanted = ", ".join(repr(v.name) for v in inputs)
    held = ", ".join(repr(key) for key in stored if key) or "one array"
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


def _label_array(where: Path, stored: Mapping[str, Array]) -> Array:
    keys = [key for key in LABEL_KEYS if key in stored] or list(stored)
    labels = stored[keys[0]]
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise DataError(f"{where}: labels must be a row of integers, found {labels.dtype.name}{list(labels.shape)}")
    return labels


def _in_order(where: Path, labels: Array, names: Sequence[str], may_be_more: bool) -> npt.NDArray[np.int64]:
    if len(labels) < len(names) or (len(labels) > len(names) and not may_be_more):
        raise DataError(f"{where}: {len(labels)} labels for {len(names)} samples")
    return np.asarray(labels[: len(names)], np.int64)


def _rows(where: Path) -> list[list[str]]:
    try:
        with where.open(newline="", encoding="utf-8-sig") as file:
            return [[cell.strip() for cell in row] for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{where}: cannot be read as lines of file,label") from error


def _transfer(array: Array, source: Value, target: Value) -> Array:
    if array.shape != target.type.shape:
        raise DataError(
            f"input {source.name!r} is {list(array.shape)} in one model and {list(target.type.shape)} in the other"
        )
    if source.type.with_(shape=()) == target.type.with_(shape=()):
        return array
    return encode(real(array, source), target)


def _from_real(array: Array, value: Value) -> Array:
    dtype = value.type.dtype
    if dtype.startswith("float"):
        return array.astype(STORAGE[dtype])
    if not value.type.quantized:
        raise DataError(f"input {value.name!r} takes {dtype} without quantization parameters; give integers, not reals")
    return rounding.quantize(array, value.type.scale, value.type.zero_point, dtype)


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


def _is_integer(text: str) -> bool:
    return text.lstrip("+-").isdecimal()


def _and_more(count: int) -> str:
    return f" (and {count} more)" if count > 0 else ""
