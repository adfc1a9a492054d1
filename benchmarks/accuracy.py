"""Accuracy before and after conversion to each shipped scheme, on models with labelled samples.

The compiled models run, whose results are the reference's bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy.typing as npt

import tflite2q
from benchmarks import environment
from benchmarks.models import Labelled
from benchmarks.tables import UNCHANGED
from tflite2q.dialect.graph import Graph
from tflite2q.errors import Tflite2qError, Unchanged
from tflite2q.evaluation import coding, comparison, data, models
from tflite2q.evaluation.data import Dataset
from tflite2q.rewrites import scheme
from tflite2q.rewrites.scheme import Scheme

Array = npt.NDArray[Any]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Variant:
    """A conversion to measure: whether it may look at some of the samples (never at their labels), and what
    distinguishes it from others to the same scheme."""

    scheme: Scheme
    calibrated: bool = False
    option: str = ""


@dataclass(frozen=True)
class Row:
    """One model under one scheme.

    top1, top5 and agreement are shares of the samples, top1 and top5 and size (bytes of the .tflite) are those of the
    original and of the conversion; `channels`: so many weight channels lost precision, of how many; `distance`: the sum
    over all classes of what their probabilities moved by, averaged over the samples.  `problem`: why the scheme does
    not apply, where it does not.
    """

    model: str
    scheme: str
    samples: int = 0
    top1: tuple[float, float] = (0.0, 0.0)
    top5: tuple[float, float] = (0.0, 0.0)
    agreement: float = 0.0
    size: tuple[int | None, int | None] = (None, None)
    channels: tuple[int, int] = (0, 0)
    distance: float = 0.0
    problem: str | None = None


@dataclass(frozen=True)
class _Answers:
    """A converted model and its outputs for every sample, in order; or why there are none."""

    graph: Graph | None
    outputs: list[list[Array]]
    size: int | None = None
    channels: tuple[int, int] = (0, 0)
    problem: str | None = None


def measure(
    models: Sequence[Labelled], schemes: Sequence[str], limit: int | None, report: Report, processes: int = 2
) -> dict[str, Any]:
    """Everything there is to know, ready for JSON; `limit` caps the samples of each model."""
    where = environment.here()
    variants = [Variant(scheme.find(name)) for name in schemes]
    rows = [asdict(row) for _, row in each(models, variants, limit, report, processes)]
    return {"schema_version": 1, "environment": asdict(where), "rows": rows}


def each(
    models: Sequence[Labelled], variants: Sequence[Variant], limit: int | None, report: Report, processes: int = 2
) -> Iterator[tuple[Variant, Row]]:
    """What every variant does to every model."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        asked = [(model, variant) for model in models for variant in (None, *variants)]
        answers = iter(pool.map(partial(_answers, limit=limit), *zip(*asked, strict=True)))
        for model in models:
            before = next(answers)
            if before.graph is None:
                raise SystemExit(f"{model.name}: {before.problem}")
            samples = _cached(_samples(model, before.graph, limit))
            for variant in variants:
                row = _row(model, variant.scheme.name, samples, before, next(answers))
                report(f"{' '.join(filter(None, (model.name, row.scheme, variant.option)))}: {_outcome(row)}")
                yield variant, row


def _answers(model: Labelled, variant: Variant | None, limit: int | None) -> _Answers:
    """Convert (None: leave as it is), compile and run on all samples; in a process of its own."""
    try:
        graph = tflite2q.load(model.path)
        seen = model.data if variant is not None and variant.calibrated else None
        conversion = None if variant is None else tflite2q.convert(graph, variant.scheme, data=seen)
        chosen = graph if conversion is None else conversion.graph
        executable = tflite2q.compile(chosen)
        inputs = ([graph[n] for n in graph.inputs], [chosen[n] for n in chosen.inputs])
        outputs = [executable.run(*coding.transfer(arrays, *inputs)) for arrays in _samples(model, graph, limit)]
    except Unchanged:
        return _Answers(None, [], problem=UNCHANGED)
    except Tflite2qError as error:
        return _Answers(None, [], problem=str(error))
    layers = conversion.layers if conversion else ()
    rescaled = sum(layer.channels_rescaled or 0 for layer in layers)
    size = models.size_of(model.path if conversion is None else conversion)
    return _Answers(chosen, outputs, size, (rescaled, sum(layer.channels or 0 for layer in layers)))


def _samples(model: Labelled, graph: Graph, limit: int | None) -> Dataset:
    return data.load(str(model.data), [graph[name] for name in graph.inputs], str(model.labels), limit)


def _cached(samples: Dataset) -> Dataset:
    """Samples that are decoded once."""
    held = list(samples)
    return Dataset(samples.source, samples.names, held.__getitem__, samples.labels)


def _row(model: Labelled, name: str, samples: Dataset, before: _Answers, after: _Answers) -> Row:
    if before.graph is None or after.graph is None:
        return Row(model.name, name, problem=after.problem)
    found = comparison.measure_accuracy(
        before.graph, after.graph, _replay(before.outputs), _replay(after.outputs), samples
    )
    assert found.top1 is not None and found.top5 is not None and found.agreement_top1 is not None
    assert found.mean_abs_error is not None
    return Row(
        model=model.name,
        scheme=name,
        samples=found.samples,
        top1=(found.top1.original, found.top1.converted),
        top5=(found.top5.original, found.top5.converted),
        agreement=found.agreement_top1,
        size=(before.size, after.size),
        channels=after.channels,
        distance=found.mean_abs_error * after.outputs[0][0].size,
    )


def _replay(outputs: list[list[Array]]) -> comparison.Runner:
    """A runner that gives the outputs one after the other, whatever it is asked."""
    remaining: Iterator[list[Array]] = iter(outputs)
    return lambda *_: next(remaining)


def _outcome(row: Row) -> str:
    return row.problem or f"top-1 {row.top1[0]:.1%} -> {row.top1[1]:.1%}"
