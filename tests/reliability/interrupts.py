"""Ctrl-C at any moment of any command: how it ends, and how soon.

python -m reliability.interrupts COUNT [SEED]      in tests/; prints the longest time of each command
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MODELS = Path(__file__).resolve().parents[2] / "models"
COMMANDS: Mapping[str, Sequence[str]] = {
    "run": ("run", "model.tflite", "--input", "data.npz"),
    "compare": ("compare", "model.tflite", "--scheme", "int8", "--data", "data.npz", "--html", "report.html"),
    "convert --lib": ("convert", "model.tflite", "--scheme", "int8", "-o", "o.tflite", "--lib", "o.so", "--force"),
    "search": (
        *("search", "model.tflite", "--data", "data.npz", "--limit", "8", "--schemes", "int8,int8-w4"),
        *("-o", "mixed.toml", "--force"),
    ),
    "batch": ("batch", "folder", "-o", "converted", "--scheme", "int8", "--compare", "--data", "data.npz"),
}
ENDS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@dataclass
class Endings:
    """How one command ended: seconds from each signal to the end, and exit codes that are neither the signal's nor 0
    of a run that was over."""

    whole: float
    seconds: list[float] = field(default_factory=list)
    codes: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def interrupts(name: str, count: int, seed: int = 0) -> Endings:
    """`count` signals to a command at moments spread over its whole run, as a terminal sends them: to all of it."""
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "folder").mkdir()
        shutil.copy(MODELS / "digits_uint8.tflite", place / "model.tflite")
        shutil.copy(MODELS / "digits_uint8.tflite", place / "folder" / "model.tflite")
        shutil.copy(MODELS / "digits_test.npz", place / "data.npz")
        started = time.monotonic()
        if (code := _start(name, place).wait()) != 0:
            raise AssertionError(f"{name} ended with {code}")
        found = Endings(time.monotonic() - started)
        for index in range(count):
            shutil.rmtree(place / "converted", ignore_errors=True)
            for made in ("mixed.search.json", "report.html"):
                (place / made).unlink(missing_ok=True)
            moment, number = generator.uniform(0.0, found.whole), list(ENDS)[index % len(ENDS)]
            process = _start(name, place)
            time.sleep(moment)
            sent = time.monotonic()
            os.killpg(process.pid, number)
            code = process.wait()
            found.seconds.append(time.monotonic() - sent)
            found.codes[code] += 1
            # Before the program's first line the system's own handling of the signal ends it.
            if code not in (ENDS[number], 0, -number):
                found.wrong.append(f"{name}: exit code {code} after {number.name} at {moment:.2f} s")
    return found


def _start(name: str, place: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tflite2q", *COMMANDS[name]],
        cwd=place,
        env={**os.environ, "TFLITE2Q_CACHE": "off"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


if __name__ == "__main__":
    count, *rest = map(int, sys.argv[1:])
    for name in COMMANDS:
        found = interrupts(name, count, *rest)
        codes = ", ".join(f"{times} x {code}" for code, times in sorted(found.codes.items()))
        print(f"{name}: {found.whole:.1f} s whole; ended in {max(found.seconds):.2f} s at most; {codes}", flush=True)
        for line in found.wrong:
            print(line, flush=True)
