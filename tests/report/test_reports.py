"""Reports as people read them, from values made by hand."""

from __future__ import annotations

import io
import json as encoder
import math
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from tflite2q.dialect import names
from tflite2q.evaluation.figures import Change, ClassLine, Difference, Figure, Pair, Score, TaskInfo
from tflite2q.evaluation.inspection import Inspection, LayerInfo, SchemeEffect, TensorInfo
from tflite2q.evaluation.prediction import Class, Prediction, Summary
from tflite2q.evaluation.results import (
    Accuracy,
    Comparison,
    EngineRun,
    Environment,
    Gate,
    Headline,
    Layer,
    Size,
    Speed,
    Stage,
    Timing,
)
from tflite2q.report import json, junit, markdown, text, words

LAYERS = (
    Layer("conv1;bias", "q.conv2d", "rescaled", 24, 2, 3.25, 53.4, 1.0),
    Layer("pool", "q.average_pool2d", "exact", None, None, 1.0, None, 0.0),
    Layer("logits", "q.dense", "rescaled", 10, 10, 28.9, 36.5, 2.0),
)
DIFFERENCE = Difference(-0.005, -0.024, 0.014, False, 2, 1, 1.0, 4711)
COMPARISON = Comparison(
    model="a.tflite",
    other="int8",
    scheme="int8",
    target="native",
    layers=LAYERS,
    accuracy=Accuracy(
        "photos", 200, Pair(0.85, 0.845), Pair(0.98, 0.98), 0.995, 3.0, 0.0125,
        agreement=0.995,
        task=TaskInfo("classification", "output 'y' is a softmax of 10 classes", named=True),
        scores=(Score("top1", "top-1", 0.85, 0.845, DIFFERENCE),),
        figures=(Figure("agreement", "same class", 0.995, "share", 0.972, 0.9991),
                 Figure("sqnr_db", "signal to noise", math.inf, "dB")),
        classes=(ClassLine(0, "cat", 9, 1.0, 0.5), ClassLine(1, None, 4, 1.0, 1.0)),
        changed=(Change(3, "c.jpg", "cat (0.5)", "dog (0.6)", "cat"),),
        changed_count=1,
    ),
    speed=Speed(2, 6.0, 2.0, 3.0, 8.0, None),
    size=Size(1_000_000, 900_000),
    notes=("something was not measured",),
    headline=Headline("top-1", (
        Stage("original in LiteRT", "litert", "original", 0.85, None, None, 8.0, None),
        Stage("converted, compiled", "compiled", "converted", 0.845, 0.995, DIFFERENCE, 2.0, 4.0),
    )),
    engines=(
        EngineRun("litert", "LiteRT", "original", 200, 0.85, timing=Timing(8.0, 7.9, 8.3, 100)),
        EngineRun("litert", "LiteRT", "converted", 0, failed="it refuses"),
        EngineRun("compiled", "tflite2q, compiled", "converted", 200, 0.845, 0.995, 3.0, 1.0, 0.0,
                  Timing(2.0, 1.9, 2.5, 100)),
    ),
    gates=(Gate("max_top1_drop", "drop of top-1", 0.5, 0.2, False, "points"),
           Gate("min_speedup", "original to converted", 4.0, 2.0, True, "times")),
    environment=Environment("CPU", 2, "Linux x86_64", "3.11.7", (("tflite2q", "1"), ("numpy", "2"))),
)  # fmt: skip


def rendered(draw: Callable[[Console], None], terminal: bool = False) -> str:
    stream = io.StringIO()
    draw(Console(file=stream, force_terminal=terminal, width=160, highlight=False))
    return stream.getvalue()


