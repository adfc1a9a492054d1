"""A batch that is killed at random moments and resumed ends in the same tree of bytes as one that was left alone.

python -m reliability.batches KILLS [SEED [MODELS [SECONDS]]]      in tests/; with the shared models and cases, if there

The sources must not change meanwhile: what is kept is kept for one version of them.
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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from batch.faults import site
from surroundings import ROOT, SHARED

SECONDS = 5  # that one model may take: on a busy machine good ones may take longer
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
Tree = dict[str, bytes]


def models(folder: Path, count: int) -> None:
    """`count` models in a folder: good, converted already, broken, unsupported, hanging, dying."""
    digits = (ROOT / "models" / "digits_uint8.tflite").read_bytes()
    made: dict[str, bytes] = {
        "a_good": digits,
        "b_broken": digits[:2000],
        "c_hangs": digits,
        "d_dies": digits,
        "e_greedy": digits,
        "f_empty": b"",
    }
    if SHARED.is_dir():
        found = sorted(SHARED.glob("models/*.tflite")) + sorted(SHARED.glob("cases/*/*.tflite"))
        small = [path for path in found if path.stat().st_size < 1_000_000]
        made |= {f"shared/{number:02}_{path.stem}": path.read_bytes() for number, path in enumerate(small)}
    names = list(made)[:count]
    # Different contents, as equal ones would be one entry of the cache: bytes behind the end of a model are no part.
    names += [f"more/{number:02}" for number in range(count - len(names))]
    for number, name in enumerate(names):
        path = folder / f"{name}.tflite"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made.get(name, digits + bytes([number])))


def tree(folder: Path) -> Tree:
    """All files below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@dataclass
class Findings:
    """What was wrong, and how many kills met a run that was not over."""

    wrong: list[str] = field(default_factory=list)
    met: int = 0


class Campaign:
    """Kills of one batch; `arguments` are those of the runs that are killed and resumed, such as --dask."""

    def __init__(self, folder: Path, count: int, arguments: Sequence[str] = ()) -> None:
        self.folder, self.arguments = folder, arguments
        models(folder / "models", count)
        (folder / "temporary").mkdir()
        self.site = site(folder / "site")

    def start(self, out: str, arguments: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([self.site, str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "TMPDIR": str(self.folder / "temporary"), "PYTHONPATH": path}
        limits = ("--time", str(SECONDS), "--memory", "1", "--jobs", "2", *arguments)
        return subprocess.Popen(
            [sys.executable, "-m", "tflite2q", "batch", "models", "--scheme", "int8", "-o", out, *limits],
            cwd=self.folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    def whole(self, out: str, arguments: Sequence[str] = ()) -> Tree:
        """The tree that a run which is left alone makes."""
        code = self.start(out, arguments).wait()
        if code not in (0, 3):
            raise AssertionError(f"the batch ended with {code}")
        return tree(self.folder / out)

    def run(self, kills: int, seed: int) -> Findings:
        """Kill and resume, then compare."""
        generator, findings = random.Random(seed), Findings()
        started = time.monotonic()
        expected = self.whole("whole")
        if not {"a_good.int8.tflite", "a_good.int8.json"} <= expected.keys():
            findings.wrong.append("a good model has no outputs")
        seconds = time.monotonic() - started
        for _ in range(kills):
            process = self.start("killed", self.arguments)
            moment = generator.uniform(0, seconds * 2 / kills + 2)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                findings.met += 1
            number = generator.choice(SIGNALS)
            # The program alone: those that it started must notice.
            process.send_signal(number)
            process.wait()
            for name, content in tree(self.folder / "killed").items():
                part = name.split("/")[-1].startswith(".") or ".tflite2q-cache/" in name
                if not part and expected.get(name) != content:
                    findings.wrong.append(f"{name} is torn after {number.name} at {moment:.2f} s")
        found = self.whole("killed", self.arguments)
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                findings.wrong.append(f"{name}: differs after kills, or is only in one tree")
        if rest := os.listdir(self.folder / "temporary"):
            findings.wrong.append(f"temporary files {rest}")
        if rest := alive(self.folder):
            findings.wrong.append(f"processes {rest} are left")
        return findings


def alive(folder: Path, patience: float = 5.0) -> list[str]:
    """The processes that still work below a folder after some seconds."""
    end = time.monotonic() + patience
    while True:
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                where = os.readlink(f"/proc/{entry}/cwd")
            except OSError:
                continue
            if where.startswith(str(folder)):
                found.append(entry)
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.1)


def campaign(count: int, kills: int, seed: int = 0, arguments: Sequence[str] = ()) -> Findings:
    """So many kills of a batch of `count` models."""
    folder = Path(tempfile.mkdtemp())
    try:
        return Campaign(folder, count, arguments).run(kills, seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    count, seed, several, SECONDS = (*map(int, sys.argv[1:5]), *(0, 60, SECONDS)[len(sys.argv) - 2 :])
    found = campaign(several, count, seed)
    print("\n".join(found.wrong) or f"{found.met} kills met a run, nothing wrong")
    sys.exit(bool(found.wrong))
