"""Reports as people read them, from values made by hand."""

from __future__ import annotations

import io
import json as encoder
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from tflite2q.dialect import names
from tflite2q.evaluation.comparison import Accuracy, Comparison, Layer, Pair, Size, Speed
from tflite2q.evaluation.inspection import Inspection, LayerInfo, SchemeEffect, TensorInfo
from tflite2q.evaluation.prediction import Prediction, Summary
from tflite2q.report import json, text

LAYERS = (
    Layer("conv1;bias", "q.conv2d", "rescaled", 24, 2, 3.25, 53.4, 1.0),
    Layer("pool", "q.average_pool2d", "exact", None, None, 1.0, None, 0.0),
    Layer("logits", "q.dense", "rescaled", 10, 10, 28.9, 36.5, 2.0),
)
COMPARISON = Comparison(
    model="a.tflite",
    other="int8",
    scheme="int8",
    target="native",
    layers=LAYERS,
    accuracy=Accuracy("photos", 200, Pair(0.85, 0.845), Pair(0.98, 0.98), 0.995, 3.0, 0.0125),
    speed=Speed(2, 6.0, 2.0, 3.0, 8.0, None),
    size=Size(1_000_000, 900_000),
    notes=("something was not measured",),
)


def rendered(draw: Callable[[Console], None], terminal: bool = False) -> str:
    stream = io.StringIO()
    draw(Console(file=stream, force_terminal=terminal, width=160, highlight=False))
    return stream.getvalue()


def test_comparison() -> None:
    lines = [line.rstrip() for line in rendered(lambda console: text.comparison(console, COMPARISON)).splitlines()]
    assert lines == [
        "a.tflite -> int8",
        "                   original  converted              change",
        "top-1                85.0 %     84.5 %         -0.5 points",
        "top-5                98.0 %     98.0 %         +0.0 points",
        "TVM, 2 threads     6.000 ms   2.000 ms  3.00 times as fast",
        "LiteRT, 2 threads  8.000 ms",
        "size               1,000 kB     900 kB             -10.0 %",
        "200 samples of photos: same class in 99.5 %, outputs differ by at most 3 steps, by 0.0125 on average",
        "1 of 3 layers give equal results in both; errors inside the whole model:",
        "layer    op        loss                         bound, steps  signal/noise  largest error, steps",
        "logits   q.dense   rescaled: 10 of 10 channels          28.9       36.5 dB                     2",
        "conv1;…  q.conv2d  rescaled: 2 of 24 channels           3.25       53.4 dB                     1",
        "note: something was not measured",
    ]


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
        "a.tflite: 1,234 bytes, 1 layers, 216 parameters, 3.46 k multiply-accumulates",
        "input x: float32[1x4x4x3]\n",
        "output y: int8[1x4x4x8] scale 0.25 zero point -3\n",
        "int8[8x3x3x3] 8 scales",
        "nothing: the model already follows this scheme",
        "layers: 1 exact, 2 rescaled; 3 of 8 weight channels rescaled",
    ):
        assert part in shown
    assert json.inspection(found)["layers"][0]["weights"]["axis"] == 0


def test_prediction() -> None:
    results = [Prediction("a.png", (), (Summary("y", ((3, 0.5), (1, 0.25)), 0.0, 0.5), Summary("z", (), -1.0, 2.0)))]
    shown = rendered(lambda console: text.prediction(console, results))
    assert "class 3: 0.5, class 1: 0.25" in shown
    assert "-1 to 2" in shown
    document = json.prediction("m", results)
    assert document["predictions"][0]["outputs"][0]["classes"][0] == {"class": 3, "score": 0.5}


def test_json_of_a_comparison() -> None:
    document: dict[str, Any] = encoder.loads(encoder.dumps(json.comparison(COMPARISON), allow_nan=False))
    assert document["schema_version"] == 1
    assert document["accuracy"]["top1"] == {"original": 0.85, "converted": 0.845}
    assert document["speed"]["litert_converted_ms"] is None
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
    }
    assert document["notes"] == ["something was not measured"]
