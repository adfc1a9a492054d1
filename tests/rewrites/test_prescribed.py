"""Results whose scale the format prescribes, beside numbers that these codes do not hold; LiteRT is the judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from judge import judge

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.eltwise import Requantize
from tflite2q.dialect.text import parse_graph
from tflite2q.flatbuffer.writer import write

SAMPLE = np.linspace(-1, 1, 40, dtype=np.float32).reshape(1, 40)


def beside(function: str, last: str, size: int = 40) -> Graph:
    """A function, moved, and 4 x, read by one op."""
    return parse_graph(
        f"""graph "main" {{
          inputs (%x)
          outputs (%y)
          values {{
            %x : float32[1, 40] %f : float32[1, 40] %shape : int32[2] = [1, 40] %g : float32[1, 40] %m : float32[1, 40]
            %four : float32[1] = [4.0] %half : float32[1] = [0.5] %five : float32[1, 40] = {[5.0] * 40}
            %y : float32[1, {size}]
          }}
          ops {{
            %f = q.lookup(%x) {{function = {function}}}
            %g = q.reshape(%f, %shape)
            %m = q.mul(%x, %four)
            %y = {last}
          }}
        }}"""
    )


def check(graph: Graph, scheme: str, folder: Path, step: float) -> Graph:
    np.savez(folder / "data.npz", x=SAMPLE)
    new = tflite2q.convert(graph, scheme, data=folder / "data.npz").graph
    (real,), (codes,) = judge([(write(graph), [SAMPLE]), (write(new), [SAMPLE])])
    assert np.abs(codes - real).max() < step
    return new


STEPS = {"int8": 0.06, "int16x8": 0.001}


@pytest.mark.parametrize("scheme", STEPS)
@pytest.mark.parametrize("function", ["TANH", "LOGISTIC"])
@pytest.mark.parametrize(
    ("last", "size"),
    [
        ("q.concat(%g, %m) {axis = 1}", 80),
        ("q.concat(%f, %m, %f) {axis = 1}", 120),
        ("q.concat(%g, %five) {axis = 1}", 80),
        ("q.maximum(%g, %m)", 40),
        ("q.maximum(%m, %f) {smallest = true}", 40),
    ],
)
def test_others_keep_their_range(function: str, last: str, size: int, scheme: str, tmp_path: Path) -> None:
    check(beside(function, last, size), scheme, tmp_path, STEPS[scheme])


@pytest.mark.parametrize("scheme", STEPS)
@pytest.mark.parametrize(("last", "size"), [("q.concat(%g, %f) {axis = 1}", 80), ("q.maximum(%g, %half)", 40)])
def test_no_cast_where_the_codes_hold_all(last: str, size: int, scheme: str, tmp_path: Path) -> None:
    new = check(beside("TANH", last, size), scheme, tmp_path, STEPS[scheme])
    assert [op.inputs[0] for op in new.ops if isinstance(op, Requantize)] == ["x"]
