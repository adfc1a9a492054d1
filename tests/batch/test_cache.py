"""The key of a result changes with everything that the result depends on, and with nothing else."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tflite2q import files
from tflite2q.batch import cache
from tflite2q.batch.records import CONVERTED, Outcome, Settings
from tflite2q.errors import DataError

PLAIN = Settings("int8", "text")


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAIN, scheme_text="other"),
        replace(PLAIN, scheme="other"),
        replace(PLAIN, unchanged="skip"),
        replace(PLAIN, allow_unsupported=True),
        replace(PLAIN, targets=("native",)),
        replace(PLAIN, compare={}),
        replace(PLAIN, compare={"limit": 3}),
    ],
)
def test_settings_are_part_of_the_key(other: Settings) -> None:
    assert cache.key("a", "m.tflite", PLAIN) == cache.key("a", "m.tflite", replace(PLAIN))
    assert cache.key("a", "m.tflite", PLAIN) != cache.key("a", "m.tflite", other)
    assert cache.key("a", "m.tflite", PLAIN) != cache.key("b", "m.tflite", PLAIN)
    assert cache.key("a", "m.tflite", PLAIN) != cache.key("a", "n.tflite", PLAIN)


def test_the_program_and_what_it_computes_with_are_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache.key("a", "m.tflite", PLAIN)
    assert "numpy" in cache.version(False) and "apache-tvm" not in cache.version(False)
    assert "apache-tvm" in cache.version(True)
    monkeypatch.setattr(cache, "version", lambda running: "another")
    assert cache.key("a", "m.tflite", PLAIN) != before


def digest(path: Path) -> str:
    cache.digest_of_data.cache_clear()
    return cache.digest_of_data(str(path))


@pytest.mark.parametrize("kind", ["file", "folder", "csv"])
def test_data_count_by_content(tmp_path: Path, kind: str) -> None:
    (tmp_path / "photos").mkdir()
    photo = tmp_path / "photos" / "a.png"
    photo.write_bytes(b"1")
    (tmp_path / "l.csv").write_text("photos/a.png , cat\n")
    path = {"file": photo, "folder": tmp_path / "photos", "csv": tmp_path / "l.csv"}[kind]
    before = digest(path)
    os.utime(photo, (1, 1))
    assert digest(path) == before
    photo.write_bytes(b"2")
    assert digest(path) != before
    key = cache.key("a", "m.tflite", replace(PLAIN, compare={"data": str(path)}))
    photo.write_bytes(b"1")
    cache.digest_of_data.cache_clear()
    assert cache.key("a", "m.tflite", replace(PLAIN, compare={"data": str(path)})) != key
    # Where data lie is nothing that a result depends on.
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("photos", "l.csv"):
        (tmp_path / name).rename(moved / name)
    assert digest(moved / path.relative_to(tmp_path)) == before


def test_data_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"):
        digest(tmp_path / "pipe")


def test_entries_are_whole_and_checked(tmp_path: Path) -> None:
    kept = cache.Cache(tmp_path / "c")
    folder = kept.stage(1)
    (folder / "x").write_bytes(b"content")
    hashed = kept.adopt(folder / "x", b"content")
    kept.unstage(1)
    assert not folder.exists()
    outcome = Outcome(CONVERTED, outputs={".tflite": hashed}, gates=[("g", "says", True)], notes=["n"])
    kept.keep("k", outcome)
    assert kept.find("k") == outcome and kept.content(hashed) == b"content"
    (tmp_path / "c" / "content" / hashed).write_bytes(b"damaged")
    assert kept.content(hashed) is None and kept.find("k") is None
    (tmp_path / "c" / "entries" / "k.entry").write_bytes(b"{")
    assert kept.find("k") is None


@pytest.mark.parametrize("change", [("converted", "confused"), ("13 of", "11 of"), ('"g"', '"h"'), ("\n", "")])
def test_an_entry_that_is_damaged_is_not_believed(tmp_path: Path, change: tuple[str, str]) -> None:
    kept = cache.Cache(tmp_path / "c")
    kept.keep("k", Outcome(CONVERTED, figures={"changed layers": "13 of 14"}, gates=[("g", "says", True)]))
    assert kept.find("k") is not None
    path = tmp_path / "c" / "entries" / "k.entry"
    damaged = path.read_text().replace(*change, 1)
    assert damaged != path.read_text()
    path.write_text(damaged)
    assert kept.find("k") is None
    path.unlink()
    kept.keep("other", Outcome(CONVERTED))
    (tmp_path / "c" / "entries" / "other.entry").rename(path)
    assert kept.find("k") is None, "it is that of another key"


def test_work_of_another_machine_that_shares_a_cache_is_left_alone(tmp_path: Path) -> None:
    """Its processes may have the numbers of ours, or ones that no process has here."""
    number = files.owner().partition("-")[0]
    staging = tmp_path / "c" / "staging"
    for name in (f"{number}-0123abcd-0", "4194305-0123abcd-0"):
        (staging / name / "out").mkdir(parents=True)
    kept = cache.Cache(tmp_path / "c")
    kept.stage(0)
    kept.close()
    assert sorted(path.name for path in staging.glob("*/out/..")) == [".."] * 2


def test_an_interrupted_removal_of_a_job_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = cache.Cache(tmp_path / "c")
    (kept.stage(1) / "x").touch()

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", interrupted)
        kept.unstage(1)
    kept.close()
    assert not list((tmp_path / "c" / "staging").iterdir())


def test_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    kept = cache.Cache(tmp_path / "c")
    gone = 2**22 + 1  # above Linux's largest process number
    mine = files.owner().partition("-")[2]
    (tmp_path / "c" / "staging" / f"{gone}-{mine}-3").mkdir()
    (tmp_path / "c" / "staging" / f"{os.getppid()}-{mine}-3").mkdir()
    (tmp_path / "c" / "entries" / f".k.tflite2q-{gone}-{mine}.entry").touch()
    (tmp_path / "c" / "entries" / "k.entry").touch()
    cache.Cache(kept.place)
    assert [path.name for path in (tmp_path / "c" / "staging").iterdir()] == [f"{os.getppid()}-{mine}-3"]
    assert [path.name for path in (tmp_path / "c" / "entries").iterdir()] == ["k.entry"]
