"""A graph's C on this machine, under the sanitizers of addresses and of undefined behaviour."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph
from tflite2q.lower.targets import Micro
from tflite2q.micro import boards, emulator, library, source

Array = npt.NDArray[Any]

FAMILIES = ("plain", "dsp", "mve")
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DEXACT")
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-ffp-contract=off", "-O1")


def compiler() -> str | None:
    return shutil.which("gcc")


def run(
    graph: Graph, inputs: Sequence[Array], family: str, folder: Path, flags: Sequence[str] = SANITIZED
) -> list[Array]:
    """The outputs of `graph` by the kernels of `family`.  Raises AssertionError where compiling or running fails."""
    return list(steps(graph, [inputs], family, folder, flags)[0])


def steps(
    graph: Graph, samples: Sequence[Sequence[Array]], family: str, folder: Path, flags: Sequence[str] = SANITIZED
) -> tuple[tuple[Array, ...], ...]:
    """The outputs of each step of a stream."""
    made = library.make(graph, "model", Micro("host", "this machine", family))
    (folder / "model.c").write_text(source.source(made.program, made.plan))
    (folder / "model.h").write_text(source.header(made.program, made.plan))
    (folder / "run.h").write_text(boards.glue(made))
    (folder / "in.bin").write_bytes(
        b"".join(np.ascontiguousarray(array).tobytes() for sample in samples for array in sample)
    )
    host = Path(__file__).parent / "host.c"
    do(["gcc", *STRICT, *flags, "-c", "model.c"], folder)
    do(["gcc", "-std=c11", *flags, "-I.", str(host), "model.o", "-o", "model"], folder)
    do(["./model"], folder)
    return emulator.outputs(made.program.outputs, (folder / "out.bin").read_bytes(), len(samples))


def output_of(program: str, folder: Path) -> bytes:
    """What a C program writes."""
    (folder / "program.c").write_text(program)
    do(["gcc", "-std=c11", "-O1", *SANITIZED, "program.c", "-o", "program"], folder)
    done = subprocess.run(["./program"], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout


def do(command: Sequence[str], folder: Path) -> None:
    quiet = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # the program ends with all it has
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=quiet)
    assert done.returncode == 0, f"{' '.join(command)}:\n{(done.stderr or done.stdout)[-3000:]}"
