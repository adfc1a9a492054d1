"""A file's process that ends in a bad way is told in the right way, and what it had not done is done or said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from compatibility import examine, watch
from compatibility.examine import Settings
from compatibility.records import CRASH, INCOMPLETE, OK, UNMEASURED, Row

PRETENDER = (sys.executable, str(Path(__file__).with_name("pretender.py")))


def row(how: str, folder: Path, seconds: float = 60.0) -> Row:
    path = folder / f"{how}.tflite"
    path.write_bytes(b"not read")
    settings = Settings(seconds, 300 << 20, ("native",), ("first", "second"), None, PRETENDER)
    return examine.examine(path, path.name, settings)


def states(found: Row) -> dict[str, str]:
    return {check.stage: check.state for check in found.checks}


def detail(found: Row, stage: str) -> str:
    (told,) = {check.detail for check in found.checks if check.stage == stage}
    return told


def test_a_process_that_ends_well(tmp_path: Path) -> None:
    found = row("well", tmp_path)
    assert found.state == OK
    assert set(states(found).values()) == {OK} and len(found.checks) == 7


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("dies", "died: SIGSEGV"),
        ("leaves", "exit 1: a reason"),
        ("eats", "took more than 0.293 GiB of memory"),
        ("hangs", "hangs without using the processor"),
    ],
)
def test_a_bad_end_is_a_crash_of_its_stage_alone(
    how: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "IDLE_SECONDS", 2.0)
    found = row(how, tmp_path)
    assert found.state == CRASH
    assert detail(found, "scheme/first") == why
    others = {stage: state for stage, state in states(found).items() if stage != "scheme/first"}
    assert set(others.values()) == {OK} and len(others) == 6


def test_a_slow_stage_is_not_measured_and_the_others_are(tmp_path: Path) -> None:
    found = row("is_slow", tmp_path)
    assert found.state == INCOMPLETE and found.unmeasured == 1
    assert detail(found, "scheme/first") == "time"


def test_a_small_model_that_takes_for_ever_is_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "SMALL_SECONDS", 0.5)
    monkeypatch.setattr(examine, "SMALL_MACS", 2 * 10**9)
    assert detail(row("is_slow", tmp_path), "scheme/first") == "does not end"


def test_the_end_of_the_time_between_parts_is_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "SMALL_SECONDS", 0.5)
    monkeypatch.setattr(examine, "SMALL_MACS", 2 * 10**9)
    assert row("lingers", tmp_path, seconds=3.0).state == INCOMPLETE


def test_the_memory_of_another_engine_is_not_the_programs(tmp_path: Path) -> None:
    found = row("engine_eats", tmp_path)
    assert found.state == INCOMPLETE
    assert detail(found, "scheme/first").startswith("another engine: took more than")
    assert states(found)["scheme/first"] == UNMEASURED


def test_the_programs_own_death_is_nobody_elses(tmp_path: Path) -> None:
    assert row("engine_part_dies", tmp_path).state == CRASH


def test_when_the_time_of_a_file_is_over_the_rest_is_not_measured(tmp_path: Path) -> None:
    found = row("hangs", tmp_path, seconds=1.0)
    assert states(found)["scheme/second"] == states(found)["compiled/native"] == UNMEASURED
    assert found.unmeasured == 5


def test_loading_without_end_is_a_crash(tmp_path: Path) -> None:
    found = row("never_loads", tmp_path, seconds=1.0)
    assert found.state == CRASH
    assert detail(found, "load") == "does not end"


def test_paths_do_not_get_into_reports(tmp_path: Path) -> None:
    path = tmp_path / "a b" / "m.tflite"
    text = f"ModelError: {path}: damaged; also /tmp/compatibility-x1/y/converted.tflite"
    assert examine._without_paths(text, path) == "ModelError: m.tflite: damaged; also converted.tflite"
