"""The search as a whole, on the digits model, with the reference in place of compiled code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.errors import UsageError
from tflite2q.evaluation import calibration
from tflite2q.evaluation.compare import dataset
from tflite2q.evaluation.data import Dataset
from tflite2q.execution import reference
from tflite2q.flatbuffer import writer
from tflite2q.mixing import Settings, measure, run, search
from tflite2q.mixing.replay import Replay
from tflite2q.rewrites import scheme

SCHEMES = ["int8", "int8-w4"]


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole mixes judged by the reference: the same bits, without compiling a dozen models."""
    monkeypatch.setattr(
        measure.runtime, "compile", lambda graph, *_: SimpleNamespace(run=partial(reference.run, graph))
    )


@pytest.fixture
def samples(digits: Path, digits_data: tuple[Path, Path]) -> Dataset:
    data, labels = digits_data
    return dataset(tflite2q.load(digits), data, labels, 80)


def find(graph: Graph, samples: Dataset, state: Path | None = None, **settings: float) -> measure.Any:
    return search(graph, [scheme.find(name) for name in SCHEMES], samples, Settings(**settings), state)  # type: ignore[arg-type]


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


@pytest.mark.usefixtures("uncompiled")
def test_search_keeps_its_promise_and_its_file_gives_the_model_it_measured(
    digits: Path, samples: Dataset, tmp_path: Path
) -> None:
    graph = tflite2q.load(digits)
    found = find(graph, samples, max_drop=2.5)
    assert found.complete
    assert found.mix
    assert found.chosen.points_lost is not None
    assert found.chosen.points_lost <= 2.5
    path = tmp_path / "mixed.toml"
    path.write_text(found.text)
    converted = tflite2q.convert(graph, path)
    judge = measure.Judge(graph, samples, None, "native", 1)
    assert measure.loss(judge.accuracy(converted.graph, measure.comparison.quiet)) == found.chosen.points_lost
    base = tflite2q.convert(graph, "int8")
    assert len(writer.write(converted.graph)) < len(writer.write(base.graph))
    assert len(writer.write(converted.graph)) == found.chosen.measured_cost
    assert found.chosen.measured_cost == pytest.approx(found.chosen.cost, rel=0.02)
    assert found.base.measured_cost == len(writer.write(base.graph))


@pytest.mark.usefixtures("uncompiled")
def test_speed_is_measured_of_whole_mixes(digits: Path, samples: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock on which a multiply-accumulate takes as long as the codes it leads to have bytes."""

    def op_times(graph: Graph, target: str, threads: int) -> dict[str, float]:
        widths = {op.name: np.dtype(graph[op.name].type.dtype).itemsize for op in graph.ops}
        return {op.name: widths[op.name] * (1 + op.macs(graph.ins(op), graph.outs(op))) for op in graph.ops}

    def whole_times(graphs: Sequence[Graph], target: str, threads: int) -> list[float]:
        return [sum(op_times(graph, target, threads).values()) for graph in graphs]

    monkeypatch.setattr(run, "op_times", op_times)
    monkeypatch.setattr(run, "whole_times", whole_times)
    chosen = [scheme.find(name) for name in ("int16x8", "int8")]
    graph = tflite2q.load(digits)
    found = search(graph, chosen, samples, Settings("speed", 100.0, sensitivity_samples=2))
    assert set(found.mix.values()) == {1}  # places in the list of schemes
    for point, name in ((found.base, "int16x8"), (found.chosen, None)):
        new = tflite2q.convert(graph, name or scheme.parse(found.text, "found")).graph
        assert [point.measured_cost] == whole_times([new], "native", 1)
    assert found.chosen.measured_cost is not None and found.base.measured_cost is not None
    assert found.chosen.measured_cost < 0.6 * found.base.measured_cost


def test_the_clock_runs(digits: Path) -> None:
    graph = tflite2q.load(digits)
    assert set(measure.op_times(graph, "native", 1)) == {op.name for op in graph.ops}
    assert min(measure.whole_times([graph], "native", 1)) > 0


@pytest.mark.usefixtures("uncompiled")
def test_a_search_is_taken_up_where_it_was_and_ends_the_same(
    digits: Path, samples: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, state = tflite2q.load(digits), tmp_path / "mixed.search.json"
    whole = find(graph, samples, max_drop=2.5)
    error, calls = measure.Sensitivity.error, []

    def stopping(self: measure.Sensitivity, variant: Graph) -> float:
        calls.append(variant)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return error(self, variant)

    monkeypatch.setattr(measure.Sensitivity, "error", stopping)
    with pytest.raises(KeyboardInterrupt):
        find(graph, samples, state, max_drop=2.5)
    monkeypatch.setattr(measure.Sensitivity, "error", error)
    resumed = find(graph, samples, state, max_drop=2.5)
    assert resumed.text == whole.text
    assert resumed.points == whole.points


@pytest.mark.usefixtures("uncompiled")
def test_no_time_means_no_change(digits: Path, samples: Dataset) -> None:
    found = find(tflite2q.load(digits), samples, budget=0.0)
    assert not found.complete
    assert not found.mix


def test_schemes_that_do_not_differ_are_refused(digits: Path, samples: Dataset) -> None:
    graph = tflite2q.load(digits)
    with pytest.raises(UsageError, match="choose schemes that differ"):
        search(graph, [scheme.find("int8")] * 2, samples)
    with pytest.raises(UsageError, match="goal"):
        search(graph, [scheme.find(name) for name in SCHEMES], samples, Settings(goal="beauty"))
