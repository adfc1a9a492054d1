"""The text form: what is printed is parsed back to an equal graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import graphs, ops

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops import OPS
from tflite2q.dialect.text import parse_graph, print_graph
from tflite2q.dialect.types import Constant, TensorType, Value
from tflite2q.errors import InvalidGraph
from tflite2q.flatbuffer.reader import load

ROOT = Path(__file__).parents[2]
MODELS = [*sorted(ROOT.glob("models/*.tflite")), *sorted(ROOT.parent.glob("shared/models/*.tflite"))]
GENEROUS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@GENEROUS
@given(graphs())
def test_parse_inverts_print(graph: Graph) -> None:
    text = print_graph(graph)
    assert parse_graph(text) == graph
    assert print_graph(parse_graph(text)) == text


@pytest.mark.parametrize("cls", OPS, ids=lambda cls: cls.mnemonic)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_op_round_trips(cls, data) -> None:
    op = data.draw(ops(cls, ["a", "b c"]))
    graph = Graph(("a",), ("b c",), (), (op,))
    parsed = parse_graph(print_graph(graph))
    assert parsed == graph
    assert repr(parsed.ops) == repr(graph.ops)  # equality would take 1 for 1.0 and for True


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_models_round_trip(path: Path) -> None:
    graph = load(path, allow_unsupported=True)
    assert parse_graph(print_graph(graph)) == graph
    elided = print_graph(graph, "elided")
    assert "zlib" not in elided
    if "elided" not in elided:  # a model too small to leave anything out
        return
    with pytest.raises(InvalidGraph, match=r"line \d+, column \d+: the constants of this text are elided"):
        parse_graph(elided)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("count", [6, 60])
def test_floats_keep_every_bit(dtype: str, count: int) -> None:
    kind = np.dtype(dtype)
    special = [0.1, -0.0, np.finfo(kind).smallest_subnormal, np.finfo(kind).max, 1 / 3, 1e-3]
    array = np.resize(np.array(special, kind), count)
    graph = Graph((), (), (Value("x", TensorType((count,), dtype), Constant(array)),), ())
    parsed = parse_graph(print_graph(graph))["x"].data
    assert parsed.dtype == array.dtype
    assert parsed.tobytes() == array.tobytes()


def test_nan_payloads_survive() -> None:
    array = np.array([0x7FC00001, 0xFFC12345, 0x7F800000], np.uint32).view(np.float32)
    graph = Graph((), (), (Value("x", TensorType((3,), "float32"), Constant(array)),), ())
    assert parse_graph(print_graph(graph))["x"].data.tobytes() == array.tobytes()


def test_constant_that_contradicts_its_type_is_printed_as_it_is() -> None:
    value = Value("x", TensorType((2,), "uint8"), Constant(np.arange(3, dtype=np.int16)))
    graph = Graph((), (), (value,), ())
    assert "uint8[2] = int16[3] [0, 1, 2]" in print_graph(graph)
    assert parse_graph(print_graph(graph)) == graph


def test_default_attributes_are_left_out() -> None:
    (conv,) = (cls for cls in OPS if cls.mnemonic == "q.conv2d")
    graph = Graph((), (), (), (conv(inputs=("x", "w", None), outputs=("y",)),))
    assert "%y = q.conv2d(%x, %w, _)\n" in print_graph(graph)
    strided = graph.with_(ops=(replace(graph.ops[0], stride_h=2, version=3),))
    assert "%y = q.conv2d(%x, %w, _) {stride_h = 2} version 3\n" in print_graph(strided)


def test_unprintable_attribute_is_refused() -> None:
    (softmax,) = (cls for cls in OPS if cls.mnemonic == "q.softmax")
    graph = Graph((), (), (), (softmax(inputs=("x",), outputs=("y",), beta={1: 2}),))
    with pytest.raises(InvalidGraph, match="dict has no text form"):
        print_graph(graph)


@settings(max_examples=120, deadline=None)
@given(graphs().map(print_graph), st.data())
def test_damaged_text_raises_nothing_but_invalid_graph(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    alphabet = '%"{}[]()<>=,:-.0129abfnqx_ \n/\\'
    damaged = text[:start] + data.draw(st.text(alphabet, max_size=6)) + text[end:]
    try:
        parse_graph(damaged)
    except InvalidGraph as error:
        assert str(error).startswith("line ")


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 10_000, "-" + "9" * 5000, "1e99999", '"' * 9999])
def test_absurd_attributes_are_refused_or_read_at_once(text: str) -> None:
    graph = f'graph "" {{ inputs () outputs () values {{}} ops {{ %y = q.softmax(%x) {{beta = {text}}} }} }}'
    try:
        parse_graph(graph)
    except InvalidGraph as error:
        assert str(error).startswith("line 1, column")


def test_a_constant_does_not_unpack_to_more_than_its_type_holds() -> None:
    import base64
    import zlib

    bomb = base64.b64encode(zlib.compress(bytes(50_000_000), 9)).decode()
    text = f'graph "" {{ inputs () outputs () ops {{}} values {{ %x : int8[4] = zlib "{bomb}" }} }}'
    with pytest.raises(InvalidGraph, match="5 bytes of data for a constant of 4"):
        parse_graph(text)
