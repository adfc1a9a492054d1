"""Messages name options as the reader can give them, and only options that there are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import tflite2q
from tflite2q.cli import COMMANDS
from tflite2q.errors import CARRY_HINT, command_line, hint

PACKAGE = Path(tflite2q.__file__).parent
SAYING = ("hint", "either")
OPTION = re.compile(r"--([a-z][a-z0-9-]*)")
# What only the command line prints, and what is no option of ours.
OUTSIDE = ("cli", "batch", "micro", "guard.py", "report/rules.py", "report/text.py", "report/html/style.py", "runtimes")


def modules() -> Iterator[tuple[str, ast.Module]]:
    """The package's modules in which an option may be named."""
    for file in sorted(PACKAGE.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if OPTION.search(text):
            yield file.relative_to(PACKAGE).as_posix(), ast.parse(text)


def options() -> set[str]:
    found = {name for command in COMMANDS for p in command.params if isinstance(p, click.Option) for name in p.opts}
    return found | {name for command in COMMANDS for p in command.params for name in p.secondary_opts}


def literals(tree: ast.AST, hinted: bool = False) -> Iterator[tuple[str, bool, int]]:
    """The texts of a module without its docstrings; whether each is said as its reader can give it, and its line."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value, hinted, node.lineno
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SAYING
        yield from literals(node, hinted or called)


@pytest.mark.parametrize(
    ("said", "in_python"),
    [
        ("allow more with --max-top1-drop", "allow more with max_top1_drop"),
        ("times are not measured with --no-speed", "times are not measured with speed=False"),
        (CARRY_HINT, CARRY_HINT.replace("--allow-unsupported", "allow_unsupported=True")),
        ("see --max-memory", "see TFLITE2Q_MAX_MEMORY"),
        ("nothing -- at all", "nothing -- at all"),
    ],
)
def test_an_option_is_named_as_it_is_given(said: str, in_python: str) -> None:
    assert hint(said) == in_python
    with command_line():
        assert hint(said) == said
    assert hint(said) == in_python


def test_hints_name_options_that_there_are() -> None:
    known, seen = options(), 0
    for place, tree in modules():
        for text, hinted, line in literals(tree):
            if hinted:
                named = {"--" + name for name in OPTION.findall(text)}
                assert named <= known, f"{place}:{line}: {named - known} is no option"
                seen += len(named)
    assert seen > 20


def test_a_message_of_the_library_names_options_by_a_hint() -> None:
    bare, known = [], options()
    for place, tree in modules():
        if place.startswith(OUTSIDE):
            continue
        functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
        # A constant of the module is hinted where it is used; a whole command is the command line's in Python too.
        for text, hinted, line in (found for function in functions for found in literals(function)):
            named = {"--" + name for name in OPTION.findall(text)} & known
            if named and not hinted and "`" not in text and "tflite2q " not in text:
                bare.append(f"{place}:{line}: {text}")
    assert not bare, "\n".join(bare)
