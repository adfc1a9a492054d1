"""The HTML report: what it says, what it escapes, what it needs, and how a browser shows it."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report.test_reports import COMPARISON

from tflite2q.evaluation.figures import Change, Pair
from tflite2q.evaluation.results import Comparison, Diagnosis, Histogram, Layer, Provenance, Source
from tflite2q.evaluation.thumbnails import png
from tflite2q.micro.memory import Block, Layout
from tflite2q.report import explain, html
from tflite2q.report.html import charts
from tflite2q.report.html.charts import Spot

VOID = {"meta", "img", "br", "link", "input"}
EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>\x00\ud800\u202e"
DIAGNOSIS = Diagnosis(
    own_sqnr_db=40.0, own_share=0.02, origin="conv1;bias", clipped=0.034, unused_bits=Pair(0.2, 2.5), step_ratio=2.0,
    histogram=Histogram(-1.0, 3.0, (1, 0, 9), (2, 3, 5), (-1.0, 3.0), (-0.5, 2.0)),
)  # fmt: skip


class Tree(HTMLParser):
    """The elements of a page with their attributes, whether all are closed, and the text by tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == tag]


def full(evil: str = "") -> Comparison:
    """A report that uses every part of the page, with `evil` in everything that files name."""
    accuracy = COMPARISON.accuracy
    assert accuracy is not None
    picture = png(np.zeros((4, 4, 1), np.uint8))
    layers = (replace(COMPARISON.layers[0], ms=Pair(0.25, 0.125)), COMPARISON.layers[1],
              replace(COMPARISON.layers[2], diagnosis=DIAGNOSIS, name=f"logits{evil}", ms=Pair(0.75, 0.25)),
              Layer(f"last{evil}", f"q.add{evil}", None, stays=f"why{evil}", clamp=evil or None))  # fmt: skip
    return replace(
        COMPARISON,
        model=f"a{evil}.tflite",
        other=f"int8{evil}",
        layers=layers,
        notes=(f"note{evil}",),
        accuracy=replace(
            accuracy,
            source=f"photos{evil}",
            changed=(Change(3, f"c{evil}.jpg", f"cat{evil}", f"dog{evil}", f"cat{evil}", picture),),
            classes=tuple(replace(line, name=f"{line.name}{evil}") for line in accuracy.classes),
        ),
        provenance=Provenance("2026-01-02T03:04:05+00:00", f"tflite2q compare {evil}", f"# {evil}",
                              (Source("original", f"a{evil}", 7, "0" * 64),)),
    )  # fmt: skip


@pytest.mark.parametrize("several", [False, True])
def test_names_out_of_files_are_shown_and_never_obeyed(several: bool) -> None:
    evil = full(EVIL)
    page = html.comparison([evil, evil] if several else [evil])
    page.encode("utf-8")
    tree = Tree(page)
    plain = Tree(html.comparison([full(), full()] if several else [full()]))
    assert [tag for tag, _ in tree.elements] == [tag for tag, _ in plain.elements]
    assert not {tag for tag, _ in tree.elements} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert not [key for _, attributes in tree.elements for key in attributes if key.startswith("on")]
    assert tree.open == []
    assert any("<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>" in text for text in tree.texts["span"])
    assert "\x00" not in page


