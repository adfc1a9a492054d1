"""A level of instructions that this processor has and whose tests were skipped all the same is a failure.

Tests marked `isa` skip themselves on processors without the instructions, by `levels.skip`.  What decides there is the
code under test, which could be wrong and skip everywhere.  This plugin asks /proc/cpuinfo instead, when all is over.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import pytest

_V3 = frozenset({"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
# Linux's names of the features that make a processor run the code of a level.
FLAGS = {
    "generic": frozenset(),
    "avx2": _V3,
    "avxvnni": _V3 | {"avx_vnni"},
    "avx512vnni": _V4 | {"avx512_vnni"},
    "amx": _V4 | {"avx512_vnni", "amx_tile", "amx_int8"},
}
# The targets that stand for a level where tests are told apart by target.
TARGETS = {"x86-64-v3": "avx2", "x86-64-avxvnni": "avxvnni", "x86-64-vnni": "avx512vnni", "x86-64-amx": "amx"}

_SENTENCE = "this processor cannot run "
_SYSCALL, _GET_SUPPORTED, _TILE_DATA = 158, 0x1021, 1 << 18  # arch_prctl(ARCH_GET_XCOMP_SUPP)


def skip(level: str) -> NoReturn:
    """Skip a test of `level`, a key of FLAGS or of TARGETS, which the machine cannot execute."""
    assert level in FLAGS or level in TARGETS, level
    pytest.skip(_SENTENCE + level)


def reported() -> frozenset[str]:
    """What Linux says of the processor; the matrix unit only if it lets processes have it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return frozenset(flags if _tiles() else (flag for flag in flags if not flag.startswith("amx")))


def _tiles() -> bool:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    supported = ctypes.c_uint64(0)
    done = ctypes.CDLL(None).syscall(ctypes.c_long(_SYSCALL), ctypes.c_long(_GET_SUPPORTED), ctypes.byref(supported))
    return done == 0 and bool(supported.value & _TILE_DATA)


def wrongly_skipped(skipped: Iterable[tuple[str, str]], flags: frozenset[str]) -> list[str]:
    """Sentences about the (test, reason) pairs that were skipped although a processor with `flags` has the level."""
    found = []
    for test, reason in skipped:
        name = reason.partition(_SENTENCE)[2]
        level = TARGETS.get(name, name)
        if level not in FLAGS:
            found.append(f"{test} is marked isa, and its reason to skip names no level: {reason}")
        elif FLAGS[level] <= flags:
            found.append(f"{test} was skipped, but this processor has {level}")
    return found


class Watch:
    """Collects skipped tests marked `isa`; with xdist, in the process that hears from all workers."""

    def __init__(self) -> None:
        self.skipped: list[tuple[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and "isa" in report.keywords and isinstance(report.longrepr, tuple):
            self.skipped.append((report.nodeid, report.longrepr[2].removeprefix("Skipped: ")))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        wrong = wrongly_skipped(self.skipped, reported())
        if wrong and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in wrongly_skipped(self.skipped, reported()):
            terminalreporter.write_line(f"FAILED {line}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Watch(), "levels-watch")
