"""Every operator converted to the schemes that keep TFLite's arithmetic: LiteRT runs the file and the oracle agrees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from agreement import shown
from cases import FAMILIES, WITHOUT_REFERENCE, cases
from corner_cases import CORNERS
from draw import Case, Draw
from judge import judge
from wild import Wild

from tflite2q import convert
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.eltwise import Requantize
from tflite2q.errors import InvalidGraph, SchemeError, Unchanged, UnsupportedError
from tflite2q.execution import reference
from tflite2q.flatbuffer import reader
from tflite2q.flatbuffer.writer import write

pytest.importorskip("ai_edge_litert")

SCHEMES = (
    "int8",
    "symmetric-int8",
    "asymmetric-uint8",
    "symmetric-uint8",
    "int8-per-tensor",
    "int8-w4",
    "int16x8",
    "float32",
)
EIGHT_BITS = [f for f in FAMILIES if {"uint8", "int8"} & set(f.split("-")) and f.split("-")[0] not in WITHOUT_REFERENCE]


def converted(count: int, schemes: Sequence[str]) -> list[tuple[str, Case, Graph]]:
    """(what it is, the original, the converted graph) of `count` cases of each 8-bit family and scheme."""
    found = []
    for family in EIGHT_BITS:
        for index, case in enumerate(cases(family, count, seed=2)):
            for scheme in schemes if case.graph.inputs else ():  # without inputs, XNNPACK's delegate fails
                try:
                    found.append((f"{family} {index} {scheme}", case, convert(case.graph, scheme).graph))
                except (SchemeError, Unchanged, UnsupportedError):
                    continue  # real numbers need data; it holds already; or this operator has no such form
    return found


def agree(got: np.ndarray, want: np.ndarray, behind_floats: bool) -> bool:
    """Equal codes (a step apart where the last digit of a float32 decides), real numbers within 1e-5."""
    if got.dtype == np.float32:
        return np.allclose(got, want, rtol=1e-5, atol=1e-4)
    return int(np.abs(got.astype(np.int64) - want.astype(np.int64)).max(initial=0)) <= int(behind_floats)


def converted_corners(count: int, schemes: Sequence[str], seed: int) -> list[tuple[str, Case, Graph]]:
    """The same of cases at the corners; the originals are those that LiteRT takes."""
    drawn = []
    for family in CORNERS:
        if family.split("-")[0] == "FULLY_CONNECTED":
            continue  # biases at the ends of 32 bits in steps that a scheme made finer: undefined in LiteRT's float64
        for index in range(count):
            style = Wild if index % 3 == 0 else Draw
            try:
                case = CORNERS[family](style(np.random.default_rng([seed, index, *family.encode()])))
            except InvalidGraph:
                continue
            drawn.append((f"{family} {index}", case))
    files = [(write(case.graph), case.inputs) for _, case in drawn]
    refused = [
        isinstance(a, str) or isinstance(b, str) for a, b in zip(judge(files), judge(files, "default"), strict=True)
    ]
    found = []
    for (name, case), out in zip(drawn, refused, strict=True):
        for scheme in () if out else schemes:
            try:
                found.append((f"{name} {scheme}", case, parse(convert(case.graph, scheme).graph)))
            except (SchemeError, Unchanged, UnsupportedError):
                continue  # real numbers need data; it holds already; or this operator has no such form
    return found


def parse(graph: Graph) -> Graph:
    """What its file says: parameters, not the arithmetic of rescaling."""
    return reader.read(write(graph))


def check(made: list[tuple[str, Case, Graph]]) -> None:
    files = [(write(graph), case.inputs) for _, case, graph in made]
    wrong = [
        f"{name}, default kernels: {answer[-150:]}"
        for (name, _, _), answer in zip(made, judge(files, "default"), strict=True)
        if isinstance(answer, str)
    ]
    for (name, case, graph), expected in zip(made, judge(files), strict=True):
        if isinstance(expected, str):
            wrong.append(f"{name}: {expected[-150:]}")
            continue
        every = reference.run_every(graph, *case.inputs)
        given = shown(case, [every[name] for name in graph.outputs], expected)
        for output, got, want in zip(graph.outputs, *given, strict=True):
            if not agree(got, np.where(undefined(graph, output, every), got, want), name.endswith("float32")):
                wrong.append(f"{name}: {' '.join(op.mnemonic for op in graph.ops)}")
    assert not wrong, f"{len(wrong)} of {len(made)}\n" + "\n".join(wrong[:20])


def undefined(graph: Graph, output: str, every: Mapping[str, np.ndarray]) -> np.ndarray:
    """Where a result was a real number beyond 2^31 steps: C leaves open what QUANTIZE makes of it, ours saturates."""
    maker = graph.producers.get(output)
    source = every[maker.inputs[0]] if isinstance(maker, Requantize) else np.zeros(1)
    if source.dtype != np.float32:
        return np.zeros(1, bool)
    return ~(np.abs(source.astype(np.float64) / graph[output].type.scale) < 2.0**31)


def test_once() -> None:
    check(converted(1, ("int8", "symmetric-int8")))


def test_corners_once() -> None:
    check(converted_corners(1, ("int8", "symmetric-int8"), 0))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_often(scheme: str) -> None:
    check(converted(8, (scheme,)))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [*SCHEMES, "power-of-two"])
def test_corners_often(scheme: str) -> None:
    check(converted_corners(8, (scheme,), 1))
