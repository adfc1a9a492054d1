"""Jobs on a Dask cluster: models travel to its workers as content, and results come back the same way.

Dask schedules the jobs and gives those of a lost worker to another one.  On a worker every job is done by a keeper, in
a process of its own, as on this machine.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tflite2q import files
from tflite2q.batch import cache, work
from tflite2q.batch.local import Keeper, Limits, fair_memory
from tflite2q.batch.records import DIED, UNWRITTEN, Outcome, Settings
from tflite2q.errors import OutputError, UsageError, hint

PATIENCE = 10.0  # seconds for a scheduler to answer
AHEAD = 2  # jobs for each thread of the workers, so that none waits for this program
REFRESH = 5.0  # seconds after which workers are counted again
RETRIES = 3

Pack = list[tuple[str, bytes]]

_mine = threading.local()


def facts() -> dict[str, str]:
    """What must be the same on all machines, so that results are."""
    return {"version": cache.version(True), "processor": " ".join(cache.machine())}


def perform(
    content: bytes, name: str, settings: Settings, packs: dict[str, Pack], seconds: float, memory: int | None,
    version: str,
) -> tuple[dict[str, Any], dict[str, bytes]]:  # fmt: skip
    """Do a job on a worker; its outcome, and its files by their endings.  Raises UsageError on another version."""
    if cache.version(True) != version:  # a worker that came later
        raise UsageError(_unlike(os.uname().nodename, cache.version(True), version))
    if not hasattr(_mine, "keeper"):
        _mine.keeper = Keeper()  # it ends with this process
    try:
        with files.temporary_folder() as folder:
            settings = _unpacked(folder / "data", settings, packs)
            work.prepare(folder, name, content, settings)
            limits = Limits(seconds, memory or fair_memory(_threads()))
            outcome = _mine.keeper.run(folder, limits, settings.running)
            return asdict(outcome), {path.name: path.read_bytes() for path in (folder / work.OUT).iterdir()}
    except OSError as error:
        reason = f"cannot be written on the worker {os.uname().nodename}: {error.strerror or error}"
        return asdict(Outcome(UNWRITTEN, f"{reason}; check the free space of its TMPDIR")), {}


def _threads() -> int:
    from distributed import get_worker

    return int(get_worker().state.nthreads)


def _unpacked(folder: Path, settings: Settings, packs: dict[str, Pack]) -> Settings:
    """The settings with paths of this machine, where the packed files are now."""
    changed: dict[str, str] = {}
    for what, path in settings.paths.items():
        for name, content in packs[what]:
            where = Path(os.path.normpath(folder / what / "in" / name))
            if not where.is_relative_to(folder):
                raise UsageError(f"{path}: names {name}, which lies outside its folder; a cluster needs it inside")
            where.parent.mkdir(parents=True, exist_ok=True)
            where.write_bytes(content)
        changed[what] = str(folder / what / "in" / Path(path).name)
    return settings.moved(changed)


def _pack(path: str) -> Pack:
    return [(name, each.read_bytes()) for name, each in cache.files_of(path)]


def itself(value: Any) -> Any:
    """A task that holds a value on the cluster, for the tasks that take it."""
    return value


def _unlike(worker: str, theirs: str, ours: str) -> str:
    """A line about a worker whose version differs, with what differs."""
    if not theirs:
        return f"Dask worker {worker} has no tflite2q, or not all that it needs; install the same version there"
    differing = sorted(set(theirs.split("; ")) ^ set(ours.split("; ")))
    return f"Dask worker {worker} would give other results ({'; '.join(differing)}); install the same versions there"


def _quiet() -> None:
    """Dask's loggers have handlers of their own; what goes wrong is said in a line, not by their tracebacks."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("distributed", "tornado", "asyncio"):
            log = logging.getLogger(name)
            log.handlers, log.propagate = [logging.NullHandler()], False


