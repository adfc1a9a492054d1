"""Running a model on samples and summarizing its outputs."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.types import Value
from tflite2q.errors import DataError, UsageError
from tflite2q.evaluation import data
from tflite2q.evaluation.comparison import Progress, Runner, quiet
from tflite2q.evaluation.data import Dataset, Normalization

Array = npt.NDArray[Any]

HIGHEST = 5


@dataclass(frozen=True)
class Summary:
    """One output of one sample in real numbers: its highest (class, score) pairs, or only its range."""

    name: str
    classes: tuple[tuple[int, float], ...]
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """A model's outputs for one sample: the arrays, and a summary of each."""

    sample: str
    arrays: tuple[Array, ...]
    outputs: tuple[Summary, ...]


def samples(paths: Sequence[str], inputs: Sequence[Value], limit: int | None, pixels: Normalization) -> Dataset:
    """Samples from one file for all inputs, or one file for each.  Raises UsageError for another number of files."""
    if len(paths) == 1:
        return data.load(paths[0], inputs, limit=limit, pixels=pixels)
    if len(paths) != len(inputs):
        raise UsageError(f"{len(paths)} --input files for a model of {len(inputs)} inputs; give one, or one for each")
    parts = [data.load(path, [value], limit=limit, pixels=pixels) for path, value in zip(paths, inputs, strict=True)]
    if len({len(part) for part in parts}) != 1:
        raise DataError(
            f"the --input files have {', '.join(str(len(part)) for part in parts)} samples; make the numbers equal"
        )
    return Dataset(paths[0], parts[0].names, lambda index: [array for part in parts for array in part.make(index)])


def run(runner: Runner, outputs: Sequence[Value], samples: Dataset, progress: Progress = quiet) -> list[Prediction]:
    """The model's outputs for each sample."""
    found = []
    for index, (name, arrays) in enumerate(zip(samples.names, samples, strict=True)):
        progress("running", index, len(samples))
        results = tuple(runner(*arrays))
        found.append(Prediction(name, results, tuple(summary(a, v) for a, v in zip(results, outputs, strict=True))))
    return found


def summary(array: Array, value: Value) -> Summary:
    """The real numbers of an output; classes if it holds one score per class for a single position."""
    real = data.real(array, value).reshape(-1)
    low, high = (float(real.min()), float(real.max())) if real.size else (0.0, 0.0)
    shape = value.type.shape
    if not shape or shape[-1] < 2 or array.size != shape[-1]:
        return Summary(value.name, (), low, high)
    order = np.argsort(-real, kind="stable")[:HIGHEST]
    return Summary(value.name, tuple((int(k), float(real[k])) for k in order), low, high)


def check_suffix(path: str) -> None:
    """Raise UsageError unless outputs can be written to a file of this name."""
    if Path(path).suffix.lower() not in (".npy", ".npz"):
        raise UsageError(f"{path}: outputs are written as .npy or .npz; use one of these suffixes")


def encoded(predictions: Sequence[Prediction], outputs: Sequence[Value], suffix: str) -> bytes:
    """The outputs as a .npy (of a single output) or .npz file's bytes, samples on the first axis."""
    stacked = {v.name: np.stack([p.arrays[k] for p in predictions]) for k, v in enumerate(outputs)}
    stream = io.BytesIO()
    if suffix.lower() == ".npz":
        with zipfile.ZipFile(stream, "w") as archive:  # np.savez takes no array that is called "file"
            for name, array in stacked.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
    elif len(stacked) == 1:
        np.save(stream, next(iter(stacked.values())), allow_pickle=False)
    else:
        raise UsageError(f"the model has {len(stacked)} outputs; write them to a .npz")
    return stream.getvalue()
