"""Runs jobs: cached results are taken, the rest is computed, and every result is cached before it is written."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tflite2q.batch import cache as caches
from tflite2q.batch import places, work
from tflite2q.batch.cache import Cache
from tflite2q.batch.places import Place
from tflite2q.batch.records import (
    MODEL,
    RECORD,
    REFUSED,
    UNWRITTEN,
    USABLE,
    Done,
    Job,
    Outcome,
    Record,
    Settings,
    Summary,
    of_other_options,
)
from tflite2q.errors import OutputError, Tflite2qError, UsageError

# Called with the record of each job as it ends.
Told = Callable[[Record], None]


class Engine(Protocol):
    """Where jobs are done: at most `window` are asked for at once."""

    @property
    def window(self) -> int: ...

    def submit(self, folder: Path, name: str, content: bytes, settings: Settings) -> Future[Done]:
        """Let a job wait for its turn; its files are in `folder`/out when the outcome is there."""
        ...

    def close(self) -> None:
        """End what still runs."""
        ...


@dataclass(frozen=True)
class _Working:
    """A job that is being done, with its key and the folder that it works in."""

    index: int
    key: str
    folder: Path


class Batch:
    """The jobs of one run, whose results go to the place `out`.  Raises UsageError where `out` cannot be used."""

    def __init__(self, jobs: Sequence[Job], out: Place, force: bool = False) -> None:
        self._jobs, self._out = jobs, out
        self._names = {f"{job.stem}{ending}" for job in jobs for ending in job.endings()}
        self._cache = Cache(caches.place(out))
        self._records: dict[int, Record] = {}
        self.kept = 0  # jobs whose result the cache holds, so that no run does them again
        places.make(out)
        try:
            if not force:
                self._refuse_foreign()
        except OSError as error:
            raise _unwritable(out.name(), error) from error

    def run(self, engine: Engine, told: Told) -> Summary:
        """Do all jobs; finished work is kept, whatever is raised."""
        started = time.monotonic()
        running: dict[Future[Done], _Working] = {}
        try:
            for index in range(len(self._jobs)):
                began = self._begin(index, engine)
                if isinstance(began, Record):
                    self._tell(index, began, told)
                    continue
                running[began[0]] = began[1]
                while len(running) >= engine.window:
                    self._collect(running, told)
            while running:
                self._collect(running, told)
        finally:
            engine.close()
            self._cache.close()
        return Summary(tuple(self._records[i] for i in range(len(self._jobs))), time.monotonic() - started)

    def _begin(self, index: int, engine: Engine) -> Record | tuple[Future[Done], _Working]:
        """The record of a job whose result is kept or that cannot be begun; else the job, begun."""
        job, started = self._jobs[index], time.monotonic()
        try:
            content = _read(job.source)
            name = os.path.basename(job.name)
            key = caches.key(places.digest(content), name, job.settings)
            found = self._found(key)
            if found is not None and self._put(job, found):
                self.kept += 1
                return Record(job, found, time.monotonic() - started, True)
        except Tflite2qError as error:
            return self._refused(job, error, time.monotonic() - started)
        try:
            folder = self._cache.stage(index)
            future = engine.submit(folder, name, content, job.settings)
        except OSError as error:
            self._cache.unstage(index)
            return self._refused(job, _unwritable(self._cache.place.name(), error), time.monotonic() - started)
        return future, _Working(index, key, folder)

    def _found(self, key: str) -> Outcome | None:
        try:
            return self._cache.find(key)
        except OSError as error:
            raise places.unreachable(self._cache.place.name(), error) from error

    def _collect(self, running: dict[Future[Done], _Working], told: Told) -> None:
        """Wait for a job to end, keep its result and put it in its place."""
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            ended, working = self._ended(future), running[future]
            outcome, seconds, job = ended.outcome, ended.seconds, self._jobs[working.index]
            made: dict[str, bytes] = {}
            try:
                if outcome.state in USABLE:
                    paths = sorted((working.folder / work.OUT).iterdir())
                    made = {path.name: path.read_bytes() for path in paths}
                    hashed = {path.name: self._cache.adopt(path, made[path.name]) for path in paths}
                    outcome = replace(outcome, outputs=hashed)
                if outcome.keeps:
                    self._cache.keep(working.key, outcome)
                    self.kept += 1  # before its files can be seen
                self._put(job, outcome, made)
                record = Record(job, outcome, seconds, False)
            except UsageError as error:
                record = self._refused(job, error, seconds)
            except OSError as error:
                record = self._refused(job, _unwritable(self._cache.place.name(), error), seconds)
            running.pop(future)
            self._cache.unstage(working.index)
            self._tell(working.index, record, told)

    def _ended(self, future: Future[Done]) -> Done:
        """The result of a job.  Raises UsageError if there is none, because the engine cannot go on."""
        try:
            return future.result()
        except OSError as error:
            return Done(Outcome(UNWRITTEN, str(_unwritable(self._cache.place.name(), error))), 0.0)

    def _refused(self, job: Job, error: Tflite2qError, seconds: float) -> Record:
        """The record of a job that cannot be done; outputs of an earlier run would pass for its own."""
        outcome = Outcome(UNWRITTEN if isinstance(error, OutputError) else REFUSED, str(error))
        with suppress(UsageError):
            self._put(job, outcome)
        return Record(job, outcome, seconds, False)

    def _tell(self, index: int, record: Record, told: Told) -> None:
        self._records[index] = record
        told(record)

    def _put(self, job: Job, outcome: Outcome, made: Mapping[str, bytes] | None = None) -> bool:
        """Make the outputs of a job those of `outcome`, which were `made` now or are in the cache; others, of another
        content or scheme, are removed.

        False if the cache lacks one.
        """
        try:
            present = {ending: self._out.digest(f"{job.stem}{ending}") for ending in job.endings()}
            self._remove_reports_of_another(job, outcome, present)
            return all(
                self._put_one(f"{job.stem}{ending}", here, outcome.outputs.get(ending), (made or {}).get(ending))
                for ending, here in present.items()
            )
        except OSError as error:
            raise _unwritable(self._out.name(job.stem), error) from error

    def _put_one(self, name: str, present: str | None, hashed: str | None, content: bytes | None) -> bool:
        if hashed is None:
            self._remove(name, present)
            return True
        if present == hashed:
            return True
        content = self._cache.content(hashed) if content is None else content
        if content is None:
            return False
        self._out.write(name, content)
        return True

    def _remove(self, name: str, present: str | None) -> None:
        """Remove a file that this batch or an earlier one wrote; what others wrote stays."""
        if present is not None and self._cache.has(present):
            self._out.remove(name)

    def _remove_reports_of_another(self, job: Job, outcome: Outcome, present: Mapping[str, str | None]) -> None:
        """Remove what a run with other options left beside a result that is another one now, such as the report of a
        comparison."""
        main = MODEL if MODEL in outcome.outputs or present[MODEL] is not None else RECORD
        here = present[main]
        if here is None or here == outcome.outputs.get(main) or not self._cache.has(here):
            return
        for name in self._out.beside(job.stem):
            if name not in self._names and of_other_options(name.removeprefix(job.stem)):
                self._remove(name, self._out.digest(name))

    def _refuse_foreign(self) -> None:
        """Raise UsageError if a file is in the way that no batch has written."""
        self._out.look(self._names)
        for job in self._jobs:
            for ending in job.endings():
                name = f"{job.stem}{ending}"
                found = self._out.digest(name)
                if found is not None and not self._cache.has(found):
                    raise UsageError(
                        f"{self._out.name(name)}: exists, and no batch with this cache wrote it; give --force to "
                        "replace what is in the way, or another -o"
                    )


def _unwritable(path: str, error: OSError) -> OutputError:
    check = "URL and credentials" if places.is_url(path) else "path and free space"
    return OutputError(f"{path}: cannot be written: {error.strerror or error}; check the {check}")


def _read(path: str) -> bytes:
    """The content of a model's file.  Raises UsageError for what is no readable file."""
    if places.is_url(path):
        return places.read(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f"{path}: is not a file; give a model")
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error
