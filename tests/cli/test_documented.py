"""Every command and option says what it is for, and docs/cli.md repeats it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tflite2q.cli import COMMANDS, tflite2q


def parameters() -> Iterator[tuple[str, click.Option]]:
    for command in COMMANDS:
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                yield f"{command.name} {parameter.opts[0]}", parameter


def test_every_command_can_be_called() -> None:
    assert list(tflite2q.commands.values()) == list(COMMANDS)
    assert {"inspect", "convert", "run", "compare", "schemes", "targets"} <= set(tflite2q.commands)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.name))
def test_every_command_has_a_sentence_and_a_line(command: click.Command) -> None:
    assert command.help
    assert command.help.split("\n\n")[0].strip().endswith(".")
    assert command.short_help
    assert len(command.short_help) < 70


@pytest.mark.parametrize(("name", "option"), list(parameters()), ids=[name for name, _ in parameters()])
def test_every_option_has_help(name: str, option: click.Option) -> None:
    assert option.help, name
    assert option.help.rstrip("]").rstrip()


def test_generated_documents_are_up_to_date(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, root / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"], ["compare", "-h"], ["--version"]])
def test_help_loads_nothing_but_click(arguments: list[str]) -> None:
    heavy = {"numpy", "tvm", "rich", "tflite", "PIL"}
    script = f"""
import sys
from tflite2q.cli import run
assert run({arguments!r}) == 0
loaded = {heavy!r} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_inspecting_and_converting_never_load_tvm(digits: Path, tmp_path: Path) -> None:
    script = f"""
import sys
from tflite2q.cli import run
assert run(["inspect", {str(digits)!r}]) == 0
assert run(["convert", {str(digits)!r}, "--scheme", "int8", "-o", {str(tmp_path / "x.tflite")!r}]) == 0
assert run(["schemes"]) == 0
assert "tvm" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
