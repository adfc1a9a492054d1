"""Progress on stderr: nothing for the first two seconds, and nothing at all unless a person is watching."""

from __future__ import annotations

import sys
import time
from types import TracebackType

PATIENCE = 2.0
INTERVAL = 0.1


class Progress:
    """Call it with (what, done, total); leaving the block wipes the line."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._last = 0.0
        self._width = 0
        self._shown = sys.stderr.isatty()

    def __call__(self, what: str, done: int = 0, total: int = 0) -> None:
        now = time.monotonic()
        if not self._shown or now - self._start < PATIENCE or now - self._last < INTERVAL:
            return
        self._last = now
        self._write(f"{what} {done}/{total}" if total else f"{what} ...")

    def _write(self, text: str) -> None:
        sys.stderr.write("\r" + text.ljust(self._width))
        sys.stderr.flush()
        self._width = len(text)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._width:
            self._write("")
            sys.stderr.write("\r")
            sys.stderr.flush()
