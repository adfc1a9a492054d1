"""Pillow is an optional package: without it, whatever needs pictures says in a line what to install."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tflite2q.errors import UsageError
from tflite2q.evaluation import drawing
from tflite2q.evaluation.tasks.segmentation import Mask

COMMANDS = {
    "run": ("run", "{model}", "--input", "{photo}"),
    "a folder": ("run", "{model}", "--input", "{folder}", "--skip-bad"),
    "draw": ("run", "{model}", "--input", "{photo}", "--draw", "{folder}/drawn.png"),
    "compare": ("compare", "{model}", "--scheme", "int8", "--data", "{folder}", "--no-speed"),
    "convert": ("convert", "{model}", "--scheme", "int8-w4", "--data", "{folder}", "-o", "{folder}/new.tflite"),
    "search": ("search", "{model}", "--data", "{folder}", "-o", "{folder}/mixed.toml"),
}


@pytest.fixture
def without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "PIL"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "PIL", None)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_the_package(
    command: str, digits: Path, cli: Callable[..., Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(photo)
    request.getfixturevalue("without_pillow")
    given = [part.format(model=digits, photo=photo, folder=tmp_path) for part in COMMANDS[command]]
    outcome = cli(*given)
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1].endswith("pictures need Pillow: pip install 'tflite2q[images]'")
    assert "Traceback" not in outcome.err


def test_a_mask_that_is_written_as_a_picture(without_pillow: None) -> None:
    with pytest.raises(UsageError, match="pictures need Pillow"):
        drawing.mask_png(Mask(np.zeros((2, 2), np.int64)))
