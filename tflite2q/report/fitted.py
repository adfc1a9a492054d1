"""Tables that fit their console: names are cut in the middle, sentences wrap; on a terminal to five lines at most."""

from __future__ import annotations

import textwrap
from bisect import bisect_left
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from tflite2q.dialect.names import ELISION, elided

NARROWEST = 6  # characters that a column keeps
HIGHEST = 5  # lines of a row on a terminal; a file or pipe gets all of them
GAP = 2  # characters between columns


class FittedTable:
    """Rows of cells under (heading, right-aligned) columns; without rules unless the console is a terminal."""

    def __init__(self, *columns: tuple[str, bool]) -> None:
        self.columns = columns
        self.rows: list[tuple[str, ...]] = []

    def add_row(self, *cells: Text | str) -> None:
        """A row; tabs and line ends within a cell become spaces."""
        self.rows.append(tuple(" ".join(str(cell).split()) for cell in cells))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cells = [[heading, *(row[k] for row in self.rows)] for k, (heading, _) in enumerate(self.columns)]
        natural = [max(map(len, column)) for column in cells]
        words = [max(len(word) for cell in column for word in cell.split(" ")) for column in cells]
        edges = len(self.columns) + 1 if console.is_terminal else 0  # of the box
        available = options.max_width - GAP * len(self.columns) - edges
        widths = narrowed(natural, words, available)
        if widths != natural:  # names should stay different: a cut one is how a rule may call its layer
            widths = narrowed(natural, words, available, [apart(each, NARROWEST, available // 2) for each in cells])
        box = SIMPLE_HEAD if console.is_terminal else None
        table = Table(box=box, pad_edge=False, padding=(0, GAP, 0, 0))
        for (heading, right), width in zip(self.columns, widths, strict=True):
            table.add_column(Text(fitted(heading, width)), justify="right" if right else "left", no_wrap=True)
        highest = HIGHEST if console.is_terminal else None
        for row in self.rows:
            table.add_row(*(Text(fitted(cell, width, highest)) for cell, width in zip(row, widths, strict=True)))
        yield table


def narrowed(
    natural: Sequence[int], words: Sequence[int], available: int, wanted: Sequence[int] | None = None
) -> list[int]:
    """Widths of columns that need at most `available` together: sentences wrap down to their longest word first,
    then the widest columns give, down to the widths that are `wanted` as long as others can give."""
    found = list(natural)
    least_widths = [NARROWEST] * len(found)
    for least in (list(words), wanted or least_widths, least_widths):
        while sum(found) > available:
            wide = [k for k, width in enumerate(found) if width > max(least[k], NARROWEST)]
            if not wide:
                break
            found[max(wide, key=lambda k: found[k])] -= 1
    return found


def apart(column: Sequence[str], least: int, most: int) -> int:
    """The smallest width from `least` to `most` at which the names of a column stay different; `least` for sentences
    and where there is none."""
    names = set(column)
    if any(" " in name for name in names):
        return least
    widths = range(least, most + 1)  # a wider one shows more of each name: what is different stays so
    found = bisect_left(widths, True, key=lambda width: len({elided(name, width) for name in names}) == len(names))
    return widths[found] if found < len(widths) else least


def fitted(cell: str, width: int, highest: int | None = None) -> str:
    """A cell of at most `width` characters a line: what has no spaces is cut in the middle, the rest wraps to `highest`
    lines."""
    if len(cell) <= width:
        return cell
    words = [elided(word, width) for word in cell.split(" ")]
    lines = textwrap.wrap(" ".join(words), width, break_long_words=False, break_on_hyphens=False)
    if highest is not None and len(lines) > highest:
        lines = [*lines[: highest - 1], f"{lines[highest - 1][: width - 1]}{ELISION}"]
    return "\n".join(lines)
