"""Models of one op with an option, a shape, an operand or a parameter changed: each is used or refused, nothing else.

Damage to bytes seldom survives reading; this is damage that is well formed, and meets the ops themselves.
"""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest
from cases import FAMILIES, cases
from patience import soon
from reliability.mutators import written

from tflite2q import rewrites
from tflite2q.arithmetic import numpy_core
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.opaque import check_runnable
from tflite2q.dialect.text import digest
from tflite2q.errors import Tflite2qError
from tflite2q.evaluation.data import synthetic
from tflite2q.execution import reference
from tflite2q.flatbuffer import schema
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.writer import write
from tflite2q.rewrites import scheme

MOST_ELEMENTS = 1 << 18  # of all values of a model that is also run
SECONDS = 30
SCHEMES = ("int8", "int16x8", "symmetric-int8", "asymmetric-uint8", "float32")


def use(data: bytes, scheme_name: str, allow: bool) -> str:
    """Everything one does with a model; says how far it came."""
    try:
        graph = read(data, allow)
        again = read(write(graph), allow)
        assert again == graph or digest(again) == digest(graph)  # NaN is not equal to itself, but written alike
        run(graph)
        new = rewrites.convert(graph, scheme.find(scheme_name)).graph
        again = read(write(new), allow)
        assert [op.mnemonic for op in again.ops] == [op.mnemonic for op in new.ops]
        run(again)
    except Tflite2qError as error:
        assert "\n" not in str(error) and str(error)
        return type(error).__name__
    return "used"


@pytest.fixture(autouse=True)
def few_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random counts keep loops running; they are refused early."""
    monkeypatch.setattr(numpy_core, "MOST_ITERATIONS", 20)


def run(graph: Graph) -> None:
    check_runnable(graph)
    if sum(value.type.size for value in graph.values) <= MOST_ELEMENTS:
        with np.errstate(all="ignore"):
            reference.run(graph, *next(iter(synthetic([graph[name] for name in graph.inputs], 1))))


def mutate_all(count: int, seed: str) -> None:
    outcomes: dict[str, int] = {}
    for family in FAMILIES:
        numbers = random.Random(zlib.crc32(f"{seed} {family}".encode()))
        model = schema.decode(write(next(cases(family, 1, numbers.randrange(1000))).graph))
        for index in range(count):
            data = written(model, numbers)
            with soon(SECONDS):
                try:
                    outcome = use(data, numbers.choice(SCHEMES), index % 2 == 1)
                except Exception as error:
                    raise AssertionError(f"{family}, mutation {index} of seed {seed!r}: {error!r}") from error
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert outcomes["used"] > sum(outcomes.values()) // 20, outcomes
    assert outcomes["InvalidGraph"] > sum(outcomes.values()) // 20, outcomes


@pytest.mark.slow  # a minute of damaged models is part of .ci/run
@pytest.mark.usefixtures("little_memory")
def test_mutated_models() -> None:
    mutate_all(3, "quick")


@pytest.mark.slow
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("seed", ["a", "b", "c", "d"])
def test_many_mutated_models(seed: str) -> None:
    mutate_all(40, seed)
