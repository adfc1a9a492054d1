"""Names that would command a terminal are spelled out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tflite2q.cli.printable import printable
from tflite2q.flatbuffer.reader import load
from tflite2q.flatbuffer.writer import save

EVIL = "a\x1b]0;title\x07\x1b[31m\x9b2J\u202eb\x00"


@pytest.mark.parametrize(
    ("text", "styled", "shown"),
    [
        ("plain\n\ttext", False, "plain\n\ttext"),
        ("\x1b[1mbold\x1b[0m", True, "\x1b[1mbold\x1b[0m"),
        ("\x1b[1mbold", False, "\\x1b[1mbold"),
        ("\x1b[1m\x1b[2J", True, "\x1b[1m\\x1b[2J"),
        (EVIL, False, "a\\x1b]0;title\\x07\\x1b[31m\\x9b2J\\u202eb\\x00"),
    ],
)
def test_what_is_spelled_out(text: str, styled: bool, shown: str) -> None:
    assert printable(text, styled) == shown


def test_names_of_a_model(cli: Callable[..., Any], digits: Path, tmp_path: Path) -> None:
    graph = load(digits)
    old = graph.inputs[0]
    new = f"{old}{EVIL}"
    values = tuple(replace(value, name=new) if value.name == old else value for value in graph.values)
    ops = tuple(replace(op, inputs=tuple(new if n == old else n for n in op.inputs)) for op in graph.ops)
    named = graph.with_(values=values, ops=ops, inputs=(new,), signatures=())
    save(named, tmp_path / "evil.tflite")
    for arguments in (("inspect", tmp_path / "evil.tflite"), ("inspect", tmp_path / "evil.tflite", "--shape", "no=1")):
        found = cli(*arguments)
        said = found.out + found.err
        assert "\\x1b]0;title" in said
        assert not set("\x1b\x07\x9b\u202e\x00") & set(said)


def test_a_file_without_a_name(cli: Callable[..., Any]) -> None:
    wanted = "tflite2q: Invalid value for 'MODEL': an empty name is not a path; see `tflite2q inspect --help`\n"
    assert cli("inspect", "").err == wanted
