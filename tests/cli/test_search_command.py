"""`tflite2q search` on the digits model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from surroundings import Outcome

import tflite2q
from tflite2q.flatbuffer import writer

Cli = Callable[..., Outcome]


def test_search(cli: Cli, digits: Path, digits_data: tuple[Path, Path], tmp_path: Path) -> None:
    data, labels = digits_data
    mixed, report, drawing = tmp_path / "mixed.toml", tmp_path / "report.json", tmp_path / "front.svg"
    arguments = ("search", digits, "--data", data, "--labels", labels, "--limit", 40, "--max-top1-drop", 3, "-o", mixed,
                 "--jobs", 1)  # fmt: skip
    done = cli(*arguments, "--json", report)
    assert done.code == 0, done.err
    found = json.loads(report.read_text())
    assert (found["goal"], found["unit"], found["complete"]) == ("size", "bytes", True)
    # The file is a scheme, and gives the model whose size and loss were reported, by the command that is named.
    converting = done.out.splitlines()[-1]
    assert converting == f"to convert: tflite2q convert {digits} --scheme {mixed} --data {data} --limit 20"
    new = tmp_path / "new.tflite"
    assert cli(*converting.split()[3:], "-o", new).code == 0
    assert new.stat().st_size == found["chosen"]["measured_cost"] < found["base"]["measured_cost"]
    assert found["chosen"]["points_lost"] == found["chosen"]["loss"]["points"] <= 3
    assert found["chosen"]["layers"] == len(found["mix"]) > 0
    costs = [point["measured_cost"] for point in found["front"]]
    errors = [point["measured_error"] for point in found["front"]]
    assert costs == sorted(costs, reverse=True) and errors == sorted(errors)
    # The table says the same, and so does what follows it.
    chosen = next(line for line in done.out.splitlines() if line.startswith("chosen"))
    assert f"{found['chosen']['measured_cost']:,.0f}" in chosen
    assert f"{100 * (1 - found['chosen']['measured_cost'] / found['base']['measured_cost']):.1f} %" in chosen
    confirmed = found["chosen"]["confirmed"]
    assert confirmed["samples"] == 20 and confirmed["verdict"] == "undecided"
    assert "they cannot decide whether the limit of 3 points is kept" in done.out
    assert f"about {confirmed['samples_needed']:,} samples would" in done.out
    assert done.out.splitlines()[-2] == f"wrote {mixed} and {mixed.with_suffix('.png')}"
    with Image.open(mixed.with_suffix(".png")) as picture:
        assert picture.format == "PNG" and len(picture.convert("RGB").getcolors(1 << 24)) > 20
    again = cli(*arguments)
    assert again.code == 2 and "mixed.toml" in again.err and "--force" in again.err
    # Continued: nothing is measured twice.  A picture goes where it is asked for.
    again = cli(*arguments, "--force", "--picture", drawing)
    assert again.code == 0 and drawing.read_text().lstrip().startswith("<?xml")
    assert len(tflite2q.convert(digits, mixed, data=data, limit=20).layers) > 0
    assert len(writer.write(tflite2q.load(new))) == new.stat().st_size


def test_a_first_scheme_over_the_limit_ends_with_1(
    cli: Cli, digits: Path, digits_data: tuple[Path, Path], tmp_path: Path
) -> None:
    done = cli("search", digits, "--data", digits_data[0], "--limit", 60, "--max-top1-drop", "0", "--schemes",
               "int8-w4,int8", "-o", tmp_path / "mixed.toml", "--jobs", 1)  # fmt: skip
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert "int8-w4, with which every layer starts, already loses" in line and "--max-top1-drop" in line
    assert not (tmp_path / "mixed.toml").exists()


def test_a_budget_that_ended_is_an_error(
    cli: Cli, digits: Path, digits_data: tuple[Path, Path], tmp_path: Path
) -> None:
    done = cli("search", digits, "--data", digits_data[0], "--limit", 8, "--budget", 0.0001, "-o",
               tmp_path / "mixed.toml", "--jobs", 1)  # fmt: skip
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert "the budget of 0.0001 minutes ended before the first scheme was measured; allow more with --budget" in line
