"""What control groups grant this process.  Linux confines containers, services and the jobs of Slurm by them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PLACE = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class _Names:
    """The files of one version of control groups; the key is that of `stat`."""

    limit: str
    used: str
    unused: str  # bytes of files that were read once, which the system drops before it ends a process


_MEMORY = {
    1: _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: _Names("memory.max", "memory.current", "inactive_file"),
}


def memory() -> int | None:
    """The most bytes that this process, with others of its groups, may hold; None where nothing says so."""
    return min((limit for limit, _ in _bounds()), default=None)


def free_memory() -> int | None:
    """The bytes that its groups leave this process; None where nothing says so."""
    return min((max(limit - used, 0) for limit, used in _bounds()), default=None)


def processors() -> int:
    """Processors that this process may keep busy: those that it may run on, and the time that its groups get."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for version, folder in _folders("cpu"):
        with suppress(OSError, ValueError):
            if version == 2:
                quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
            else:
                quota, period = (_read(folder / f"cpu.cfs_{what}_us") for what in ("quota", "period"))
            if quota.isdecimal() and int(period):  # "max" and -1 are no limit
                found = min(found, math.ceil(int(quota) / int(period)))
    return max(found, 1)


def _bounds() -> Iterator[tuple[int, int]]:
    """The limit of memory of each group that has one, and what is used of it."""
    for version, folder in _folders("memory"):
        names = _MEMORY[version]
        with suppress(OSError, ValueError):
            limit = _read(folder / names.limit)
            if not limit.isdecimal():
                continue
            used, unused = int(_read(folder / names.used)), 0
            with suppress(OSError):
                for line in _read(folder / "memory.stat").splitlines():
                    if line.startswith(f"{names.unused} "):
                        unused = int(line.split()[1])
            yield int(limit), max(used - unused, 0)


def _folders(controller: str) -> Iterator[tuple[int, Path]]:
    """The folders of this process's group and of all groups around it, with their version.

    A container sees its own group as the outermost one, and may not see what its membership names.
    """
    try:
        lines = MEMBERSHIP.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        lines = ["0::/", f"1:{controller}:/"]
    for line in lines:
        controllers, _, name = line.partition(":")[2].partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        root, version = (PLACE / controller, 1) if controllers else (PLACE, 2)
        inner = PurePosixPath(name or "/")
        for each in (inner, *inner.parents):
            if ".." not in each.parts and (folder := root / str(each).lstrip("/")).is_dir():
                yield version, folder


def _read(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()
