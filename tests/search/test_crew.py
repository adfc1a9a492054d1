"""Who measures: this process or others, with the same results; and what happens if one of them ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import tflite2q
from tflite2q.errors import DataError, UsageError
from tflite2q.evaluation.compare import dataset
from tflite2q.mixing import Settings, crew, search
from tflite2q.mixing.crew import Budget, Inline, Processes, done
from tflite2q.rewrites import scheme


def total(numbers: list[int], more: int) -> tuple[int, int]:
    return sum(numbers) + more, os.getpid()


def refuse(_: int) -> None:
    raise UsageError("not this")


def die(_: int) -> None:
    os._exit(9)


@pytest.fixture
def two(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    # So that the processes can import this module, too.
    paths = [str(root), str(Path(__file__).parent)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    found = Processes(2)
    yield found
    found.close()


def test_calls_are_answered_by_other_processes_that_know_what_is_shared(two: Processes) -> None:
    shared = two.share([1, 2, 3])
    calls = [(n, total, (shared, n)) for n in range(6)]
    answers = dict(done(two, calls, Budget(None), lambda: float("inf")))
    assert {n: answer[0] for n, answer in answers.items()} == {n: 6 + n for n in range(6)}
    assert os.getpid() not in {answer[1] for answer in answers.values()}


def test_errors_come_back(two: Processes) -> None:
    with pytest.raises(UsageError, match="not this"):
        two.submit(refuse, 1).result(60)
    with pytest.raises(UsageError, match="not this"):
        Inline().submit(refuse, 1).result()


def test_a_process_that_is_ended_is_said(two: Processes) -> None:
    with pytest.raises(DataError, match=r"a process of the search was ended, .* fewer jobs"):
        two.submit(die, 1).result(60)


def test_no_call_begins_that_would_end_too_late() -> None:
    class Slow(Inline):
        now = 0.0

        def submit(self, function: object, *arguments: object) -> crew.Future[object]:
            self.now += 3.0
            return super().submit(function, *arguments)  # type: ignore[arg-type]

    slow = Slow()
    budget = Budget(1.0, lambda: slow.now)
    found = dict(done(slow, [(n, total, ([n], 0)) for n in range(9)], budget, budget.part(0.2)))
    assert len(found) == 3  # of the 12 seconds 9; a fourth call would begin with 3 left, as long as one takes
    assert budget.left == 51


@pytest.mark.slow
def test_processes_find_what_one_finds(digits: Path, digits_data: tuple[Path, Path]) -> None:
    graph = tflite2q.load(digits)
    samples, schemes = dataset(graph, *digits_data, 48), [scheme.find(name) for name in ("int8", "int8-w4")]
    one, two = (
        search(graph, schemes, samples, Settings(max_drop=2.5, sensitivity_samples=2, jobs=jobs)) for jobs in (1, 2)
    )
    assert one.text == two.text and one.judged == two.judged and one.points == two.points
