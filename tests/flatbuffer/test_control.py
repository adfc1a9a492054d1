"""IF and WHILE: their subgraphs are regions of ops, or are carried with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from control_cases import COUNT, TRUTH, Part
from draw import Draw
from judge import judge

import tflite2q
from tflite2q.arithmetic import numpy_core
from tflite2q.dialect import ops
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.ops.opaque import Opaque
from tflite2q.dialect.text import parse_graph, print_graph
from tflite2q.dialect.types import Quantization, TensorType
from tflite2q.errors import DataError, InvalidGraph, ModelError, UnsupportedError
from tflite2q.execution import reference
from tflite2q.flatbuffer import constants, schema
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.records import ModelRecord, OperatorCode, SignatureRecord
from tflite2q.flatbuffer.writer import write

CODES = TensorType((1, 4), "int8", Quantization.per_tensor(0.1, 3))
X = np.array([[5, -100, 60, 127]], np.int8)


def part(*kinds: TensorType) -> Part:
    return Part(Draw(np.random.default_rng(0)), kinds)


def below(limit: int, *kinds: TensorType) -> Graph:
    """Whether the first carried value, a count, is less than `limit`."""
    made = part(COUNT, *kinds)
    (go,) = made.op(ops.Compare, (made.inputs[0], made.d.ints(limit)), TRUTH, relation="LESS")
    return made.graph("condition", go)


def counting(step: int = 1, inner: Graph | None = None) -> Graph:
    """The count grows by `step`, the codes are added to themselves; or they go through a loop of their own."""
    made = part(COUNT, CODES)
    (count,) = made.op(ops.Add, (made.inputs[0], made.d.ints(step)), COUNT, pot_scale_int16=False)
    if inner is not None:
        zero = made.d.ints(0)
        _, codes = made.op(ops.While, (zero, made.inputs[1]), COUNT, CODES, regions=(below(2, CODES), inner))
        return made.graph("outer", count, codes)
    (codes,) = made.op(ops.Add, (made.inputs[1],) * 2, CODES, pot_scale_int16=False)
    return made.graph("body", count, codes)


def looping(condition: Graph, body: Graph) -> Graph:
    made = part(COUNT, CODES)
    results = made.op(ops.While, made.inputs, COUNT, CODES, regions=(condition, body))
    return verify(made.graph("main", *results))


def record(graph: Graph, change: Callable[[ModelRecord], ModelRecord] = lambda made: made) -> bytes:
    return schema.encode(change(schema.decode(write(graph))))


def with_subgraph(index: int, **changes: Any) -> Callable[[ModelRecord], ModelRecord]:
    def change(made: ModelRecord) -> ModelRecord:
        graphs = list(made.subgraphs)
        graphs[index] = replace(graphs[index], **changes)
        return replace(made, subgraphs=tuple(graphs))

    return change


def with_option(option: str, value: int) -> Callable[[ModelRecord], ModelRecord]:
    """The one operator of the first subgraph with another option."""

    def change(made: ModelRecord) -> ModelRecord:
        (op,) = made.subgraphs[0].operators
        return with_subgraph(0, operators=(replace(op, options={**op.options, option: value}),))(made)

    return change


def start(count: int) -> list[np.ndarray]:
    return [np.array([count], np.int32), X]


def test_files_and_texts_give_the_graph_back() -> None:
    graph = looping(below(5, CODES), counting(2, counting()))
    again = read(write(graph))
    assert again.with_(name=graph.name) == graph and not again.others and not again.notes
    assert parse_graph(print_graph(graph)) == graph
    assert len(schema.decode(write(graph)).subgraphs) == 1 + 2 + 2


def test_equal_regions_are_one_subgraph() -> None:
    made = part(TensorType((1,), "bool"), CODES)
    branch = part(CODES)
    both = (branch.graph("same", branch.inputs[0]),) * 2
    graph = verify(made.graph("main", *made.op(ops.If, made.inputs, CODES, regions=both)))
    assert len(schema.decode(write(graph)).subgraphs) == 2 and read(write(graph)).ops[0].regions == both


def test_loops_within_loops() -> None:
    graph = looping(below(5, CODES), counting(2, counting()))
    counts = (-3, 0, 4, 5, 9)
    data, exe = write(graph), tflite2q.compile(graph)
    for count, expected in zip(counts, judge([(data, start(count)) for count in counts]), strict=True):
        assert not isinstance(expected, str)
        results = zip(reference.run(graph, *start(count)), exe.run(*start(count)), expected, strict=True)
        for a, b, c in results:
            np.testing.assert_array_equal(a, c)
            np.testing.assert_array_equal(b, c)


def test_an_iteration_sees_the_values_before_it() -> None:
    """(a, b) becomes (b, a + b): buffers of one iteration must not be those of the next."""
    numbers = TensorType((1,), "int32")
    body = part(COUNT, numbers, numbers)
    n, a, b = body.inputs
    (count,) = body.op(ops.Add, (n, body.d.ints(1)), COUNT, pot_scale_int16=False)
    (both,) = body.op(ops.Add, (a, b), numbers, pot_scale_int16=False)
    made = part(COUNT, numbers, numbers)
    regions = (below(30, numbers, numbers), body.graph("fibonacci", count, b, both))
    results = made.op(ops.While, made.inputs, COUNT, numbers, numbers, regions=regions)
    graph = verify(made.graph("main", *results, made.inputs[1], results[2]))
    inputs = [np.array([value], np.int32) for value in (0, 0, 1)]
    expected = [30, 832040, 1346269, 0, 1346269]
    assert [int(y[0]) for y in reference.run(graph, *inputs)] == expected
    exe = tflite2q.compile(graph)
    for _ in range(2):
        assert [int(y[0]) for y in exe.run(*inputs)] == expected


def test_a_loop_without_end_is_refused_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from tflite2q.lower import control

    monkeypatch.setattr(numpy_core, "MOST_ITERATIONS", 64)
    monkeypatch.setattr(control, "LEVELS", 6)
    graph = looping(below(64, CODES), counting())
    exe = tflite2q.compile(graph)
    for run in (exe.run, lambda *inputs: reference.run(graph, *inputs)):
        assert int(run(*start(0))[0][0]) == 64
        with pytest.raises(DataError, match="a loop has not ended after"):
            run(*start(-1))


def test_calls_within_a_loop_are_inlined() -> None:
    def change(made: ModelRecord) -> ModelRecord:
        """The body calls what was the body."""
        body = made.subgraphs[2]
        codes = (*made.codes, OperatorCode("CALL"))
        call = replace(
            body.operators[0],
            code=len(codes) - 1,
            inputs=body.inputs,
            outputs=body.outputs,
            options_type="CallOptions",
            options={"Subgraph": 3},
        )
        outer = replace(body, operators=(call,))
        return replace(made, codes=codes, subgraphs=(*made.subgraphs[:2], outer, body))

    graph = looping(below(5, CODES), counting())
    again = read(record(graph, change))
    assert [op.mnemonic for op in again.ops[0].regions[1].ops] == ["q.add", "q.add"] and not again.others
    np.testing.assert_array_equal(reference.run(again, *start(1))[1], reference.run(graph, *start(1))[1])


def test_shapes_of_operands_reach_the_regions() -> None:
    """Other sizes than those that the file states for the regions."""
    graph = looping(below(5, CODES), counting())

    def change(made: ModelRecord) -> ModelRecord:
        def taller(tensor: Any) -> Any:
            return replace(tensor, shape=(3, 4)) if tensor.shape == (1, 4) else tensor

        return with_subgraph(0, tensors=tuple(map(taller, made.subgraphs[0].tensors)))(made)

    tall = read(record(graph, change))
    assert tall[tall.outputs[1]].type.shape == (3, 4)
    inputs = [np.array([2], np.int32), np.repeat(X, 3, 0)]
    for got, want in zip(reference.run(tall, *inputs), reference.run(graph, *start(2)), strict=True):
        np.testing.assert_array_equal(got, np.broadcast_to(want, got.shape))


def test_where_something_is_carried_loops_are_too() -> None:
    graph = looping(below(5, CODES), counting())

    def change(made: ModelRecord) -> ModelRecord:
        return replace(
            made, codes=tuple(OperatorCode("made.up", custom=True) if c.name == "ADD" else c for c in made.codes)
        )

    data = record(graph, change)
    with pytest.raises(UnsupportedError, match=r"operator 0 WHILE: in subgraph 2: 0 custom made\.up"):
        read(data)
    kept = read(data, allow_unsupported=True)
    assert isinstance(kept.ops[0], Opaque) and len(kept.others) == 2
    assert schema.decode(write(kept)).subgraphs[0].operators == schema.decode(data).subgraphs[0].operators


def test_a_signature_keeps_a_body() -> None:
    graph = looping(below(5, CODES), counting())
    key = SignatureRecord("part", (("count", 0),), (("done", schema.decode(write(graph)).subgraphs[2].outputs[0]),), 2)
    again = read(record(graph, lambda made: replace(made, signatures=(key,))))
    assert [s.key for other in again.others for s in other.signatures] == ["part"]
    assert read(write(again), signature="part").ops == counting().ops


def variable_inside(made: ModelRecord) -> ModelRecord:
    body = made.subgraphs[2]
    tensors = tuple(replace(t, variable=i == body.inputs[1]) for i, t in enumerate(body.tensors))
    return with_subgraph(2, tensors=tensors)(made)


def handle_inside(made: ModelRecord) -> ModelRecord:
    codes = (*made.codes, OperatorCode("VAR_HANDLE"))
    handle = replace(
        made.subgraphs[2].operators[0],
        code=len(codes) - 1,
        inputs=(),
        outputs=(1,),
        options_type="VarHandleOptions",
        options={"Container": b"", "SharedName": b"s"},
    )
    return replace(with_subgraph(2, operators=(handle,))(made), codes=codes)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (with_option("BodySubgraphIndex", 7), ModelError, "calls subgraph 7, which does not exist"),
        (with_option("BodySubgraphIndex", 0), (ModelError, UnsupportedError), "first subgraph|is a part of"),
        (with_option("BodySubgraphIndex", 1), InvalidGraph, "the results of 'condition' are bool, but what it carries"),
        (with_option("CondSubgraphIndex", 2), InvalidGraph, "its condition has 2 results, not 1"),
        (variable_inside, UnsupportedError, "variable .* is not supported there"),
        (handle_inside, UnsupportedError, "VAR_HANDLE uses a variable, which is not supported in a branch or loop"),
    ],
    ids=["nowhere", "itself", "no body", "no condition", "variable", "handle"],
)
def test_what_is_refused_says_why(change: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        read(record(looping(below(5, CODES), counting()), change))


def test_shapes_that_change_are_refused() -> None:
    numbers = TensorType((2,), "int32")
    body = part(COUNT, numbers)
    (longer,) = body.op(ops.Concat, (body.inputs[1],) * 2, TensorType((4,), "int32"), axis=0)
    made = part(COUNT, numbers)
    regions = (below(3, numbers), body.graph("doubling", body.inputs[0], longer))
    results = made.op(ops.While, made.inputs, COUNT, numbers, regions=regions)
    with pytest.raises(UnsupportedError, match=r"is \[4\] but was \[2\]: a shape that changes is not supported"):
        verify(made.graph("main", *results))


def test_branches_of_different_shapes_are_refused() -> None:
    numbers = TensorType((2,), "int32")
    one, other = part(numbers), part(numbers)
    (longer,) = other.op(ops.Concat, (other.inputs[0],) * 2, TensorType((4,), "int32"), axis=0)
    made = part(TRUTH, numbers)
    regions = (one.graph("then", one.inputs[0]), other.graph("else", longer))
    results = made.op(ops.If, made.inputs, numbers, regions=regions)
    with pytest.raises(UnsupportedError, match="its branches give results of different shapes"):
        verify(made.graph("main", *results))


def test_regions_that_unfold_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each branch runs the next one twice: 2^7 regions from 8 subgraphs."""
    monkeypatch.setattr(constants, "MOST_OPERATORS", 100)
    branch = part(CODES)
    inner = branch.graph("last", branch.inputs[0])
    for depth in range(7):
        made = part(CODES)
        go = made.d.constant(np.array([True]))
        inner = made.graph(f"level{depth}", *made.op(ops.If, (go, made.inputs[0]), CODES, regions=(inner, inner)))
    with pytest.raises(UnsupportedError, match="of more than 100 operators are not supported"):
        read(write(inner))


def test_profiles_count_what_regions_do() -> None:
    # What an empty function takes is subtracted: a few additions may take no longer, hundreds of them do.
    graph = looping(below(500, CODES), counting())
    exe = tflite2q.compile(graph)
    (found,) = exe.profile(*start(0))
    assert (found.mnemonic, found.share) == ("q.while", 1.0) and found.ms > 0
    name = f"{graph.ops[0].name}/body/{graph.ops[0].regions[1].outputs[1]}"
    assert any(choice.inner and choice.op == name for choice in exe.choices)
