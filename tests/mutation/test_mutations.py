"""Tests fail if the program is wrong: each mistake of the table is made in a copy, and the named tests must notice."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mutation.mutations import MUTATIONS

COPIED = ("tflite2q", "tests", "schemes", "models", "docs")
FAILED = 1  # pytest's exit code for tests that ran and failed; others mean that nothing was shown


def mutated(root: Path, name: str) -> str:
    mutation = MUTATIONS[name]
    text = (root / mutation.file).read_text()
    count = text.count(mutation.right)
    assert count == 1, f"{mutation.file} has {count} places like {mutation.right!r}: mend the table"
    return text.replace(mutation.right, mutation.wrong)


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_table_fits_the_program(root: Path, name: str) -> None:
    text = mutated(root, name)
    assert ast.dump(ast.parse(text)) != ast.dump(ast.parse((root / MUTATIONS[name].file).read_text()))
    assert all((root / path).is_file() for path in MUTATIONS[name].tests if path.endswith(".py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_mistake_is_noticed(root: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for folder in COPIED:
        shutil.copytree(root / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "setup.cfg", copy)
    (copy / MUTATIONS[name].file).write_text(mutated(root, name))
    # `-m pytest` puts the working folder before the installed package.
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*command, *MUTATIONS[name].tests], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == FAILED, done.stdout[-2000:] + done.stderr[-2000:]
    assert str(copy / "tflite2q") in _package(copy), "the copy was tested"


def _package(copy: Path) -> str:
    command = [sys.executable, "-c", "import tflite2q; print(tflite2q.__file__)"]
    return subprocess.run(command, cwd=copy, capture_output=True, text=True, check=True).stdout
