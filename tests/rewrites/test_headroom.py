"""16-bit activations whose ranges come from samples have room for what other data bring; LiteRT is the judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from judge import judge

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.text import parse_graph
from tflite2q.flatbuffer.writer import write

SAMPLE = np.linspace(-1, 1, 40, dtype=np.float32).reshape(1, 40)


def scaled(activation: str = "NONE") -> Graph:
    """y = 4 x, with a fused activation."""
    return parse_graph(
        f"""graph "main" {{
          inputs (%x)
          outputs (%y)
          values {{ %x : float32[1, 40] %four : float32[1] = [4.0] %y : float32[1, 40] }}
          ops {{ %y = q.mul(%x, %four) {{activation = {activation}}} }}
        }}"""
    )


def converted(graph: Graph, scheme: str, folder: Path) -> Graph:
    np.savez(folder / "data.npz", x=SAMPLE)
    return tflite2q.convert(graph, scheme, "keep", data=folder / "data.npz").graph


def reach(graph: Graph, name: str) -> float:
    kind = next(value.type for value in graph.values if value.name.startswith(name) and value.type.quantized)
    return kind.scale * kind.range[1]


def test_new_data_are_not_clipped(tmp_path: Path) -> None:
    new = converted(scaled(), "int16x8", tmp_path)
    given = [1.9 * SAMPLE]
    (real,), (codes,) = judge([(write(scaled()), given), (write(new), given)])
    assert np.abs(codes - real).max() < 0.001


@pytest.mark.parametrize(("activation", "most"), [("NONE", 8.0), ("RELU", 8.0), ("RELU6", 6.0), ("RELU_N1_TO_1", 1.0)])
def test_a_clamp_ends_the_room(activation: str, most: float, tmp_path: Path) -> None:
    assert reach(converted(scaled(activation), "int16x8", tmp_path), "y") == pytest.approx(most, rel=1e-4)


def test_eight_bits_have_none(tmp_path: Path) -> None:
    assert reach(converted(scaled(), "int8", tmp_path), "y") == pytest.approx(4.0, rel=0.01)


def test_none_before_a_steep_function(tmp_path: Path) -> None:
    """Between samples of the logarithm that lie twice as far apart, the first of which is that of 0, it is far off."""
    graph = parse_graph(
        """graph "main" {
          inputs (%x)
          outputs (%y)
          values {
            %x : float32[1, 40] %offset : float32[1] = [1.2] %above : float32[1, 40] %flat : float32[40]
            %shape : int32[1] = [40] %y : float32[40]
          }
          ops {
            %above = q.add(%x, %offset)
            %flat = q.reshape(%above, %shape)
            %y = q.lookup(%flat) {function = LOG}
          }
        }"""
    )
    new = converted(graph, "int16x8", tmp_path)
    assert reach(new, "above") == pytest.approx(2.2, rel=1e-4)
    (real,), (codes,) = judge([(write(graph), [SAMPLE]), (write(new), [SAMPLE])])
    assert np.abs(codes - real).max() < 0.01


def test_codes_with_samples(tmp_path: Path) -> None:
    """Of 8-bit codes no more than their own range."""
    graph = parse_graph(
        """graph "main" {
          inputs (%x)
          outputs (%y)
          values { %x : int8[1, 40] <0.03:0> %y : int8[1, 40] <0.06:0> }
          ops { %y = q.add(%x, %x) {activation = NONE} version 2 }
        }"""
    )
    np.savez(tmp_path / "data.npz", x=np.round(SAMPLE / 0.03).astype(np.int8))
    new = tflite2q.convert(graph, "int16x8", "scheme", data=tmp_path / "data.npz").graph
    assert reach(new, "y") == pytest.approx(4.0, rel=0.03)
    np.savez(tmp_path / "data.npz", x=np.full((1, 40), 120, np.int8))
    new = tflite2q.convert(graph, "int16x8", "scheme", data=tmp_path / "data.npz").graph
    assert reach(new, "y") == pytest.approx(128 * 0.06, rel=0.01)


def test_a_limit_beyond_all_results(tmp_path: Path) -> None:
    """Keras' UnitNormalization takes the least of a number and 1e12."""
    graph = parse_graph(
        """graph "main" {
          inputs (%x)
          outputs (%y)
          values { %x : float32[1, 40] %limit : float32[1] = [1e12] %low : float32[1, 40] %y : float32[1, 40] }
          ops {
            %low = q.maximum(%x, %limit) {smallest = true}
            %y = q.add(%low, %low)
          }
        }"""
    )
    new = converted(graph, "int16x8", tmp_path)
    assert reach(new, "low") == pytest.approx(2.0, rel=1e-4)
    given = [1.5 * SAMPLE]
    (real,), (codes,) = judge([(write(graph), given), (write(new), given)])
    assert np.abs(codes - real).max() < 0.001


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("chosen", ["percentile = 90.0", "percentile = 100.0"])
def test_percentiles_leave_outliers_out(dtype: str, chosen: str, tmp_path: Path) -> None:
    """No less with 16 bits than with 8: the codes in which a float model is observed are not the scheme's."""
    settings = (
        f'[activations]\ndtype = "{dtype}"\nsymmetric = true\nrange = "percentile"\n{chosen}\n'
        '[weights]\ndtype = "int8"\n'
    )
    (tmp_path / "own.toml").write_text(settings)
    sample = np.tile(SAMPLE, (100, 1))
    sample[0, 0] = 20.0
    np.savez(tmp_path / "data.npz", x=sample)
    new = tflite2q.convert(scaled(), tmp_path / "own.toml", "keep", data=tmp_path / "data.npz").graph
    expected = np.abs(np.percentile(4 * sample, [5, 95])).max() if chosen.endswith("90.0") else 80.0
    assert reach(new, "y") == pytest.approx(expected, rel=0.03)
