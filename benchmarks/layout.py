"""Tables as Markdown, and as aligned columns for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MISSING = "-"


def ms(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}" if value < 1 else f"{value:.2f}"


def ratio(a: float, b: float) -> str:
    return f"{a / b:.2f}"


def percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    right = ["---"] + ["---:"] * (len(head) - 1)
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, right, *rows))


def text(markdown: str) -> str:
    """The same tables with aligned columns, for a terminal."""
    lines: list[str] = []
    table: list[list[str]] = []
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("|"):
            table.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
            continue
        if table:
            lines += _aligned(table)
            table = []
        lines.append(line.replace("`", ""))
    return "\n".join(lines).rstrip() + "\n"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    rows = [table[0], *table[2:]]  # without the line of dashes
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
