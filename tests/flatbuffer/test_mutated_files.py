"""Models of one op with an option, a shape, an operand or a parameter changed: each is used or refused, nothing else.

Damage to bytes seldom survives reading; this is damage that is well formed, and meets the ops themselves.
"""

from __future__ import annotations

import random
import signal
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import FAMILIES, cases

from tflite2q import rewrites
from tflite2q.arithmetic import numpy_core
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.opaque import check_runnable
from tflite2q.errors import Tflite2qError
from tflite2q.evaluation.data import synthetic
from tflite2q.execution import reference
from tflite2q.flatbuffer import schema
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.records import ModelRecord, SubgraphRecord
from tflite2q.flatbuffer.writer import write
from tflite2q.rewrites import scheme

NUMBERS = (0, 1, -1, 2, 3, 5, 16, 127, 255, 4096, 2**15, 2**16, 2**24, 2**31 - 1, -(2**31))
MOST_ELEMENTS = 1 << 18  # of all values of a model that is also run
SECONDS = 30
SCHEMES = ("int8", "int16x8", "symmetric-int8", "asymmetric-uint8", "float32")


def mutated(model: ModelRecord, numbers: random.Random) -> ModelRecord:
    """The model with one to three things changed."""
    graph = model.subgraphs[0]
    for _ in range(numbers.choice([1, 1, 2, 3])):
        change = numbers.choice([_option, _option, _shape, _shape, _operand, _tensor, _data])
        model, graph = change(model, graph, numbers)
    return replace(model, subgraphs=(graph,))


Changed = tuple[ModelRecord, SubgraphRecord]


def _option(model: ModelRecord, graph: SubgraphRecord, numbers: random.Random) -> Changed:
    op = graph.operators[0]
    if not op.options:
        return _shape(model, graph, numbers)
    name = numbers.choice(sorted(op.options))
    value: Any = op.options[name]
    if isinstance(value, bool):
        value = not value
    elif isinstance(value, float):
        value = numbers.choice([0.0, -1.0, 1e-30, 1e30, float("inf")])
    elif isinstance(value, int):
        value = numbers.choice(NUMBERS)
    elif isinstance(value, tuple):
        value = tuple(numbers.choice(NUMBERS) for _ in range(numbers.randrange(5)))
    try:
        changed = schema.encode(replace(model, subgraphs=(_with_options(graph, {**op.options, name: value}),)))
    except (TypeError, OverflowError):  # the field cannot hold the number
        return model, graph
    return model, schema.decode(changed).subgraphs[0]


def _with_options(graph: SubgraphRecord, options: dict[str, Any]) -> SubgraphRecord:
    return replace(graph, operators=(replace(graph.operators[0], options=options), *graph.operators[1:]))


def _shape(model: ModelRecord, graph: SubgraphRecord, numbers: random.Random) -> Changed:
    index = numbers.randrange(len(graph.tensors))
    shape = list(graph.tensors[index].shape)
    kind = numbers.randrange(4)
    if kind == 0 or not shape:
        shape.insert(numbers.randrange(len(shape) + 1), numbers.choice([1, 1, 2, 0]))
    elif kind == 1:
        del shape[numbers.randrange(len(shape))]
    else:
        shape[numbers.randrange(len(shape))] = numbers.choice(NUMBERS)
    return model, _with_tensor(graph, index, shape=tuple(shape))


def _operand(model: ModelRecord, graph: SubgraphRecord, numbers: random.Random) -> Changed:
    op = graph.operators[0]
    field = numbers.choice(["inputs", "inputs", "outputs"])
    names = list(getattr(op, field))
    kind = numbers.randrange(3)
    if kind == 0 and names:
        del names[numbers.randrange(len(names))]
    elif kind == 1 and names:
        names[numbers.randrange(len(names))] = numbers.randrange(-1, len(graph.tensors))
    else:
        names.insert(numbers.randrange(len(names) + 1), numbers.randrange(-1, len(graph.tensors)))
    return model, replace(graph, operators=(replace(op, **{field: tuple(names)}), *graph.operators[1:]))


def _tensor(model: ModelRecord, graph: SubgraphRecord, numbers: random.Random) -> Changed:
    index = numbers.randrange(len(graph.tensors))
    change: dict[str, Any] = numbers.choice(
        [
            {
                "dtype": numbers.choice(
                    ["int8", "uint8", "int16", "int32", "int64", "float32", "float16", "bool", "string"]
                )
            },
            {"scale": (numbers.choice([0.0, 1.0, 1e-30, 1e30, float("inf")]),), "zero_point": (0,)},
            {"zero_point": (numbers.choice(NUMBERS),)},
            {"scale": (), "zero_point": ()},
            {"scale": (0.5, 0.25), "zero_point": (0, 0), "axis": numbers.randrange(4)},
            {"variable": True},
            {"buffer": 0},
            {"shape_signature": tuple(numbers.choice([-1, 1, 4]) for _ in graph.tensors[index].shape)},
        ]
    )
    return model, _with_tensor(graph, index, **change)


def _data(model: ModelRecord, graph: SubgraphRecord, numbers: random.Random) -> Changed:
    """Another number in a constant of 32-bit integers, a shape or an axis for example."""
    places = [t.buffer for t in graph.tensors if t.dtype == "int32" and len(model.buffers[t.buffer]) >= 4]
    if not places:
        return _option(model, graph, numbers) if graph.operators[0].options else (model, graph)
    buffers = list(model.buffers)
    place = numbers.choice(places)
    data = np.frombuffer(buffers[place], np.int32).copy()
    data[numbers.randrange(len(data))] = numbers.choice(NUMBERS)
    buffers[place] = data.tobytes()
    return replace(model, buffers=tuple(buffers)), graph


def _with_tensor(graph: SubgraphRecord, index: int, **changes: Any) -> SubgraphRecord:
    tensors = list(graph.tensors)
    tensors[index] = replace(tensors[index], **changes)
    return replace(graph, tensors=tuple(tensors))


@contextmanager
def soon() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def use(data: bytes, scheme_name: str, allow: bool) -> str:
    """Everything one does with a model; says how far it came."""
    try:
        graph = read(data, allow)
        assert read(write(graph), allow) == graph
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
            data = schema.encode(mutated(model, numbers))
            with soon():
                try:
                    outcome = use(data, numbers.choice(SCHEMES), index % 2 == 1)
                except Exception as error:
                    raise AssertionError(f"{family}, mutation {index} of seed {seed!r}: {error!r}") from error
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert outcomes["used"] > sum(outcomes.values()) // 20, outcomes
    assert outcomes["InvalidGraph"] > sum(outcomes.values()) // 20, outcomes


@pytest.mark.usefixtures("little_memory")
def test_mutated_models() -> None:
    mutate_all(3, "quick")


@pytest.mark.slow
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("seed", ["a", "b", "c", "d"])
def test_many_mutated_models(seed: str) -> None:
    mutate_all(40, seed)
