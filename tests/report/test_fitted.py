"""Tables fit every width above 50, and names that were cut still mean their layers."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tflite2q.dialect.names import elided, meant
from tflite2q.report.fitted import HIGHEST, NARROWEST, FittedTable, apart

LONG = "MobilenetV1/MobilenetV1/Conv2d_13_pointwise/Relu6;MobilenetV1/MobilenetV1/Conv2d_13_pointwise/BatchNorm"


def printed(table: FittedTable, width: int, terminal: bool = False, no_color: bool = False) -> str:
    stream = io.StringIO()
    system = None if no_color else "auto"
    Console(file=stream, width=width, force_terminal=terminal, color_system=system, highlight=False).print(table)
    return stream.getvalue()


def example() -> FittedTable:
    table = FittedTable(("layer", False), ("op", False), ("loss", False), ("bound, steps", True))
    table.add_row(
        LONG, "q.depthwise_conv2d", "rescaled: 2 of 256 channels, and a sentence that does not end " * 5, "1.5"
    )
    return table


@pytest.mark.parametrize("width", [51, 60, 80, 120, 200])
@pytest.mark.parametrize("terminal", [False, True])
def test_rows_fit_and_are_at_most_five_lines(width: int, terminal: bool) -> None:
    lines = printed(example(), width, terminal, no_color=True).rstrip("\n").split("\n")
    assert max(map(len, lines)) <= width
    heading = 3 if terminal else 1
    if terminal:
        assert len(lines) - heading <= HIGHEST + 2  # the heading may wrap, too
    else:
        assert "".join(lines).count("rescaled:") == 5  # nothing of it is left out


def test_numbers_stay_whole() -> None:
    """Rich would cut cells that do not fit at their end, down to nothing."""
    result = "int8[1x25x5x64] scale 0.0330 zero point -128"
    for width in (60, 80):
        table = FittedTable(("#", True), ("layer", False), ("op", False), ("weights", False), ("result", False))
        for k in range(12):
            table.add_row(str(k), LONG, "q.conv2d", "int8[64x1x1x64] 64 scales", result)
        text = printed(table, width, terminal=True, no_color=True)
        assert " 11 " in text
        assert "q.conv2d" in text


def test_no_colour_means_no_escape() -> None:
    assert "\x1b" in printed(example(), 80, terminal=True)
    assert "\x1b" not in printed(example(), 80, terminal=True, no_color=True)


def test_tabs_and_line_ends_stay_out_of_cells() -> None:
    table = FittedTable(("name", False))
    table.add_row("a\tb\nc")
    assert printed(table, 80).split("\n")[1].rstrip() == "a b c"


@given(st.text("abc/;_[*", min_size=8, max_size=90), st.integers(6, 80))
def test_a_cut_name_is_a_pattern_for_its_layer(name: str, width: int) -> None:
    cut = elided(name, width)
    assert len(cut) <= max(width, 0) or cut == name
    assert name in meant(cut, ["other", name])


def test_names_stay_different_while_other_columns_can_give() -> None:
    names = [f"block{k}/depthwise" for k in range(3)]
    table = FittedTable(("layer", False), ("op", False), ("loss", False), ("bound, steps", True))
    for name in names:
        table.add_row(name, "q.depthwise_conv2d", "rescaled: 2 of 256 channels", "1.5")
    shown = [line.split()[0] for line in printed(table, 51).splitlines() if line.startswith("block")]
    assert len(shown) == 3
    for cut, name in zip(shown, names, strict=True):
        assert meant(cut, names) == [name]


@given(st.lists(st.text("ab/", min_size=1, max_size=40), min_size=1, max_size=6), st.integers(NARROWEST, 50))
def test_the_smallest_width_that_keeps_names_different(column: list[str], most: int) -> None:
    good = [w for w in range(NARROWEST, most + 1) if len({elided(n, w) for n in column}) == len(set(column))]
    assert apart(column, NARROWEST, most) == (good[0] if good else NARROWEST)
