"""`run --profile`: where the time goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tflite2q.flatbuffer import reader

Cli = Callable[..., Any]


def test_every_op_is_in_the_profile(cli: Cli, digits: Path, digits_data: tuple[Path, Path]) -> None:
    done = cli("run", digits, "--input", digits_data[0], "--limit", 1, "--profile", "--json", "-")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    graph = reader.load(digits)
    assert [each["op"] for each in document["profile"]] == [op.name for op in graph.ops]
    assert sum(each["share"] for each in document["profile"]) == pytest.approx(1)
    assert len(document["predictions"]) == 1


def test_the_profile_is_shown_only_when_asked_for(cli: Cli, digits: Path, digits_data: tuple[Path, Path]) -> None:
    plain = cli("run", digits, "--input", digits_data[0], "--limit", 1)
    assert "G MAC/s" not in plain.out
    done = cli("run", digits, "--input", digits_data[0], "--limit", 1, "--profile")
    assert done.code == 0, done.err
    assert "G MAC/s" in done.out and "q.conv2d" in done.out


@pytest.mark.parametrize("options", [("lib.so", "--profile"), ("x.tflite", "--profile", "--rpc", "localhost:1")])
def test_only_models_on_this_machine_have_profiles(cli: Cli, tmp_path: Path, options: tuple[str, ...]) -> None:
    model = tmp_path / options[0]
    model.write_bytes(b"")
    done = cli("run", model, "--input", model, *options[1:])
    assert done.code == 2
    assert "--profile" in done.err
