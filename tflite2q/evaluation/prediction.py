"""Running a model on samples and reading its outputs as answers."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.types import Value
from tflite2q.errors import DataError, UsageError
from tflite2q.evaluation import coding, data
from tflite2q.evaluation.coding import Normalization
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.engines import Runner
from tflite2q.evaluation.geometry import Fit
from tflite2q.evaluation.results import Progress, quiet
from tflite2q.evaluation.tasks.base import Task
from tflite2q.evaluation.tasks.classification import HIGHEST, Classes, Classification

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Class:
    """A class with its score; `name` is None where it has none."""

    number: int
    score: float | None
    name: str | None = None


@dataclass(frozen=True)
class Summary:
    """One output of one sample in real numbers: its best classes if it holds those, its range, and what it says."""

    name: str
    classes: tuple[Class, ...]
    low: float
    high: float
    says: str


@dataclass(frozen=True, eq=False)
class Prediction:
    """A model's outputs for one sample: the arrays, a summary of each, and the task's answer with its keys in JSON."""

    sample: str
    arrays: tuple[Array, ...]
    outputs: tuple[Summary, ...]
    answer: Any = None
    document: Mapping[str, Any] = field(default_factory=dict)


def samples(
    paths: Sequence[str],
    inputs: Sequence[Value],
    limit: int | None,
    pixels: Normalization,
    fit: Fit = "crop",
    skip_bad: bool = False,
) -> Dataset:
    """Samples from one file for all inputs, or one file for each.  Raises UsageError for another number of files."""
    if len(paths) == 1:
        return data.load(paths[0], inputs, limit=limit, pixels=pixels, fit=fit, skip_bad=skip_bad)
    if len(paths) != len(inputs):
        raise UsageError(f"{len(paths)} input files for a model of {len(inputs)} inputs; give one, or one for each")
    parts = [
        data.load(path, [value], limit=limit, pixels=pixels, fit=fit) for path, value in zip(paths, inputs, strict=True)
    ]
    if len({len(part) for part in parts}) != 1:
        raise DataError(
            f"the input files have {', '.join(str(len(part)) for part in parts)} samples; make the numbers equal"
        )
    return Dataset(paths[0], parts[0].names, lambda index: [array for part in parts for array in part.make(index)])


def run(
    runner: Runner, outputs: Sequence[Value], samples: Dataset, task: Task[Any], progress: Progress = quiet
) -> list[Prediction]:
    """The model's answer for each sample."""
    found = []
    for index, (name, arrays) in enumerate(zip(samples.names, samples, strict=True)):
        progress("running", index, len(samples))
        results = tuple(runner(*arrays))
        answer = task.decode(results, outputs)
        summaries = tuple(summary(a, v, task, answer, k) for k, (a, v) in enumerate(zip(results, outputs, strict=True)))
        found.append(Prediction(name, results, summaries, answer, task.document(answer)))
    return found


def summary(array: Array, value: Value, task: Task[Any], answer: Any, index: int) -> Summary:
    """One output: the best classes, or what the task says of it, or its range."""
    real = coding.real(array, value).reshape(-1)
    low, high = (float(real.min()), float(real.max())) if real.size else (0.0, 0.0)
    if isinstance(task, Classification) and index == task.index:
        return Summary(value.name, _best(task, answer), low, high, task.ranking(answer))
    if index in task.told:
        return Summary(value.name, (), low, high, task.says(answer))
    return Summary(value.name, (), low, high, f"{low:.6g} to {high:.6g}" if real.size else "no elements")


def _best(task: Classification, answer: Classes) -> tuple[Class, ...]:
    """The best classes of a single position."""
    if len(answer.best) != 1:
        return ()
    return tuple(
        Class(int(k), float(answer.scores[0, k]) if answer.scores.size else None, task.class_name(int(k)))
        for k in answer.ranked()[:HIGHEST]
    )


def check_suffix(path: str) -> None:
    """Raise UsageError unless outputs can be written to a file of this name."""
    if Path(path).suffix.lower() not in (".npy", ".npz", ".png"):
        raise UsageError(f"{path}: outputs are written as .npy or .npz, and a mask as .png; use one of these suffixes")


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
