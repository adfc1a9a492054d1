"""Which kernel computes each layer, and why better ones refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Cli = Callable[..., Any]


def test_inspect_for_a_target(cli: Cli, digits: Path) -> None:
    done = cli("inspect", digits, "--target", "raspberry-pi-4", "--json", "-")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["target"] == "raspberry-pi-4"
    layers = {layer["op"]: layer for layer in document["kernels"]}
    assert layers["q.conv2d"]["kernel"].endswith("__neon_smlal")
    refusals = {each["kernel"]: each["reason"] for each in layers["q.conv2d"]["refusals"]}
    assert refusals["conv2d__dotprod"] == "the target has no dotprod"
    assert refusals["conv2d__avx2"] == "the target is not an x86"
    assert [layer["name"] for layer in document["kernels"]] == [layer["name"] for layer in document["layers"]]


def test_refusals_of_other_processors_are_not_shown(cli: Cli, digits: Path) -> None:
    done = cli("inspect", digits, "--target", "cortex-a76")
    assert done.code == 0, done.err
    assert "kernels on cortex-a76:" in done.out
    assert "conv2d__i8mm: the target has no i8mm" in done.out
    assert "x86" not in done.out and "avx" not in done.out


def test_convert_explains(cli: Cli, digits: Path, tmp_path: Path) -> None:
    arguments = ("convert", digits, "--scheme", "int8", "-o", tmp_path / "x.tflite", "--target", "x86-64", "--explain")
    done = cli(*arguments)
    assert done.code == 0, done.err
    assert "kernels on x86-64:" in done.out
    assert "the target has no avx2" in done.out
    done = cli(*arguments, "--force", "--json", "-")
    assert all(layer["kernel"] for layer in json.loads(done.out)["kernels"])


def test_unknown_target(cli: Cli, digits: Path) -> None:
    done = cli("inspect", digits, "--target", "cortex-a7")
    assert done.code == 2
    assert "did you mean cortex-a7" in done.err


def test_targets_in_the_terms_of_tvm_compile(cli: Cli, digits: Path, tmp_path: Path) -> None:
    target = "raspberry-pi/4b-aarch64"
    done = cli("convert", digits, "--scheme", "int8", "-o", tmp_path / "x.tflite", "--target", target, "--explain")
    assert done.code == 0, done.err
    assert f"kernels on {target}:" in done.out
