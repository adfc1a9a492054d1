"""`tflite2q search` on the digits model, whole mixes judged by the reference in place of compiled code."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from surroundings import Outcome

import tflite2q
from tflite2q.execution import reference
from tflite2q.flatbuffer import writer
from tflite2q.mixing import measure

Cli = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        measure.runtime, "compile", lambda graph, *_: SimpleNamespace(run=partial(reference.run, graph))
    )


def test_search(cli: Cli, digits: Path, digits_data: tuple[Path, Path], tmp_path: Path) -> None:
    data, labels = digits_data
    mixed, report = tmp_path / "mixed.toml", tmp_path / "report.json"
    arguments = ("search", digits, "--data", data, "--labels", labels, "--limit", 40, "--max-top1-drop", 3, "-o", mixed)
    done = cli(*arguments, "--json", report)
    assert done.code == 0, done.err
    found = json.loads(report.read_text())
    assert (found["goal"], found["unit"], found["complete"]) == ("size", "bytes", True)
    # The file is a scheme, and gives the model whose size and loss were reported.
    new = tflite2q.convert(digits, mixed)
    assert len(writer.write(new.graph)) == found["chosen"]["measured_cost"] < found["base"]["measured_cost"]
    assert found["chosen"]["points_lost"] <= 3
    assert found["chosen"]["layers"] == len(found["mix"]) > 0
    costs = [point["cost"] for point in found["front"]]
    errors = [point["estimated_error"] for point in found["front"]]
    assert costs == sorted(costs, reverse=costs[0] > costs[-1]) and errors == sorted(
        errors, reverse=costs[0] < costs[-1]
    )
    # The table says the same, and so does the last line.
    chosen = next(line for line in done.out.splitlines() if line.startswith("chosen"))
    assert f"{found['chosen']['measured_cost']:,.0f}" in chosen
    assert f"{100 * (1 - found['chosen']['measured_cost'] / found['base']['measured_cost']):.1f} %" in chosen
    assert done.out.splitlines()[-1] == f"wrote {mixed} and {mixed.with_suffix('.png')}"
    with Image.open(mixed.with_suffix(".png")) as picture:
        assert picture.format == "PNG" and len(picture.convert("RGB").getcolors(1 << 24)) > 20
    again = cli(*arguments)
    assert again.code == 2 and "mixed.toml" in again.err and "--force" in again.err


def test_a_budget_that_ended_is_said_and_a_picture_goes_where_it_is_asked_for(
    cli: Cli, digits: Path, digits_data: tuple[Path, Path], tmp_path: Path
) -> None:
    mixed, picture = tmp_path / "mixed.toml", tmp_path / "front.svg"
    done = cli(
        "search", digits, "--data", digits_data[0], "--limit", 8, "--budget", 0, "-o", mixed, "--picture", picture
    )
    assert done.code == 0, done.err
    assert "the budget ended before every layer was measured; run the same command to continue" in done.out
    assert picture.read_text().lstrip().startswith("<?xml")
    assert not mixed.with_suffix(".png").exists()