def test_the_page_needs_nothing_from_elsewhere() -> None:
    tree = Tree(html.comparison([full()]))
    links = [value for _, attributes in tree.elements for key, value in attributes.items() if key in ("src", "href")]
    assert all(link is not None and link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert not re.search(r"@import|url\(", "".join(tree.texts["style"]))
    (policy,) = [a["content"] for a in tree.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'")


@pytest.mark.parametrize("several", [False, True])
def test_landmarks_headings_tables_and_pictures_are_told_to_screen_readers(several: bool) -> None:
    tree = Tree(html.comparison([full(), full()] if several else [full()]))
    assert tree.all("html")[0]["lang"] == "en"
    for landmark in ("header", "nav", "main", "footer", "h1", "head"):
        assert len(tree.all(landmark)) == 1, landmark
    ids = [attributes["id"] for _, attributes in tree.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [a["aria-labelledby"] for a in tree.all("section")] + [(a["href"] or "")[1:] for a in tree.all("a")]
    assert set(targets) <= set(ids)
    assert len(tree.all("caption")) == len(tree.all("table")) > 4
    assert all(a.get("scope") in ("row", "col") for a in tree.all("th"))
    assert all(a.get("role") == "img" and a.get("aria-label") for a in tree.all("svg"))
    assert all(a.get("alt") for a in tree.all("img"))
    regions = [a for a in tree.all("div") if a.get("role") == "region"]
    assert len(regions) == len(tree.all("table"))
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in regions)
    levels = [int(tag[1]) for tag, _ in tree.elements if re.fullmatch("h[1-6]", tag)]
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels)), levels


def test_the_page_holds_the_figures_and_the_verdict() -> None:
    text = " ".join(part for parts in Tree(html.comparison([full()])).texts.values() for part in parts)
    for wanted in (
        "1 of 2 gates failed:", "max_top1_drop: drop of top-1 is 0.5 points, the bound is at most 0.2 points",
        "within noise; about 4,711 samples", "84.5 %", "4.00 times as fast", "-10.0 %", "dog", "0" * 64,
        "tflite2q compare", "Accumulated from layer conv1;…: only 2.0 % of the noise is made here.",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_reasons_of_a_layer_in_plain_words() -> None:
    layer = replace(COMPARISON.layers[0], diagnosis=DIAGNOSIS)
    assert explain.reasons(layer) == [
        "Accumulated from layer conv1;…: only 2.0 % of the noise is made here.",
        "Saturates at the clamp: 3.4 % of its results lie beyond the new range.",
        "Wastes 2.5 bits of range: no sample uses them (in the original: 0.2 bits).",
        "Its step is 2.00 times as wide as the original's.",
        "The weights of 2 of 24 channels were rescaled and rounded again.",
        "For equal inputs its result differs by at most 3.25 steps.",
    ]
    assert explain.done(layer) == "rescaled: weights lost precision; 2 of 24 channels rescaled"
    assert explain.reasons(Layer("x", "q.add")) == []


def test_bars_are_higher_the_more_noise_there_is() -> None:
    lines = [Layer("a", "q.add", sqnr_db=0.0), Layer("b", "q.add", sqnr_db=30.0), Layer("c", "q.add", sqnr_db=99.0),
             Layer("d", "q.add", max_step_error=0.0)]  # fmt: skip
    bars = list(charts.layers(lines, ["a"]).iter("rect"))
    assert [bar.get("height") for bar in bars] == ["100", "50", "1"]
    assert [bar.get("class") for bar in bars] == ["bar worst", "bar", "bar"]


def test_times_of_layers_are_drawn_to_one_scale() -> None:
    drawing = charts.times([("a", Pair(0.4, 0.1)), ("b", Pair(0.0, 0.2))])
    assert [bar.get("height") for bar in drawing.iter("rect")] == ["100", "25", "0", "50"]
    assert [title.text for title in drawing.iter("title")] == [
        "1. a: 0.400 ms → 0.100 ms",
        "2. b: 0.0000 ms → 0.200 ms",
    ]
    page = html.comparison([full()])
    assert "the original, 1.000 ms in all, blue: the converted model, 0.375 ms" in page
    untimed = replace(full(), layers=tuple(replace(line, ms=None) for line in full().layers))
    assert "The time of each layer" not in html.comparison([untimed])


def test_the_front_holds_what_no_other_model_beats() -> None:
    points = [Spot("0", 1.0, 90.0), Spot("1", 2.0, 90.0), Spot("2", 3.0, 80.0), Spot("3", 2.5, 79.0)]
    assert [spot.mark for spot in charts.front(points, True)] == ["1", "2"]
    assert [spot.mark for spot in charts.front(points, False)] == ["0"]
    drawing = charts.scatter(points, True, "speed", "top-1, %")
    assert len(list(drawing.iter("circle"))) == 4
    same = [Spot("0", 1.0, 100.0), Spot("1", 1.0, 100.0), Spot("2", 1.0, 100.0)]
    assert len(list(charts.scatter(same, True, "speed", "top-1, %").iter("circle"))) == 3


def test_several_models_have_an_overview_with_pareto_pictures() -> None:
    page = html.comparison([full(), replace(full(), other="float32")])
    assert "2 models: int8, float32" in page
    assert page.count('class="scatter"') == 2


def test_the_command_writes_it_with_its_own_command_line(cli: Callable[..., Any], digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "report & more.html"
    outcome = cli("compare", digits, "--scheme", "int8", "--limit", 2, "--no-speed", "--html", path)
    assert outcome.code == 0
    tree = Tree(path.read_text(encoding="utf-8"))
    assert tree.open == []
    commands = [text for text in tree.texts["code"] if text.startswith("tflite2q compare")]
    assert commands == [f"tflite2q compare {digits} --scheme int8 --limit 2 --no-speed --html '{path}'"]
    printed = cli("compare", digits, digits, "--limit", 2, "--no-speed", "--html", "-").out
    assert printed.startswith("<!doctype html>") and Tree(printed).open == []


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Callable[..., str]]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; on Debian: apt-get install chromium")

    def run(*options: str) -> str:
        command = [CHROMIUM or "", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                   f"--user-data-dir={tmp_path / 'profile'}", *options]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    yield run


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1400])
def test_chromium_shows_it_light_and_dark_within_the_width_of_the_window(
    browser: Callable[..., str], tmp_path: Path, width: int
) -> None:
    page = tmp_path / "report.html"
    page.write_text(html.comparison([full(EVIL), full()]), encoding="utf-8")
    corners = []
    for number, dark in enumerate((False, True)):
        shot = tmp_path / f"{number}.png"
        scheme = ("--blink-settings=preferredColorScheme=0",) if dark else ()
        browser(f"--window-size={width},2000", f"--screenshot={shot}", *scheme, page.as_uri())
        picture = Image.open(shot).convert("RGB")
        assert picture.size == (width, 2000)
        corners.append(picture.getpixel((2, 2)))
        # Nothing reaches the right edge: the page does not scroll sideways.
        edge = {picture.getpixel((width - 3, y)) for y in range(0, 2000, 7)}
        assert edge == {corners[-1]}
    assert corners == [(255, 255, 255), (20, 23, 28)]


