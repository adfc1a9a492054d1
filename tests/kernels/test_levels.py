"""The check that no level of instructions is skipped where the processor has it can fail, and does not always."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import levels
import made
import pytest

ZEN4 = levels.FLAGS["avx512vnni"]
TESTS = """
import levels, pytest

@pytest.mark.isa
@pytest.mark.parametrize("level", {skipped!r})
def test_a_level(level):
    levels.skip(level)

def test_that_passes():
    pass

def test_that_is_not_of_a_level():
    pytest.skip("for another reason")
"""
CONFTEST = """
import levels
pytest_plugins = ["levels"]
levels.reported = lambda: frozenset({flags!r})
"""


def session(folder: Path, skipped: list[str], flags: frozenset[str], *options: str) -> tuple[int, str]:
    """Exit code and output of tests of the levels `skipped` on a processor with `flags`."""
    (folder / "test_of_levels.py").write_text(TESTS.format(skipped=skipped))
    (folder / "conftest.py").write_text(CONFTEST.format(flags=sorted(flags)))
    (folder / "pytest.ini").write_text(f"[pytest]\nmarkers = isa\npythonpath = {Path(levels.__file__).parent}\n")
    command = [sys.executable, "-m", "pytest", "-q", *options, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("options", [("-p", "no:xdist"), ("-n", "2")], ids=" ".join)
def test_a_session_that_skips_what_the_processor_has_fails(tmp_path: Path, options: tuple[str, ...]) -> None:
    code, out = session(tmp_path, ["amx", "x86-64-vnni"], ZEN4, *options)
    assert code == 1, out
    assert "test_a_level[x86-64-vnni] was skipped, but this processor has avx512vnni" in out
    assert "has amx" not in out


def test_a_session_that_skips_what_the_processor_lacks_passes(tmp_path: Path) -> None:
    code, out = session(tmp_path, ["amx", "avxvnni"], ZEN4, "-p", "no:xdist")
    assert code == 0, out
    assert "3 skipped" in out


@pytest.mark.parametrize(
    ("reason", "flags", "wrong"),
    [
        ("this processor cannot run avx2", levels.FLAGS["avx2"], True),
        ("this processor cannot run avx2", levels.FLAGS["avx2"] - {"fma"}, False),
        ("this processor cannot run x86-64-amx", levels.FLAGS["amx"], True),
        ("this processor cannot run x86-64-amx", ZEN4, False),
        ("this processor cannot run generic", frozenset(), True),
        ("no time today", frozenset(), True),
    ],
)
def test_which_skips_are_wrong(reason: str, flags: frozenset[str], wrong: bool) -> None:
    assert bool(levels.wrongly_skipped([("test", reason)], flags)) == wrong


@pytest.mark.parametrize("target", levels.TARGETS)
def test_the_program_and_the_check_agree_on_this_machine(target: str) -> None:
    """Two ways to ask: LLVM's features of the target against those found by the program, and Linux's names."""
    assert made.runs_here(target) == (levels.FLAGS[levels.TARGETS[target]] <= levels.reported())


def test_all_levels_of_kernels_are_known() -> None:
    import test_kernels_conv
    import test_kernels_conv16

    for each in (test_kernels_conv.LEVELS, test_kernels_conv16.LEVELS):
        assert set(each) == set(levels.FLAGS)
