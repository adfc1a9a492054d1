"""A remote device of another architecture: an RPC server in an emulated Python, on the loopback interface."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from aarch64.targets import TARGETS
from ports import LOOPBACK, PATIENCE, free_port, wait_for

import tflite2q
from benchmarks.emulator import Emulator
from tflite2q.errors import TargetError
from tflite2q.execution import reference, remote

pytestmark = pytest.mark.aarch64

# Targets whose code meets instructions there that the processor does not have.
BEYOND = {"cortex-a53": "aarch64-dotprod", "cortex-a76": "aarch64-i8mm"}

# The server starts its interpreter again for each session: that must be the emulated one.
SERVER = """
import sys, time
sys.executable = {wrapper!r}
from tvm import rpc
server = rpc.Server({host!r}, {port}, port_end={port} + 1)
time.sleep(3600)
"""


@contextmanager
def emulated_server(emulator: Emulator, folder: Path) -> Iterator[int]:
    port = free_port()
    wrapper = emulator.wrapper(folder)
    script = folder / "server.py"
    script.write_text(SERVER.format(wrapper=str(wrapper), host=LOOPBACK, port=port))
    with open(folder / "server.log", "wb") as log:
        child = subprocess.Popen(emulator.command(script), stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(port)
            yield port
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def test_run_and_time_on_the_emulated_device(
    emulator: Emulator, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "STARTUP_SECONDS", PATIENCE)
    graph = tflite2q.load(digits)
    image = np.random.default_rng(1).integers(0, 256, graph[graph.inputs[0]].type.shape, np.uint8)
    with emulated_server(emulator, tmp_path) as port:
        where = remote.Device(LOOPBACK, port, timeout=PATIENCE)
        with remote.Session(where) as session:
            assert session.triple.startswith("aarch64")
            model = session.upload(tflite2q.compile(digits, TARGETS[emulator.cpu]))
            np.testing.assert_array_equal(model.run(image), reference.run(graph, image))
            assert len(model.times(2)) == 2
            with pytest.raises(TargetError, match=r"is aarch64.*compiled for x86-64 \(x86_64\)"):
                session.upload(tflite2q.compile(digits, "x86-64"))
        if emulator.cpu in BEYOND:
            with remote.Session(where) as session:
                model = session.upload(tflite2q.compile(digits, BEYOND[emulator.cpu]))
                with pytest.raises(TargetError, match=r"lost while running; .* features that the device lacks"):
                    model.run(image)
