"""What a run may spend before it is refused: pixels of one picture, bytes of memory, bytes of a text.

The limits are variables of the environment, so that child processes have the same ones; `--max-pixels` and
`--max-memory` set them for one command.
"""

from __future__ import annotations

import numbers
import os
import sys
from typing import TypeVar

from tflite2q import cgroups
from tflite2q.errors import Tflite2qError, UsageError, hint

E = TypeVar("E", bound=Tflite2qError)

MAX_PIXELS = "TFLITE2Q_MAX_PIXELS"
MAX_MEMORY = "TFLITE2Q_MAX_MEMORY"  # GB, as in --max-memory

PIXELS = 100_000_000  # of one picture, unless set
GIGABYTE = 1 << 30
BLOCK = 1 << 12  # bytes that tell a text from another file
LARGE_BLOCK = 1 << 24
WIDE = (b"\xff\xfe", b"\xfe\xff")  # byte order marks of UTF-16
THREADS = 1 << 12
TEXT = 1 << 28  # bytes of a list of labels, of annotations, of a scheme: far beyond any that is meant


def pixels() -> int:
    """The most pixels that a picture may have.  Raises UsageError for a variable that is no number."""
    return int(_number(MAX_PIXELS) or PIXELS)


def memory() -> int:
    """The bytes that one stage of a run may need: the limit that is set, else what this machine has."""
    given = _number(MAX_MEMORY)
    return machine_memory() if given is None else int(min(given * GIGABYTE, sys.maxsize))


def machine_memory() -> int:
    """The bytes of memory of this machine, or of the group of processes that this one is confined to."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 40
    granted = cgroups.memory()
    return whole if granted is None else min(whole, granted)


def check_threads(threads: object) -> None:
    """Raise UsageError for a number of threads that no machine has."""
    if isinstance(threads, bool) or not isinstance(threads, numbers.Integral) or not 1 <= int(threads) <= THREADS:
        raise UsageError(f"threads must be 1 to {THREADS}, got {threads!r}")


def require_memory(size: int, what: str, error: type[E]) -> None:
    """Raise `error` where `what` needs more than `memory()`."""
    most = memory()
    if size > most:
        raise error(
            f"{what} needs {readable(size)} of memory, more than the {readable(most)} allowed; "
            + hint("see --max-memory")
        )


def readable(size: int) -> str:
    """A number of bytes, as messages say it."""
    for unit, name in ((GIGABYTE, "GB"), (1 << 20, "MB"), (1 << 10, "kB")):
        if size >= unit // 10:
            return f"{size / unit:,.1f} {name}"
    return f"{size} bytes"


def head(path: str | os.PathLike[str], most: int, text: bool = False) -> bytes:
    """The bytes of a file.

    Raises OSError, and ValueError for one of more than `most` bytes, or that never ends; with `text` also, before all
    of it is read, for one that holds zero bytes and no UTF-16.
    """
    with open(path, "rb") as file:
        blocks = [file.read(min(BLOCK, most + 1))]
        size = len(blocks[0])
        if text and b"\0" in blocks[0] and not blocks[0].startswith(WIDE):
            raise ValueError("is not a text: it holds zero bytes")
        while blocks[-1] and size <= most:
            # Not all at once: the memory for what is asked for is taken before it is known whether it is there.
            blocks.append(file.read(min(LARGE_BLOCK, most + 1 - size)))
            size += len(blocks[-1])
    if size > most:
        raise ValueError(f"is longer than {most:,} bytes")
    return b"".join(blocks)


def text(path: str | os.PathLike[str]) -> str:
    """The text of a file: UTF-8, or UTF-16 with a byte order mark.

    Raises OSError, UnicodeDecodeError, and ValueError for a file that is longer than any text or never ends.
    """
    content = head(path, TEXT, text=True)
    return content.decode("utf-16" if content.startswith(WIDE) else "utf-8-sig")


def unreadable(path: str | os.PathLike[str], why: OSError, error: type[E]) -> E:
    """The error for a file that the system does not give, because it does not exist, say."""
    return error(f"{os.fspath(path)}: cannot be read: {why.strerror or why}; check the path")


def _number(variable: str) -> float | None:
    given = os.environ.get(variable)
    if given is None or not given.strip():
        return None
    try:
        found = float(given)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise UsageError(f"{variable} is {given!r}; set it to a number above 0, or remove it")
    return found
