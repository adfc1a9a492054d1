"""What becomes of a run when a job's folder, or what does the jobs, fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

import pytest

from tflite2q.batch import connection, plan
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


class Task:
    """As Dask's future, whose call ends as its client says."""

    def __init__(self, workers: list[str] | None, end: Callable[[list[str] | None], Any]) -> None:
        self.workers, self._end, self.released = workers, end, threading.Event()

    def add_done_callback(self, call: Callable[[Task], None]) -> None:
        threading.Thread(target=call, args=(self,)).start()

    def result(self, timeout: float) -> Any:
        return self._end(self.workers)

    def release(self) -> None:
        self.released.set()


class Client:
    """As Dask's client, of workers that are `facts` or have nothing, whose calls end as `end` says."""

    status = "running"

    def __init__(self, end: Callable[[list[str] | None], Any], **facts: dict[str, str]) -> None:
        self.facts, self._end, self.tasks = facts, end, list[Task]()

    def nthreads(self) -> dict[str, int]:
        return dict.fromkeys(self.facts, 1)

    def run(self, function: object, workers: list[str], on_error: str) -> dict[str, dict[str, str]]:
        return {worker: self.facts[worker] for worker in workers}

    def submit(self, *arguments: object, workers: list[str] | None, **options: object) -> Task:
        self.tasks.append(Task(workers, self._end))
        return self.tasks[-1]

    def close(self, timeout: float) -> None:
        pass


def connect(client: Client, monkeypatch: pytest.MonkeyPatch) -> tuple[Connection, list[str]]:
    """A connection to such a client, and the lines that it says."""
    pytest.importorskip("distributed")
    lines: list[str] = []
    monkeypatch.setattr(connection, "connected", lambda address: client)
    return Connection("tcp://there", told=lines.append), lines


def test_calls_that_met_another_version_go_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that comes later, which Dask gives calls as it gives them to any."""
    client = Client(lambda workers: ("unfit", "late", {}) if workers is None else ("done", 7), first=connection.facts())
    found, lines = connect(client, monkeypatch)
    client.facts["late"], client.facts["later"] = {}, {**connection.facts(), "version": "other"}
    assert [found.submit(print).result(20) for _ in range(3)] == [7, 7, 7]
    assert client.tasks[-1].workers == ["first"] and all(task.released.wait(5) for task in client.tasks[-3:])
    assert sorted(line.split()[2] for line in lines) == ["late", "later"]
    assert all("install the same version" in line and "its work goes to the others" in line for line in lines)
    found.close()


def test_calls_go_to_a_worker_that_takes_the_place_of_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = threading.Event()
    ends = {"first": lambda: waiting.wait(20), "second": lambda: None}
    client = Client(lambda workers: (ends[(workers or ["?"])[0]](), ("done", 7))[1], first=connection.facts(), bad={})
    monkeypatch.setattr(connection, "REFRESH", 0.05)
    found, lines = connect(client, monkeypatch)
    asked = found.submit(print)
    client.facts = {"second": connection.facts(), "bad": {}}
    assert asked.result(10) == 7 and len(lines) == 1
    waiting.set()
    found.close()


def test_only_workers_that_cannot_be_used_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(lambda workers: ("unfit", "late", {}), first=connection.facts())
    monkeypatch.setattr(connection, "REFRESH", 0.05)
    monkeypatch.setattr(connection, "VACANCY", 0.2)
    found, _ = connect(client, monkeypatch)
    client.facts = {"late": {}}
    with pytest.raises(UsageError, match=r"no usable Dask worker is left: Dask worker late has no tflite2q.*continue$"):
        found.submit(print).result(10)
    with pytest.raises(UsageError, match="no usable Dask worker"):
        _ = found.window
    found.close()


def test_work_waits_for_workers_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = threading.Event()
    client = Client(lambda workers: (lost.wait(20), ("done", 7))[1], first=connection.facts())
    monkeypatch.setattr(connection, "REFRESH", 0.05)
    monkeypatch.setattr(connection, "VACANCY", 0.2)
    found, lines = connect(client, monkeypatch)
    asked = found.submit(print)
    client.facts = {}
    with pytest.raises(FutureTimeout):
        asked.result(1)
    assert lines == ["no Dask worker is left; the work waits for one"]
    lost.set()
    assert asked.result(5) == 7
    found.close()


@pytest.mark.parametrize("failures", [1, 3, 4])
def test_results_that_are_lost_are_made_again(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [RuntimeError("lost")] * failures

    def end(workers: list[str] | None) -> Any:
        if left:
            raise left.pop()
        return "done", 7

    found, _ = connect(Client(end, first=connection.facts()), monkeypatch)
    asked = found.submit(print)
    if failures > connection.RETRIES:
        with pytest.raises(UsageError, match=r"the cluster went away \(RuntimeError: lost\)"):
            asked.result(20)
    else:
        assert asked.result(20) == 7
    found.close()


def test_what_a_call_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = connect(Client(lambda _: ("raised", ZeroDivisionError("by 0")), first=connection.facts()), monkeypatch)
    with pytest.raises(ZeroDivisionError, match="by 0"):
        found.submit(print).result(20)
    found.close()


def test_settings_that_dask_misses_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")

    def client(*_: object, **__: object) -> None:
        raise TypeError("TLS expects a context")  # as Dask does for tls:// without certificates

    monkeypatch.setattr(distributed, "Client", client)
    with pytest.raises(UsageError, match=r"tls://x:1: no scheduler answers there \(TLS expects a context\); check"):
        Connection("tls://x:1")