def test_comparison() -> None:
    lines = [line.rstrip() for line in rendered(lambda console: text.comparison(console, COMPARISON)).splitlines()]
    assert lines == [
        "a.tflite -> int8",
        "200 samples of photos",
        "task: classification (output 'y' is a softmax of 10 classes; task chooses another)",
        "                      top-1                      change      time                gain",
        "original in LiteRT   85.0 %                              8.000 ms",
        "converted, compiled  84.5 %  -0.5 points (within noise)  2.000 ms  4.00 times as fast",
        "size: 1,000 kB -> 900 kB (-10.0 %)",
        "top-1, the same engine: -0.5 points, 95 % interval -2.4 to +1.4, 2 lost and 1 gained, McNemar's exact "
        "p = 1.000: within noise; about 4,711 samples would decide",
        "a difference this large",
        "",
        "engines:",
        "engine              model      samples   top-1  as original here  as reference kernels      time    "
        "10 % to 90 %",
        "LiteRT              original       200  85.0 %                                          8.000 ms  "
        "7.900 to 8.300",
        "tflite2q, compiled  converted      200  84.5 %   99.5 %, 3 steps                 equal  2.000 ms  "
        "1.900 to 2.500",
        "",
        "scores, both models in the same engine:",
        "score  original  converted       change  95 % interval",
        "top-1    85.0 %     84.5 %  -0.5 points   -2.4 to +1.4",
        "",
        "the converted model against the original, in the same engine:",
        "figure",
        "same class       99.5 % (95 % interval 97.2 % to 99.9 %)",
        "signal to noise                                 no noise",
        "",
        "classes that changed, worst first (1 of 1):",
        "class  count  original  converted",
        "cat        9   100.0 %     50.0 %",
        "",
        "samples that changed their answer (1 of 1):",
        "sample  original   converted  truth",
        "c.jpg   cat (0.5)  dog (0.6)  cat",
        "",
        "1 of 3 layers give equal results in both; errors inside the whole model:",
        "layer    op        loss                         bound, steps  signal/noise  largest error, steps",
        "logits   q.dense   rescaled: 10 of 10 channels          28.9       36.5 dB                     2",
        "conv1;…  q.conv2d  rescaled: 2 of 24 channels           3.25       53.4 dB                     1",
        "note: something was not measured",
        "measured on CPU, 2 cores, 2 threads, Linux x86_64, Python 3.11.7; tflite2q 1, numpy 2",
        "FAILED max_top1_drop: drop of top-1 is 0.5 points, the bound is at most 0.2 points",
        "passed min_speedup: original to converted is 4.00 times, the bound is at least 2.00 times",
    ]


def test_made_up_samples_are_called_that() -> None:
    accuracy = Accuracy("synthetic inputs", 8, None, None, 1.0, 0.0, 0.0, synthetic=True)
    assert words.samples(accuracy) == "8 samples of synthetic inputs: agreement on synthetic inputs, not accuracy"


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (1.0, "100.0 %"),
        (0.99999, "99.999 %"),
        (0.9996, "99.960 %"),
        (0.5, "50.0 %"),
        (0.0, "0.0 %"),
        (0.0001, "0.01 %"),
    ],
)
def test_a_share_that_is_not_whole_never_reads_so(share: float, expected: str) -> None:
    assert words.percent(share) == expected


def test_several_comparisons_begin_with_a_summary() -> None:
    other = Comparison("a.tflite", "[b]", None, None, ())
    shown = rendered(lambda console: text.comparisons(console, [COMPARISON, other]))
    assert shown.index("converted   score") == 0
    assert "[b]" in shown.splitlines()[2]
    documents = json.comparisons([COMPARISON, other])["comparisons"]
    assert [document["other"] for document in documents] == ["int8", "[b]"]


def test_markdown_says_the_verdict_first_and_escapes() -> None:
    shown = markdown.comparison([COMPARISON])
    lines = shown.splitlines()
    assert lines[0] == "## a.tflite → int8"
    assert lines[2] == "**1 of 2 gates failed**"
    assert "| max\\_top1\\_drop (drop of top-1) | 0.5 points | at most 0.2 points | **FAILED** |" in lines
    assert "| converted, compiled | 84.5 % | -0.5 points (within noise) | 2.000 ms | 4.00 times as fast |" in lines
    for table in shown.split("\n\n"):
        widths = {line.count(" | ") for line in table.splitlines() if line.startswith("| ")}
        assert len(widths) <= 1, table
    odd = Comparison("<b>|*x*", "`y`", None, None, ())
    assert markdown.comparison([odd]).splitlines()[0] == "## \\<b\\>\\|\\*x\\* → \\`y\\`"


def test_junit_has_a_case_a_gate() -> None:
    root = ElementTree.fromstring(junit.comparison([COMPARISON, Comparison('<&"', "b", None, None, ())]))
    first, second = root.findall("testsuite")
    assert (first.get("tests"), first.get("failures")) == ("2", "1")
    assert [case.get("name") for case in first.findall("testcase")] == ["max_top1_drop", "min_speedup"]
    failure = first.find("testcase/failure")
    assert failure is not None
    assert (
        failure.get("message") == "FAILED max_top1_drop: drop of top-1 is 0.5 points, the bound is at most 0.2 points"
    )
    assert (second.get("name"), second.get("tests"), second.get("failures")) == ('<&" -> b', "1", "0")


def test_every_layer_is_shown_when_asked_for() -> None:
    shown = rendered(lambda console: text.comparison(console, COMPARISON, every_layer=True))
    assert "pool" in shown
    assert "pool" not in rendered(lambda console: text.comparison(console, COMPARISON))


def test_a_terminal_gets_lines_and_a_pipe_plain_columns() -> None:
    assert "─" in rendered(lambda console: text.comparison(console, COMPARISON), terminal=True)
    plain = rendered(lambda console: text.comparison(console, COMPARISON))
    assert "─" not in plain
    assert "\x1b" not in plain


