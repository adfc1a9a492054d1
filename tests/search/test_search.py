"""The search as a whole, on the digits model."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.text import parse_graph
from tflite2q.errors import LimitError, UsageError
from tflite2q.evaluation import calibration
from tflite2q.evaluation.compare import dataset
from tflite2q.evaluation.data import Dataset
from tflite2q.execution import reference, remote
from tflite2q.flatbuffer import writer
from tflite2q.mixing import Found, Loss, Settings, choice, costs, judge, measure, search
from tflite2q.mixing.choosing import choose
from tflite2q.mixing.context import Context, with_conversions
from tflite2q.mixing.crew import Budget, Inline
from tflite2q.mixing.mix import choices, key
from tflite2q.mixing.replay import Replay
from tflite2q.rewrites import scheme

SCHEMES = ("int8", "int8-w4")


@pytest.fixture(scope="module")
def samples(digits: Path, digits_data: tuple[Path, Path]) -> Dataset:
    data, labels = digits_data
    return dataset(tflite2q.load(digits), data, labels, 32)


def find(
    graph: Graph, samples: Dataset, state: Path | None = None, schemes: tuple[str, ...] = SCHEMES, **settings: Any
) -> Found:
    chosen = [scheme.find(name) for name in schemes]
    few = {"sensitivity_samples": 2, "jobs": 1, **settings}
    return search(graph, chosen, samples, Settings(**few), state)


@pytest.fixture(scope="module")
def whole(digits: Path, samples: Dataset) -> Found:
    return find(tflite2q.load(digits), samples, max_drop=2.5)


def test_a_replayed_variant_is_the_variant(digits: Path) -> None:
    graph = tflite2q.load(digits)
    base = tflite2q.convert(graph, "int8").graph
    sample = calibration.noise_images(base)[0]
    replay = Replay(base, sample)
    for name in ("int8", "int8-w4", "mixed-depthwise", "symmetric-int8"):
        variant = tflite2q.convert(graph, name).graph
        expected = reference.run_every(variant, *sample)
        for wanted in ("block1/add", "logits", variant.outputs[0]):
            np.testing.assert_array_equal(replay.value(variant, wanted), expected[wanted])


def test_what_did_not_change_is_not_run_again(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = tflite2q.load(digits)
    base = tflite2q.convert(graph, "int8").graph
    replay = Replay(base, calibration.noise_images(base)[0])
    other = tflite2q.convert(graph, "int8-w4").graph
    four = next(op for op in other.ops if op.name == "logits")
    variant = base.with_(
        values=tuple(v if v.name not in four.inputs[1:] else other[v.name] for v in base.values),
        ops=tuple(four if op.name == "logits" else op for op in base.ops),
    )
    run: list[str] = []
    for kind in {type(op) for op in base.ops}:
        original: Callable[..., object] = kind.meaning
        monkeypatch.setattr(kind, "meaning", lambda op, *x, original=original: run.append(op.name) or original(op, *x))
    replay.value(variant, "logits")
    assert run == ["logits"]


def test_the_error_judged_is_that_of_the_logits(digits: Path) -> None:
    assert measure.judged_value(tflite2q.load(digits)) == "logits"


def test_search_keeps_its_promise_and_its_file_gives_the_model_it_measured(
    digits: Path, digits_data: tuple[Path, Path], samples: Dataset, whole: Found, tmp_path: Path
) -> None:
    assert whole.complete and whole.mix and whole.calibration == 16
    assert whole.chosen.points_lost is not None and whole.chosen.points_lost <= 2.5
    path = tmp_path / "mixed.toml"
    path.write_text(whole.text)
    converted = tflite2q.convert(digits, path, data=digits_data[0], limit=whole.calibration)
    base = tflite2q.convert(digits, "int8", data=digits_data[0], limit=whole.calibration)
    assert len(writer.write(converted.graph)) == whole.chosen.measured_cost
    assert len(writer.write(base.graph)) == whole.base.measured_cost
    assert whole.chosen.measured_cost < whole.base.measured_cost
    assert whole.chosen.measured_cost == pytest.approx(whole.chosen.cost, rel=0.02)
    # What was lost on the samples that chose and on those that confirmed is what that model loses on all.
    compared = tflite2q.compare(digits, converted, data=digits_data[0], labels=digits_data[1], limit=32, speed=False,
                                layer_samples=0)  # fmt: skip
    assert compared.accuracy is not None and compared.accuracy.top1 is not None
    halves = whole.chosen.loss, whole.chosen.confirmed
    lost = [half.counted * half.samples / 32 for half in halves if half is not None]
    top1 = compared.accuracy.top1
    assert sum(lost) == pytest.approx(100 * (top1.original - top1.converted))


def test_no_judged_mix_beats_the_chosen_one(whole: Found) -> None:
    figures = [(p.measured_cost or 0.0, p.points_lost or 0.0) for p in whole.judged]
    assert len(figures) > 3
    chosen = whole.chosen.measured_cost, whole.chosen.points_lost
    assert chosen == choose(figures, lambda one: one, whole.limit)


def test_the_front_is_measured_and_nothing_on_it_is_beaten(whole: Found) -> None:
    costs_, errors = [p.measured_cost for p in whole.points], [p.measured_error for p in whole.points]
    assert None not in costs_ and None not in errors
    assert costs_ == sorted(costs_, reverse=True) and errors == sorted(errors)  # type: ignore[type-var]
    assert whole.points[0].layers == 0


def test_the_samples_that_confirm_are_others(whole: Found, samples: Dataset) -> None:
    from tflite2q.mixing.judge import Halves

    for count in (1, 2, 3, 80, 200, 1001):
        halves = Halves.of(count, 5)
        assert sorted((*halves.choosing, *halves.confirming)) == list(range(count))
        assert set(halves.calibrating) <= set(halves.choosing)
        assert len(halves.choosing) == (count + 1) // 2
        assert halves.calibrating == tuple(range(min(50, max(count // 2, 1))))
        assert Halves.of(count, 5) == halves
    assert whole.chosen.loss is not None and whole.chosen.confirmed is not None
    assert whole.chosen.loss.samples + whole.chosen.confirmed.samples == len(samples)


def test_a_first_scheme_over_the_limit_is_an_error(digits: Path, digits_data: tuple[Path, Path]) -> None:
    graph = tflite2q.load(digits)
    unlabelled = dataset(graph, digits_data[0], None, 60)
    with pytest.raises(LimitError, match=r"int8-w4, with which every layer starts, already loses .* points") as error:
        find(graph, unlabelled, schemes=("int8-w4", "int8"), max_drop=0.0)
    assert error.value.exit_code == 1 and "\n" not in str(error.value)
    assert "allow more with max_drop, or" in str(error.value)  # a keyword that `search` has


def test_a_model_without_weights_has_nothing_to_choose() -> None:
    graph = parse_graph(
        """graph "main" {
          inputs (%x)
          outputs (%y)
          values { %x : int8[1, 4] <0.5:0> %y : int8[1, 4] <1.0:0> }
          ops { %y = q.add(%x, %x) version 2 }
        }"""
    )
    samples = dataset(graph, np.zeros((4, 1, 4), np.int8))
    with pytest.raises(UsageError, match="no layer of the model has weights"):
        find(graph, samples)


def test_a_loss_that_is_allowed_is_none_or_more() -> None:
    for wrong in (-5.0, float("nan")):
        with pytest.raises(UsageError, match=r"max_drop is -5, but|max_drop = nan"):
            Settings(max_drop=wrong)


def losing(choosing: Callable[[str], float], confirming: Callable[[str], float]) -> Callable[..., Loss]:
    """A judge whose figures are made up."""

    def loss(self: judge.Judge, mix: dict[str, int], graph: Graph, half: str, *_: Any) -> Loss:
        points = (choosing if half == judge.CHOOSING else confirming)(key(mix))
        return Loss(16, points, points - 0.2, points + 0.2, "counted", points, points - 0.2, points + 0.2)

    return loss


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_measured_the_chosen_mix_is_not_beaten(
    digits: Path, samples: Dataset, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    def random(name: str) -> float:
        return np.random.default_rng([seed, *name.encode()]).uniform(-2, 3) if name else 0.5

    monkeypatch.setattr(judge.Judge, "loss", losing(random, lambda _: 0.0))
    found = find(tflite2q.load(digits), samples, max_drop=1.0)
    chosen = found.chosen.measured_cost or 0.0, found.chosen.points_lost or 0.0
    assert chosen[1] <= 1.0 and len(found.judged) > 3
    for point in found.judged:
        other = point.measured_cost or 0.0, point.points_lost or 0.0
        assert not (other[0] <= chosen[0] and other[1] <= chosen[1] and other != chosen)
    # What beats it in cost and error was judged, however the binary search went, and then loses more than is allowed.
    known = {key(point.mix): point for point in found.judged}
    for point in found.points:
        cost, error = point.measured_cost or 0.0, point.measured_error or 0.0
        if cost < chosen[0] and error < (found.chosen.measured_error or 0.0):
            assert key(point.mix) in known and (known[key(point.mix)].points_lost or 0.0) > 1.0


def test_what_the_other_half_refutes_is_not_chosen(
    digits: Path, samples: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge.Judge, "loss", losing(lambda _: 0.0, lambda name: 5.0 if "logits" in name else 0.0))
    found = find(tflite2q.load(digits), samples, max_drop=1.0)
    assert "logits" not in found.mix
    assert 1 <= found.refuted < choice.CONFIRMATIONS or not found.mix
    assert found.chosen.confirmed is not None and found.chosen.confirmed.points == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("goal", ["compressed", "flash", "ram"])
def test_goals_are_figures_of_the_converted_model(digits: Path, samples: Dataset, goal: str) -> None:
    schemes = ("int16x8", "int8") if goal == "ram" else SCHEMES
    found = find(tflite2q.load(digits), samples, schemes=schemes, goal=goal, max_drop=20.0)
    cost = costs.GOALS[goal].cost
    assert cost is not None and found.mix
    data = [samples.make(index) for index in range(found.calibration)]
    graph = calibration.convert(tflite2q.load(digits), found.scheme, data).graph
    assert cost(graph) == found.chosen.measured_cost < (found.base.measured_cost or 0.0)


def test_schemes_that_reconstruct_are_put_together_and_the_choice_is_converted(
    digits: Path, samples: Dataset, whole: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted: list[str] = []
    convert = calibration.convert
    monkeypatch.setattr(calibration, "convert", lambda g, s, d: converted.append(s.name) or convert(g, s, d))
    found = find(tflite2q.load(digits), samples, max_drop=2.5)
    assert found.text == whole.text and found.judged == whole.judged
    assert 2 <= len(converted) <= 6 and converted[0] == "int8-w4" and set(converted[1:]) == {"mixed"}


class Timed(costs.Clock):
    """A clock on which a multiply-accumulate takes as long as the codes it leads to have bytes, and casts take time."""

    def __init__(self, *_: Any) -> None:
        super().__init__("pretended", 1)

    def ops(self, graph: Graph) -> dict[str, float]:
        widths = {op.name: np.dtype(graph[op.name].type.dtype).itemsize for op in graph.ops}
        return {op.name: widths[op.name] * (10.0 + op.macs(graph.ins(op), graph.outs(op))) for op in graph.ops}

    def time(self, graph: Graph) -> float:
        return sum(self.ops(graph).values())

    start = time

    def close(self) -> None:
        pass


def test_speed_is_measured_of_whole_mixes(digits: Path, samples: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tflite2q.mixing.run.Clock", Timed)
    graph = tflite2q.load(digits)
    found = find(graph, samples, schemes=("int16x8", "int8"), goal="speed", max_drop=100.0, sensitivity_samples=2)
    assert set(found.mix.values()) == {1}  # places in the list of schemes
    data = [samples.make(index) for index in range(found.calibration)]
    for point, chosen in ((found.base, scheme.find("int16x8")), (found.chosen, found.scheme)):
        assert point.measured_cost == Timed().time(calibration.convert(graph, chosen, data).graph)
    assert found.chosen.measured_cost is not None and found.base.measured_cost is not None
    assert found.chosen.measured_cost < 0.6 * found.base.measured_cost


def test_the_clock_runs(digits: Path) -> None:
    graph = tflite2q.load(digits)
    clock = costs.Clock("native", 1)
    assert set(clock.ops(graph)) == {op.name for op in graph.ops}
    assert clock.start(graph) > 0
    assert 0.2 < clock.time(graph) / clock.base_ms < 5


@pytest.mark.slow
def test_compiled_code_gives_what_the_reference_gives(digits: Path, samples: Dataset) -> None:
    graph = tflite2q.load(digits)
    chosen = tuple(scheme.find(name) for name in SCHEMES)
    some = [samples.make(index) for index in range(6)]
    bare = Context(graph, chosen, tuple(some), measure.observe(graph, some))
    whole = with_conversions(bare, [measure.converted(bare, k) for k in range(2)], choices(graph, chosen))
    mix = {"block1/project": 1, "logits": 1}
    for what in (None, mix, whole.whole[1]):
        slow, fast = (measure.results(whole, what, some, compiled) for compiled in (None, ("native", 1)))
        for (outputs, judged), (others, again) in zip(slow, fast, strict=True):
            np.testing.assert_array_equal(outputs[0], others[0])
            np.testing.assert_array_equal(judged, again)
    # Many samples of large models are worth compiling; the loss is the same.
    one = find(graph, samples, max_drop=2.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "WORTH_COMPILING", 0.0)
        assert find(graph, samples, max_drop=2.5).judged == one.judged


@pytest.mark.slow
def test_speed_is_that_of_a_device(digits: Path, samples: Dataset) -> None:
    from execution.test_remote import LOOPBACK, rpc_server

    with rpc_server() as (port, _):
        there = remote.device(f"{LOOPBACK}:{port}")
        found = find(
            tflite2q.load(digits), samples, schemes=("int16x8", "int8"), goal="speed", max_drop=50.0, device=there
        )
    assert found.base.measured_cost is not None and found.base.measured_cost > 0
    assert all(point.measured_cost is not None for point in found.judged)


class Stopping(Inline):
    """A crew that is interrupted after some calls."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return super().submit(function, *arguments)


