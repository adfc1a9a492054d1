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


def test_a_conversion_may_be_written_as_text(cli: Cli, digits: Path, tmp_path: Path) -> None:
    """And is then what the same conversion is as a .tflite; so it is from Python."""
    for name in ("a.q.txt", "a.tflite"):
        assert cli("convert", digits, "--scheme", "int16x8", "-o", tmp_path / name).code == 0
    as_text, as_file = (tflite2q.load(tmp_path / name) for name in ("a.q.txt", "a.tflite"))
    assert as_text.ops == as_file.ops
    tflite2q.convert(tflite2q.load(digits), "int16x8").save(tmp_path / "b.q.txt")
    assert (tmp_path / "b.q.txt").read_bytes() == (tmp_path / "a.q.txt").read_bytes()
    # A model that follows the scheme is copied in the form that is asked for.
    assert (
        cli(
            "convert", tmp_path / "a.tflite", "--scheme", "int16x8", "--unchanged", "copy", "-o", tmp_path / "c.q.txt"
        ).code
        == 0
    )
    assert tflite2q.load(tmp_path / "c.q.txt").ops == as_file.ops
