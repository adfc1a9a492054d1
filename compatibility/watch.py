"""Runs a command in a process group of its own and ends the group when it takes too long, too much, or does nothing.

Memory is the resident memory of the whole group, looked at five times a second.  A limit on address space
(RLIMIT_AS) would refuse what TVM and LLVM only reserve, and RLIMIT_DATA counts private mappings whether they are
touched or not; what brings a machine down is memory that is touched.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tflite2q.batch.group import usage

POLL_SECONDS = 0.2
# A group that gets less than this share of one processor over that many seconds waits for something that never comes.
IDLE_SECONDS = 20.0
IDLE_SHARE = 0.005

EXITED, DIED, TIME, IDLE, MEMORY = "exited", "died", "time", "idle", "memory"


@dataclass(frozen=True)
class Ended:
    """How a command ended: EXITED with `code`, DIED of signal `code`, or stopped for TIME, being IDLE or MEMORY."""

    how: str
    code: int
    errors: str

    @property
    def words(self) -> str:
        """In words, for a reader."""
        if self.how == DIED:
            return f"died: {signal.Signals(self.code).name}"
        if self.how == EXITED:
            return f"exit {self.code}: {self.errors.strip().splitlines()[-1] if self.errors.strip() else 'no message'}"
        return {TIME: "time", IDLE: "hangs without using the processor", MEMORY: "memory"}[self.how]


def run(
    command: Sequence[str],
    deadline: Callable[[], float],
    memory: int,
    folder: Path,
    environment: dict[str, str] | None = None,
    stop: threading.Event | None = None,
) -> Ended:
    """Run `command` until it ends, `deadline()` (of time.monotonic) is past, or its group holds `memory` bytes.

    What it prints goes to files in `folder`.  Nothing of its group is left when this returns.
    """
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True, env=environment
        )
        try:
            how = _watch(process.pid, deadline, memory, stop)
        finally:
            # The leader is not reaped yet, so its number cannot have gone to another group.
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
    errors = (folder / "stderr").read_text("utf-8", "replace")[-4000:]
    if how == EXITED and code < 0:
        return Ended(DIED, -code, errors)
    return Ended(how, code, errors)


def _watch(group: int, deadline: Callable[[], float], memory: int, stop: threading.Event | None) -> str:
    """Wait for the group's leader to end; EXITED, or why it must be ended."""
    last_seconds, last_change = 0.0, time.monotonic()
    while not _ended(group):
        now = time.monotonic()
        used = usage(group)
        if used.resident > memory:
            return MEMORY
        if now > deadline() or (stop is not None and stop.is_set()):
            return TIME
        if used.seconds - last_seconds > IDLE_SHARE * IDLE_SECONDS or used.seconds < last_seconds:
            last_seconds, last_change = used.seconds, now
        elif now - last_change > IDLE_SECONDS:
            return IDLE
        time.sleep(POLL_SECONDS)
    return EXITED


def _ended(pid: int) -> bool:
    """Whether a child has ended; it stays to be reaped."""
    found: Any = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return found is not None
