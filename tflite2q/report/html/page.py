"""The page: what it is, one comparison or several, and what a browser may do with it (nothing but show it)."""

from __future__ import annotations

from collections.abc import Sequence

from tflite2q.evaluation.results import Comparison
from tflite2q.report import tables
from tflite2q.report.html import charts, sections
from tflite2q.report.html.markup import Child, Node, node, written
from tflite2q.report.html.sections import Place, named
from tflite2q.report.html.style import STYLE
from tflite2q.report.html.tables import drawn
from tflite2q.version import __version__

# Nothing is fetched and nothing runs, whatever a name in a file says.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
LEAST_SPOTS = 3  # points of a scatter plot that says something: the original and two others


def comparison(results: Sequence[Comparison]) -> str:
    """A whole document: one comparison, or several with the same original and an overview of them."""
    title = " → ".join(_title(results))
    head = node(
        "head",
        node("meta", charset="utf-8"),
        node("meta", http_equiv="Content-Security-Policy", content=POLICY),
        node("meta", name="viewport", content="width=device-width, initial-scale=1"),
        node("meta", name="color-scheme", content="light dark"),
        node("meta", name="generator", content=f"tflite2q {__version__}"),
        node("title", title),
        node("style", STYLE),
    )
    parts, links = _one(results[0]) if len(results) == 1 else _several(results)
    model, other = _title(results)
    body = node(
        "body",
        node("a", "Skip to the result", href="#main", class_="skip"),
        node("header", node("h1", named(model), " → ", named(other))),
        node("nav", node("ul", *(node("li", node("a", text, href=f"#{to}")) for to, text in links)),
             aria_label="Parts of this report"),
        node("main", *parts, id="main", tabindex="-1"),
        node("footer", node("p", f"Written by tflite2q {__version__}. Shares and times are explained in its "
                                 "documentation, on the page about comparing two models.")),
    )  # fmt: skip
    return "<!doctype html>\n" + written(node("html", head, body, lang="en")) + "\n"


def fragment(result: Comparison) -> str:
    """The headline and what belongs to it, for a notebook: plain elements without a style of their own."""
    found = sections.of(result, Place(4, "tflite2q-"))
    title = node("p", node("strong", named(result.model), " → ", named(result.other)))
    shown = [part for name, _, part in found if name in ("summary", "engines")]
    return written(node("div", title, *shown))


def _title(results: Sequence[Comparison]) -> tuple[str, str]:
    first = results[0]
    others = first.other if len(results) == 1 else f"{len(results)} models: {', '.join(r.other for r in results)}"
    return first.model, others


def _one(result: Comparison) -> tuple[list[Node], list[tuple[str, str]]]:
    found = sections.of(result, Place(2, ""))
    return [part for _, _, part in found], [(name, title) for name, title, _ in found]


def _several(results: Sequence[Comparison]) -> tuple[list[Node], list[tuple[str, str]]]:
    parts, links = [_overview(results)], [("overview", "All models")]
    for number, result in enumerate(results, start=1):
        prefix = f"model-{number}"
        heading = node("h2", f"{number}. ", named(result.other), id=prefix)
        inner = [part for _, _, part in sections.of(result, Place(3, f"{prefix}-"))]
        parts.append(node("section", heading, *inner, aria_labelledby=prefix))
        links.append((prefix, f"{number}. {result.other}"))
    return parts, links


def _overview(results: Sequence[Comparison]) -> Node:
    """The models side by side, and accuracy against speed and size."""
    rows = tables.summary(results)
    numbered = tables.Rows(
        f"{len(results)} models compared with {results[0].model}",
        rows.columns,
        tuple((f"{k}. {row[0]}", *row[1:]) for k, row in enumerate(rows.rows, start=1)),
    )
    verdict = sections.verdict(results)
    return node("section", node("h2", "All models", id="overview"), verdict, drawn(numbered), _pareto(results),
                aria_labelledby="overview")  # fmt: skip


def _pareto(results: Sequence[Comparison]) -> Node | None:
    scored = any(result.headline is not None and result.headline.stages[-1].score is not None for result in results)
    measure = next((result.headline.measure for result in results if result.headline is not None), "")
    y_label = f"{measure}, %" if scored else f"{measure} as the original, %"
    plots: list[Child] = []
    for by, x_label, more in (("gain", "times as fast as the original in LiteRT", True), ("size", "size, kB", False)):
        points = charts.spots(results, by)
        if len(points) >= LEAST_SPOTS:
            better = "right" if more else "left"
            caption = f"Higher is more accurate, further {better} is better. The dashed line joins the models that no "
            caption += "other one beats in both; 0 is the original, the others have the numbers of the table."
            drawing = charts.scatter(points, more, x_label, y_label)
            plots.append(node("figure", drawing, node("figcaption", caption)))
    return node("div", *plots, class_="pair") if plots else None
