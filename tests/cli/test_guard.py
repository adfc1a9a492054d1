"""Whatever ends the command line, its last word is one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from surroundings import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the guard works on Linux only")

BUSY = "signal.pthread_sigmask(signal.SIG_BLOCK, {2, 15}); print('on', flush=True); time.sleep(60)"  # as native code


def started(code: str) -> subprocess.Popen[str]:
    """The guard with a command that runs `code`."""
    program = f"""
import ctypes, os, signal, sys, time
from tflite2q import guard
def command():
    {code}
    return 0
sys.exit(guard.main(command))
"""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path}, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGBUS", "SIGFPE", "SIGABRT", "SIGILL", "SIGKILL"])
def test_a_signal_is_one_line(name: str) -> None:
    process = started(f"os.kill(os.getpid(), signal.{name})")
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 3
    assert said.count("\n") == 1
    assert said.startswith("tflite2q: ")
    assert name in said


def test_an_exit_in_native_code_is_one_line() -> None:
    process = started("ctypes.CDLL(None).exit(1)")  # as LLVM does when it cannot write
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 3
    assert said.count("\n") == 1
    assert "disk is full" in said


@pytest.mark.parametrize("code", [0, 1, 2, 3, 130, 141])
def test_exit_codes_pass_through(code: int) -> None:
    process = started(f"return {code}")
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == code


def test_a_command_that_cannot_part_is_ended() -> None:
    # After the command has told its code, native code may hang while the process ends.
    process = started("import atexit; atexit.register(time.sleep, 60); return 2")
    began = time.monotonic()
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 2
    assert time.monotonic() - began < 20


def test_a_defect_keeps_its_traceback() -> None:
    process = started("1 / 0")
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "ZeroDivisionError" in said
    assert "native code" not in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("busy", [BUSY, "print('on', flush=True); time.sleep(60)"])
def test_interrupts_end_it_within_a_second(number: signal.Signals, code: int, group: bool, busy: str) -> None:
    process = started(busy)
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    began = time.monotonic()
    (os.killpg if group else os.kill)(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert time.monotonic() - began < 2  # on a busy machine; without one some 0.8 s


def test_a_command_does_not_outlive_its_guard(tmp_path: Path) -> None:
    process = started("print(os.getpid(), flush=True); time.sleep(60)")
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    for _ in range(100):
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("the command goes on")


def test_convert_says_that_it_was_terminated(tmp_path: Path, digits: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tflite2q", "convert", digits, "--scheme", "int8", "-o", tmp_path / "o.tflite", "--lib",
         tmp_path / "o.so"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TFLITE2Q_CACHE": "off"},
    )  # fmt: skip
    time.sleep(1)  # it compiles for another one at least
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert said.splitlines()[-1:] == ["tflite2q: terminated"]
    assert not list(tmp_path.iterdir())