def test_a_search_is_taken_up_where_it_was_and_ends_the_same(
    digits: Path, samples: Dataset, whole: Found, tmp_path: Path
) -> None:
    graph, state = tflite2q.load(digits), tmp_path / "mixed.search.json"
    chosen = [scheme.find(name) for name in SCHEMES]
    settings = Settings(max_drop=2.5, sensitivity_samples=2, jobs=1)
    with pytest.raises(KeyboardInterrupt):
        search(graph, chosen, samples, settings, state, crew=Stopping(30))
    assert state.exists()
    counting = Stopping(10_000)
    resumed = search(graph, chosen, samples, settings, state, crew=counting)
    assert resumed.text == whole.text
    assert (resumed.points, resumed.judged) == (whole.points, whole.judged)
    again = Stopping(10_000)
    assert search(graph, chosen, samples, settings, state, crew=again).text == whole.text
    assert again.calls > counting.calls  # only conversions and observations are made anew


class Slow(Inline):
    """A crew whose calls take time on a clock of its own."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now = seconds, 0.0

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        self.now += self.seconds
        return super().submit(function, *arguments)


@pytest.mark.parametrize("minutes", [1.0, 2.0, 4.0])
def test_a_budget_is_kept(digits: Path, samples: Dataset, minutes: float) -> None:
    crew = Slow(2.0)
    chosen = [scheme.find(name) for name in SCHEMES]
    settings = Settings(max_drop=2.5, budget=minutes, sensitivity_samples=2, jobs=1)
    found = search(
        tflite2q.load(digits), chosen, samples, settings, crew=crew, budget=Budget(minutes, lambda: crew.now)
    )
    assert found.seconds == crew.now <= 1.1 * 60 * minutes
    assert found.complete == (minutes >= 4.0)
    assert found.chosen.confirmed is not None  # time for that was kept


def test_a_budget_that_is_too_short_is_an_error(digits: Path, samples: Dataset) -> None:
    crew = Slow(2.0)
    chosen = [scheme.find(name) for name in SCHEMES]
    with pytest.raises(UsageError, match=r"budget of 0\.1 minutes ended before the first scheme was measured"):
        search(tflite2q.load(digits), chosen, samples, Settings(budget=0.1), crew=crew,
               budget=Budget(0.1, lambda: crew.now))  # fmt: skip
    assert crew.now <= 1.1 * 6


@pytest.mark.slow
def test_a_budget_is_kept_by_the_clock_on_the_wall(digits: Path, digits_data: tuple[Path, Path]) -> None:
    graph = tflite2q.load(digits)
    began = time.monotonic()
    found = find(graph, dataset(graph, *digits_data, 800), max_drop=2.5, budget=0.5, sensitivity_samples=64, jobs=2)
    assert time.monotonic() - began <= 1.1 * 30
    assert found.chosen.confirmed is not None


def test_schemes_that_do_not_differ_are_refused(digits: Path, samples: Dataset) -> None:
    graph = tflite2q.load(digits)
    with pytest.raises(UsageError, match="choose schemes that differ"):
        find(graph, samples, schemes=("int8", "int8"))
    with pytest.raises(UsageError, match="goal"):
        find(graph, samples, goal="beauty")
    with pytest.raises(UsageError, match="no layer has less RAM during a run under int8-w4 than under int8"):
        find(graph, samples, goal="ram", sensitivity_samples=2)
