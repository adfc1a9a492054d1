"""Counts the instructions that a program for 64-bit Arm executes, by a plugin of qemu that is built here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.emulator import Unavailable

SOURCE = Path(__file__).with_name("counter.c")
QEMU = "qemu-aarch64"  # the one that loads plugins; qemu-aarch64-static cannot
LINE = re.compile(r"^counted (\d+) (\d+) (\d+) (\d+) (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Counts:
    """Instructions of the thread that set a mark and of all other threads; those of all threads that are products in
    vectors: of matrices (smmla), dot products (sdot), widening ones (smlal, smull), signed or not."""

    own: int
    others: int
    matrix: int
    dot: int
    widening: int

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(a - b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def all(self) -> int:
        return self.own + self.others


def plugin(folder: Path) -> Path:
    """The counter as qemu loads it, built in `folder`.  Raises Unavailable."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise Unavailable("a C compiler is missing, which builds qemu's counter: apt install gcc")
    if shutil.which(QEMU) is None:
        raise Unavailable(
            f"{QEMU} is missing, which loads a counter as qemu-user-static does not: apt install qemu-user"
        )
    built = folder / "counter.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(built), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"{compiler} does not build {SOURCE.name}: {done.stderr.strip()[-500:]}")
    return built


def between_marks(plugin: Path, command: Sequence[str], timeout: float = 7200) -> tuple[list[Counts], str]:
    """What `command`, a program for qemu and what it is given, executes between each mark and the next, and prints.

    Raises RuntimeError if the program fails.
    """
    whole = [QEMU, "-plugin", str(plugin), *command]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the emulated program left with {done.returncode}: {done.stderr.strip()[-1000:]}")
    marks = [Counts(*map(int, match.groups())) for match in LINE.finditer(done.stderr)]
    return [after - before for before, after in pairwise(marks)], done.stdout
