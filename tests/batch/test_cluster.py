"""Batches on Dask clusters: the same bytes as on this machine, whatever happens to workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from batch.faults import site

from tflite2q.batch import cluster, connection
from tflite2q.batch.plan import Asked
from tflite2q.errors import UsageError

distributed = pytest.importorskip("distributed")

# Dask's own warnings are not ours.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

Cli = Callable[..., Any]
LIMITS = ("--time", "20", "--memory", "1")


def tree(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


class Started:
    """A scheduler and workers, started as from the command line, on loopback."""

    def __init__(self, folder: Path, environment: dict[str, str], workers: int = 2) -> None:
        self._folder, self._environment, self.workers = folder, environment, []
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.address = self._address()
        for _ in range(workers):
            self.add()

    def _start(self, what: str, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        with (self._folder / f"{what}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{what}", *arguments], stdout=log, stderr=log,
                env=environment or self._environment, cwd=self._folder, start_new_session=True,
            )  # fmt: skip

    def _address(self) -> str:
        for _ in range(600):
            for line in (self._folder / "scheduler.log").read_text().splitlines():
                if "Scheduler at:" in line:
                    return "tcp://" + line.split("tcp://")[1].strip()
            time.sleep(0.1)
        raise AssertionError((self._folder / "scheduler.log").read_text())

    def add(self, environment: dict[str, str] | None = None) -> None:
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(self._folder))
        self.workers.append(self._start("worker", self.address, *options, environment=environment))
        with distributed.Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(sum(each.poll() is None for each in self.workers), timeout=60)

    def close(self) -> None:
        for each in (*self.workers, self.scheduler):
            if each.poll() is None:
                os.killpg(each.pid, signal.SIGKILL)
            each.wait()


@pytest.fixture
def environment(root: Path, tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{site(tmp_path / 'site')}:{root}", "TMPDIR": str(tmp_path)}


@pytest.fixture
def started(tmp_path: Path, environment: dict[str, str]) -> Iterator[Started]:
    (tmp_path / "dask").mkdir()
    found = Started(tmp_path / "dask", environment)
    yield found
    found.close()


@pytest.fixture
def models(digits: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "my models"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.tflite").write_bytes(digits.read_bytes() + bytes([number]))
    (folder / "broken.tflite").write_bytes(b"damaged")
    shutil.copy(digits, folder / "dies.tflite")
    return folder


def test_the_same_bytes_as_on_this_machine(
    cli: Cli, models: Path, tmp_path: Path, started: Started, digits_data: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    compared = ("--data", digits_data[0], "--labels", digits_data[1], "--limit", "4", "--time", "500", "--memory", "2")
    for name, arguments in {"plain": (models, *LIMITS), "compared": (models / "0.tflite", *compared)}.items():
        here, there = tmp_path / f"here_{name}", tmp_path / f"there_{name}"
        one = cli("batch", *arguments, "--scheme", "int8", "-o", here, "--json", "-")
        two = cli("batch", *arguments, "--scheme", "int8", "-o", there, "--dask", started.address, "--json", "-")
        assert one.code == two.code == (3 if name == "plain" else 0), two.err
        states = [[(job["state"], job["reason"]) for job in json.loads(each.out)["jobs"]] for each in (one, two)]
        assert states[0] == states[1]
        assert tree(here) == tree(there)
        assert "0.int8.tflite" in tree(there)


def test_a_worker_that_is_lost_loses_nothing(
    models: Path, tmp_path: Path, started: Started, environment: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "tflite2q", "batch", str(models), "--scheme", "int8", "-o", *LIMITS]
    command.insert(-4, str(tmp_path / "out"))
    process = subprocess.Popen([*command, "--dask", started.address], env=environment, stdout=subprocess.DEVNULL)
    while not list((tmp_path / "out").glob("*.tflite")) and process.poll() is None:
        time.sleep(0.05)
    os.killpg(started.workers[0].pid, signal.SIGKILL)
    assert process.wait(120) == 3
    assert len(list((tmp_path / "out").glob("*.int8.tflite"))) == 8


def test_a_cluster_that_goes_away_is_an_error_and_the_run_resumes(
    models: Path, tmp_path: Path, started: Started, environment: dict[str, str]
) -> None:
    out = tmp_path / "out"
    for name in ("x_hangs", "y_hangs"):  # so that work is left when the cluster goes
        shutil.copy(models / "0.tflite", models / f"{name}.tflite")
    command = [sys.executable, "-m", "tflite2q", "batch", str(models), "--scheme", "int8", "-o", str(out), *LIMITS]
    process = subprocess.Popen(
        [*command, "--dask", started.address],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(out.glob("*.tflite")) and process.poll() is None:
        time.sleep(0.05)
    started.close()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    last = errors.splitlines()[-1]
    assert "the cluster went away" in last and "run the same command again to continue" in last
    assert "Traceback" not in errors
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "taken from the cache" in done.stdout
    assert len(list(out.glob("*.int8.tflite"))) == 8


def test_kills_end_in_the_tree_of_this_machine(started: Started) -> None:
    """The program is killed and resumed, and meanwhile a worker is killed, too."""
    from reliability.batches import campaign

    loss = threading.Timer(30, os.killpg, (started.workers[0].pid, signal.SIGKILL))
    loss.start()
    found = campaign(12, 4, seed=2, arguments=("--dask", started.address))
    loss.cancel()
    assert not found.wrong
    assert found.met


def test_a_local_cluster_of_two_processes(models: Path, tmp_path: Path, cli: Cli, root: Path) -> None:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=str(tmp_path)
    ) as local:  # fmt: skip
        (models / "dies.tflite").unlink()
        done = cli("batch", models, "--scheme", "int8", "-o", tmp_path / "out", "--dask", local.scheduler_address)
        assert done.code == 3 and "8 converted" in done.out, done.err


@pytest.mark.parametrize("theirs", [{}, {"version": "tflite2q 0.0.1 abc; numpy 1", "processor": ""}])
def test_other_workers_are_refused(theirs: dict[str, str], monkeypatch: pytest.MonkeyPatch, started: Started) -> None:
    class Client(distributed.Client):  # type: ignore[name-defined, misc]
        def run(self, *_: Any, **__: Any) -> dict[str, dict[str, str]]:
            return {"tcp://there": theirs}

    monkeypatch.setattr(distributed, "Client", Client)
    with pytest.raises(UsageError, match=r"tcp://there .*install the same version"):
        cluster.Cluster(started.address, 10, None, Asked(schemes=("int8",)).settings())


def test_no_scheduler_is_an_error(cli: Cli, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 1.0)
    done = cli("batch", digits, "--scheme", "int8", "-o", tmp_path / "out", "--dask", "tcp://127.0.0.1:1")
    assert done.code == 2 and "no scheduler answers" in done.err.splitlines()[-1]


def other(folder: Path, what: str) -> str:
    """A PYTHONPATH of a worker that has another version, or no TVM."""
    folder.mkdir()
    if what == "version":
        text = "import tflite2q.version\ntflite2q.version.fingerprint = lambda: 'tflite2q 0.0.1'\n"
        (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    else:
        (folder / "tvm.py").write_text("raise ImportError('no TVM')\n", encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize("what", ["version", "tvm"])
def test_a_worker_that_comes_later_and_has_others_is_refused(
    what: str, models: Path, tmp_path: Path, started: Started, environment: dict[str, str], root: Path
) -> None:
    for name in ("x_hangs", "y_hangs"):  # so that work is left when it comes
        shutil.copy(models / "0.tflite", models / f"{name}.tflite")
    for number in range(8):
        (models / f"z{number}.tflite").write_bytes((models / "0.tflite").read_bytes() + bytes([99, number]))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tflite2q", "batch", str(models), "--scheme", "int8", "-o", str(out)]
    process = subprocess.Popen(
        [*command, "--time", "30", "--memory", "1", "--dask", started.address], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not list(out.glob("7*.tflite")) and process.poll() is None:
        time.sleep(0.05)
    started.add({**environment, "PYTHONPATH": f"{other(tmp_path / 'other', what)}:{root}"})
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 3, errors
    assert len(list(out.glob("*.int8.tflite"))) == 16
    said = [line for line in errors.splitlines() if "Dask worker" in line]
    assert len(said) == 1 and "its work goes to the others" in said[0] and "Traceback" not in errors
