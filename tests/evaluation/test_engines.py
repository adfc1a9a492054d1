"""Engines: turns, blocks and processes of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from litert import run_litert
from networks import Net

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.errors import TargetError
from tflite2q.evaluation import data, engines
from tflite2q.evaluation.engines import Called, Contender
from tflite2q.execution import litert
from tflite2q.execution.times import OpTime


def test_times_are_taken_in_turns() -> None:
    turns: list[str] = []

    def timer(name: str, ms: float) -> Any:
        def run(count: int) -> list[float]:
            turns.append(name)
            return [ms] * (count - 1) + [ms * 100]  # one outlier a round moves no median

        return run

    first, second, absent = engines.interleaved([timer("a", 6.0), timer("b", 2.0), None])
    assert first is not None and second is not None
    assert (first.median_ms, second.median_ms, absent) == (6.0, 2.0, None)
    assert turns == ["a", "b"] * (len(turns) // 2)
    assert len(turns) > 10


def test_percentiles() -> None:
    found = engines.timing(list(range(101)))
    assert found is not None
    assert (found.p10_ms, found.median_ms, found.p90_ms, found.runs) == (10, 50, 90, 101)
    assert engines.timing([]) is None


@pytest.mark.parametrize("kernels", [litert.DEFAULT, litert.REFERENCE])
def test_litert_gives_the_outputs_that_it_gives_elsewhere(digits: Path, kernels: str) -> None:
    pytest.importorskip("ai_edge_litert")
    picture = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 1), dtype=np.uint8)
    child = litert.Child(str(digits), 1, kernels)
    try:
        child.start([picture])
        (found,) = child.finish()
        assert len(child.time(5)) == 5
    finally:
        child.close()
    expected = run_litert(digits, [picture], "ref" if kernels == litert.REFERENCE else "default")
    assert np.array_equal(found, next(iter(expected.values())))


def test_litert_says_why_it_refuses(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"not a model")
    child = litert.Child(str(broken), 1)
    try:
        with pytest.raises(TargetError, match="LiteRT refuses it: The model is not a valid Flatbuffer buffer"):
            child.start([np.zeros(3, np.uint8)])
            child.finish()
        assert child.time(3) == []
    finally:
        child.close()


def test_an_engine_that_fails_is_left_out_and_named() -> None:
    net = Net()
    x = net.input("x", (1, 6), (0.5, 0))
    graph = net.graph(net.dense(x, "y", 3, (0.5, 0)))

    def fails(*arrays: Any) -> list[Any]:
        raise TargetError("no more")

    good = Contender("compiled", "original", graph, Called(lambda x: [x]))
    bad = Contender("litert", "original", graph, Called(fails), time=lambda count: [1.0] * count)
    few = Contender("reference", "original", graph, Called(lambda x: [x]), limit=1)
    seen = []
    samples = data.synthetic([graph["x"]], 3)
    engines.run_all([good, bad, few], samples, [graph["x"]], lambda k: seen.append((good.outputs, few.outputs)))
    assert bad.failed == "no more"
    assert [few is not None for _, few in seen] == [True, False, False]
    assert all(full is not None for full, _ in seen)
    engines.time_all([bad])
    assert bad.timing is None


def test_the_table_of_engines_names_what_each_shows(digits: Path, digits_data: tuple[Path, Path]) -> None:
    pytest.importorskip("ai_edge_litert")
    data_file, labels = digits_data
    conversion = tflite2q.convert(digits, "int8")
    found = tflite2q.compare(digits, conversion, data=data_file, labels=labels, limit=40, speed=False)
    rows = {(row.engine, row.model): row for row in found.engines}
    assert set(rows) == {(e, m) for e in {*engines.LABELS} - {engines.EMULATED} for m in ("original", "converted")}
    with np.load(data_file) as held:
        pictures = held["input"][:40]
    true = np.array([int(line.split(",")[1]) for line in labels.read_text().splitlines()[1:41]])
    exe = tflite2q.compile(conversion)
    codes = np.concatenate([exe.run(p[None])[0] for p in pictures])
    assert rows["compiled", "converted"].score == pytest.approx(np.mean(codes.argmax(1) == true))
    # The compiled code is bit for bit the reference, which is LiteRT's reference kernels.
    for engine in ("reference", "compiled"):
        assert rows[engine, "original"].kernel_step_error == 0
        assert rows[engine, "converted"].kernel_step_error == 0
    assert rows["litert-reference", "original"].samples == rows["reference", "original"].samples == 2
    assert [stage.label for stage in (found.headline.stages if found.headline else ())] == [
        "original in LiteRT", "converted in LiteRT", "converted, compiled"
    ]  # fmt: skip


def test_inserted_ops_count_with_the_next_layer_of_both_models(digits: Path) -> None:
    """The times of the converted model add up to those of all its ops, whichever the original has."""
    before, after = tflite2q.load(digits), tflite2q.convert(tflite2q.load(digits), "int8").graph
    assert {op.name for op in after.ops} > {op.name for op in before.ops}  # the ends are casts to and from uint8

    def profile(graph: Graph) -> Any:
        return lambda *_: [OpTime(op.name, op.mnemonic, "", k + 1.0, None, 0.0) for k, op in enumerate(graph.ops)]

    contenders = [
        Contender(engines.COMPILED, model, graph, Called(lambda *_: []), profile=profile(graph))
        for model, graph in ((engines.ORIGINAL, before), (engines.CONVERTED, after))
    ]
    picture = np.zeros((1, 8, 8, 1), np.uint8)
    found = engines.time_ops(contenders, [picture], [before["input"]])
    assert list(found) == [op.name for op in before.ops]
    assert [pair.original for pair in found.values()] == [k + 1.0 for k in range(len(before.ops))]
    assert sum(pair.converted for pair in found.values()) == sum(k + 1.0 for k in range(len(after.ops)))
    assert engines.time_ops(contenders[:1], [picture], [before["input"]]) == {}