def connected(address: str, running: bool) -> Any:
    """A client of the scheduler at `address`, whose workers give the results of this machine; `running`: also of code
    that is compiled for its processor.

    Raises UsageError if there is no scheduler, or if a worker would give other results.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError(hint("--dask") + " needs Dask; pip install 'tflite2q[cluster]'") from error
    _quiet()
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"{hint('--dask')} {address}: no scheduler answers there; check the address") from error
    try:
        _check(client, address, running)
    except BaseException:
        client.close(timeout=PATIENCE)
        raise
    return client


def _check(client: Any, address: str, running: bool) -> None:
    """Refuse workers that would give other results; libraries and comparisons depend on the processor too."""

    def probe() -> dict[str, str]:  # travels as code: a worker may lack the program
        try:
            import importlib

            importlib.import_module("tvm")
            from tflite2q.batch.cluster import facts

            return facts()
        except Exception:
            return {}

    found = client.run(probe)
    if not found:
        raise UsageError(f"{hint('--dask')} {address}: the cluster has no workers; start some")
    ours = facts()
    for worker, theirs in sorted(found.items()):
        if theirs.get("version", "") != ours["version"]:
            raise UsageError(_unlike(worker, theirs.get("version", ""), ours["version"]))
        if running and theirs["processor"] != ours["processor"]:
            raise UsageError(
                f"Dask worker {worker} has another processor, on which comparisons and native libraries differ; "
                "use workers like this machine, or start the command on one like them"
            )


def gone(address: str, error: BaseException | None = None) -> UsageError:
    """The error for a cluster that does not answer any more."""
    why = f" ({type(error).__name__}: {error})" if error is not None and str(error) else ""
    return UsageError(
        f"{hint('--dask')} {address}: the cluster went away{why}; what is done is kept, "
        "run the same command to continue"
    )


class Window:
    """How many calls the workers of a cluster should have: enough that none waits for this program."""

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._address = client, address
        self._counted, self._window = 0.0, 1

    def __call__(self) -> int:
        if time.monotonic() - self._counted > REFRESH:
            self._counted = time.monotonic()
            try:
                self._window = max(AHEAD * sum(self._client.nthreads().values()), 1)
            except (OSError, RuntimeError, AttributeError) as error:
                raise gone(self._address) from error
        return self._window


class Cluster:
    """The cluster at `address`; `memory` None: a fair share of each worker's machine.

    Raises UsageError if there is none, or if a worker would give other results.
    """

    def __init__(self, address: str, seconds: float, memory: int | None, jobs: Sequence[Settings]) -> None:
        self._address, self._seconds, self._memory = address, seconds, memory
        self._client = connected(address, any(settings.running for settings in jobs))
        self._version = facts()["version"]
        self._window = Window(self._client, address)
        self._packs: dict[str, Any] = {}

    @property
    def window(self) -> int:
        return self._window()

    def submit(self, folder: Path, name: str, content: bytes, settings: Settings) -> Future[Outcome]:
        """Send a job; its files are in `folder`/out when the outcome is there."""
        (folder / work.OUT).mkdir()
        # Data are tasks of their own: a worker gets them once, and Dask makes them again if it is lost.
        packs = {what: self._packed(path) for what, path in settings.paths.items()}
        answer: Future[Outcome] = Future()
        future = self._client.submit(
            perform, content, name, settings, packs, self._seconds, self._memory, self._version,
            pure=False, retries=RETRIES,
        )  # fmt: skip
        future.add_done_callback(lambda done: self._answer(done, folder, answer))
        return answer

    def _packed(self, path: str) -> Any:
        if path not in self._packs:
            self._packs[path] = self._client.submit(itself, _pack(path), pure=False)
        return self._packs[path]

    def _answer(self, done: Any, folder: Path, answer: Future[Outcome]) -> None:
        """Hand on what a worker has made."""
        from distributed import KilledWorker

        try:
            found, contents = done.result(timeout=PATIENCE)
            for ending, content in contents.items():
                files.write(folder / work.OUT / ending, content, tidy=False)
            answer.set_result(Outcome.of(found))
        except KilledWorker:
            answer.set_result(Outcome(DIED, "several Dask workers were lost while they did it; see their logs"))
        except OutputError as error:
            answer.set_result(Outcome(UNWRITTEN, str(error)))
        except UsageError as error:
            answer.set_exception(error)
        except BaseException as error:  # cancelled or lost: whatever Dask calls it, it has no result
            answer.set_exception(gone(self._address, error))
        finally:
            done.release()

    def close(self) -> None:
        """Leave the cluster, which goes on without this program's jobs."""
        self._client.close(timeout=PATIENCE)