def test_conversion() -> None:
    shown = rendered(lambda console: text.conversion(console, COMPARISON, ["out.tflite", "out.so"]))
    assert "2 of 2 changed layers" in shown
    assert shown.index("logits") < shown.index("conv1;…")
    assert "layers: 2 rescaled, 1 exact; 12 of 34 weight channels rescaled\n" in shown
    assert "size: 1,000 kB -> 900 kB (-10.0 %)\n" in shown
    assert shown.endswith("wrote out.tflite\nwrote out.so\n")


def test_what_a_scheme_left_alone_is_listed() -> None:
    left = Comparison("a", "s", "s", None, (*LAYERS, Layer("x", "q.lstm"), Layer("y", "q.lstm")))
    assert "left unchanged: 2 q.lstm\n" in rendered(lambda console: text.conversion(console, left, []))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("short", "short"),
        ("a/Relu6;b/Fold;c", "a/Relu6;…"),
        ("x" * 64, "x" * 64),
        ("a" * 40 + "b" * 40, "a" * 31 + "…" + "b" * 32),
    ],
)
def test_names_in_tables(name: str, expected: str) -> None:
    assert names.short(name) == expected


def test_markup_in_names_is_printed_as_it_is() -> None:
    odd = Comparison("[bold]a.tflite", "b", None, None, (Layer("[/red]x", "q.add", sqnr_db=1.0, max_step_error=1.0),))
    shown = rendered(lambda console: text.comparison(console, odd))
    assert "[bold]a.tflite" in shown
    assert "[/red]x" in shown


def test_inspection() -> None:
    weights = TensorInfo("w", "int8", (8, 3, 3, 3), (0.1,) * 8, (0,) * 8, 0)
    result = TensorInfo("y", "int8", (1, 4, 4, 8), (0.25,), (-3,))
    found = Inspection(
        model="a.tflite",
        size=1234,
        description="",
        inputs=(TensorInfo("x", "float32", (1, 4, 4, 3)),),
        outputs=(result,),
        layers=(LayerInfo(0, "y", "q.conv2d", "CONV_2D", result, weights, 3456),),
        parameters=216,
        macs=3456,
        schemes=(
            SchemeEffect("int8", "s", refused="nothing: the model already follows this scheme"),
            SchemeEffect("other", "s", (("exact", 1), ("rescaled", 2)), 8, 3),
        ),
    )
    shown = rendered(lambda console: text.inspection(console, found))
    for part in (
        "a.tflite: 1,234 bytes, 1 layer, 216 parameters, 3.46 k multiply-accumulates",
        "input x: float32[1x4x4x3]\n",
        "output y: int8[1x4x4x8] scale 0.25 zero point -3\n",
        "int8[8x3x3x3] 8 scales",
        "nothing: the model already follows this scheme",
        "layers: 1 exact, 2 rescaled; 3 of 8 weight channels rescaled",
    ):
        assert part in shown
    assert json.inspection(found)["layers"][0]["weights"]["axis"] == 0


def test_prediction() -> None:
    best = Summary("y", (Class(3, 0.5, "cat"), Class(1, 0.25)), 0.0, 0.5, "cat: 0.5, class 1: 0.25")
    results = [Prediction("a.png", (), (best, Summary("z", (), -1.0, 2.0, "-1 to 2")), document={"boxes": []})]
    shown = rendered(lambda console: text.prediction(console, results))
    assert "cat: 0.5, class 1: 0.25" in shown
    assert "-1 to 2" in shown
    document = json.prediction("m", results, "detection")
    assert document["task"] == "detection"
    assert document["predictions"][0]["outputs"][0]["classes"][0] == {"class": 3, "name": "cat", "score": 0.5}
    assert document["predictions"][0]["boxes"] == []


def test_json_of_a_comparison() -> None:
    document: dict[str, Any] = encoder.loads(encoder.dumps(json.comparison(COMPARISON), allow_nan=False))
    assert document["schema_version"] == 1
    assert document["accuracy"]["top1"] == {"original": 0.85, "converted": 0.845}
    assert document["speed"]["litert_converted_ms"] is None
    assert document["accuracy"]["figures"][1]["value"] is None  # infinite
    assert document["gates"][0]["passed"] is False
    assert document["environment"]["versions"] == {"tflite2q": "1", "numpy": "2"}
    assert document["size"] == {"original": 1_000_000, "converted": 900_000}
    assert document["layers"][0] == {
        "name": "conv1;bias",
        "op": "q.conv2d",
        "loss": "rescaled",
        "channels": 24,
        "channels_rescaled": 2,
        "bound": 3.25,
        "sqnr_db": 53.4,
        "max_step_error": 1.0,
        "clamp": None,
        "stays": None,
        "diagnosis": None,
        "ms": None,
    }
    assert document["notes"] == ["something was not measured"]
