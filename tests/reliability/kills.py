"""Commands that are ended at any moment leave the old file or the new one, and nothing else after the next run.

python -m reliability.kills COUNT [SEED]      in tests/; prints what was found
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

MODEL = Path(__file__).resolve().parents[2] / "models" / "digits_uint8.tflite"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Command:
    """A command line, in a folder that holds a model and data, the files that it writes, and JSON that it keeps
    for later runs."""

    arguments: tuple[str, ...]
    writes: tuple[str, ...]
    keeps: tuple[str, ...] = ()


COMMANDS = {
    "convert": Command(("convert", "model.tflite", "--scheme", "int8", "-o", "out.tflite", "--force"), ("out.tflite",)),
    "convert --lib": Command(
        ("convert", "model.tflite", "--scheme", "int8", "-o", "out.tflite", "--lib", "out.so", "--force"),
        ("out.tflite", "out.so"),
    ),
    "convert --json": Command(
        ("convert", "model.tflite", "--scheme", "int16x8", "-o", "out.tflite", "--json", "out.json", "--force"),
        ("out.tflite", "out.json"),
    ),
    "search": Command(
        (
            *("search", "model.tflite", "--data", "data.npz", "--limit", "8", "--schemes", "int8,int8-w4"),
            *("-o", "mixed.toml", "--picture", "mixed.png", "--force"),
        ),
        ("mixed.toml", "mixed.png"),
        ("mixed.search.json",),
    ),
}


@dataclass
class Findings:
    """How the kills ended, by command and file: `old`, `new`, `absent`; and what was wrong."""

    ended: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Campaign:
    """Kills of one command, at moments spread over its whole run."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.command, self.folder = name, COMMANDS[name], folder
        self.place, self.temporary = folder / "place", folder / "temporary"
        self.place.mkdir(parents=True)
        self.temporary.mkdir()
        shutil.copy(MODEL, self.place / "model.tflite")
        shutil.copy(MODEL.with_name("digits_test.npz"), self.place / "data.npz")
        started = time.monotonic()
        self.whole()
        self.seconds = time.monotonic() - started
        self.new = {name: (self.place / name).read_bytes() for name in self.command.writes}

    def start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "TMPDIR": str(self.temporary)}
        return subprocess.Popen(
            [sys.executable, "-m", "tflite2q", *self.command.arguments],
            cwd=self.place,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def whole(self) -> None:
        """Run the command to its end."""
        if self.start().wait() != 0:
            raise AssertionError(f"{self.name} failed")

    def kill(self, moment: float, number: signal.Signals, before: bool, findings: Findings) -> None:
        """End a run after so many seconds, where files of before lie if `before`, and see what it left."""
        for name in self.command.writes:
            (self.place / name).unlink(missing_ok=True)
            if before:
                (self.place / name).write_bytes(b"old")
        process = self.start()
        time.sleep(moment)
        # The whole group, as a terminal that is closed or a machine that runs out of memory does.
        os.killpg(process.pid, number)
        process.wait()
        for name in self.command.writes:
            path = self.place / name
            content = path.read_bytes() if path.exists() else None
            state = {None: "absent", b"old": "old", self.new[name]: "new"}.get(content, "torn")
            findings.ended[f"{self.name}: {name} {state}"] += 1
            if state == "torn" or (state == "absent") != (content is None) or (before and state == "absent"):
                findings.wrong.append(f"{self.name}: {name} is {state} after {number.name} at {moment:.3f} s")
        for name in self.command.keeps:
            if (self.place / name).exists():
                try:
                    json.loads((self.place / name).read_bytes())
                except ValueError:
                    findings.wrong.append(f"{self.name}: {name} is torn after {number.name} at {moment:.3f} s")
                if not before:
                    (self.place / name).unlink()

    def left(self, findings: Findings) -> None:
        """After one more run nothing is there but what it is to write."""
        self.whole()
        expected = sorted(["model.tflite", "data.npz", *self.command.writes, *self.command.keeps])
        found = sorted(os.listdir(self.place))
        if found != expected:
            findings.wrong.append(f"{self.name}: {found} instead of {expected}")
        for name in self.command.writes:
            if (self.place / name).read_bytes() != self.new[name]:
                findings.wrong.append(f"{self.name}: {name} is another one after kills")
        if rest := os.listdir(self.temporary):
            findings.wrong.append(f"{self.name}: temporary files {rest}")


def kills(names: Sequence[str], count: int, seed: int = 0) -> Findings:
    """`count` kills of each command: at random moments, by a random signal, with and without files of before."""
    generator, findings = random.Random(seed), Findings()
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            campaign = Campaign(name, Path(folder, name.replace(" ", "")))
            for _ in range(count):
                moment = generator.uniform(0, 1.05 * campaign.seconds)
                campaign.kill(moment, generator.choice(SIGNALS), generator.random() < 0.5, findings)
            campaign.left(findings)
    return findings


if __name__ == "__main__":
    count, *rest = map(int, sys.argv[1:])
    found = kills(list(COMMANDS), count, *rest)
    for line, times in sorted(found.ended.items()):
        print(f"{times:5} {line}")
    print("\n".join(found.wrong) or f"{count * len(COMMANDS)} kills, nothing wrong")
    sys.exit(bool(found.wrong))
