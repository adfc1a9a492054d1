"""Tables of the page: a caption, headings with their scope, and a region that scrolls by keyboard."""

from __future__ import annotations

from collections.abc import Sequence

from tflite2q.report.html.markup import Child, Node, node
from tflite2q.report.tables import Rows

Cell = Node | str


def drawn(rows: Rows, caption: str | None = None) -> Node:
    """A table of texts; the first cell of a row is its heading."""
    return of_cells(caption or rows.title, rows.columns, rows.rows)


def of_cells(caption: str, columns: Sequence[tuple[str, bool]], rows: Sequence[Sequence[Cell]]) -> Node:
    """A table of texts and elements."""
    heads = [_head(text, right) for text, right in columns]
    body = [node("tr", *(_cell(cell, k, columns[k][1]) for k, cell in enumerate(row))) for row in rows]
    table = node("table", node("caption", _sentence(caption)), node("thead", node("tr", *heads)), node("tbody", *body))
    return node("div", table, class_="table", tabindex="0", role="region", aria_label=_sentence(caption))


def _head(text: str, right: bool) -> Node:
    kind = "number" if right else None
    return node("th", text or node("span", "value", class_="hidden"), scope="col", class_=kind)


def _cell(cell: Cell, place: int, right: bool) -> Node:
    if place == 0:
        return node("th", cell, scope="row", class_="number" if right else None)
    failed = isinstance(cell, str) and cell == "FAILED"
    return node("td", cell, class_="failed" if failed else "number" if right else None)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def folded(summary: str, *children: Child) -> Node:
    """Something that opens on demand; it needs no script."""
    return node("details", node("summary", _sentence(summary)), *children)
