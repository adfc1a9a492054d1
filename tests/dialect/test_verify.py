"""Verification of graphs: whatever is wrong with one, an error of ours says so and nothing else escapes."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import attribute_values, constants, graphs, quantizations

from tflite2q.dialect.graph import Graph, fresh, used, verify
from tflite2q.dialect.ops import OPS
from tflite2q.dialect.ops.shape import Reshape
from tflite2q.dialect.parser import NOT_ATTRIBUTES
from tflite2q.dialect.text import parse_graph
from tflite2q.dialect.types import Constant, Quantization, TensorType, Value
from tflite2q.errors import Tflite2qError

DTYPES = st.sampled_from(["uint8", "int8", "int16", "int32", "float32", "bool", "int4"])
SHAPES = st.lists(st.integers(0, 4), max_size=5).map(tuple)


@st.composite
def operands(draw: st.DrawFn, name: str) -> Value:
    """A value as an op may meet it: mostly of a common type, often quantized, sometimes constant."""
    shape = draw(st.one_of(st.sampled_from([(1, 4, 4, 2), (2, 3), (4,), ()]), SHAPES))
    dtype = draw(st.one_of(st.sampled_from(["uint8", "int8", "int32"]), DTYPES))
    quantization = draw(st.one_of(st.just(Quantization.per_tensor(0.5, 0)), quantizations(shape)))
    constant = draw(st.one_of(st.none(), constants(dtype, shape)))
    return Value(name, TensorType(shape, dtype, quantization), constant)


@st.composite
def single_op_graphs(draw: st.DrawFn, cls) -> Graph:
    """One op with the right number of operands of arbitrary types and attributes."""
    inputs = [draw(operands(f"x{i}")) for i in range(draw(st.integers(0, len(cls.operands) + int(cls.variadic))))]
    outputs = [draw(operands(f"y{i}")).with_(constant=None) for i in range(draw(st.integers(1, 2)))]
    some = [f for f in fields(cls) if f.name not in NOT_ATTRIBUTES]
    attributes = {f.name: draw(attribute_values(f)) for f in some if draw(st.integers(0, 3)) == 0}
    op = cls(inputs=tuple(v.name for v in inputs), outputs=tuple(v.name for v in outputs), **attributes)
    free = tuple(v.name for v in inputs if v.constant is None)
    return Graph(free, op.outputs, (*inputs, *outputs), (op,))


def verified(graph: Graph) -> None:
    try:
        assert verify(graph) is graph
    except Tflite2qError as error:
        assert str(error)


@pytest.mark.parametrize("cls", OPS, ids=lambda cls: cls.mnemonic)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_ops_refuse_what_does_not_fit_in_our_words(cls, data: st.DataObject) -> None:
    verified(data.draw(single_op_graphs(cls)))


@pytest.mark.slow
@pytest.mark.parametrize("cls", OPS, ids=lambda cls: cls.mnemonic)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_ops_refuse_what_does_not_fit_in_our_words_at_length(cls, data: st.DataObject) -> None:
    verified(data.draw(single_op_graphs(cls)))


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_arbitrary_graphs_are_refused_in_our_words(graph: Graph) -> None:
    try:
        verify(graph)
    except Tflite2qError as error:
        assert str(error)


def small() -> Graph:
    kind = TensorType((2,), "uint8", Quantization.per_tensor(0.5, 0))
    values = tuple(Value(name, kind) for name in ("x", "unused", "y"))
    return Graph(("x",), ("y",), values, (Reshape(inputs=("x",), outputs=("y",)),))


RNN = (
    "float32[2, 0, 3] %w : float32[4, 3] %r : float32[4, 4] %b : float32[4] %h : float32[2, 4] variable",
    "q.sequence_rnn(%x, %w, %r, %b, %h)",
)


@pytest.mark.parametrize(
    ("values", "op", "why"),
    [
        ("int8[] <0.5:0>", "q.log_softmax(%x)", "takes no single number"),
        ("float32[2]", "q.lookup(%x) {function = SQRT, approximate = true}", "SQRT has no approximate form"),
        ("float32[1, 2, 2, 0] %w : float32[1, 1, 1, 3]", "q.conv2d(%x, %w)", "0 input channels"),
        ("float32[2, 2] %w : float32[2]", "q.concat(%x, %w) {axis = 1}", "differ in rank"),
        (*RNN, "a sequence of 0 steps"),
    ],
)
def test_what_kernels_cannot_compute_is_refused(values: str, op: str, why: str) -> None:
    names = ("%x", *(name for name in ("%w", "%r", "%b") if f"{name} :" in values))
    kind = values.split(" %")[0]
    text = f"values {{ %x : {values} %y : {kind} }} ops {{ %y = {op} }}"
    with pytest.raises(Tflite2qError, match=why):
        verify(parse_graph(f'graph "g" {{ inputs ({", ".join(names)}) outputs (%y) {text} }}'))


def test_unused_values_are_dropped_and_the_rest_keeps_its_order() -> None:
    graph = verify(small())
    assert [value.name for value in used(graph).values] == ["x", "y"]
    assert used(used(graph)) == used(graph)


def test_producers_and_consumers() -> None:
    graph = small()
    assert graph.producers == {"y": graph.ops[0]}
    assert graph.consumers["x"] == graph.ops
    assert graph.consumers["y"] == ()


def test_fresh_names() -> None:
    assert fresh(["a", "b"], "c") == "c"
    assert fresh(["a", "a_1"], "a") == "a_2"


def test_constants_are_values() -> None:
    import numpy as np

    array = np.arange(4, dtype=np.int8)
    constant = Constant(array)
    array[0] = 9
    assert constant.array[0] == 0  # a copy
    assert constant == Constant(np.arange(4, dtype=np.int8))
    assert hash(constant) == hash(Constant(np.arange(4, dtype=np.int8)))
    assert constant != Constant(np.arange(4, dtype=np.uint8))
    assert constant != Constant(np.arange(4, dtype=np.int8).reshape(2, 2))
    assert Constant(np.array([0.0])) != Constant(np.array([-0.0]))
    with pytest.raises(ValueError, match="read-only"):
        constant.array[0] = 1
