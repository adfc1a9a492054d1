"""What a batch costs: many conversions one after another in one process, against `tflite2q batch` with 1 and 2 jobs, on
Dask workers, and again when all are cached.

    python -m benchmarks.batches MODEL [--models 100] [--dask]

Copies of the model differ in bytes behind its end.  Wall time counts what a user waits for, start included; processor
time counts all processes and says more where others use the machine, too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tflite2q.batch import group, work
from tflite2q.batch.plan import Asked


@dataclass(frozen=True)
class Cost:
    """Seconds that `models` conversions took; `early` and `late`: the resident MB of the program after a fifth of the
    time and at its highest."""

    how: str
    models: int
    wall: float
    processor: float
    early: float = 0.0
    late: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.how, self.models + other.models, self.wall + other.wall, self.processor + other.processor)

    def __str__(self) -> str:
        per_hour = self.models / self.wall * 3600
        memory = f", {self.early:.0f} MB early, {self.late:.0f} MB at most" if self.late else ""
        return (
            f"{self.how}: {self.wall:.1f} s, {self.wall / self.models:.3f} s a model, processor "
            f"{self.processor / self.models:.3f} s a model, {per_hour:.0f} models an hour{memory}"
        )


def copies(model: Path, folder: Path, count: int) -> None:
    """So many models of different content, and the same work."""
    folder.mkdir()
    content = model.read_bytes()
    for number in range(count):
        (folder / f"{number:04}.tflite").write_bytes(content + number.to_bytes(4, "little"))


def one_after_another(paths: Sequence[Path], folder: Path) -> Cost:
    """The same work in this process, which has loaded everything."""
    (settings,) = Asked(schemes=("int8",)).settings()
    here = Path.cwd()
    for index, path in enumerate([paths[0], *paths]):
        if index == 1:  # the first one loads
            started, used = time.monotonic(), time.process_time()
        inside = folder / str(index)
        inside.mkdir(parents=True)
        work.prepare(inside, path.name, path.read_bytes(), settings)
        work.perform(inside)
    os.chdir(here)
    return Cost("one process", len(paths), time.monotonic() - started, time.process_time() - used)


def resident(process: int) -> float:
    """Resident MB of a command: what is started only watches a child, which does the work."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()
    except OSError:  # it has ended
        children = []
    return max(map(group.resident, (process, *map(int, children)))) / (1 << 20)


def batch(how: str, models: Path, out: Path, arguments: Sequence[str]) -> Cost:
    """`tflite2q batch`, as a user would call it."""
    command = [sys.executable, "-m", "tflite2q", "batch", str(models), "--scheme", "int8", "-o", str(out), *arguments]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    seen: list[float] = []
    process = subprocess.Popen(
        [*command, "--json", str(out.with_suffix(".json"))], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    reader = threading.Thread(target=process.communicate)
    reader.start()
    while reader.is_alive():
        seen.append(resident(process.pid))
        reader.join(0.2)
    wall = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise SystemExit(f"{how}: the batch ended with {process.returncode}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    count = len(json.loads(out.with_suffix(".json").read_bytes())["jobs"])
    return Cost(how, count, wall, used, seen[len(seen) // 5], max(seen))


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[str]:
    """The address of a scheduler with so many workers of one thread, on loopback."""
    folder.mkdir()
    file, run = folder / "scheduler.json", [sys.executable, "-m"]
    started = []
    with (folder / "log").open("wb") as log:
        for number in range(workers + 1):
            what = ["dask_worker", "--nthreads", "1", "--no-nanny", "--no-dashboard"] if number else ["dask_scheduler"]
            more = ["--local-directory", str(folder)] if number else ["--host", "127.0.0.1", "--port", "0"]
            command = [*run, f"distributed.cli.{what[0]}", *what[1:], *more, "--scheduler-file", str(file)]
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
    try:
        while not file.exists():
            time.sleep(0.1)
        from distributed import Client

        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=120)
        yield str(json.loads(file.read_text(encoding="utf-8"))["address"])
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.batches",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a .tflite model")
    parser.add_argument("--models", type=int, default=100, metavar="N", help="conversions of each kind (default 100)")
    parser.add_argument("--dask", action="store_true", help="also on 1 and 2 Dask workers")
    options = parser.parse_args(arguments)
    if options.models < 3:
        parser.error("--models: 3 or more, which are divided into three parts")
    if not options.model.is_file():
        parser.error(f"{options.model}: there is no such file")
    os.environ.pop("TFLITE2Q_CACHE", None)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models = folder / "models"
        copies(options.model.absolute(), models, options.models)
        paths, costs = sorted(models.iterdir()), []
        # One process does a third of them before, between and after: a machine's speed changes in minutes.
        alone = one_after_another(paths[::3], folder / "alone0")
        for jobs in (1, 2):
            costs.append(batch(f"--jobs {jobs}", models, folder / f"jobs{jobs}", ("--jobs", str(jobs))))
            alone += one_after_another(paths[jobs::3], folder / f"alone{jobs}")
        print(alone, flush=True)
        for cost in costs:
            print(f"{cost}; {cost.wall / alone.wall:.2f} of one process", flush=True)
        print(batch("all cached", models, folder / "jobs2", ("--jobs", "2")), flush=True)
        for workers in (1, 2) if options.dask else ():
            with cluster(folder / f"dask{workers}", workers) as address:
                how = f"--dask, {workers} workers"
                print(batch(how, models, folder / f"out{workers}", ("--dask", address)), flush=True)


if __name__ == "__main__":
    main()
