"""What is done with one file, stage by stage, inside the process that examines it.

A stage is a list of parts; each part gives a check.  `Log` writes a line when a part begins and one when it is done, so
that whoever watches knows what was being done when the process died.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from compatibility.records import CRASH, OK, REFUSED, UNMEASURED, Check, one_line
from tflite2q.errors import Tflite2qError

PROGRAM, ENGINE = "program", "engine"  # whose fault it is when a part takes the process with it

# How the time of a file is shared: a stage may take its weight's part of what is left for it and the stages behind it,
# so that what a stage leaves over is the others'.
WEIGHTS = {"load": 2.0, "reference": 6.0, "scheme": 4.0, "compiled": 8.0, "converted": 1.5}

# Reading a file is over in seconds; what takes longer than this does not end.
LOAD_SECONDS = 60.0


class OutOfTime(Exception):
    """A stage has used up its share."""


@dataclass(frozen=True)
class Outcome:
    """What a part found out."""

    state: str = OK
    detail: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def kind(stage: str) -> str:
    """The kind of a stage: what stands before the slash."""
    return stage.partition("/")[0]


class Log:
    """Writes events, a JSON object a line, for the process that watches."""

    def __init__(self, stream: TextIO, plan: list[str], deadline: float) -> None:
        self.stream, self.plan, self.deadline = stream, plan, deadline
        self.stage, self.until = "", deadline

    def event(self, **fields: Any) -> None:
        self.stream.write(json.dumps(fields) + "\n")
        self.stream.flush()

    def begin(self, stage: str) -> None:
        """Start a stage and decide when it has to be over."""
        ahead = self.plan[self.plan.index(stage) :]
        share = WEIGHTS[kind(stage)] / sum(WEIGHTS[kind(name)] for name in ahead)
        now = time.monotonic()
        least = LOAD_SECONDS if stage == "load" else 0.0
        self.stage, self.until = stage, min(self.deadline, now + max(least, (self.deadline - now) * share))

    def check_time(self) -> None:
        """Raise OutOfTime if the stage's share is used up."""
        if time.monotonic() > self.until:
            raise OutOfTime

    def do(self, part: str, body: Callable[[], Outcome | None], blame: str = PROGRAM) -> bool:
        """Run a part and write its check down; whether it went well.  None means that there is nothing to tell."""
        start = time.monotonic()
        self.event(begin=[self.stage, part], start=start, until=self.until, blame=blame)
        try:
            self.check_time()
            outcome = body()
        except OutOfTime:
            outcome = Outcome(UNMEASURED, "time")
        except Tflite2qError as error:
            outcome = refusal(error)
        except BaseException as error:  # also SystemExit: nothing may end the process
            outcome = Outcome(CRASH, where(error))
        seconds = round(time.monotonic() - start, 3)
        if outcome is None:
            self.event(passed=[self.stage, part])
            return True
        check = Check(self.stage, part, outcome.state, outcome.detail, outcome.figures, seconds)
        self.event(check=asdict(check))
        return outcome.state == OK


def refusal(error: Tflite2qError) -> Outcome:
    """An error raised on purpose; one that says nothing helps as little as a crash, and is one."""
    text = one_line(error)
    if not text:
        return Outcome(CRASH, f"{type(error).__name__} without a message")
    return Outcome(REFUSED, f"{type(error).__name__}: {text}")


def where(error: BaseException) -> str:
    """An exception and the place in the program that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "tflite2q" in Path(frame.filename).parts] or frames
    place = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}{place}: {one_line(error)}"
