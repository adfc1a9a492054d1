"""Infinite numbers of PyTorch's networks, which codes stand for by the end of their range; LiteRT is the judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from judge import judge

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.text import parse_graph
from tflite2q.errors import Tflite2qError
from tflite2q.evaluation import coding
from tflite2q.flatbuffer.writer import write

SAMPLES = np.random.default_rng(0).uniform(2.0, 3.0, (4, 6, 6, 2)).astype(np.float32)
SCHEMES = ("int8", "symmetric-int8", "int16x8", "asymmetric-uint8", "power-of-two")


def pooled(fill: str = "-inf", reader: str = "%y = q.max_pool2d(%p) {filter_h = 3, filter_w = 3}") -> Graph:
    """Max pooling of x with a border of `fill`, as PyTorch's padding is converted."""
    return parse_graph(
        f"""graph "main" {{
          inputs (%x)
          outputs (%y)
          values {{
            %x : float32[1, 6, 6, 2]
            %around : int32[4, 2] = [0, 0, 1, 1, 1, 1, 0, 0]
            %fill : float32[] = [{fill}]
            %p : float32[1, 8, 8, 2]
            %y : float32[1, 6, 6, 2]
          }}
          ops {{
            %p = q.pad(%x, %around, %fill) {{kind = padv2}}
            {reader}
          }}
        }}"""
    )


def limited(fill: str, smallest: str) -> Graph:
    """The larger (or smaller) of x and `fill`, twice, so that a product is between."""
    return parse_graph(
        f"""graph "main" {{
          inputs (%x)
          outputs (%y)
          values {{
            %x : float32[1, 6, 6, 2]
            %fill : float32[1] = [{fill}]
            %low : float32[1, 6, 6, 2]
            %y : float32[1, 6, 6, 2]
          }}
          ops {{
            %low = q.maximum(%x, %fill) {{smallest = {smallest}}}
            %y = q.mul(%low, %low)
          }}
        }}"""
    )


def converted(graph: Graph, scheme: str, folder: Path) -> Graph:
    np.savez(folder / "data.npz", x=SAMPLES)
    return tflite2q.convert(graph, scheme, "keep", data=folder / "data.npz").graph


def error_of(graph: Graph, new: Graph) -> float:
    """The largest difference of LiteRT's results, in steps of the coarsest codes."""
    given = [SAMPLES[:1]]
    (real,), (codes,) = judge([(write(graph), given), (write(new), given)])
    steps = [v.type.scale for v in new.values if v.type.quantized and len(v.type.parameters.scale) == 1]
    assert np.isfinite(real).all()
    return float(np.abs(coding.real(codes, new[new.outputs[0]]) - real).max() / max(steps))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_max_pooling_of_what_is_padded_with_infinity(scheme: str, tmp_path: Path) -> None:
    graph = pooled()
    new = converted(graph, scheme, tmp_path)
    assert error_of(graph, new) <= 1
    (kind,) = {v.type for v in new.values if v.type.quantized and v.name.startswith("p")}
    assert kind.scale * kind.range[1] < 7  # infinity takes nothing of the steps of 2 to 3


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("fill", "smallest"), [("-inf", "false"), ("inf", "true")])
def test_the_larger_of_a_number_and_infinity(scheme: str, fill: str, smallest: str, tmp_path: Path) -> None:
    graph = limited(fill, smallest)
    assert error_of(graph, converted(graph, scheme, tmp_path)) <= 4


@pytest.mark.parametrize(
    "graph",
    [
        pooled("inf"),
        pooled("nan"),
        pooled(reader="%y = q.average_pool2d(%p) {filter_h = 3, filter_w = 3}"),
        limited("inf", "false"),
        limited("-inf", "true"),
    ],
)
def test_infinity_that_results_have_is_refused(graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(Tflite2qError, match="numbers that are not finite"):
        converted(graph, "int8", tmp_path)


def test_infinite_numbers_are_left_out_of_errors(tmp_path: Path) -> None:
    graph = pooled()
    new = converted(graph, "int8", tmp_path)
    report = tflite2q.compare(graph, new, data=tmp_path / "data.npz")
    line = next(line for line in report.layers if line.name == "p")
    step = next(value.type.scale for value in new.values if value.name.startswith("p"))
    signal, noise = float(np.mean(np.square(SAMPLES))), step**2 / 12
    assert line.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=1.5)
    assert "<svg" in report.to_html()


def attention(fill: str, row: str = "true, false, false") -> Graph:
    """Softmax of x where a triangle allows it, of which `row` is the first row."""
    return parse_graph(
        f"""graph "main" {{
          inputs (%x)
          outputs (%y)
          values {{
            %x : float32[1, 3, 3]
            %allowed : bool[3, 3] = [{row}, true, true, false, true, true, true]
            %fill : float32[] = [{fill}]
            %masked : float32[1, 3, 3]
            %y : float32[1, 3, 3]
          }}
          ops {{
            %masked = q.select(%allowed, %x, %fill) {{broadcasts = true}}
            %y = q.softmax(%masked)
          }}
        }}"""
    )


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("fill", "row"), [("-1e9", "true, false, false"), ("-inf", "true, false, false"), ("-1e9", "false, false, false")]
)
def test_attention_does_not_see_what_is_masked(scheme: str, fill: str, row: str, tmp_path: Path) -> None:
    graph = attention(fill, row)
    given = np.array([[0.5, -2, 1], [-1, 1.5, 3], [2, -0.5, 0.2]], np.float32)[None]
    np.savez(tmp_path / "data.npz", x=given)
    new = tflite2q.convert(graph, scheme, "keep", data=tmp_path / "data.npz").graph
    (real,), (codes,) = judge([(write(graph), [given]), (write(new), [given])])
    tolerance = {"int16x8": 0.001, "power-of-two": 0.04}.get(scheme, 0.02)
    np.testing.assert_allclose(coding.real(codes, new[new.outputs[0]]), real, atol=tolerance)
