"""The checks of one file can fail: each kind of damage to the program is told as what it is."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from networks import Net
from streaming import streaming

import tflite2q
from compatibility import conversions, original
from compatibility.original import Subject
from compatibility.records import CRASH, DOCUMENTED, NOTHING, OK, REFUSED, UNMEASURED, WRONG, Check
from compatibility.stages import Log
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.conv import Conv2D
from tflite2q.errors import ModelError
from tflite2q.execution import reference, runtime
from tflite2q.flatbuffer import writer
from tflite2q.rewrites import Conversion

pytest.importorskip("ai_edge_litert")

PLAN = ["load", "reference", "scheme/symmetric-int8", "scheme/int8", "compiled/native", "converted/int8"]
Examine = Callable[..., dict[str, Check]]


def network() -> Graph:
    """A convolution cut off at 6, and one more."""
    net = Net(seed=3)
    x = net.input("x", (1, 6, 6, 3), (0.02, 120))
    y = net.conv(x, "first", 8, (6 / 255, 0), size=3, activation="RELU6")
    return net.graph(net.conv(y, "second", 4, (0.3, 128)))


@pytest.fixture(params=[network])
def examine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Examine]:
    """Runs stages on the network in this process; their checks by part."""
    path = tmp_path / "model.tflite"
    path.write_bytes(writer.write(request.param()))
    stream = io.StringIO()
    subject = Subject(path, Log(stream, PLAN, time.monotonic() + 600.0), None)

    def call(stage: str, *needed: str) -> dict[str, Check]:
        for name in ("load", *needed, stage):
            subject.log.begin(name)
            kind, _, argument = name.partition("/")
            if kind in ("load", "reference"):
                getattr(original, "load" if kind == "load" else "reference")(subject)
            else:
                steps: dict[str, Any] = {
                    "scheme": conversions.scheme, "compiled": original.compiled, "converted": conversions.compiled
                }  # fmt: skip
                steps[kind](subject, argument)
        events = [json.loads(line) for line in stream.getvalue().splitlines()]
        checks = [Check(**event["check"]) for event in events if "check" in event]
        return {check.part: check for check in checks if check.stage == stage}

    yield call
    subject.close()


def off_by_one(result: np.ndarray) -> np.ndarray:
    changed = result.copy()
    changed.reshape(-1)[-1] ^= 1
    return changed


def test_a_program_that_is_right(examine: Examine) -> None:
    found = examine("reference")
    assert {check.state for check in found.values()} == {OK}
    assert found["judge 0"].figures == {"judge": "LiteRT", "tensors": 2, "of": 2}
    for stage in ("scheme/symmetric-int8", "compiled/native", "converted/int8"):
        assert {check.state for check in examine(stage).values()} <= {OK}, stage


def test_a_reference_one_off(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    run = reference.run_every

    def damaged(graph: Graph, *inputs: Any) -> dict[str, Any]:
        return {name: off_by_one(array) if name == "first" else array for name, array in run(graph, *inputs).items()}

    monkeypatch.setattr(reference, "run_every", damaged)
    check = examine("reference")["judge 0"]
    assert check.state == WRONG
    assert check.detail == "q.conv2d first: 1 of 288 elements differ, by up to 1"


def test_a_difference_where_the_op_says_that_it_deviates(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    run = reference.run_every
    monkeypatch.setattr(Conv2D, "deviation", "rounds otherwise")
    monkeypatch.setattr(
        reference, "run_every", lambda *given: {n: off_by_one(a) if n == "first" else a for n, a in run(*given).items()}
    )
    check = examine("reference")["judge 0"]
    assert check.state == DOCUMENTED
    assert check.detail.endswith("docs/ops.md: rounds otherwise")


@pytest.mark.parametrize(("deviation", "state"), [("rounds otherwise", DOCUMENTED), ("", WRONG)])
def test_a_converted_file_that_differs(
    deviation: str, state: str, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = reference.Stream.steps

    def damaged(self: reference.Stream, inputs: Any) -> Iterator[tuple[str, Any]]:
        for name, array in steps(self, inputs):
            yield name, off_by_one(array) if name[:6] == "second" else array

    monkeypatch.setattr(Conv2D, "deviation", deviation)
    monkeypatch.setattr(reference.Stream, "steps", damaged)
    assert examine("scheme/symmetric-int8", "reference")["LiteRT reference"].state == state


def test_a_conversion_that_loses_a_clamp(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file, its reference and LiteRT agree with each other: only the outputs tell."""
    convert = tflite2q.convert

    def damaged(graph: Graph, name: str) -> Conversion:
        made = convert(graph, name)
        ops = tuple(op.with_(activation="NONE") if hasattr(op, "activation") else op for op in made.graph.ops)
        return replace(made, graph=made.graph.with_(ops=ops))

    monkeypatch.setattr(tflite2q, "convert", damaged)
    found = examine("scheme/symmetric-int8", "reference")
    assert found["LiteRT reference"].state == OK
    assert found["likeness"].state == WRONG
    assert found["likeness"].figures["figure"] < found["likeness"].figures["floor"]


