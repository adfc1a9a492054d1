"""Inputs and outputs in the arena: the same results, and no byte beyond it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import host
import numpy as np
import pytest
from networks import Net, everything

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops import Reshape
from tflite2q.dialect.types import Quantization, TensorType, Value
from tflite2q.evaluation import data
from tflite2q.execution import reference
from tflite2q.lower.targets import Micro
from tflite2q.micro import emulator, library, source

pytestmark = pytest.mark.skipif(host.compiler() is None, reason="gcc is not installed")

MAIN = """
#include "model.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const size_t in_at[] = {%(in_at)s}, in_bytes[] = {%(in_bytes)s};
static const size_t out_at[] = {%(out_at)s}, out_bytes[] = {%(out_bytes)s};

int main(void) {
  char *arena = malloc(MODEL_ARENA_BYTES);
  FILE *in = fopen("in.bin", "rb"), *out = fopen("out.bin", "wb");
  if (!arena || !in || !out) return 2;
  memset(arena, 0xA5, MODEL_ARENA_BYTES);
  for (int i = 0; i < MODEL_INPUTS; i++)
    if (fread(arena + in_at[i], 1, in_bytes[i], in) != in_bytes[i]) return 3;
  if (model_invoke(NULL, NULL, arena)) return 4;
  for (int i = 0; i < MODEL_OUTPUTS; i++) fwrite(arena + out_at[i], 1, out_bytes[i], out);
  return fclose(out);
}
"""


def outputs(graph: Graph, inputs: list[Any], family: str, folder: Path) -> list[Any]:
    """What a program computes that knows the header alone."""
    made = library.make(graph, "model", Micro("host", "this machine", family), whole=True)
    (folder / "model.c").write_text(source.source(made.program, made.plan))
    (folder / "model.h").write_text(source.header(made.program, made.plan))
    names = {
        f"{short}_{what.lower()}": ", ".join(f"MODEL_{kind}_{i}_{macro}" for i in range(len(ports)))
        for short, kind, ports in (("in", "INPUT", made.program.inputs), ("out", "OUTPUT", made.program.outputs))
        for what, macro in (("at", "OFFSET"), ("bytes", "BYTES"))
    }
    (folder / "main.c").write_text(MAIN % names)
    (folder / "in.bin").write_bytes(b"".join(np.ascontiguousarray(array).tobytes() for array in inputs))
    host.do(["gcc", *host.STRICT, *host.SANITIZED, "model.c", "main.c", "-o", "model"], folder)
    host.do(["./model"], folder)
    (found,) = emulator.outputs(made.program.outputs, (folder / "out.bin").read_bytes(), 1)
    return list(found)


def assert_same(graph: Graph, family: str, folder: Path, seed: int = 0) -> None:
    (inputs,) = data.synthetic([graph[name] for name in graph.inputs], 1, seed)
    expected = reference.run(graph, *inputs)
    for got, want in zip(outputs(graph, inputs, family, folder), expected, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("family", ["plain", pytest.param("mve", marks=pytest.mark.slow)])
@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_digits(scheme: str, family: str, digits: Path, tmp_path: Path) -> None:
    assert_same(tflite2q.convert(digits, scheme).graph, family, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_networks_with_several_inputs_and_outputs(seed: int, tmp_path: Path) -> None:
    graph = everything(seed)
    try:
        new = tflite2q.convert(graph, "int8", "scheme").graph
        library.make(new, "model", Micro("host", "this machine", "plain"))
    except tflite2q.errors.UnsupportedError as error:
        pytest.skip(str(error))
    assert_same(new, "plain", tmp_path, seed)


def test_outputs_that_are_inputs_are_copies(tmp_path: Path) -> None:
    kind = TensorType((2, 3), "int8", Quantization.per_tensor(0.5, 0))
    values = (Value("x", kind), Value("y", kind.with_(shape=(6,))))
    assert_same(Graph(("x",), ("y", "x"), values, (Reshape(inputs=("x",), outputs=("y",)),)), "plain", tmp_path)


def test_the_last_layer_leaves_an_output_that_it_reads(tmp_path: Path) -> None:
    """Its own result may not lie there, as it may where the operand is needed no more."""
    net = Net("int8")
    read = net.conv(net.input("x", (1, 5, 5, 3), (0.02, 0)), "read", 4, (0.1, 0))
    assert_same(net.graph(read, net.max_pool(read, "last")), "plain", tmp_path)
    assert_same(net.graph("last", read), "plain", tmp_path)


def test_an_arena_with_all_is_smaller_than_all_apart(digits: Path) -> None:
    graph = tflite2q.convert(digits, "int8").graph
    target = Micro("host", "this machine", "plain")
    apart, whole = library.make(graph, "m", target), library.make(graph, "m", target, whole=True)
    ports = sum(port.bytes for port in (*apart.program.inputs, *apart.program.outputs))
    assert apart.plan.bytes <= whole.plan.bytes <= apart.plan.bytes + ports


def test_the_option_is_for_microcontrollers(digits: Path, cli: Callable[..., Any], tmp_path: Path) -> None:
    arguments = ("convert", digits, "--scheme", "int8", "--io-in-arena", "-o", tmp_path / "m.tflite")
    assert cli(*arguments).code == 2
    assert cli(*arguments, "--lib", tmp_path / "m.c", "--target", "cortex-m4").code == 0
    header = (tmp_path / "m.h").read_text()
    assert "#define M_INPUT_0_OFFSET " in header and "#define M_OUTPUT_0_OFFSET " in header
