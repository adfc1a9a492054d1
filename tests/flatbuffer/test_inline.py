"""Subgraphs that an operator only runs stand in its place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from judge import judge
from networks import Net
from streaming import streaming, walk

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.opaque import Opaque
from tflite2q.errors import ModelError, UnsupportedError
from tflite2q.execution import reference
from tflite2q.flatbuffer import flexbuffer, schema
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.writer import write


def call(x: str, y: str, place: int, code: str = "STABLEHLO_COMPOSITE") -> Opaque:
    option = "DecompositionSubgraphIndex" if code == "STABLEHLO_COMPOSITE" else "Subgraph"
    table = "StableHLOCompositeOptions" if code == "STABLEHLO_COMPOSITE" else "CallOptions"
    needed = (("Name", b"made.up"), ("CompositeAttributes", tuple(flexbuffer.encode({}))))
    named = needed if code == "STABLEHLO_COMPOSITE" else ()
    return Opaque(inputs=(x,), outputs=(y,), code=code, options_type=table, options=((option, place), *named))


def body(seed: int, inner: int | None = None) -> Graph:
    """Two layers; behind them another call, if one is given."""
    net = Net("int8", seed=seed)
    x = net.input("a", (1, 6), (0.1, 3))
    y = net.dense(net.dense(x, "b", 8, (0.4, -10), activation="RELU"), "c", 6, (0.1, 3))
    if inner is None:
        return net.graph(y)
    net.same(y, "d")
    net.op(call(y, "d", inner))
    return net.graph("d")


def model(*bodies: Graph, code: str = "STABLEHLO_COMPOSITE") -> bytes:
    """A layer, and the first body twice, one call behind the other."""
    net = Net("int8", seed=9)
    x = net.dense(net.input("x", (1, 4), (0.1, 0)), "first", 6, (0.1, 3))
    for name in ("once", "twice"):
        net.same(x, name)
        net.op(call(x, name, 1, code))
        x = name
    return write(net.graph(x).with_(others=bodies))


X = np.array([[5, -100, 60, 127]], np.int8)


@pytest.mark.parametrize("bodies", [(body(1),), (body(1, 2), body(2))], ids=["one", "nested"])
def test_composites_run_their_decomposition(bodies: tuple[Graph, ...]) -> None:
    data = model(*bodies)
    graph = read(data)
    assert {op.mnemonic for op in graph.ops} == {"q.dense"} and not graph.others
    assert len(graph.ops) == 1 + 2 * 2 * len(bodies)
    (judged, again) = judge([(data, [X]), (write(graph), [X])])
    for found in (judged, again):
        assert not isinstance(found, str), found
        np.testing.assert_array_equal(reference.run(graph, X)[0], found[0])
    assert tflite2q.convert(graph, "int16x8").graph["once"].type.dtype == "int16"


def test_calls_are_the_same() -> None:
    assert read(model(body(1), code="CALL")).ops == read(model(body(1))).ops


def test_what_else_needs_a_body_keeps_it() -> None:
    record = schema.decode(model(body(1)))
    key: Any = replace(record, signatures=(schema.SignatureRecord("part", (("a", 0),), (("c", 0),), 1),))
    graph = read(schema.encode(key))
    assert len(graph.others) == 1 and [s.key for s in graph.others[0].signatures] == ["part"]


def test_state_inside_a_body_is_state_of_the_model() -> None:
    """The body's own initialization comes along."""
    inner = streaming()
    outer = Graph(
        inputs=("x",),
        outputs=("logits", "scores"),
        values=tuple(inner[name] for name in ("x", "logits", "scores")),
        ops=(
            Opaque(
                inputs=("x",),
                outputs=("logits", "scores"),
                code="STABLEHLO_COMPOSITE",
                options_type="StableHLOCompositeOptions",
                options=(("DecompositionSubgraphIndex", 1),),
            ),
        ),
    )
    record, parts = schema.decode(write(outer)), schema.decode(write(inner))
    # The body's subgraphs are numbered from 1 on, its codes and buffers behind the outer ones.
    from tflite2q.flatbuffer.variables import renumbered

    codes, buffers = len(record.codes), len(record.buffers)
    moved = tuple(
        replace(
            graph,
            tensors=tuple(replace(t, buffer=t.buffer + buffers if t.buffer else 0) for t in graph.tensors),
            operators=tuple(
                replace(op, code=op.code + codes, options=dict(renumbered(op.options, {0: 1, 1: 2})))
                for op in graph.operators
            ),
        )
        for graph in parts.subgraphs
    )
    whole = replace(
        record,
        codes=(*record.codes, *parts.codes),
        buffers=(*record.buffers, *parts.buffers),
        subgraphs=(*record.subgraphs, *moved),
    )
    graph = read(schema.encode(whole))
    assert len(graph.states) == 3 and not graph.others
    one, other = reference.Stream(graph), reference.Stream(inner)
    for x in walk(inner, 10):
        for a, b in zip(one.step(x), other.step(x), strict=True):
            np.testing.assert_array_equal(a, b)


def test_endless_and_broken_calls_are_refused() -> None:
    record = schema.decode(model(body(1, 1)))
    with pytest.raises(UnsupportedError, match=r"more than 16 deep|unfold to more than"):
        read(schema.encode(record))
    record = schema.decode(model(body(1)))
    with pytest.raises(ModelError, match="runs subgraph 7, which does not exist"):
        read(schema.encode(_to(record, 7)))
    none = replace(record, subgraphs=(record.subgraphs[0], replace(record.subgraphs[1], inputs=())))
    with pytest.raises(ModelError, match="does not give subgraph 1 its inputs and outputs"):
        read(schema.encode(none))


def _to(record: Any, place: int) -> Any:
    main = record.subgraphs[0]
    operators = tuple(
        replace(op, options={**op.options, "DecompositionSubgraphIndex": place})
        if "DecompositionSubgraphIndex" in op.options
        else op
        for op in main.operators
    )
    return replace(record, subgraphs=(replace(main, operators=operators), *record.subgraphs[1:]))
