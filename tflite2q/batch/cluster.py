"""Jobs on a Dask cluster: models travel to its workers as content, and results come back the same way.

On a worker, a keeper does every job in its own process, as on this machine.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tflite2q import files
from tflite2q.batch import cache, work
from tflite2q.batch.connection import Connection, Told, WorkersLostError
from tflite2q.batch.local import LEAST, Keeper, Limits, fair_memory
from tflite2q.batch.records import DIED, UNWRITTEN, Done, Outcome, Settings
from tflite2q.errors import OutputError, UsageError

Pack = list[tuple[str, bytes]]

_mine = threading.local()


def perform(
    content: bytes, name: str, settings: Settings, seconds: float, memory: int | None, *packs: Pack
) -> tuple[dict[str, Any], float, dict[str, bytes]]:
    """Do a job on a worker, with packs of the settings' paths in their order; its outcome, the seconds that it took,
    and its files by their endings."""
    started = time.monotonic()
    if not hasattr(_mine, "keeper"):
        _mine.keeper = Keeper()  # it ends with this process
    try:
        with files.temporary_folder() as folder:
            settings = _unpacked(folder / "data", settings, dict(zip(settings.paths, packs, strict=True)))
            work.prepare(folder, name, content, settings)
            limits = Limits(seconds, memory or _fair_memory())
            outcome = _mine.keeper.run(folder, limits, settings.running)
            made = {path.name: path.read_bytes() for path in (folder / work.OUT).iterdir()}
            return asdict(outcome), time.monotonic() - started, made
    except OSError as error:
        reason = f"cannot be written on the worker {os.uname().nodename}: {error.strerror or error}"
        outcome = Outcome(UNWRITTEN, f"{reason}; check the free space of its TMPDIR")
        return asdict(outcome), time.monotonic() - started, {}


def _fair_memory() -> int:
    """Bytes for each job at once of this worker: a share of what its machine has free, and of what Dask grants it, as
    other workers may be there."""
    from distributed import get_worker

    worker = get_worker()
    threads, granted = int(worker.state.nthreads), worker.memory_manager.memory_limit
    fair = fair_memory(threads)
    return min(fair, max(int(granted) // threads, LEAST)) if granted else fair


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


class Cluster:
    """The cluster at `address`; `memory` None: a fair share of what each worker has.  `told` is called with a line
    about each worker that gets no work.

    Raises UsageError if there is none, or if each worker would give other results.
    """

    def __init__(
        self, address: str, seconds: float, memory: int | None, jobs: Sequence[Settings], told: Told = warnings.warn
    ) -> None:
        self._seconds, self._memory = seconds, memory
        self._connection = Connection(address, any(settings.running for settings in jobs), told)
        self._packs: dict[str, Any] = {}

    @property
    def window(self) -> int:
        return self._connection.window

    def submit(self, folder: Path, name: str, content: bytes, settings: Settings) -> Future[Done]:
        """Let a job wait for its turn; its files are in `folder`/out when the outcome is there."""
        (folder / work.OUT).mkdir()
        packs = [self._packed(path) for path in settings.paths.values()]
        answer: Future[Done] = Future()
        asked = self._connection.submit(perform, content, name, settings, self._seconds, self._memory, *packs)
        asked.add_done_callback(lambda done: _received(done, folder, answer))
        return answer

    def _packed(self, path: str) -> Any:
        if path not in self._packs:
            self._packs[path] = self._connection.share(_pack(path))
        return self._packs[path]

    def close(self) -> None:
        """Leave the cluster, which goes on without this program's jobs."""
        self._connection.close()


def _received(done: Future[Any], folder: Path, answer: Future[Done]) -> None:
    """Write the files of a job that a worker has done, and hand on its outcome."""
    try:
        found, seconds, contents = done.result()
        for ending, content in contents.items():
            files.write(folder / work.OUT / ending, content, tidy=False)
        answer.set_result(Done(Outcome.of(found), seconds))
    except WorkersLostError as error:
        answer.set_result(Done(Outcome(DIED, str(error)), 0.0))
    except OutputError as error:
        answer.set_result(Done(Outcome(UNWRITTEN, str(error)), 0.0))
    except BaseException as error:
        answer.set_exception(error)
