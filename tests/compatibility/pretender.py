"""Stands in for the process that examines a file: says what stages it begins and ends as the name of the file tells."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(request: dict) -> None:
    how = Path(request["path"]).stem
    with open(request["events"], "w", encoding="utf-8") as stream:

        def say(**event: object) -> None:
            print(json.dumps(event), file=stream, flush=True)

        for stage in request["plan"]:
            if stage in request["done"]:
                continue
            blame = "engine" if how.startswith("engine_") else "program"
            seconds = 1.0 if how == "is_slow" else 60.0
            now = time.monotonic()
            part = "file" if stage == "load" else "part"
            say(begin=[stage, part], start=now, until=now + seconds, blame=blame)
            if stage == ("load" if how == "never_loads" else "scheme/first"):
                if how == "lingers":
                    break
                misbehave(how)
            say(check={"stage": stage, "part": part, "state": "ok", "figures": {"macs": 10**9}})
        if how == "lingers":  # between parts
            say(passed=True)
            time.sleep(100)
        say(finished=True)


def misbehave(how: str) -> None:
    if how in ("dies", "engine_part_dies"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "leaves":
        sys.exit("a reason\n")
    if how in ("hangs", "never_loads"):
        time.sleep(100)
    if how in ("eats", "engine_eats"):
        held = b"x" * (400 << 20)
        time.sleep(100)
        del held
    while how == "is_slow":
        pass


main(json.loads(sys.argv[1]))
