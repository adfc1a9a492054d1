"""The same C on 32-bit RISC-V, as a Linux program that QEMU's user emulation runs."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tflite2q import convert
from tflite2q.execution import reference
from tflite2q.lower.targets import micro
from tflite2q.micro import boards, emulator, library, source

QEMU = shutil.which("qemu-riscv32-static")
DIGITS = Path(__file__).parent.parent.parent / "models" / "digits_uint8.tflite"

pytestmark = [
    pytest.mark.micro,
    pytest.mark.skipif(QEMU is None, reason="qemu-riscv32-static is not installed (Debian: qemu-user-static)"),
    pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed"),
]


@pytest.mark.parametrize("scheme", ["int8", "int8-w4", "int16x8", "power-of-two"])
def test_digits(scheme: str, tmp_path: Path) -> None:
    graph, target = convert(DIGITS, scheme).graph, micro("riscv32imac")
    assert target is not None
    kind = graph[graph.inputs[0]].type
    codes = np.random.default_rng(1).integers(*kind.range, size=kind.shape, endpoint=True).astype(kind.dtype)
    made = library.make(graph, "model", target)
    (tmp_path / "model.c").write_text(source.source(made.program, made.plan))
    (tmp_path / "model.h").write_text(source.header(made.program, made.plan))
    (tmp_path / "run.h").write_text(boards.glue(made))
    (tmp_path / "in.bin").write_bytes(codes.tobytes())
    host = str(Path(__file__).parent / "host.c")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "riscv32-linux-musl", "-O2", "-static", "-I."]
    subprocess.run([*command, host, "model.c", "-o", "model"], cwd=tmp_path, check=True)
    subprocess.run([str(QEMU), "./model"], cwd=tmp_path, check=True)
    found = emulator.outputs(made.program.outputs, (tmp_path / "out.bin").read_bytes(), 1)[0]
    for got, want in zip(found, reference.run(graph, codes), strict=True):
        np.testing.assert_array_equal(got, want)
