"""Text that may hold a model's or a file's names, for a terminal: what would command the terminal is spelled out."""

from __future__ import annotations

import re

# Control characters but tabs and line ends, those of 8 bits, and the marks that reverse the order of what is shown.
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
STYLE = re.compile("(\x1b\\[[0-9;]*m)")  # colours and the like, which reports have themselves


def printable(text: str, styled: bool = False) -> str:
    """The text with `\\x1b` in place of such a character, and so on; `styled` keeps colours."""
    if not COMMANDS.search(text):
        return text
    if not styled:
        return COMMANDS.sub(_spelled, text)
    parts = STYLE.split(text)
    return "".join(part if index % 2 else COMMANDS.sub(_spelled, part) for index, part in enumerate(parts))


def _spelled(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
