"""A function in a child: its result, its error, or what ended it."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import tflite2q
from tflite2q.errors import DataError, NativeError, UsageError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

NAMES = ["SIGSEGV", "SIGBUS", "SIGFPE", "SIGABRT", "SIGILL", "SIGKILL"]


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_is_an_error(name: str) -> None:
    def die() -> None:
        faulthandler.disable()  # pytest's, which reads what other threads are changing, and at times dies of that
        os.kill(os.getpid(), getattr(signal, name))

    with pytest.raises(NativeError, match=name) as caught:
        tflite2q.isolated(die)
    assert "\n" not in str(caught.value)


def test_an_exit_is_an_error() -> None:
    with pytest.raises(NativeError, match=r"ended the process \(exit code 1\).*disk is full"):
        tflite2q.isolated(lambda: ctypes.CDLL(None).exit(1))


def test_an_exit_is_an_error_beside_threads_that_wait(digits: Path) -> None:
    """TVM's threads are there, and waiting, when the process is forked."""
    exe = tflite2q.compile(tflite2q.load(digits), threads=2)
    exe.run(np.zeros((1, 8, 8, 1), np.uint8))
    time.sleep(0.1)
    with pytest.raises(NativeError, match="exit code 1"):
        tflite2q.isolated(lambda: ctypes.CDLL(None).exit(1), seconds=20)


def test_an_access_beyond_memory_is_an_error() -> None:
    with pytest.raises(NativeError, match="SIGSEGV"):
        tflite2q.isolated(lambda: ctypes.string_at(8))


def test_a_library_that_is_cut_while_it_is_mapped_is_an_error(digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.so"
    tflite2q.compile(tflite2q.load(digits)).save(path)
    x = np.zeros((1, 8, 8, 1), np.uint8)

    def run() -> object:
        exe = tflite2q.load_library(path)
        exe.run(x)
        os.truncate(path, 4096)
        return exe.run(x)

    with pytest.raises(NativeError, match=r"SIGBUS|SIGSEGV"):
        tflite2q.isolated(run)


def test_what_native_code_computes_comes_back(digits: Path) -> None:
    graph = tflite2q.load(digits)
    exe = tflite2q.compile(graph)
    x = np.random.default_rng(0).integers(0, 17, (1, 8, 8, 1), dtype=np.uint8)
    expected = exe.run(x)  # the threads of this process are not the child's
    for _ in range(3):
        assert np.array_equal(tflite2q.isolated(exe.run, x)[0], expected[0])
    assert np.array_equal(tflite2q.isolated(tflite2q.reference, graph, x)[0], expected[0])  # type: ignore[arg-type]


def test_errors_are_those_of_the_function(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        tflite2q.isolated(tflite2q.load_library, tmp_path / "nothing.so")
    with pytest.raises(ZeroDivisionError):
        tflite2q.isolated(lambda: 1 / 0)
    with pytest.raises(SystemExit):
        tflite2q.isolated(lambda: exec("raise SystemExit(5)"))


def test_what_cannot_be_sent_is_said() -> None:
    with pytest.raises(UsageError, match="result, generator, cannot be sent back"):
        tflite2q.isolated(lambda: (i for i in ()))


def test_large_results() -> None:
    assert tflite2q.isolated(np.ones, 5_000_000).sum() == 5_000_000


def test_time_is_limited() -> None:
    began = time.monotonic()
    with pytest.raises(NativeError, match=r"more than 0\.2 s"):
        tflite2q.isolated(lambda: ctypes.CDLL(None).pause(), seconds=0.2)
    assert time.monotonic() - began < 20
    with pytest.raises(UsageError, match="above 0"):
        tflite2q.isolated(print, seconds=float("nan"))


def test_no_process_and_no_pipe_is_left() -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(20):
        tflite2q.isolated(int, "7")
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    if before:
        assert len(os.listdir("/proc/self/fd")) == before
