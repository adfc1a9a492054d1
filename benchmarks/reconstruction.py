"""What reconstruction does for the schemes that round weights: accuracy on photos that no conversion saw.

The samples are split in two halves.  A conversion looks at one half (never at its labels) and is measured on the other,
then the other way round; so each photo is held out once.  LiteRT's default kernels run the written files.

A model without labels that gives classes itself, such as one of a class for each pixel, is measured by the share of
equal classes.  How many classes the original itself changes, when a few codes of its input change by one, is the most
that can be asked of any conversion.
"""

from __future__ import annotations

import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

import tflite2q
from benchmarks import environment
from benchmarks.accuracy import Report
from benchmarks.models import Sampled
from tflite2q.errors import Tflite2qError, Unchanged
from tflite2q.evaluation import calibration, data
from tflite2q.evaluation.statistics import paired_proportions
from tflite2q.flatbuffer import writer
from tflite2q.rewrites import scheme
from tflite2q.rewrites.scheme import Scheme

Array = npt.NDArray[Any]

BASE = "int8"
SCHEMES = (
    "int8-w4",
    "int8-w4-dw8",
    "mixed-depthwise",
    "mixed-small",
    "int8-16-levels",
    "int8-w3",
    "int8-w2",
    "symmetric-int8",
    "power-of-two",
    "int8-per-tensor",
    "int8",
)
IMPORTED, SHAKEN = "as imported", 1000
# What is measured of each: the value of recover.reconstruct, and whether samples are given.
WAYS = {
    "none": ("none", True),
    "hessian": ("hessian", True),
    "adaptive": ("adaptive", True),
    "hessian, without data": ("hessian", False),
    "none, without data": ("none", False),
}


@dataclass(frozen=True)
class Row:
    """One model under one scheme and way.

    top1: of the model under `BASE` without reconstruction, and of this one; low and high bound the 95 % interval of
    their difference; None without labels.  agreement: the share of equal answers of the two; None for `IMPORTED`.
    original: the share of this one's answers that the model as imported gives too; None where it was not measured.
    error: the mean squared difference of their outputs, in parts of the outputs' variance; None where outputs are
    classes.  size: of the .tflite, zipped: deflated.  seconds: of one conversion.  `problem`: why there is none.
    """

    model: str
    scheme: str
    option: str
    samples: int = 0
    top1: tuple[float, float] | None = None
    low: float = 0.0
    high: float = 0.0
    agreement: float | None = None
    original: float | None = None
    error: float | None = None
    size: int = 0
    zipped: int = 0
    seconds: float = 0.0
    problem: str | None = None


def measure(
    models: Sequence[Sampled], schemes: Sequence[str], limit: int | None, report: Report, ways: Sequence[str] = ()
) -> dict[str, Any]:
    """Everything there is to know, ready for JSON; `limit` caps the samples of each model.  Raises SystemExit for an
    unknown way."""
    where, rows = environment.here(), []
    if unknown := set(ways) - set(WAYS):
        raise SystemExit(f"--way {min(unknown)}: there are {', '.join(WAYS)}")
    for model in models:
        for row in each(model, schemes, limit, tuple(ways) or tuple(WAYS)):
            same = row.original if row.agreement is None else row.agreement
            report(f"{row.model} {row.scheme} {row.option}: {row.problem or f'{same or 0:.1%} same answers'}")
            rows.append(asdict(row))
    return {"schema_version": 1, "environment": asdict(where), "rows": rows}


def each(model: Sampled, schemes: Sequence[str], limit: int | None, ways: Sequence[str]) -> Iterator[Row]:
    """The rows of one model."""
    graph = tflite2q.load(model.path)
    labels_file = None if model.labels is None else str(model.labels)
    found = data.load(str(model.data), [graph[name] for name in graph.inputs], labels_file, limit)
    samples = [list(sample) for sample in found]
    try:
        base = writer.write(calibration.convert(graph, scheme.find(BASE)).graph)
    except Unchanged:
        base = model.path.read_bytes()
    before, imported = outputs(base, samples), outputs(model.path.read_bytes(), samples)
    if not model.labels:
        yield shaken(model.name, model.path.read_bytes(), samples, imported)
    labels = None if found.labels is None else as_classes(np.array(found.labels), classes(before))
    for name in schemes:
        for way in ways:
            try:
                yield row(model.name, scheme.find(name), way, graph, samples, labels, before, imported)
            except Tflite2qError as error:
                yield Row(model.name, name, way, problem=str(error))


