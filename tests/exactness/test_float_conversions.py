"""Operators of real numbers converted with data, and dynamic-range ones: LiteRT runs the files as the reference does,
and they compute what the original computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from agreement import shown
from cases import FAMILIES, WITHOUT_REFERENCE, cases
from draw import Array, Case
from judge import judge

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import Value
from tflite2q.errors import SchemeError, Unchanged, UnsupportedError
from tflite2q.evaluation import calibration
from tflite2q.execution import reference
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.writer import write
from tflite2q.rewrites import scheme

pytest.importorskip("ai_edge_litert")

QUICK, SLOW = 1, 8
SCHEMES = ("int8", "int16x8", "symmetric-int8", "asymmetric-uint8", "dynamic-range", "weight-only")
REAL = [f for f in FAMILIES if "float32" in f.split("-") and f.split("-")[0] not in WITHOUT_REFERENCE]
# What 8-bit codes lose here is not small beside the results: boxes that a step of a score puts in another order.
COARSE = ("TFLite_Detection_PostProcess",)
LEAST_DB = 6.0  # rows of very different size share the codes of an activation, and RELU6 may cut what is large


def converted(count: int, schemes: Sequence[str], seed: int) -> Iterator[tuple[str, Case, Graph]]:
    """(what it is, the original, what the converted file reads as); the case's inputs are the samples."""
    for family in REAL:
        for index, case in enumerate(cases(family, count, seed=seed)):
            for name in schemes:
                try:
                    made = calibration.convert(case.graph, scheme.find(name), [case.inputs])
                except (SchemeError, Unchanged, UnsupportedError):
                    continue  # it holds already, or nothing of it has such a form
                yield f"{family} {index} {name}", case, read(write(made.graph))


def close(got: Array, want: Array) -> bool:
    if got.dtype != np.float32:
        return np.array_equal(got, want)
    largest = float(np.abs(want[np.isfinite(want)]).max(initial=0.0))
    return np.allclose(got, want, rtol=1e-5, atol=1e-5 * largest, equal_nan=True)


def decibels(got: Array, want: Array, value: Value) -> float:
    """Signal to noise of real numbers, where they are finite."""
    if value.type.dtype != "float32" or got.dtype != np.float32:
        return np.inf
    usable = np.isfinite(got) & np.isfinite(want)
    signal, noise = (float((a[usable].astype(np.float64) ** 2).sum()) for a in (want, got - want))
    return np.inf if noise == 0 else 10 * np.log10(max(signal, np.finfo(float).tiny) / noise)


def check(made: Sequence[tuple[str, Case, Graph]]) -> None:
    wrong = []
    answers = judge([(write(graph), case.inputs) for _, case, graph in made])
    for (name, case, graph), answer in zip(made, answers, strict=True):
        if isinstance(answer, str):
            wrong.append(f"{name}: {answer[-150:]}")
            continue
        results = reference.run(graph, *case.inputs)
        if not all(close(got, want) for got, want in zip(*shown(case, results, answer), strict=True)):
            wrong.append(f"{name}: differs from LiteRT")
        before = reference.run(case.graph, *case.inputs)
        values = [case.graph[output] for output in case.graph.outputs]
        loss = min(decibels(*row) for row in zip(results, before, values, strict=True))
        if loss < LEAST_DB and not name.startswith(COARSE):
            wrong.append(f"{name}: {loss:.1f} dB")
    assert len(made) > 30 and not wrong, f"{len(wrong)} of {len(made)}\n" + "\n".join(wrong[:20])


def test_once() -> None:
    check(list(converted(QUICK, ("int8", "int16x8", "dynamic-range"), 5)))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEMES)
def test_often(name: str) -> None:
    check(list(converted(SLOW, (name,), 6)))
