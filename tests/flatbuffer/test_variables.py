"""Resource variables as files have them: handles, reads and assignments, and a subgraph that runs once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from streams import run_signatures, run_stream

import tflite2q
from tflite2q.dialect.text import parse_graph, print_graph
from tflite2q.errors import InvalidGraph, ModelError, Tflite2qError, UnsupportedError
from tflite2q.execution.reference import Stream
from tflite2q.flatbuffer import schema
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.records import (
    ModelRecord,
    OperatorCode,
    OperatorRecord,
    SignatureRecord,
    SubgraphRecord,
    TensorRecord,
)
from tflite2q.flatbuffer.writer import write

NAMES = ("ADD", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE", "WHILE", "NEG")
ADD, HANDLE, READ, ASSIGN, ONCE, WHILE, NEG = range(len(NAMES))
SHARED = {"Container": b"box", "SharedName": b"sum"}
KIND: dict[str, Any] = {"scale": (0.5,), "zero_point": (3,)}


def handle(tensor: int, **names: bytes) -> OperatorRecord:
    return OperatorRecord(HANDLE, (), (tensor,), options_type="VarHandleOptions", options={**SHARED, **names})


def once(subgraph: int) -> OperatorRecord:
    return OperatorRecord(ONCE, (), (), options_type="CallOnceOptions", options={"InitSubgraphIndex": subgraph})


TENSORS = (
    TensorRecord("x", (4,), "int8", 0, **KIND),
    TensorRecord("handle", (), "resource", 0),
    TensorRecord("again", (), "resource", 0),
    TensorRecord("held", (4,), "int8", 0, **KIND),
    TensorRecord("sum", (4,), "int8", 0, **KIND),
)
SETUP = SubgraphRecord(
    "setup",
    (TensorRecord("handle", (), "resource", 0), TensorRecord("start", (4,), "int8", 1, **KIND)),
    (),
    (),
    (handle(0), OperatorRecord(ASSIGN, (0, 1), ())),
)
OPERATORS = (
    once(1),
    handle(1),
    handle(2),
    OperatorRecord(READ, (1,), (3,)),
    OperatorRecord(ADD, (3, 0), (4,), options_type="AddOptions"),
    OperatorRecord(ASSIGN, (2, 4), ()),
)
MODEL = ModelRecord(
    description="",
    codes=tuple(OperatorCode(name, 2 if name == "ADD" else 1) for name in NAMES),
    buffers=(b"", np.array([1, -2, 3, -4], np.int8).tobytes()),
    subgraphs=(SubgraphRecord("main", TENSORS, (0,), (4,), OPERATORS), SETUP),
)


def main(**changes: Any) -> ModelRecord:
    return replace(MODEL, subgraphs=(replace(MODEL.subgraphs[0], **changes), *MODEL.subgraphs[1:]))


def setup(**changes: Any) -> ModelRecord:
    return replace(MODEL, subgraphs=(MODEL.subgraphs[0], replace(SETUP, **changes)))


def test_a_running_sum_by_two_handles() -> None:
    data = schema.encode(MODEL)
    graph = read(data)
    assert [op.mnemonic for op in graph.ops] == ["q.read_variable", "q.add", "q.assign_variable"]
    assert [value.name for value in graph.values] == ["x", "handle", "held", "sum"] and not graph.others
    (state,) = graph.states
    assert state.resource is not None
    assert (state.resource.container, state.resource.shared_name) == ("box", "sum")
    assert state.initial.tolist() == [1, -2, 3, -4]
    written = write(graph)
    assert read(written) == graph and write(read(written)) == written
    assert parse_graph(print_graph(graph)) == graph
    inputs = np.random.default_rng(0).integers(-20, 28, (100, 4), np.int8)
    stream = Stream(graph)
    ours = np.stack([stream.step(x)[0] for x in inputs])
    assert len(np.unique(ours)) > 30
    for file in (data, written):
        np.testing.assert_array_equal(run_stream(file, [inputs])[0], ours)


def test_what_is_assigned_first_needs_no_initial_data() -> None:
    """The order of ops decides: a read behind an assignment gets what was assigned, in each run."""
    operators = (
        handle(1),
        OperatorRecord(ASSIGN, (1, 0), ()),
        OperatorRecord(READ, (1,), (3,)),
        OperatorRecord(ADD, (3, 0), (4,), options_type="AddOptions"),
        OperatorRecord(ASSIGN, (1, 4), ()),
    )
    record = replace(MODEL, subgraphs=(replace(MODEL.subgraphs[0], operators=operators),))
    graph = read(schema.encode(record))
    assert graph.states[0].resource == replace(graph.states[0].resource, initial=None)  # type: ignore[type-var]
    inputs = np.arange(-20, 20, dtype=np.int8).reshape(10, 4)
    stream = Stream(graph)
    ours = np.stack([stream.step(x)[0] for x in inputs])
    np.testing.assert_array_equal(run_stream(write(graph), [inputs])[0], ours)
    assert read(write(graph)) == graph


def test_a_variable_gets_its_parameters_from_what_it_moves() -> None:
    bare = replace(SETUP.tensors[1], scale=(), zero_point=())
    graph = read(schema.encode(setup(tensors=(SETUP.tensors[0], bare))))
    assert graph == read(schema.encode(MODEL))


def test_subgraphs_behind_an_initialization_keep_their_callers() -> None:
    """Without the initialization the others move up, and what calls them must follow."""
    loop = SubgraphRecord("loop", TENSORS[:1], (0,), (0,), ())
    call = OperatorRecord(
        WHILE, (4,), (5,), options_type="WhileOptions", options={"CondSubgraphIndex": 2, "BodySubgraphIndex": 3}
    )
    record = main(
        tensors=(*TENSORS, TensorRecord("looped", (4,), "int8", 0, **KIND)), operators=(*OPERATORS, call), outputs=(5,)
    )
    record = replace(record, subgraphs=(*record.subgraphs, loop, replace(loop, name="loop 2")))
    graph = read(schema.encode(record), allow_unsupported=True)
    assert [other.name for other in graph.others] == ["loop", "loop 2"]
    again = schema.decode(write(graph))
    (op,) = [op for op in again.subgraphs[0].operators if again.codes[op.code].name == "WHILE"]
    called = [again.subgraphs[int(op.options[f"{part}SubgraphIndex"])].name for part in ("Cond", "Body")]  # type: ignore[arg-type]
    assert called == ["loop", "loop 2"]
    assert read(write(graph), allow_unsupported=True) == graph


REFUSED: dict[str, tuple[Callable[[], ModelRecord], str, type[Tflite2qError]]] = {
    "an initialization that computes": (
        lambda: setup(operators=(*SETUP.operators, OperatorRecord(NEG, (1,), (1,)))),
        "CALL_ONCE runs NEG of subgraph 1; it may only assign constants",
        UnsupportedError,
    ),
    "an initialization without data": (
        lambda: setup(tensors=(SETUP.tensors[0], replace(SETUP.tensors[1], buffer=0))),
        "CALL_ONCE assigns 'start' of subgraph 1, which is not constant",
        UnsupportedError,
    ),
    "an initialization that comes late": (
        lambda: main(operators=(*OPERATORS[1:], once(1))),
        "CALL_ONCE after ops that use variables",
        UnsupportedError,
    ),
    "nothing sets it": (
        lambda: replace(main(operators=OPERATORS[1:]), subgraphs=main(operators=OPERATORS[1:]).subgraphs[:1]),
        "variable 'sum' is read before anything sets it",
        UnsupportedError,
    ),
    "a handle as an operand": (
        lambda: main(
            tensors=(*TENSORS, replace(TENSORS[3], name="negative")),
            operators=(*OPERATORS, OperatorRecord(NEG, (1,), (5,))),
        ),
        "NEG takes the handle of a variable",
        UnsupportedError,
    ),
    "a handle as output": (
        lambda: main(outputs=(4, 1)),
        "the handle of a variable is an input or output",
        UnsupportedError,
    ),
    "strings": (
        lambda: setup(tensors=(SETUP.tensors[0], TensorRecord("start", (1,), "string", 1))),
        r"variable 'sum' is string\[1\], which is not supported",
        UnsupportedError,
    ),
    "another shape": (
        lambda: setup(tensors=(SETUP.tensors[0], replace(SETUP.tensors[1], shape=(2, 2)))),
        r"shapes \[2, 2\] and \[4\] do not broadcast",
        InvalidGraph,
    ),
    "another dtype": (
        lambda: setup(tensors=(SETUP.tensors[0], replace(SETUP.tensors[1], dtype="uint8"))),
        "'handle' is uint8, not int8",
        InvalidGraph,
    ),
    "too few data": (
        lambda: setup(tensors=(SETUP.tensors[0], replace(SETUP.tensors[1], shape=(5,)))),
        "variable 'handle': 4 bytes of data for",
        InvalidGraph,
    ),
    "no such subgraph": (lambda: main(operators=(once(7), *OPERATORS[1:])), "subgraph 7, which does not", ModelError),
    "no such tensor": (
        lambda: setup(operators=(handle(0), OperatorRecord(ASSIGN, (0, 9), ()))),
        "tensor 9 does not exist",
        ModelError,
    ),
}


def two_signatures() -> ModelRecord:
    """ "add" keeps a sum, "take" subtracts from it, "reset" is what initializes it, for both."""
    taken = SubgraphRecord(
        "taken",
        TENSORS,
        (0,),
        (4,),
        (*OPERATORS[:4], replace(OPERATORS[4], code=len(NAMES), options_type="SubOptions"), OPERATORS[5]),
    )
    return replace(
        MODEL,
        codes=(*MODEL.codes, OperatorCode("SUB", 2)),
        subgraphs=(*MODEL.subgraphs, taken),
        signatures=(
            SignatureRecord("add", (("x", 0),), (("sum", 4),), 0),
            SignatureRecord("reset", (), (), 1),
            SignatureRecord("take", (("x", 0),), (("sum", 4),), 2),
        ),
    )


@pytest.mark.parametrize("signature", ["add", "take"])
@pytest.mark.parametrize("scheme", [None, "int16x8"])
def test_a_variable_of_two_signatures(signature: str, scheme: str | None) -> None:
    """It keeps its type, and what initializes it for both does so once for the written model, too."""
    data = schema.encode(two_signatures())
    graph = read(data, signature=signature)
    assert [other.name for other in graph.others] == [n for n in ("main", "setup", "taken") if n != graph.name]
    assert read(write(graph), signature=signature) == graph
    inputs = np.random.default_rng(0).integers(-20, 28, (20, 4), np.int8)
    new = graph if scheme is None else tflite2q.convert(graph, scheme).graph
    assert new.states[0].type == graph.states[0].type
    calls = [("add", "take", "take", "reset", "add", "add")[i % 6] for i in range(20)]
    if scheme is None:
        np.testing.assert_array_equal(run_signatures(data, calls, inputs), run_signatures(write(new), calls, inputs))
        stream = Stream(graph)
        ours = [stream.step(x)[0] for x in inputs]
        alone = run_signatures(data, [signature] * 20, inputs)
        np.testing.assert_array_equal(np.stack(ours), alone)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    make, message, kind = REFUSED[name]
    data = schema.encode(make())
    with pytest.raises(kind, match=message) as caught:
        read(data)
    assert "\n" not in str(caught.value)
    if kind is UnsupportedError:
        graph = read(data, allow_unsupported=True)
        assert read(write(graph), allow_unsupported=True) == graph


@pytest.mark.parametrize("own", [False, True])
def test_initial_data_stored_as_halves(own: bool) -> None:
    """As the converter stores the variables of a model of float16 weights; LiteRT widens them in the first run."""
    kinds = [replace(tensor, scale=(), zero_point=()) for tensor in TENSORS]
    real = tuple(replace(tensor, dtype="float32") if tensor.dtype == "int8" else tensor for tensor in kinds)
    stored = TensorRecord("stored", (4,), "float16", 1)
    start = TensorRecord("start", (4,), "float32", 0)
    widen = OperatorRecord(len(NAMES), (2,), (1,), options_type="DequantizeOptions")
    operators = (handle(0), widen, OperatorRecord(ASSIGN, (0, 1), ()))
    record = replace(
        MODEL,
        codes=(*(replace(code, version=1) for code in MODEL.codes), OperatorCode("DEQUANTIZE", 3)),
        buffers=(b"", np.array([0.1, -2, 65504, 6e-8], np.float16).tobytes()),
        subgraphs=(
            replace(MODEL.subgraphs[0], tensors=real),
            replace(SETUP, tensors=(SETUP.tensors[0], start, stored), operators=operators),
        ),
    )
    if own:  # a signature of its own: the subgraph stays, and is called again by what is written
        record = replace(record, signatures=(SignatureRecord("setup", (), (), 1),))
    data = schema.encode(record)
    graph = read(data)
    written = write(graph)
    assert read(written) == graph
    inputs = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    stream = Stream(graph)
    ours = np.stack([stream.step(x)[0] for x in inputs])
    for file in (data, written):
        np.testing.assert_array_equal(run_stream(file, [inputs])[0], ours)
