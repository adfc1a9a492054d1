"""`make convert` and its kin: many models, only what has changed, and a failure is a failure."""

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

# The Makefile exports these, so tests that `make test` runs would find those of the outer make.
EXPORTED = ("MODELS", "SCHEME", "OUT", "DATA", "LABELS", "GATES", "MANIFEST", "FILES")

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
            env={key: value for key, value in os.environ.items() if not (key.startswith("MAKE") or key in EXPORTED)},
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


def written(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if path.suffix == ".tflite")


def test_converts_what_has_changed(make: Make, models: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = make(*arguments(models, out))
    assert first.returncode == 0, first.stderr
    assert written(out) == ["one.int8.tflite", "two.int8.tflite"]
    stamps = {name: (out / name).stat().st_mtime_ns for name in written(out)}
    os.utime(models[1], (time.time() + 5, time.time() + 5))
    second = make(*arguments(models, out))
    assert "2 taken from the cache" in second.stdout
    assert {name: (out / name).stat().st_mtime_ns for name in written(out)} == stamps
    models[1].write_bytes(models[1].read_bytes() + b"\0")
    third = make(*arguments(models, out))
    assert third.returncode == 0 and "1 taken from the cache" in third.stdout, third.stderr


def test_one_failure_fails_the_batch_and_leaves_no_file(make: Make, models: list[Path], tmp_path: Path) -> None:
    models[0].write_bytes(b"damaged")
    done = make(*arguments(models, tmp_path / "out"))
    assert done.returncode != 0
    assert "one.tflite" in done.stderr
    assert written(tmp_path / "out") == ["two.int8.tflite"]


def test_equal_names_from_two_folders_are_refused(make: Make, models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "one.tflite"
    shutil.copy(models[0], twin)
    done = make(*arguments([*models, twin], tmp_path / "out"))
    assert done.returncode != 0
    assert "both would become one.int8.tflite" in done.stderr
    assert not (tmp_path / "out").exists()


def test_paths_may_hold_spaces_and_quotes(make: Make, models: list[Path], tmp_path: Path) -> None:
    folder, out = tmp_path / "my models", tmp_path / "my out"
    folder.mkdir()
    models[0].rename(folder / "a model.tflite")
    models[1].rename(tmp_path / "it's one.tflite")
    quoted = f"MODELS='{folder}' \"{tmp_path}/it's one.tflite\""
    done = make("batch", quoted, "SCHEME=int8", f"OUT={out}")
    assert done.returncode == 0, done.stderr
    assert written(out) == ["a model.int8.tflite", "it's one.int8.tflite"]
    assert {"batch.md", "batch.xml", "batch.json", "index.html"} <= {path.name for path in out.iterdir()}


def test_a_manifest_needs_no_models(make: Make, models: list[Path], tmp_path: Path) -> None:
    manifest = tmp_path / "my batch.toml"
    manifest.write_text('[[models]]\npath = "one.tflite"\n', encoding="utf-8")
    done = make("batch", f"MANIFEST={manifest}", "SCHEME=int8", f"OUT={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert written(tmp_path / "out") == ["one.int8.tflite"]


@pytest.mark.slow
def test_compares(make: Make, models: list[Path], digits_data: tuple[Path, Path], tmp_path: Path) -> None:
    data, labels = (tmp_path / f"my {path.name}" for path in digits_data)
    for ours, path in zip((data, labels), digits_data, strict=True):
        shutil.copy(path, ours)
    gates = tmp_path / "my gates.toml"
    gates.write_text("max_size_ratio = 0.1\n", encoding="utf-8")
    given = [f"MODELS={models[0]}", "SCHEME=int8", f"OUT={tmp_path / 'my out'}", f"DATA={data}", f"LABELS={labels}"]
    done = make("compare", *given)
    assert done.returncode == 0, done.stderr
    assert "top-1" in done.stdout
    done = make("compare", *given, f"GATES={gates}")
    assert done.returncode != 0 and "max_size_ratio" in done.stdout


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
    for target in ("demo", "test", "lint", "docs", "bench", "models", "convert", "compare", "batch", "clean"):
        assert f"\n  {target} " in done.stdout


@pytest.mark.slow  # what it runs is run by .ci/run, too
def test_the_demo_begins_with_its_report(make: Make, tmp_path: Path) -> None:
    done = make("demo", f"OUT={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    report = tmp_path / "out" / "scenes.int8.html"
    said = [
        line for line in done.stdout.splitlines() if line and not line.startswith(("/", "  --")) and "-m " not in line
    ]
    assert said[0] == f"your report is at {report}"
    assert report.read_text(encoding="utf-8").startswith("<!doctype html>")
