"""Progress on stderr: nothing for the first two seconds, and nothing at all unless a person is watching."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TextIO

PATIENCE = 2.0
INTERVAL = 0.2


class Progress:
    """Call it with (what, done, total); leaving the block wipes the line.

    A thread of its own draws the line, so that elapsed time is shown during a long step too.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._start = time.monotonic()
        self._text = ""
        self._width = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._draw, daemon=True) if self._stream.isatty() else None

    def __call__(self, what: str, done: int = 0, total: int = 0) -> None:
        self._text = f"{what} {done}/{total}" if total else what

    def _draw(self) -> None:
        wait = PATIENCE
        while not self._over.wait(wait):
            self._write(f"{self._text} ({time.monotonic() - self._start:.0f} s)")
            wait = INTERVAL

    def _write(self, text: str) -> None:
        self._stream.write("\r" + text.ljust(self._width))
        self._stream.flush()
        self._width = len(text)

    def wipe(self) -> None:
        """Clear the line, so that something else can be printed; it comes back."""
        if self._width:
            self._write("")
            self._stream.write("\r")
            self._stream.flush()

    def __enter__(self) -> Progress:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self.wipe()
