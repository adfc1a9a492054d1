"""Names of layers as people read and write them: shortened where they are long, and found again by what was printed."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from glob import escape

LONGEST_NAME = 64
ELISION = "…"


def short(name: str) -> str:
    """A tensor's name for a table: the first of the names that a fused tensor carries, long ones cut in the middle."""
    first, _, rest = name.partition(";")
    first = elided(first, LONGEST_NAME)
    return f"{first};{ELISION}" if rest else first


def elided(word: str, width: int) -> str:
    """A word cut in the middle to `width` characters; as a pattern for names it still means what it was."""
    if len(word) <= width:
        return word
    head = (width - 1) // 2
    return f"{word[:head]}{ELISION}{word[len(word) - (width - 1 - head) :]}"


def meant(pattern: str, names: Sequence[str]) -> list[str]:
    """Which of `names` a person means: the one of just that name, those shortened to it, or those it is a pattern for.

    A name may hold any character, so that only what is no name is read as a pattern with `*`, `?` and `[...]`, or with
    the ellipsis of a table in the place of what it left out.
    """
    if pattern in names:
        return [pattern]
    if shortened := [name for name in names if short(name) == pattern]:
        return shortened
    if ELISION in pattern:
        pattern = "*".join(escape(part) for part in pattern.split(ELISION))
    return [name for name in names if fnmatchcase(name, pattern)]
