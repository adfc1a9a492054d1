"""Values that were 0 in all samples: what computes with them keeps its bits, and LiteRT loads the file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from draw import Array, Draw
from judge import judge

from tflite2q.dialect import ops
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import TensorType, Value
from tflite2q.evaluation import calibration
from tflite2q.execution import reference
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.writer import write
from tflite2q.rewrites import scheme

pytest.importorskip("ai_edge_litert")

SCHEMES = ("int16x8", "int8", "symmetric-int8", "asymmetric-uint8", "power-of-two")


def idle(user: Op) -> tuple[Graph, Sequence[Array]]:
    """`user` of x and of what is left of x above 9, which is nothing."""
    d = Draw(np.random.default_rng(0))
    kind = TensorType((1, 64), "float32")
    x = d.input(kind, np.linspace(-0.01, 0.01, 64, dtype=np.float32)[None])
    nine = d.constant(np.full((1, 1), 9, np.float32))
    less = ops.Add(inputs=(x, nine), outputs=("idle",), subtract=True, activation="RELU")
    user = user.with_(inputs=("idle",) if len(user.inputs) == 1 else ("idle", x))
    values = (*d.values, Value("idle", kind), Value("y", kind))
    return verify(Graph((x,), ("y",), values, (less, user))), d.arrays


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(
    "user",
    [
        ops.Add(inputs=("a", "b"), outputs=("y",)),
        ops.Add(inputs=("a", "b"), outputs=("y",), subtract=True),
        ops.Lookup(inputs=("a",), outputs=("y",), function="EXP"),
    ],
    ids=["add", "sub", "exp"],
)
def test_what_uses_them(user: Op, name: str) -> None:
    graph, inputs = idle(user)
    made = read(write(calibration.convert(graph, scheme.find(name, "keep"), [inputs]).graph))
    (answer,) = judge([(write(made), inputs)])
    assert not isinstance(answer, str), answer
    (got,), (want,) = reference.run(made, *inputs), reference.run(graph, *inputs)
    np.testing.assert_array_equal(got, answer[0])
    steps = 2.0**-12 if name == "int16x8" else 2.0**-5
    np.testing.assert_allclose(got, want, atol=steps * float(np.abs(want).max()))
