"""`python -m compatibility.child REQUEST`: examines one file and writes down what it finds; see examine.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from compatibility import conversions, original
from compatibility.original import Subject
from compatibility.stages import WEIGHTS, Log, kind
from tflite2q import guard


def main(request: dict[str, Any]) -> None:
    """Go through the plan, leaving out the stages that are done."""
    photos = Path(request["photos"]) if request["photos"] else None
    with open(request["events"], "w", encoding="utf-8") as stream:
        log = Log(stream, request["plan"], request["deadline"])
        subject = Subject(Path(request["path"]), log, photos, runs_in_litert=request["runs_in_litert"])
        try:
            _examine(subject, frozenset(request["done"]))
        finally:
            subject.close()
        log.event(finished=True)


def _examine(subject: Subject, done: frozenset[str]) -> None:
    log = subject.log
    log.begin("load")
    if not original.load(subject):
        return
    log.begin("reference")
    if "reference" not in done:
        if not original.reference(subject):
            return
    else:
        original.answer_again(subject)
    assert set(map(kind, log.plan)) <= set(WEIGHTS)
    for stage in log.plan:
        if stage in done or kind(stage) in ("load", "reference"):
            continue
        log.begin(stage)
        name = stage.partition("/")[2]
        STAGES[kind(stage)](subject, name)


STAGES = {"scheme": conversions.scheme, "compiled": original.compiled, "converted": conversions.compiled}

if __name__ == "__main__":
    guard.die_with(os.getppid())  # a session of its own outlives a group that is ended
    main(json.loads(sys.argv[1]))
