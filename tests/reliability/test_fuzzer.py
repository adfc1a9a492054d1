"""The fuzzer finds what is wrong: defects that are put in are told, each kind once."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from networks import Net
from reliability import fuzz
from reliability.mutators import any_damage

from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.writer import write

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory, reads /proc")


def network() -> bytes:
    net = Net("uint8")
    x = net.input("x", (1, 6, 6, 2), (0.05, 128))
    return write(net.graph(net.conv(net.conv(x, "a", 4, (0.1, 128), size=3), "b", 4, (0.1, 128))))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> fuzz.Run:
    monkeypatch.setattr(fuzz, "seeds", lambda: [network()])
    monkeypatch.setattr(fuzz, "BATCH", 60)
    monkeypatch.setattr(fuzz, "WRITTEN", 1.0)
    monkeypatch.setattr(fuzz, "WHOLE", 1.0)
    return fuzz.Run(tmp_path, "0")


def test_nothing_is_found_where_nothing_is_wrong(run: fuzz.Run) -> None:
    run.batch(0, deep=False)
    assert not run.finds
    assert sum(run.outcomes.values()) == 60
    assert run.outcomes["used"]
    assert run.outcomes["read: ModelError"]


def test_an_exception_a_death_and_a_wrong_result_are_found(run: fuzz.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    right = fuzz.reference.run

    def wrong(*arguments: object) -> list[np.ndarray]:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KeyError("a defect")
        if calls == 30:
            os.kill(os.getpid(), signal.SIGKILL)
        found: list[np.ndarray] = right(*arguments)  # type: ignore[arg-type]
        return [array + 1 for array in found] if calls == 12 else found

    monkeypatch.setattr(fuzz.reference, "run", wrong)
    run.batch(0, deep=False)
    told = " ".join(run.finds)
    assert "KeyError" in told
    assert "Wrong a written" in told
    assert "death 9" in told
    kept = [path for path in run.folder.iterdir() if path.suffix == ".tflite"]
    assert len(kept) == 3
    assert (run.folder / "finds.txt").read_text().count("\n") == 3


def test_damage_is_the_same_for_the_same_numbers() -> None:
    data = network()
    made = [any_damage(data, random.Random(seed)) for seed in range(200)]
    assert made == [any_damage(data, random.Random(seed)) for seed in range(200)]
    assert len(set(made)) > 150
    assert read(data)