@pytest.mark.slow
def test_chromium_runs_nothing_of_it_and_reads_it_as_it_was_written(
    browser: Callable[..., str], tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    page.write_text(html.comparison([full(EVIL)]), encoding="utf-8")
    read = browser("--dump-dom", page.as_uri())
    written = Tree(page.read_text(encoding="utf-8"))
    assert [tag for tag, _ in Tree(read).elements] == [tag for tag, _ in written.elements]


def test_the_arena_is_a_box_for_each_tensor() -> None:
    blocks = (Block(EVIL, 0, 600, 0, 1), Block("b", 600, 400, 1, 1))
    page = html.comparison([replace(COMPARISON, memory=Layout("cortex-m4", 1000, ("conv", "fc"), blocks))])
    boxes = [
        attributes for tag, attributes in Tree(page).elements if (tag, attributes.get("class")) == ("rect", "block")
    ]
    (tall, wide), (low, thin) = ((float(box["height"] or 0), float(box["width"] or 0)) for box in boxes)
    assert tall / low == pytest.approx(1.5, rel=1e-4) and wide / thin == pytest.approx(2, rel=1e-4)
    assert float(boxes[1]["y"] or 0) + low == pytest.approx(float(boxes[0]["y"] or 0), abs=1e-3)
    assert "<script>alert(1)" not in page and "1,000 bytes" in page
    assert "block" not in {a.get("class") for _, a in Tree(html.comparison([COMPARISON])).elements}
