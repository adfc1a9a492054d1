"""What becomes of processes that hang, run on, die, or take all memory."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from compatibility import watch
from compatibility.watch import Ended

GENEROUS = 200 << 20


def run(script: str, folder: Path, seconds: float = 30.0, memory: int = GENEROUS) -> Ended:
    deadline = time.monotonic() + seconds
    return watch.run([sys.executable, "-c", script], lambda: deadline, memory, folder)


def test_an_exit_is_an_exit(tmp_path: Path) -> None:
    assert run("print('fine')", tmp_path) == Ended(watch.EXITED, 0, "")
    ended = run("raise SystemExit('a reason')", tmp_path)
    assert (ended.how, ended.code, ended.words) == (watch.EXITED, 1, "exit 1: a reason")


def test_a_death_by_signal_has_a_name(tmp_path: Path) -> None:
    ended = run("import os; os.abort()", tmp_path)
    assert (ended.how, ended.code, ended.words) == (watch.DIED, signal.SIGABRT, "died: SIGABRT")


def test_waiting_for_nothing_is_told_from_working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "IDLE_SECONDS", 2.0)
    start = time.monotonic()
    assert run("import time; time.sleep(100)", tmp_path).how == watch.IDLE
    assert time.monotonic() - start < 20
    assert run("while True: pass", tmp_path, seconds=5.0).how == watch.TIME


def test_memory_of_the_whole_group_counts(tmp_path: Path) -> None:
    child = "held = b'x' * (300 << 20); import time; time.sleep(100)"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert run(script, tmp_path).how == watch.MEMORY


def test_memory_that_is_only_reserved_does_not_count(tmp_path: Path) -> None:
    assert run("import mmap; held = mmap.mmap(-1, 8 << 30)", tmp_path) == Ended(watch.EXITED, 0, "")


def test_nothing_of_the_group_is_left(tmp_path: Path) -> None:
    script = "import subprocess; print(subprocess.Popen(['sleep', '100']).pid)"
    assert run(script, tmp_path).how == watch.EXITED
    left = int((tmp_path / "stdout").read_text())
    for _ in range(50):
        if not Path(f"/proc/{left}").exists() or ") Z " in Path(f"/proc/{left}/stat").read_text():
            return
        time.sleep(0.1)
    os.kill(left, signal.SIGKILL)
    pytest.fail("a process that the command started lives on")
