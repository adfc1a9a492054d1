"""`make convert`: many models, only what is out of date, and a failure is a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Make = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


@pytest.fixture
def make(root: Path, tmp_path: Path) -> Make:
    """Runs the Makefile in the checkout with this Python in place of the environment that it would make."""
    environment = tmp_path / "env"
    (environment / "bin").mkdir(parents=True)
    python = environment / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    for stamp in (".python", ".user", ".dev"):
        (environment / stamp).touch()

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", "--no-print-directory", f"VENV={environment}", *arguments],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
            env={key: value for key, value in os.environ.items() if not key.startswith("MAKE")},
        )

    return call


@pytest.fixture
def models(digits: Path, tmp_path: Path) -> list[Path]:
    found = [tmp_path / "one.tflite", tmp_path / "two.tflite"]
    for model in found:
        shutil.copy(digits, model)
        os.utime(model, (1e9, 1e9))
    return found


def arguments(models: list[Path], out: Path) -> list[str]:
    return ["convert", f"MODELS={' '.join(map(str, models))}", "SCHEME=int8", f"OUT={out}", "-j2"]


def test_converts_what_is_out_of_date(make: Make, models: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = make(*arguments(models, out))
    assert first.returncode == 0, first.stderr
    assert sorted(path.name for path in out.iterdir()) == ["one.int8.tflite", "two.int8.tflite"]
    stamps = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    second = make(*arguments(models, out))
    assert "tflite2q convert" not in second.stdout
    os.utime(models[1], (time.time() + 5, time.time() + 5))
    third = make(*arguments(models, out))
    assert third.returncode == 0, third.stderr
    assert (out / "one.int8.tflite").stat().st_mtime_ns == stamps["one.int8.tflite"]
    assert (out / "two.int8.tflite").stat().st_mtime_ns > stamps["two.int8.tflite"]


def test_one_failure_fails_the_batch_and_leaves_no_file(make: Make, models: list[Path], tmp_path: Path) -> None:
    models[0].write_bytes(b"damaged")
    done = make(*arguments(models, tmp_path / "out"), "-k")
    assert done.returncode != 0
    assert "one.tflite" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["two.int8.tflite"]


def test_equal_names_from_two_folders_are_refused(make: Make, models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "one.tflite"
    shutil.copy(models[0], twin)
    done = make(*arguments([*models, twin], tmp_path / "out"))
    assert done.returncode != 0
    assert "same name" in done.stderr
    assert not (tmp_path / "out").exists()


def test_public_files_may_lie_in_folders_with_spaces(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "no models"
    folder.mkdir()
    done = make("test-public", f"FILES={folder}")
    assert done.returncode == 2
    assert f"no .tflite file in {folder}" in done.stderr
    done = make("test-public", "FILES=")
    assert done.returncode == 2
    assert "with make, FILES=FOLDER" in done.stderr


def test_help_is_what_make_alone_says(make: Make) -> None:
    done = make()
    assert done.returncode == 0
    for target in ("demo", "test", "lint", "docs", "bench", "models", "convert", "compare", "clean"):
        assert f"\n  {target} " in done.stdout


def test_the_demo_begins_with_its_report(make: Make, tmp_path: Path) -> None:
    done = make("demo", f"OUT={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    report = tmp_path / "out" / "digits.int8.html"
    said = [
        line for line in done.stdout.splitlines() if line and not line.startswith(("/", "  --")) and "-m " not in line
    ]
    assert said[0] == f"your report is at {report}"
    assert report.read_text(encoding="utf-8").startswith("<!doctype html>")
