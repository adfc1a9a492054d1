"""What becomes of a run when a job's folder, or what does the jobs, fails."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tflite2q.batch import plan
from tflite2q.batch.connection import Connection
from tflite2q.batch.places import Folder
from tflite2q.batch.records import UNWRITTEN, Done, Settings
from tflite2q.batch.run import Batch
from tflite2q.errors import UsageError


class Failing:
    """An engine whose jobs end in an error."""

    window = 1

    def __init__(self, error: Exception) -> None:
        self._error, self.closed = error, False

    def submit(self, folder: Path, name: str, content: bytes, settings: Settings) -> Future[Done]:
        found: Future[Done] = Future()
        found.set_exception(self._error)
        return found

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def batch(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Batch:
    monkeypatch.delenv("TFLITE2Q_CACHE", raising=False)
    jobs = plan.jobs([str(digits)], None, plan.Asked(schemes=("int8", "int16x8")), tmp_path / "out")
    return Batch(jobs, Folder(tmp_path / "out"))


def test_a_folder_that_is_lost_harms_one_job(batch: Batch) -> None:
    summary = batch.run(Failing(FileNotFoundError(2, "No such file")), lambda record: None)
    assert summary.counts == {UNWRITTEN: 2}


def test_an_engine_that_cannot_go_on_ends_the_run(batch: Batch) -> None:
    """No model is counted as one that cannot be used."""
    engine = Failing(UsageError("the cluster went away"))
    with pytest.raises(UsageError, match="went away"):
        batch.run(engine, lambda record: pytest.fail("no model is at fault"))
    assert engine.closed


class Asked:
    """As Dask's future, of a call that failed where it was done."""

    def __init__(self, error: Exception) -> None:
        self._error, self.released = error, threading.Event()

    def add_done_callback(self, call: Any) -> None:
        call(self)

    def result(self, timeout: float) -> None:
        raise self._error

    def release(self) -> None:
        self.released.set()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("No module named 'tflite2q'"), "has no tflite2q, or not all that it needs"),
        (RuntimeError("lost"), r"the cluster went away \(RuntimeError: lost\)"),
    ],
)
def test_what_is_said_of_calls_that_fail(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    asked = Asked(error)
    found = object.__new__(Connection)
    found._address = "tcp://there"
    monkeypatch.setattr(Connection, "_sent", lambda *_, **__: asked)
    with pytest.raises(UsageError, match=said):
        found.submit(print).result(5)
    assert asked.released.is_set()


def test_settings_that_dask_misses_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")

    def client(*_: object, **__: object) -> None:
        raise TypeError("TLS expects a context")  # as Dask does for tls:// without certificates

    monkeypatch.setattr(distributed, "Client", client)
    with pytest.raises(UsageError, match=r"tls://x:1: no scheduler answers there \(TLS expects a context\); check"):
        Connection("tls://x:1")
