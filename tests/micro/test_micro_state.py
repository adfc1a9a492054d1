"""Models that keep state: C computes the reference's bits step after step of a stream."""

from __future__ import annotations

from pathlib import Path

import cases
import numpy as np
import numpy.typing as npt
import pytest
import streaming
from micro import host
from surroundings import SHARED

from tflite2q import convert, load
from tflite2q.arithmetic.gemmlowp16 import logistic_table, tanh_table
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.text import parse_graph
from tflite2q.errors import UnsupportedError
from tflite2q.execution import reference
from tflite2q.execution.reference import Stream
from tflite2q.lower.targets import micro
from tflite2q.micro import boards, emulator, library, source

NEEDS_GCC = pytest.mark.skipif(host.compiler() is None, reason="gcc is not installed")
RECURRENT = ("UNIDIRECTIONAL_SEQUENCE_LSTM-int8", "UNIDIRECTIONAL_SEQUENCE_LSTM-coupled", "SVDF-int8")

VIEWS = """
graph "views" {
  inputs (%x) outputs (%a1, %sum, %after, %b1)
  values {
    %x : int8[2] <0.5:0> %a1 : int8[2] <0.5:0> %flat : int8[2, 1] <0.5:0> %b1 : int8[2] <0.5:0>
    %shape : int32[2] = [2, 1] %shape1 : int32[1] = [2]
    %t : int8[2] <0.5:0> %back : int8[2] <0.5:0> %sum : int8[2] <0.5:0> %after : int8[2] <0.5:0>
    %a : int8[2] <0.5:0> variable resource "" "a" = [1, 2]
    %b : int8[2] <0.5:0> variable resource "box" "a" = [3, 3]
    %c : int8[2] <0.5:0> variable resource "" "c" = [5, -6]
    %c1 : int8[2] <0.5:0>
  }
  ops {
    %a1 = q.read_variable(%a) %b1 = q.read_variable(%b) %c1 = q.read_variable(%c)
    %flat = q.reshape(%a1, %shape)
    %t = q.add(%x, %c1) version 2
    () = q.assign_variable(%a, %b1) () = q.assign_variable(%b, %t)
    %back = q.reshape(%flat, %shape1)
    %after = q.read_variable(%a)
    %sum = q.add(%back, %t) version 2
  }
}
"""


def random_steps(graph: Graph, count: int, seed: int = 1) -> list[list[npt.NDArray[np.generic]]]:
    rng = np.random.default_rng(seed)
    kinds = [graph[name].type for name in graph.inputs]
    return [
        [rng.integers(*kind.range, size=kind.shape, endpoint=True).astype(kind.dtype) for kind in kinds]
        for _ in range(count)
    ]


def check(graph: Graph, samples: list[list[npt.NDArray[np.generic]]], family: str, folder: Path) -> None:
    stream = Stream(graph)
    for number, (sample, found) in enumerate(zip(samples, host.steps(graph, samples, family, folder), strict=True)):
        for got, want in zip(found, stream.step(*sample), strict=True):
            np.testing.assert_array_equal(got, want, err_msg=f"step {number}")


@NEEDS_GCC
@pytest.mark.parametrize(("scheme", "family"), [("", "plain"), ("int16x8", "dsp"), ("symmetric-int8", "mve")])
def test_ring_buffers_and_a_maximum(scheme: str, family: str, tmp_path: Path) -> None:
    graph = streaming.streaming()
    if scheme:
        graph = convert(graph, scheme).graph
    check(graph, [[x] for x in streaming.walk(graph, 40)], family, tmp_path)


@NEEDS_GCC
def test_what_was_read_stays_when_the_variable_changes(tmp_path: Path) -> None:
    graph = verify(parse_graph(VIEWS))
    check(graph, random_steps(graph, 12), "plain", tmp_path)


@NEEDS_GCC
@pytest.mark.parametrize("family", host.FAMILIES)
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers(name: str, family: str, tmp_path: Path) -> None:
    for case in cases.cases(name, 2, seed=3):
        check(case.graph, random_steps(case.graph, 8), family, tmp_path)


