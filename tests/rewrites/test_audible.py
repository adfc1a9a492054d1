"""Masks that are added to scores before softmax: codes reach as far below the scores as softmax tells apart.

LiteRT is the judge.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from judge import judge

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.text import parse_graph
from tflite2q.evaluation import coding
from tflite2q.flatbuffer.writer import write

RANDOM = np.random.default_rng(0)
SCORES = RANDOM.normal(0, 2, (6, 4, 4)).astype(np.float32)
KEPT = np.concatenate([np.ones((6, 1, 1)), RANDOM.integers(0, 2, (6, 1, 3))], axis=2).astype(np.float32)
TOLERANCE = {"int16x8": 0.001, "power-of-two": 0.07}

ONE_MINUS = "%rest = q.add(%one, %k) {subtract = true}"
FORMS = {
    "added": f"{ONE_MINUS} %far = q.mul(%rest, %fill) %m = q.add(%x, %far)",
    "subtracted": f"{ONE_MINUS} %far = q.mul(%rest, %minus) %m = q.add(%x, %far) {{subtract = true}}",
    "negative": "%rest = q.add(%k, %one) {subtract = true} %far = q.mul(%rest, %minus) %m = q.add(%far, %x)",
    "one more": f"{ONE_MINUS} %far = q.mul(%rest, %fill) %part = q.add(%x, %far) %m = q.add(%part, %tiny)",
    "scaled": f"{ONE_MINUS} %far = q.mul(%rest, %fill) %part = q.add(%x, %far) %m = q.mul(%part, %half)",
    "limited": f"{ONE_MINUS} %far = q.mul(%rest, %fill) %part = q.add(%x, %far) %m = q.maximum(%part, %lowest)",
    "moved": f"{ONE_MINUS} %far = q.mul(%rest, %fill) %part = q.add(%x, %far) %m = q.transpose(%part, %same)",
}


def attention(form: str, fill: str) -> Graph:
    """Softmax of x where k is 1; `fill` stands where it is 0."""
    return parse_graph(
        f"""graph "main" {{
          inputs (%x, %k)
          outputs (%y)
          values {{
            %x : float32[1, 4, 4]
            %k : float32[1, 1, 4]
            %one : float32[] = [1]
            %half : float32[] = [0.5]
            %tiny : float32[] = [1e-9]
            %lowest : float32[] = [-3.4028235e38]
            %fill : float32[] = [{fill}]
            %minus : float32[] = [{fill.removeprefix("-")}]
            %same : int32[3] = [0, 1, 2]
            %rest : float32[1, 1, 4]
            %far : float32[1, 1, 4]
            %part : float32[1, 4, 4]
            %m : float32[1, 4, 4]
            %y : float32[1, 4, 4]
          }}
          ops {{
            {FORMS[form]}
            %y = q.softmax(%m)
          }}
        }}"""
    )


def causal(fill: str) -> Graph:
    """Softmax of x and a constant that lets no element see a later one."""
    numbers = ", ".join(fill if column > row else "0" for row in range(4) for column in range(4))
    return parse_graph(
        f"""graph "main" {{
          inputs (%x)
          outputs (%y)
          values {{
            %x : float32[1, 4, 4]
            %far : float32[1, 4, 4] = [{numbers}]
            %m : float32[1, 4, 4]
            %y : float32[1, 4, 4]
          }}
          ops {{
            %m = q.add(%x, %far)
            %y = q.softmax(%m)
          }}
        }}"""
    )


def worst(graph: Graph, new: Graph, given: list[list[np.ndarray]]) -> float:
    """The largest difference of LiteRT's results for two models of probabilities."""
    told = judge([(write(each), sample) for sample in given for each in (graph, new)])
    pairs = zip(told[::2], told[1::2], strict=True)
    return max(float(np.abs(coding.real(codes, new[new.outputs[0]]) - real).max()) for (real,), (codes,) in pairs)


@pytest.mark.parametrize(
    ("form", "fill"), [*((form, "-1e9") for form in FORMS), ("added", "-1e4"), ("added", "-3.4028235e38")]
)
def test_scores_keep_their_codes_beside_a_mask(form: str, fill: str, tmp_path: Path) -> None:
    graph = attention(form, fill)
    np.savez(tmp_path / "data.npz", x=SCORES, k=KEPT)
    given = [[x[None], k[None]] for x, k in zip(SCORES, KEPT, strict=True)]
    for scheme in ("int8", "int16x8"):
        new = tflite2q.convert(graph, scheme, "keep", data=tmp_path / "data.npz").graph
        assert worst(graph, new, given) < TOLERANCE.get(scheme, 0.05)


@pytest.mark.parametrize("fill", ["-1e9", "-inf"])
@pytest.mark.parametrize("scheme", ["int8", "symmetric-int8", "int16x8", "asymmetric-uint8", "power-of-two"])
def test_a_mask_that_is_a_constant(scheme: str, fill: str, tmp_path: Path) -> None:
    graph = causal(fill)
    np.savez(tmp_path / "data.npz", x=SCORES)
    new = tflite2q.convert(graph, scheme, "keep", data=tmp_path / "data.npz").graph
    assert worst(graph, new, [[x[None]] for x in SCORES]) < TOLERANCE.get(scheme, 0.05)


def test_rows_that_are_masked_altogether_do_not_count(tmp_path: Path) -> None:
    graph = attention("added", "-1e9")
    hidden = KEPT.copy()
    hidden[3] = 0
    np.savez(tmp_path / "data.npz", x=SCORES, k=hidden)
    new = tflite2q.convert(graph, "int16x8", "keep", data=tmp_path / "data.npz").graph
    given = [[x[None], k[None]] for x, k in zip(SCORES, hidden, strict=True) if k.any()]
    assert worst(graph, new, given) < TOLERANCE["int16x8"]


def test_a_sum_that_is_also_an_answer_keeps_its_range(tmp_path: Path) -> None:
    graph = causal("-1000").with_(outputs=("y", "m"))
    np.savez(tmp_path / "data.npz", x=SCORES)
    new = tflite2q.convert(graph, "int16x8", "keep", data=tmp_path / "data.npz").graph
    (told,) = judge([(write(new), [SCORES[:1]])])
    assert told[1].min() < -900


def test_weights_alone_leave_the_mask_as_it_is(tmp_path: Path) -> None:
    graph = parse_graph(
        """graph "main" {
          inputs (%x)
          outputs (%y)
          values {
            %x : float32[1, 2]
            %w : float32[2, 2] = [1, 2, 3, 4]
            %far : float32[1, 2] = [0, -1e9]
            %s : float32[1, 2]
            %m : float32[1, 2]
            %y : float32[1, 2]
          }
          ops {
            %s = q.dense(%x, %w)
            %m = q.add(%s, %far)
            %y = q.softmax(%m)
          }
        }"""
    )
    np.savez(tmp_path / "data.npz", x=SCORES[:, 0, :2])
    new = tflite2q.convert(graph, "weight-only", data=tmp_path / "data.npz").graph
    np.testing.assert_array_equal(new["far"].data, graph["far"].data)