def shaken(model: str, content: bytes, samples: list[list[Array]], before: Array) -> Row:
    """The model as imported beside itself, one of `SHAKEN` codes of its input being higher or lower by one."""
    random = np.random.default_rng(0)
    moved = []
    for (sample,) in samples:
        limits = np.iinfo(sample.dtype)
        step = random.choice([-1, 1], sample.shape) * (random.integers(SHAKEN, size=sample.shape) == 0)
        moved.append([np.clip(sample.astype(np.int64) + step, limits.min, limits.max).astype(sample.dtype)])
    same = float((classes(before) == classes(outputs(content, moved))).mean())
    return Row(model, IMPORTED, f"1 of {SHAKEN} input codes moved by one", len(samples), original=same)


def row(
    model: str,
    chosen: Scheme,
    way: str,
    graph: Any,
    samples: list[list[Array]],
    labels: Array | None,
    before: Array,
    imported: Array,
) -> Row:
    """One model under one scheme, both halves held out in turn."""
    how, given = WAYS[way]
    recover = replace(chosen.layer.recover, reconstruct=how)
    chosen = replace(chosen, layer=replace(chosen.layer, recover=recover))
    half = np.arange(len(samples)) % 2 == 0
    after, files, seconds = np.zeros_like(before), [], 0.0
    for seen in (half, ~half) if given else (np.zeros_like(half),):
        start = time.perf_counter()
        used = [sample for sample, look in zip(samples, seen, strict=True) if look]
        made = calibration.convert(graph, chosen, used if given else None)
        seconds = max(seconds, time.perf_counter() - start)
        files.append(writer.write(made.graph))
        after[~seen] = outputs(files[-1], [sample for sample, look in zip(samples, seen, strict=True) if not look])
    answers = classes(before), classes(after)
    measured = Row(
        model,
        chosen.name,
        way,
        len(samples),
        agreement=float((answers[0] == answers[1]).mean()),
        original=float((classes(imported) == answers[1]).mean()),
        error=None if before.dtype.kind in "iu" else float(((after - before) ** 2).mean() / before.var()),
        size=len(files[0]),
        zipped=len(zlib.compress(files[0], 9)),
        seconds=round(seconds, 1),
    )
    if labels is None:
        return measured
    right = answers[0] == labels, answers[1] == labels
    difference = paired_proportions(*right)
    top1 = float(right[0].mean()), float(right[1].mean())
    return replace(measured, top1=top1, low=difference.low, high=difference.high)


def as_classes(labels: Array, given: Array) -> Array:
    """Labels as the classes that a model gives: some have a class 0 for nothing at all."""
    if given.max() <= labels.max():
        return labels
    shift = max((0, 1), key=lambda offset: float((given == labels + offset).mean()))
    return labels + shift


def classes(found: Array) -> Array:
    """Of each sample the class with the highest score; outputs of integers without a scale are classes already."""
    return found if found.dtype.kind in "iu" else found.argmax(axis=-1)


def outputs(content: bytes, samples: Sequence[Sequence[Array]]) -> Array:
    """The first output of each sample, [samples, values]: real numbers, or integers where it has no scale."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "model.tflite")
        path.write_bytes(content)
        interpreter = Interpreter(str(path))
        interpreter.allocate_tensors()
        (given,), (taken, *_) = interpreter.get_input_details(), interpreter.get_output_details()
        scale, zero_point = taken["quantization"]
        found = []
        for (sample,) in samples:
            interpreter.set_tensor(given["index"], sample.reshape(given["shape"]).astype(given["dtype"]))
            interpreter.invoke()
            output = interpreter.get_tensor(taken["index"]).reshape(-1)
            found.append((output.astype(np.float32) - zero_point) * np.float32(scale) if scale else output)
    return np.stack(found)
