"""Models as a firmware has them: several in one program, streams of their own, one arena, called from C++."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import streaming
from micro import host

from tflite2q import convert
from tflite2q.dialect.graph import Graph
from tflite2q.execution import reference
from tflite2q.execution.reference import Stream
from tflite2q.lower.targets import micro
from tflite2q.micro import boards, library, source

FLAGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-ffp-contract=off")
MAIN = """
#include <cstdint>
#include <cstdio>
#include "walk.h"
#include "digits.h"
constexpr int most(int a, int b) { return a > b ? a : b; }
alignas(16) static uint8_t arena[most(WALK_ARENA_BYTES, DIGITS_ARENA_BYTES)];
alignas(8) static uint8_t left[WALK_STATE_BYTES], right[WALK_STATE_BYTES];
static DIGITS_INPUT_0_TYPE image[DIGITS_INPUT_0_BYTES / sizeof(DIGITS_INPUT_0_TYPE)];
static DIGITS_OUTPUT_0_TYPE scores[DIGITS_OUTPUT_0_BYTES / sizeof(DIGITS_OUTPUT_0_TYPE)];
static int step(void *state) {
  static uint8_t x[WALK_INPUT_0_BYTES], y[WALK_OUTPUT_0_BYTES], z[WALK_OUTPUT_1_BYTES];
  if (std::fread(x, 1, sizeof x, stdin) != sizeof x) return 1;
  const void *from[WALK_INPUTS] = {x};
  void *to[WALK_OUTPUTS] = {y, z};
  const int failed = walk_invoke(from, to, arena, state);
  std::fwrite(y, 1, sizeof y, stdout);
  std::fwrite(z, 1, sizeof z, stdout);
  return failed;
}
int main() {
  walk_reset(left);
  walk_reset(right);
  for (int i = 0; i < 5; i++) {
    if (step(left) || step(right)) return 1;
    if (std::fread(image, 1, sizeof image, stdin) != sizeof image) return 1;
    const void *from[] = {image};
    void *to[] = {scores};
    if (digits_invoke(from, to, arena)) return 1;
    std::fwrite(scores, 1, sizeof scores, stdout);
  }
  return 0;
}
"""


def write(graph: Graph, name: str, folder: Path) -> None:
    target = micro("cortex-m4")
    assert target is not None
    made = library.make(graph, name, target)
    (folder / f"{name}.c").write_text(source.source(made.program, made.plan))
    (folder / f"{name}.h").write_text(source.header(made.program, made.plan))


def codes(graph: Graph, rng: np.random.Generator) -> np.ndarray:
    kind = graph[graph.inputs[0]].type
    return rng.integers(*kind.range, size=kind.shape, endpoint=True).astype(kind.dtype)


@pytest.mark.skipif(host.compiler() is None, reason="gcc is not installed")
def test_two_models_and_two_streams_in_one_program(digits: Path, tmp_path: Path) -> None:
    walk, still = streaming.streaming(), convert(digits, "int8").graph
    assert (len(walk.inputs), len(walk.outputs)) == (1, 2)
    write(walk, "walk", tmp_path)
    write(still, "digits", tmp_path)
    (tmp_path / "main.cc").write_text(MAIN)
    for name in ("walk", "digits"):
        subprocess.run(["gcc", "-std=c99", "-O2", *FLAGS, "-c", f"{name}.c"], cwd=tmp_path, check=True)
    subprocess.run(
        ["g++", "-std=c++17", "-Os", *FLAGS, "main.cc", "walk.o", "digits.o", "-o", "main"], cwd=tmp_path, check=True
    )
    rng = np.random.default_rng(2)
    left, right = Stream(walk), Stream(walk)
    sent, wanted = [], []
    for _ in range(5):
        for stream in (left, right):
            sent.append(codes(walk, rng))
            wanted += stream.step(sent[-1])
        sent.append(codes(still, rng))
        wanted += reference.run(still, sent[-1])
    done = subprocess.run(
        ["./main"], cwd=tmp_path, input=b"".join(a.tobytes() for a in sent), capture_output=True, check=False
    )
    assert done.returncode == 0 and done.stdout == b"".join(a.tobytes() for a in wanted)


@pytest.mark.micro
@pytest.mark.skipif(boards.missing() is not None, reason=str(boards.missing()))
@pytest.mark.parametrize("level", ["-Os", "-O2"])
@pytest.mark.parametrize("target", ["cortex-m0plus", "cortex-m4", "cortex-m55"])
def test_c_compiles_without_a_warning(digits: Path, target: str, level: str, tmp_path: Path) -> None:
    found = micro(target)
    assert found is not None
    for scheme in ("int8", "int16x8", "int8-w4"):
        made = library.make(convert(digits, scheme).graph, "digits", found)
        (tmp_path / "digits.c").write_text(source.source(made.program, made.plan))
        (tmp_path / "digits.h").write_text(source.header(made.program, made.plan))
        (tmp_path / "use.cc").write_text('#include "digits.h"\n#include "digits.h"\n')
        (tmp_path / "use.c").write_text('#include "digits.h"\n')
        for compiler, standard, name in (
            ("gcc", "c99", "digits.c"),
            ("gcc", "c99", "use.c"),
            ("g++", "c++17", "use.cc"),
        ):
            command = [f"arm-none-eabi-{compiler}", *found.gcc, level, f"-std={standard}", *FLAGS, "-c", name]
            subprocess.run(command, cwd=tmp_path, check=True)
