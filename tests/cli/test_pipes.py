"""`-` for stdin and stdout, `--quiet` and `--verbose`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tflite2q.cli import run


def called(*arguments: str | Path, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tflite2q", *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, check=False)


def test_a_model_goes_through_a_pipe(digits: Path, tmp_path: Path) -> None:
    done = called("convert", "-", "--scheme", "int8", "-o", "-", given=digits.read_bytes())
    assert done.returncode == 0, done.stderr
    run(["convert", str(digits), "--scheme", "int8", "-o", str(tmp_path / "one.tflite")])
    assert done.stdout == (tmp_path / "one.tflite").read_bytes()
    assert b"rescaled" in done.stderr  # the report


def test_a_text_goes_through_a_pipe(digits: Path) -> None:
    text = called("convert", digits, "--scheme", "int8", "--until", "load", "--constants", "full")
    shown = called("inspect", "-", given=text.stdout)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(b"stdin.q.txt: ")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("convert", "-", "--scheme", "int8"), "a model from stdin has no name; give --output FILE"),
        (("convert", "-", "--scheme", "int8", "-o", "-", "--json", "-"), "only one file can go to stdout"),
        (("compare", "-", "-"), "only one file can come from stdin"),
        (("inspect", "-", "-q", "-v"), "--quiet and --verbose are opposites"),
    ],
)
def test_what_cannot_be_piped_is_said(digits: Path, arguments: tuple[str, ...], why: str) -> None:
    done = called(*arguments, given=digits.read_bytes())
    assert (done.returncode, done.stdout) == (2, b"")
    assert why in done.stderr.decode()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (b"", "is empty"),
        (b"hello\n", "is neither a .tflite model"),
        (b"\xff\xfe" * 200, "is neither a .tflite model"),
        (b"a\0" * 200, ""),
        (b"graph 5", "line 1"),
        (b"// a comment\ngraph 5", "line 2"),
    ],
)
@pytest.mark.parametrize("command", [("inspect", "-"), ("convert", "-", "--scheme", "int8", "-o", "-")])
def test_what_is_no_model_on_stdin_is_said_of_stdin(command: tuple[str, ...], given: bytes, why: str) -> None:
    done = called(*command, given=given)
    assert (done.returncode, done.stdout) == (3, b"")
    said = done.stderr.decode()
    assert said.count("\n") == 1
    assert said.startswith(f"tflite2q: stdin: {why}")


def test_a_truncated_model_on_stdin_is_said_of_stdin(digits: Path) -> None:
    done = called("inspect", "-", given=digits.read_bytes()[:5000])
    assert done.returncode == 3
    assert done.stderr.startswith(b"tflite2q: stdin: ")
    assert b"tmp" not in done.stderr


def test_quiet_prints_errors_and_what_is_asked_for(
    digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.tflite"
    arguments = ["convert", str(digits), "--scheme", "int8", "-o", str(out)]
    assert run([*arguments, "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    assert out.exists()
    assert run([*arguments, "-q", "--force", "--json", "-"]) == 0
    assert capfd.readouterr().out.startswith("{")
    assert run([*arguments, "-q"]) == 2
    assert "exists already" in capfd.readouterr().err


def test_verbose_says_each_step(digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    library = tmp_path / "out.so"
    arguments = ["convert", str(digits), "--scheme", "int8", "-o", str(tmp_path / "o.tflite"), "--lib", str(library)]
    assert run([*arguments, "--verbose"]) == 0
    said = [line.rpartition(":")[0] for line in capfd.readouterr().err.splitlines()]
    steps = ("reading", "converting", "compiling for native", "writing")
    assert said == [f"tflite2q: {step}" for step in steps]


@pytest.mark.parametrize(
    "asked", [["inspect", "MODEL", "--json", "-"], ["convert", "MODEL", "--scheme", "int8", "-o", "-"]]
)
def test_a_closed_stdout_that_is_asked_for_is_said(
    digits: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it where it was closed
    assert run([str(digits) if each == "MODEL" else each for each in asked]) == 2
    assert "stdout is closed, and '-' asks for it" in capsys.readouterr().err
