"""Every command that takes a model also takes the dialect's text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tflite2q
from tflite2q.errors import InvalidGraph, ModelError

Cli = Callable[..., Any]

RELU6 = """
graph "three lines" {
  inputs (%x)
  outputs (%y)
  values {
    %x : uint8[1, 4] <0.1:0>
    %y : uint8[1, 4] <0.1:0>
  }
  ops { %y = q.lookup(%x) {function = RELU6} }
}
"""


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "small.q.txt"
    path.write_text(RELU6)
    return path


def test_what_until_prints_is_read_again(cli: Cli, digits: Path, tmp_path: Path) -> None:
    printed = cli("convert", digits, "--scheme", "int8", "--until", "convert", "--constants", "full").out
    path = tmp_path / "digits.q.txt"
    path.write_text(printed)
    assert tflite2q.load(path) == tflite2q.convert(digits, "int8").graph


def test_elided_constants_are_refused_with_the_place(cli: Cli, digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "digits.q.txt"
    path.write_text(cli("convert", digits, "--scheme", "int8", "--until", "load").out)
    code, out, err = cli("inspect", path)
    assert (code, out) == (3, "")
    assert "digits.q.txt" in err and "elided" in err and err.count("\n") == 1


def test_commands_take_text(cli: Cli, text: Path, tmp_path: Path) -> None:
    assert "q.lookup" in cli("inspect", text).out
    code, out, _ = cli("convert", text, "--scheme", "int8")
    assert code == 0, out
    written = tmp_path / "small.int8.tflite"
    x = np.array([[0, 30, 60, 200]], np.uint8)
    assert tflite2q.reference(written, x)[0].tolist() == [[0, 30, 60, 60]]
    np.save(tmp_path / "x.npy", x)
    assert cli("run", text, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy").code == 0
    assert np.load(tmp_path / "y.npy").tolist() == [[[0, 30, 60, 60]]]  # samples on the first axis
    compared = json.loads(cli("compare", text, written, "--no-speed", "--json", "-").out)
    assert compared["accuracy"]["max_step_error"] == 0


def test_damaged_text_says_where(text: Path) -> None:
    text.write_text(RELU6.replace("uint8[1, 4]", "uint8[1, 5]", 1))
    with pytest.raises(InvalidGraph, match=r"small\.q\.txt: .*'y'"):
        tflite2q.load(text)
    text.write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match=r"small\.q\.txt: is not UTF-8 text"):
        tflite2q.load(text)
