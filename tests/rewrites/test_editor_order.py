"""Values that a rewrite adds stand where they belong, whatever came between."""

from __future__ import annotations

from itertools import pairwise

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.lookup import Lookup
from tflite2q.dialect.types import TensorType, Value
from tflite2q.rewrites.edit import Editor

KIND = TensorType((1,), "float32")


def test_values_stand_behind_the_one_they_are_made_of() -> None:
    names = ("a", "b", "c")
    ops = tuple(Lookup(inputs=(x,), outputs=(y,), function="TANH") for x, y in pairwise(names))
    editor = Editor(Graph(("a",), ("c",), tuple(Value(name, KIND) for name in names), ops))
    for near, name in (("a", "first"), ("a", "second"), ("first", "third"), (None, "last"), ("b", "fourth")):
        made = editor.add(Value(name, KIND), near)
        editor.ops.append(Lookup(inputs=("c",), outputs=(made,), function="TANH"))
    assert editor.add(Value("first", KIND), "b") == "first_1"  # which nothing uses
    editor.values.pop("b")
    editor.ops = [op for op in editor.ops if "b" not in (*op.inputs, *op.outputs)]
    expected = ["a", "second", "first", "third", "fourth", "c", "last"]
    assert [value.name for value in editor.graph().values] == expected