@pytest.mark.slow
@NEEDS_GCC
@pytest.mark.parametrize("name", RECURRENT)
def test_many_recurrent_layers(name: str, tmp_path: Path) -> None:
    for number, case in enumerate(cases.cases(name, 40, seed=4)):
        check(case.graph, random_steps(case.graph, 10), host.FAMILIES[number % 3], tmp_path)


@NEEDS_GCC
def test_functions_of_gates_are_the_tables(tmp_path: Path) -> None:
    """All arguments, with every number of integer bits that a layer may have, under sanitizers."""
    text = "\n".join(source.kernel(name) for name in ("common", "dot", "recurrent"))
    program = """
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
TEXT
int main(void) {
  for (int32_t bits = 0; bits <= 12; bits++)
    for (int32_t x = -32768; x <= 32767; x++) {
      const int16_t both[2] = {(int16_t)q_logistic15(x, bits), (int16_t)q_tanh15(x, bits)};
      fwrite(both, 2, 2, stdout);
    }
  return 0;
}
""".replace("TEXT", text)
    found = np.frombuffer(host.output_of(program, tmp_path), np.int16).reshape(13, 65536, 2)
    for bits in range(13):
        np.testing.assert_array_equal(found[bits, :, 0], logistic_table(bits))
        np.testing.assert_array_equal(found[bits, :, 1], tanh_table(bits))


def test_the_header_says_how_much_state_there_is() -> None:
    target = micro("cortex-m4")
    assert target is not None
    made = library.make(streaming.streaming(), "wake", target)
    header = source.header(made.program, made.plan)
    assert f"#define WAKE_STATE_BYTES {made.program.state_bytes}" in header
    assert made.program.state_bytes == 2 * 8 + 5 * 16 + 16
    assert "void wake_reset(void *state);" in header
    assert "int wake_invoke(const void *const *inputs, void *const *outputs, void *arena, void *state);" in header


def test_layers_of_reals_are_refused_by_name() -> None:
    target = micro("cortex-m4")
    assert target is not None
    (case,) = cases.cases("SVDF-float32", 1)
    with pytest.raises(UnsupportedError, match=r"q\.svdf .*codes are float32"):
        library.make(case.graph, "model", target)


def test_options_of_an_lstm_are_refused_by_name() -> None:
    target = micro("cortex-m4")
    assert target is not None
    graph = next(iter(cases.cases("UNIDIRECTIONAL_SEQUENCE_LSTM-options", 1))).graph
    with pytest.raises(UnsupportedError, match=r"q\.lstm .*an LSTM with peepholes"):
        library.make(graph, "model", target)


@NEEDS_GCC
@pytest.mark.parametrize("scheme", ["", "symmetric-int8", "int16x8"])
def test_a_wake_word_model(scheme: str, tmp_path: Path) -> None:
    path = Path(SHARED) / "cases" / "stateful" / "okay_nabu.tflite"
    if not path.exists():
        pytest.skip("there is no such file")
    graph = load(path) if not scheme else convert(load(path), scheme).graph
    check(graph, random_steps(graph, 12), "dsp", tmp_path)


@pytest.mark.micro
@pytest.mark.micro_quick
@pytest.mark.skipif(boards.missing() is not None, reason=str(boards.missing()))
@pytest.mark.parametrize(("target", "by"), [("cortex-m4", "a"), ("cortex-m55", "c")])
def test_streams_on_boards(target: str, by: str) -> None:
    graphs = [streaming.streaming(), *(next(iter(cases.cases(name, 1, seed=6))).graph for name in RECURRENT)]
    for graph in graphs:
        samples, stream = random_steps(graph, 6), Stream(graph)
        ran = emulator.run(graph, target, samples, by, stream=True)
        for sample, found in zip(samples, ran.outputs, strict=True):
            for got, want in zip(found, stream.step(*sample), strict=True):
                np.testing.assert_array_equal(got, want)
        alone = emulator.run(graph, target, samples[:3], by)
        for sample, found in zip(samples, alone.outputs, strict=False):  # each from the initial state
            for got, want in zip(found, reference.run(graph, *sample), strict=True):
                np.testing.assert_array_equal(got, want)
