"""Remote devices: real RPC servers and a real tracker on the loopback interface, and everything that can go wrong."""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ports import LOOPBACK, PATIENCE, free_port, wait_for
from streaming import streaming, walk

import tflite2q
from tflite2q.errors import TargetError, UsageError
from tflite2q.execution import reference, remote
from tflite2q.execution.runtime import Executable

pytestmark = pytest.mark.slow

PATIENT = ("--timeout", PATIENCE)


@contextmanager
def process(module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program of TVM's with all it starts, in a group of its own that is ended afterwards."""
    child = subprocess.Popen(
        [sys.executable, "-m", module, "--host", LOOPBACK, *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield child
    finally:
        end(child)


def end(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@contextmanager
def rpc_server(*arguments: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = free_port()
    with process("tvm.exec.rpc_server", f"--port={port}", f"--port-end={port + 1}", *arguments) as child:
        wait_for(port)
        yield port, child


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with rpc_server() as (port, _):
        yield f"{LOOPBACK}:{port}"


@pytest.fixture(scope="module")
def executable(digits: Path) -> Executable:
    return tflite2q.compile(digits)


@pytest.fixture(scope="module")
def library(executable: Executable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("library") / "digits.so"
    executable.save(path)
    return path


@pytest.fixture
def image(executable: Executable) -> Any:
    shape = executable.inputs[0].type.shape
    return np.random.default_rng(3).integers(0, 256, shape, np.uint8)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "STARTUP_SECONDS", PATIENCE)


def device(address: str, timeout: float = PATIENCE) -> remote.Device:
    found = remote.device(address, timeout=timeout)
    assert found is not None
    return found


def test_two_models_in_one_session(
    server: str, executable: Executable, library: Path, digits: Path, image: Any
) -> None:
    with remote.Session(device(server)) as session:
        first, second = session.upload(executable), session.load(library)
        expected = reference.run(tflite2q.load(digits), image)
        for found in (first.run(image), second.run(image), first.run(image)):
            np.testing.assert_array_equal(found, expected)
        assert len(second.times(3)) == 3
        stats = first.benchmark(repeat=4)
        assert len(stats.times_ms) == 4 and min(stats.times_ms) > 0


def test_many_samples_on_a_device(server: str, executable: Executable, digits: Path, image: Any) -> None:
    samples = [np.roll(image, turn) for turn in range(7)]
    wanted = [reference.run(tflite2q.load(digits), sample)[0] for sample in samples]
    with remote.Session(device(server)) as session:
        model = session.upload(executable)
        np.testing.assert_array_equal([found for (found,) in model.map(samples, 2)], wanted)
        [whole] = model.batch(7, 2).run(np.concatenate(samples))
        np.testing.assert_array_equal(whole, np.concatenate(wanted))


def test_streams_on_a_device(server: str) -> None:
    graph = streaming()
    one, two = walk(graph, 6, 1), walk(graph, 6, 2)
    first, second = tflite2q.reference_stream(graph), tflite2q.reference_stream(graph)
    with remote.Session(device(server)) as session:
        model = session.upload(tflite2q.compile(graph))
        a, b = model.stream(), model.stream()
        for x, y in zip(one, two, strict=True):
            for found, expected in ((a.step(x), first.step(x)), (b.step(y), second.step(y))):
                for got, want in zip(found, expected, strict=True):
                    np.testing.assert_array_equal(got, want)


def test_from_the_command_line(
    cli: Callable[..., Any], server: str, digits: Path, library: Path, digits_data: tuple[Path, Path]
) -> None:
    data, labels = digits_data
    done = cli("run", library, "--input", data, "--limit", 2, "--rpc", server, *PATIENT, "--json", "-")
    assert done.code == 0, done.err
    local = cli("run", digits, "--input", data, "--limit", 2, "--json", "-")
    assert done.out.split('"predictions"')[1] == local.out.split('"predictions"')[1]
    options = ("--data", data, "--labels", labels, "--limit", 5, "--layer-samples", 0)
    compared = cli("compare", digits, "--scheme", "int8", *options, "--rpc", server, *PATIENT)
    assert compared.code == 0, compared.err
    assert f"times were measured on device {server}" in compared.out


def test_a_device_of_a_tracker(executable: Executable, image: Any) -> None:
    tracker_port = free_port()
    with process("tvm.exec.rpc_tracker", f"--port={tracker_port}", f"--port-end={tracker_port + 1}"):
        wait_for(tracker_port)
        address = f"{LOOPBACK}:{tracker_port}"
        with rpc_server("--tracker", address, "--key", "board") as (port, _):
            found = remote.device(None, address, "board", timeout=PATIENCE)
            assert found is not None
            with remote.Session(found) as session:
                np.testing.assert_array_equal(session.upload(executable).run(image), executable.run(image))
            with pytest.raises(TargetError, match="listens there; for a tracker, use tracker"):
                remote.Session(device(address))
            with pytest.raises(TargetError, match="accepts sessions from its tracker only; give tracker"):
                remote.Session(device(f"{LOOPBACK}:{port}"))
            with pytest.raises(TargetError, match="listens there; for a server, use rpc"):
                remote.Session(remote.Device(LOOPBACK, port, "board", timeout=PATIENCE))
            with pytest.raises(TargetError, match=r"no device called 'bord'; it has: board"):
                remote.Session(remote.Device(LOOPBACK, tracker_port, "bord", timeout=PATIENCE))


def test_nothing_listens(cli: Callable[..., Any], digits: Path, digits_data: tuple[Path, Path]) -> None:
    address = f"{LOOPBACK}:{free_port()}"
    done = cli("run", digits, "--input", digits_data[0], "--limit", 1, "--rpc", address)
    assert done.code == 2
    assert f"no RPC server at {address}" in done.err and done.err.count("\n") == 1


def test_a_listener_that_never_answers() -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        start = time.monotonic()
        with pytest.raises(TargetError, match="no answer within 1 s while connecting"):
            remote.Session(device(f"{LOOPBACK}:{silent.getsockname()[1]}", timeout=1))
        assert time.monotonic() - start < remote.STARTUP_SECONDS


def test_a_device_that_is_busy(executable: Executable) -> None:
    with rpc_server() as (port, _):
        address = f"{LOOPBACK}:{port}"
        with (
            remote.Session(device(address)),
            pytest.raises(TargetError, match=r"no answer within 2 s.*another session"),
        ):
            remote.Session(device(address, timeout=2))


def test_a_device_that_is_lost(executable: Executable, image: Any) -> None:
    with rpc_server() as (port, child), remote.Session(device(f"{LOOPBACK}:{port}")) as session:
        found = session.upload(executable)
        found.run(image)
        end(child)
        with pytest.raises(TargetError, match="lost while running"):
            found.run(image)
        with pytest.raises(TargetError, match="the session has ended"):
            found.run(image)


def test_a_device_of_another_architecture(server: str, digits: Path, tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    path = tmp_path / "riscv.so"
    tflite2q.compile(digits, target="riscv64").save(path)
    with remote.Session(device(server)) as session, pytest.raises(TargetError, match=r"riscv64.*compile it with"):
        session.load(path)


@pytest.mark.skipif(sys.platform != "linux", reason="the device runs Linux")
def test_a_device_of_another_system(server: str, digits: Path, tmp_path: Path) -> None:
    """Its loader would say so in words of its own."""
    path = tmp_path / "windows.tar"
    tflite2q.compile(digits, target=f"llvm -mtriple={platform.machine()}-pc-windows-msvc").save(path)
    with remote.Session(device(server)) as session, pytest.raises(TargetError, match=r"is Linux.*\(Windows\)"):
        session.load(path)


def test_an_archive_is_linked_on_the_device(server: str, executable: Executable, image: Any, tmp_path: Path) -> None:
    path = tmp_path / "digits.tar"
    executable.save(path)
    with remote.Session(device(server)) as session:
        for got, want in zip(session.load(path).run(image), executable.run(image), strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "arguments",
    [("here",), ("host:",), (":80",), ("host:99999",), ("h:1", "t:2", "k"), (None, "t:2"), (None, None, "k")],
)
def test_wrong_usage(arguments: tuple[str | None, ...]) -> None:
    with pytest.raises(UsageError):
        remote.device(*arguments)
