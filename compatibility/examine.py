"""Examines one file: starts the process that does it, reads what that writes down, and judges how it ended.

A process that dies in the middle of a part loses that stage; another one takes over with the next.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compatibility import watch
from compatibility.records import CRASH, OK, UNMEASURED, Check, Row
from compatibility.stages import ENGINE, PROGRAM, kind
from compatibility.watch import Ended

ROOT = Path(__file__).parent.parent
CHILD = (sys.executable, "-m", "compatibility.child")
# What a part may take beyond its stage's share before it is ended: it looks at the clock itself, but not inside calls.
GRACE_SECONDS = 1.0
# Nothing that is done with so small a model takes so long: what has not ended by then never will.
SMALL_MACS, SMALL_SECONDS = 10_000_000, 60.0
NO_ANSWER = "the reference has no answer to compare with"


@dataclass(frozen=True)
class Settings:
    """`seconds` and `memory` (bytes) are what one file may take; `levels` are targets this processor runs."""

    seconds: float = 600.0
    memory: int = 6 << 30
    levels: tuple[str, ...] = ("native",)
    schemes: tuple[str, ...] = ()
    photos: Path | None = None
    command: tuple[str, ...] = CHILD

    @property
    def plan(self) -> list[str]:
        """The stages in order."""
        return [
            "load",
            "reference",
            *(f"scheme/{name}" for name in self.schemes),
            *(f"compiled/{name}" for name in self.levels),
            *(f"converted/{name}" for name in self.schemes),
        ]


class Events:
    """What the process has written down so far."""

    def __init__(self, path: Path) -> None:
        self.path, self._read = path, 0
        self.checks: list[Check] = []
        self.current: dict[str, Any] | None = None
        self.finished = False

    def update(self) -> None:
        """Read the lines that were added; an unfinished one waits."""
        if not self.path.exists() or self.path.stat().st_size == self._read:
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._read += len(complete)
        for line in complete.splitlines():
            self._take(json.loads(line))

    def until(self) -> float:
        """When the part that is being done has to be over; never, between parts."""
        self.update()
        return float("inf") if self.current is None else self.current["until"] + GRACE_SECONDS

    def _take(self, event: dict[str, Any]) -> None:
        if "begin" in event:
            self.current = event
            return
        self.current = None
        self.finished = self.finished or "finished" in event
        if "check" in event:
            self.checks.append(Check(**event["check"]))


def examine(path: Path, name: str, settings: Settings, stop: threading.Event | None = None) -> Row:
    """All checks of the file at `path`, called `name` in reports."""
    start = time.monotonic()
    deadline = start + settings.seconds
    checks: list[Check] = []
    done: list[str] = []
    while True:
        events, ended = _process(path, settings, deadline, checks, done, stop)
        checks += [check for check in events.checks if check.stage not in done]
        if events.finished:
            why = NO_ANSWER  # which is why it did not go through all stages, if it did not
            break
        current = events.current or {"begin": ["child", "process"], "blame": PROGRAM, "start": time.monotonic()}
        (stage, part), blame = current["begin"], current["blame"]
        slow = time.monotonic() - current["start"] > SMALL_SECONDS and (_macs(checks) or SMALL_MACS) < SMALL_MACS
        checks.append(_death(stage, part, blame, ended, settings, slow))
        done = list(dict.fromkeys([*done, *(check.stage for check in checks)]))
        stuck = kind(stage) in ("load", "child") or (stage == "reference" and blame != ENGINE)
        why = NO_ANSWER if stuck and time.monotonic() < deadline else "time"
        if stuck or time.monotonic() > deadline or (stop is not None and stop.is_set()):
            break
    checks += _missing(checks, settings.plan, why)
    told = tuple(replace(check, detail=_without_paths(check.detail, path)) for check in checks)
    return Row(name, size(path), told, round(time.monotonic() - start, 1))


def _without_paths(text: str, path: Path) -> str:
    """Text with the names of files alone, which differ between machines and runs by their folders only."""
    return re.sub(rf"{re.escape(tempfile.gettempdir())}/\S*/", "", text.replace(f"{path.parent}/", ""))


def path_with(folder: Path) -> str:
    """Where Python looks for modules, with one more folder."""
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


def size(path: Path) -> int:
    """Bytes of a file, 0 for one that is not there (a link to nothing)."""
    return path.stat().st_size if path.exists() else 0


def _process(
    path: Path,
    settings: Settings,
    deadline: float,
    checks: Sequence[Check],
    done: Sequence[str],
    stop: threading.Event | None,
) -> tuple[Events, Ended]:
    """One process over the stages that are not done: what it wrote down, and how it ended."""
    with tempfile.TemporaryDirectory(prefix="compatibility-") as name:
        folder = Path(name)
        events = Events(folder / "events")
        request = {
            "path": str(path),
            "events": str(events.path),
            "plan": settings.plan,
            "done": list(done),
            "deadline": deadline,
            "photos": str(settings.photos or ""),
            "runs_in_litert": any(c.stage == "reference" and c.figures.get("judge") == "LiteRT" for c in checks),
        }
        environment = {**os.environ, "PYTHONPATH": path_with(ROOT), "TMPDIR": name, "OMP_NUM_THREADS": "1"}
        ended = watch.run(
            [*settings.command, json.dumps(request)],
            lambda: min(events.until(), deadline + GRACE_SECONDS),
            settings.memory,
            folder,
            environment,
            stop,
        )
        events.update()
    return events, ended


def _death(stage: str, part: str, blame: str, ended: Ended, settings: Settings, slow: bool) -> Check:
    """What it means that a process ended in the middle of a part, for `slow` one too long for so small a model."""
    words = ended.words
    if ended.how == watch.MEMORY:
        words = f"took more than {settings.memory / 2**30:.3g} GiB of memory"
    # Engines have processes of their own: what they cannot do from there is make this one die.
    if blame == ENGINE and ended.how not in (watch.DIED, watch.EXITED):
        return Check(stage, part, UNMEASURED, f"another engine: {words}")
    if ended.how == watch.TIME:
        if kind(stage) != "load" and not slow:
            return Check(stage, part, UNMEASURED, "time")
        words = "does not end"
    return Check(stage, part, CRASH, words)


def _macs(checks: Sequence[Check]) -> int | None:
    return next((check.figures["macs"] for check in checks if "macs" in check.figures), None)


def _missing(checks: Sequence[Check], plan: Sequence[str], why: str) -> list[Check]:
    """Stages of the plan that were never reached, though the file was read."""
    if not any((check.stage, check.part, check.state) == ("load", "file", OK) for check in checks):
        return []
    seen = {check.stage for check in checks}
    reached = [stage for stage in plan if stage not in seen]
    return [Check(stage, "stage", UNMEASURED, why) for stage in reached]
