"""`python -m tflite2q.batch.keeper`: runs jobs one after another, each in a process of its own.

The keeper imports the program once and forks for every job, so that a job costs no start.  It has no threads, which
makes forking safe.  It watches the job's whole process group, ends it at its limits, and also when the process that
asked is gone.  A request is a line of JSON (`folder`, `seconds`, `memory`, `running`), and so is the answer (`how`,
`reason`).

Memory is the resident memory of the group.  A limit on address space (RLIMIT_AS) would count memory that TVM and LLVM
only reserve; a machine runs out of memory that is touched.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tflite2q import guard
from tflite2q.batch import work
from tflite2q.batch.group import resident, usage
from tflite2q.batch.records import BUG, DIED, MEMORY, TIME, UNWRITTEN
from tflite2q.errors import OutputError

DONE = "done"
MOST_SAID = 1 << 14  # bytes of what a job said last, which are looked at
POLL_SECONDS = 0.1
GROUP_SECONDS = 0.5  # between looks at the whole group, which read a file for each process of the machine


class Alone(Exception):
    """Whoever asked for the job is gone."""


def main() -> None:
    """Serve requests until their stream ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    # The program is loaded before it is asked for, once for all jobs.
    from tflite2q import pipeline  # noqa: F401
    from tflite2q.report import html, markdown  # noqa: F401
    from tflite2q.report import json as documents  # noqa: F401

    _share()
    compiling = False
    while line := sys.stdin.readline():
        request = json.loads(line)
        if request["running"] and not compiling:
            from tflite2q.lower import build, graph, machine  # noqa: F401 - with TVM, which takes seconds

            _share()
            compiling = True
        try:
            how, reason = run(Path(request["folder"]), request["seconds"], request["memory"])
        except Alone:
            return
        answers.write(json.dumps({"how": how, "reason": reason}) + "\n")
        answers.flush()


def _share() -> None:
    """Let children leave alone what is loaded: looking for garbage writes to it, which copies its memory to each."""
    gc.collect()
    gc.freeze()


def run(folder: Path, seconds: float, memory: int) -> tuple[str, str]:
    """Do the job that was laid out in `folder`; how it ended, and why.  Nothing of its group is left."""
    keeper = os.getpid()
    log = os.memfd_create("log")  # of what the job says, which a full disk must not swallow
    child = os.fork()
    if child == 0:
        _child(folder, keeper, log)
    with contextlib.suppress(OSError):  # the child does it too; whoever is first
        os.setpgid(child, child)
    started = time.monotonic()
    try:
        how = _watch(child, started + seconds, memory)
    finally:
        # The leader is not reaped yet, so its number cannot have gone to another group.
        os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        said = os.pread(log, MOST_SAID, max(0, os.fstat(log).st_size - MOST_SAID)).decode("utf-8", "replace")
        os.close(log)
    if how == TIME:
        return TIME, f"it took more than {seconds:g} s and was ended; give a longer --time"
    if how == MEMORY:
        return MEMORY, f"it took more than {memory / 1e9:g} GB of memory and was ended; give a larger --memory"
    return _ended(status, said, folder)


def _ended(status: int, said: str, folder: Path) -> tuple[str, str]:
    """How a job that ended by itself did."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        name = signal.Signals(-code).name
        more = ", which is what a machine short of memory sends" if name == "SIGKILL" else ""
        return DIED, f"its process was ended by {name}{more}; convert it alone to see more"
    lines = said.strip().splitlines()
    if code == os.EX_IOERR and lines:
        return UNWRITTEN, lines[-1]
    if code and not lines:
        return DIED, guard.why(status)
    if code or not (folder / work.RESULT).exists():
        return BUG, f"{lines[-1] if lines else 'no result'}; this is a bug, convert it alone to see where"
    return DONE, ""


def _child(folder: Path, keeper: int, log: int) -> None:
    """The forked process: does the job and ends."""
    code = 1
    try:
        os.setpgid(0, 0)
        _end_with(keeper)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["TMPDIR"] = str(folder / work.TEMPORARY)
        tempfile.tempdir = None
        work.perform(folder)
        code = 0
    except OutputError as error:
        os.write(2, f"\n{error}".encode(errors="replace"))
        code = os.EX_IOERR
    except BaseException:
        os.write(2, traceback.format_exc().encode(errors="replace"))
    finally:
        os._exit(code)


def _end_with(keeper: int) -> None:
    """Let the system end this process with its keeper, and choose it, not its keeper, when memory is short."""
    guard.die_with(keeper)
    with contextlib.suppress(OSError):  # Linux has this file
        Path("/proc/self/oom_score_adj").write_text("900", encoding="ascii")


def _watch(child: int, deadline: float, memory: int) -> str:
    """Wait for a child to end, which stays to be reaped; DONE, or the limit that it broke.

    Raises Alone when the stream of requests ends, on which nothing else comes during a job.
    """
    ended, looked = os.pidfd_open(child), time.monotonic()
    try:
        while True:
            ready, _, _ = select.select([ended, sys.stdin.fileno()], [], [], POLL_SECONDS)
            if ended in ready:
                return DONE
            if ready:
                raise Alone
            now = time.monotonic()
            if now > deadline:
                return TIME
            used = resident(child)
            if now - looked > GROUP_SECONDS:
                used, looked = usage(child).resident, now
            if used > memory:
                return MEMORY
    finally:
        os.close(ended)


# Each job starts with the allocator of a new process, which gives memory back at once and takes it again, page by page.
# With these settings of glibc it begins as it would go on: the first two are what they become by themselves in a
# process that lives longer.  Page faults of a job halve.
MEMORY_KEPT = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "MALLOC_TOP_PAD_": str(4 << 20),
}


def environment() -> Mapping[str, str]:
    """What a keeper is started with: this very program, and one thread for NumPy, as there are several jobs at once and
    threads must not change sums."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    one: dict[str, Any] = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**MEMORY_KEPT, **os.environ, **one, "PYTHONPATH": path}


if __name__ == "__main__":
    main()
