"""Progress is for people who wait at a terminal."""

from __future__ import annotations

import io
import time

import pytest

from tflite2q.cli import progress
from tflite2q.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    stream = Terminal()
    monkeypatch.setattr(progress, "PATIENCE", 0.02)
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    return stream


def wait_for(stream: Terminal, what: str) -> None:
    deadline = time.monotonic() + 10
    while what not in stream.getvalue():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_long_step_is_shown_and_wiped(terminal: Terminal) -> None:
    with Progress(terminal) as report:
        report("comparing", 3, 200)
        wait_for(terminal, "comparing 3/200")
        report("compiling")
        wait_for(terminal, "compiling (")
    last = terminal.getvalue().split("\r")
    assert last[-1] == ""
    assert last[-2].strip() == ""


def test_a_short_step_shows_nothing(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 60)
    with Progress(terminal) as report:
        report("converting")
    assert terminal.getvalue() == ""


def test_nothing_is_shown_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(progress, "PATIENCE", 0)
    with Progress(stream) as report:
        report("converting")
        time.sleep(0.05)
    assert stream.getvalue() == ""