def test_a_conversion_that_is_not_what_its_file_says(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    load = tflite2q.load

    def damaged(path: Path) -> Graph:
        graph = load(path)
        return graph.with_(name="another") if path.name == "converted.tflite" else graph

    monkeypatch.setattr(tflite2q, "load", damaged)
    check = examine("scheme/int8", "reference")["file"]
    assert (check.state, check.detail[:43]) == (WRONG, "reading the written file changes its name: "[:43])


def test_compiled_code_one_off(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    class Executable:
        def __init__(self, graph: Graph, target: str = "native") -> None:
            self.graph = graph

        def run(self, *inputs: Any) -> list[Any]:
            return [off_by_one(array) for array in reference.run(self.graph, *inputs)]

        def stream(self) -> Any:
            return SimpleNamespace(step=self.run)

    monkeypatch.setattr(tflite2q, "compile", Executable)
    assert examine("compiled/native", "reference")["run"].state == WRONG
    assert examine("converted/int8", "reference")["run"].state == WRONG


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (ModelError("m.tflite: is damaged"), REFUSED, "ModelError: m.tflite: is damaged"),
        (ModelError("two\nlines"), REFUSED, r"ModelError: two\nlines"),
        (ModelError(""), CRASH, "ModelError without a message"),
        (KeyError("x"), CRASH, "KeyError at test_stages.py"),
        (SystemExit(3), CRASH, "SystemExit at test_stages.py"),
        (MemoryError("too much"), CRASH, "MemoryError at test_stages.py"),
    ],
)
def test_what_loading_raises(
    error: BaseException, state: str, words: str, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> Graph:
        raise error

    monkeypatch.setattr(tflite2q, "load", fail)
    found = examine("load")
    assert found["file"].state == state
    assert found["file"].detail.startswith(words)
    assert found["LiteRT"].detail == "runs it"


def test_a_stage_without_time_is_not_measured(tmp_path: Path) -> None:
    stream = io.StringIO()
    log = Log(stream, ["compiled/native"], time.monotonic() - 1.0)
    log.begin("compiled/native")
    assert not log.do("run", lambda: pytest.fail("is run"))
    check = json.loads(stream.getvalue().splitlines()[-1])["check"]
    assert (check["state"], check["detail"]) == (UNMEASURED, "time")


def test_a_scheme_that_changes_nothing(examine: Examine, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(writer.write(tflite2q.convert(network(), "int8", "scheme").graph))
    assert [check.state for check in examine("scheme/int8", "reference").values()] == [NOTHING]


@pytest.mark.parametrize("examine", [streaming], indirect=True)
def test_models_with_state_are_run_over_a_stream(examine: Examine) -> None:
    found = examine("reference")
    assert {check.state for check in found.values()} == {OK}
    assert found["stream"].figures["steps"] == 100 and found["stream"].figures["tensors"] > 10
    assert examine("compiled/native", "reference")["run"].figures["steps"] == 100
    parts = examine("scheme/symmetric-int8", "reference")
    assert all(parts[part].state == OK for part in ("convert", "file", "LiteRT reference", "likeness"))


@pytest.mark.parametrize("examine", [streaming], indirect=True)
def test_a_forgotten_state_is_wrong(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run by itself is right, but what is assigned is lost at the end of the step."""
    with monkeypatch.context() as patch:
        patch.setattr(reference.Stream, "steps", lambda self, inputs: reference.steps(self.graph, inputs))
        found = examine("reference")
    assert found["judge 0"].state == OK and found["stream"].state == WRONG
    with monkeypatch.context() as patch:
        patch.setattr(runtime.Stream, "step", lambda self, *x: self.executable.run(*x))
        found = examine("compiled/native", "reference")
    assert found["run"].state == WRONG
