"""A model that already follows the scheme: a success, unless told to fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Cli = Callable[..., Any]

SAME = "asymmetric-uint8"  # what the digits model is


def test_nothing_is_written_and_a_line_says_so(cli: Cli, digits: Path, tmp_path: Path) -> None:
    code, out, err = cli("convert", digits, "--scheme", SAME, "-o", tmp_path / "x.tflite")
    assert (code, err) == (0, "")
    assert out.endswith(f"the model already follows scheme {SAME}; nothing was written\n")
    assert out.count("\n") == 1 and "digits_uint8.tflite" in out
    assert list(tmp_path.iterdir()) == []


def test_the_model_is_copied_byte_for_byte(cli: Cli, digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    found = json.loads(cli("convert", digits, "--scheme", SAME, "-o", path, "--unchanged", "copy", "--json", "-").out)
    assert path.read_bytes() == digits.read_bytes()
    assert found["written"] == [str(path)]
    assert found["size"]["original"] == found["size"]["converted"] == digits.stat().st_size


def test_it_fails_where_that_is_asked_for(cli: Cli, digits: Path, tmp_path: Path) -> None:
    code, out, err = cli("convert", digits, "--scheme", SAME, "-o", tmp_path / "x.tflite", "--unchanged", "fail")
    assert (code, out) == (3, "")
    assert err.count("\n") == 1 and "already follows scheme" in err
    assert list(tmp_path.iterdir()) == []


def test_a_library_is_compiled_all_the_same(cli: Cli, digits: Path, tmp_path: Path) -> None:
    library = tmp_path / "x.so"
    code, out, _ = cli("convert", digits, "--scheme", SAME, "-o", tmp_path / "x.tflite", "--lib", library)
    assert code == 0 and library.exists()
    assert f"wrote {library}" in out.replace("\n", "")


def test_it_is_compared_with_itself(cli: Cli, digits: Path) -> None:
    code, out, err = cli("compare", digits, "--scheme", SAME, "--no-speed", "--json", "-")
    assert code == 0
    assert "compared with itself" in err
    assert json.loads(out)["accuracy"]["max_step_error"] == 0
