"""Jobs on this machine: one keeper for each that may run at once."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tflite2q import cgroups
from tflite2q.batch import keeper, work
from tflite2q.batch.records import DIED, UNWRITTEN, Done, Outcome, Settings
from tflite2q.limits import machine_memory

PARTING = 0.5  # seconds for a keeper to end its job and itself
SHARE = 0.9  # of the memory that is free
LEAST = 1 << 28  # bytes of memory for a job: with less, not even the smallest model is converted


@dataclass(frozen=True)
class Limits:
    """The limits of one job: seconds, and bytes of memory."""

    seconds: float
    memory: int


def fair_memory(jobs: int) -> int:
    """Bytes for each of so many jobs at once: what the machine, or its control groups, have free."""
    free = machine_memory()
    with contextlib.suppress(OSError):  # Linux has this file
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    granted = cgroups.free_memory()
    return max(int(SHARE * (free if granted is None else min(free, granted)) / jobs), LEAST)


class Keeper:
    """A keeper process; it is started again if it should die."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def run(self, folder: Path, limits: Limits, running: bool) -> Outcome:
        """Do the job that was laid out in `folder`; `running` tells whether it runs models.  Its files are in
        `folder`/out.

        A keeper that is ended by others takes its job with it, which did no wrong: it is done once more.
        """
        request = {"folder": str(folder), "seconds": limits.seconds, "memory": limits.memory, "running": running}
        for again in (True, False):
            process = self._started()
            if process is None:
                return Outcome(DIED, "interrupted")
            line = _asked(process, json.dumps(request))
            if line.endswith("\n"):
                return _told(json.loads(line), folder)
            self._end()
            if again:
                work.clear(folder)
        return Outcome(DIED, "the process that watches it was ended twice; run the same command again")

    def _started(self) -> subprocess.Popen[str] | None:
        with self._lock:
            if self._process is None and not self._closed:
                # A session of its own: Ctrl-C at the terminal is for the program that asks.
                self._process = subprocess.Popen(
                    [sys.executable, "-m", keeper.__name__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=dict(keeper.environment()),
                    encoding="utf-8",
                    start_new_session=True,
                )
            return self._process

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        requests, answers = _pipes(process)
        with contextlib.suppress(OSError):
            requests.close()  # it ends its job when requests end
        try:
            process.wait(PARTING)
        except subprocess.TimeoutExpired:  # it is still loading the program, perhaps; its job ends with it
            process.kill()
            process.wait()
        answers.close()

    def close(self) -> None:
        """End it, with the job that it may be at, for good."""
        with self._lock:
            self._closed = True
        self._end()


def _asked(process: subprocess.Popen[str], request: str) -> str:
    """The line that a keeper answers; what there is of it if the keeper has ended."""
    requests, answers = _pipes(process)
    try:
        requests.write(f"{request}\n")
        requests.flush()
        return answers.readline()
    except BrokenPipeError:
        return ""


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    """What a keeper reads requests from, and writes answers to."""
    assert process.stdin is not None and process.stdout is not None  # it is started with pipes for both
    return process.stdin, process.stdout


def _told(answer: Mapping[str, str], folder: Path) -> Outcome:
    """The outcome of a job that its keeper has seen end."""
    if answer["how"] != keeper.DONE:
        return Outcome(answer["how"], answer["reason"].replace(f"{folder}/in/", ""))
    try:
        return Outcome.of(json.loads((folder / work.RESULT).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:  # somebody else works in this folder, or clears it
        return Outcome(UNWRITTEN, f"{folder}: what it made is gone: {error}; run the same command again")


class Local:
    """Runs jobs in folders of this machine, `jobs` at once.  One more waits, so that none of them does."""

    def __init__(self, jobs: int, limits: Limits) -> None:
        self.window = jobs + 1
        self._limits = limits
        self._idle: queue.SimpleQueue[Keeper] = queue.SimpleQueue()
        self._keepers = [Keeper() for _ in range(jobs)]
        for each in self._keepers:
            self._idle.put(each)
        self._threads = ThreadPoolExecutor(jobs)

    def submit(self, folder: Path, name: str, content: bytes, settings: Settings) -> Future[Done]:
        """Let a job wait for its turn; its files are in `folder`/out when it is done."""
        work.prepare(folder, name, content, settings)
        return self._threads.submit(self._run, folder, settings.running)

    def _run(self, folder: Path, running: bool) -> Done:
        mine, started = self._idle.get(), time.monotonic()
        try:
            return Done(mine.run(folder, self._limits, running), time.monotonic() - started)
        finally:
            self._idle.put(mine)

    def close(self) -> None:
        """End everything that still runs."""
        for each in self._keepers:
            each.close()
        self._threads.shutdown()
