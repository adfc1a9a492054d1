"""`check` and `convert --for`, as a person would use them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tflite2q

Cli = Callable[..., Any]


def test_a_broken_rule_is_exit_code_1_with_its_source_and_what_mends_it(cli: Cli, digits: Path) -> None:
    code, out, err = cli("check", digits, "--for", "tflite-micro")
    assert (code, err) == (1, "")
    assert "source: https://github.com/tensorflow/tflite-micro" in out
    assert "computes uint8 with uint8 weights" in out
    mending = f"int8 would mend it: tflite2q convert {digits} --scheme int8 --interface keep"
    assert out.splitlines()[-1] == mending


def test_what_mends_it_is_a_command_that_runs(cli: Cli, digits: Path, tmp_path: Path) -> None:
    """The model lies in a folder whose name a shell would split."""
    folder = tmp_path / "my models"
    folder.mkdir()
    model = folder / "a.tflite"
    model.write_bytes(digits.read_bytes())
    _, out, _ = cli("check", model, "--for", "tflite-micro")
    command = shlex.split(out.splitlines()[-1].partition(": tflite2q ")[2])
    assert cli(*command).code == 0
    assert cli("check", folder / "a.int8.tflite", "--for", "tflite-micro").code == 0


def test_no_broken_rule_is_exit_code_0(cli: Cli, digits: Path) -> None:
    code, out, _ = cli("check", digits, "--for", "ethos-u55")
    assert code == 0
    assert "breaks a rule" in out and out.count("\n") == 1


def test_the_document(cli: Cli, digits: Path) -> None:
    found = json.loads(cli("check", digits, "--for", "tflite-micro", "--json", "-").out)
    assert found["broken"] == len({breach["name"] for breach in found["breaches"]}) > 0
    assert set(found["breaches"][0]) == {"index", "name", "operator", "rule", "says", "source", "what"}
    assert found["best"] == found["trials"][-1] == {"scheme": "int8", "interface": "keep", "layers": 0, "refused": None}
    assert json.loads(cli("check", digits, "--for", "tflite-micro", "--no-mend", "--json", "-").out)["trials"] == []


def test_an_unknown_runtime_is_wrong_usage(cli: Cli, digits: Path) -> None:
    code, _, err = cli("check", digits, "--for", "tflite")
    assert code == 2
    assert err.count("\n") == 1 and "tflite-micro" in err


def test_convert_chooses_what_suits_a_runtime(cli: Cli, digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    found = json.loads(cli("convert", digits, "--for", "xnnpack", "-o", path, "--json", "-").out)
    verdict = tflite2q.check(path, "xnnpack", mend=False)
    assert (found["scheme"], found["check"]["broken"]) == ("int8", verdict.broken)
    assert tflite2q.load(path)[tflite2q.load(path).inputs[0]].type.dtype == "int8"  # QUANTIZE would stay behind


def test_a_model_that_suits_a_runtime_is_said_to_once(cli: Cli, digits: Path) -> None:
    code, out, _ = cli("convert", digits, "--for", "ethos-u55")
    assert code == 0
    assert out.count("breaks a rule") == 1


def test_an_interface_that_is_given_stays(cli: Cli, digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    assert cli("convert", digits, "--for", "xnnpack", "--interface", "keep", "-o", path).code in (0, 3)
    if path.exists():
        assert tflite2q.load(path)[tflite2q.load(path).inputs[0]].type.dtype == "uint8"


def test_a_scheme_that_is_given_is_only_checked(cli: Cli, digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    code, out, _ = cli("convert", digits, "--scheme", "int8-w4", "--for", "ethos-u55", "-o", path)
    assert code == 0
    assert "int4: No tensor is int4" in out


def test_a_model_that_suits_is_left_alone(cli: Cli, digits: Path, tmp_path: Path) -> None:
    code, out, _ = cli("convert", digits, "--for", "ethos-u55", "-o", tmp_path / "x.tflite")
    assert code == 0
    assert "nothing was written" in out
    assert list(tmp_path.iterdir()) == []
    assert cli("convert", digits, "--for", "ethos-u55", "--unchanged", "fail").code == 3


def test_inspect_has_a_line(cli: Cli, digits: Path) -> None:
    out = cli("inspect", digits).out
    assert "runtimes: ethos-u55, ethos-u65, ethos-u85" in out
    assert "tflite-micro (" in out
    assert json.loads(cli("inspect", digits, "--json", "-").out)["runtimes"]["ethos-u55"] == 0
