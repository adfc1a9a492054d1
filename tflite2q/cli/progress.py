"""Progress on stderr: nothing for the first two seconds, and nothing at all unless a person is watching.

With --quiet there is none; with --verbose each step is a line of its own, wherever stderr goes."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TextIO

from tflite2q.cli.verbosity import Verbosity, current

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
        self._step: tuple[str, float] | None = None
        verbosity = current()
        self._verbose = verbosity is Verbosity.VERBOSE
        drawn = verbosity is Verbosity.NORMAL and self._stream.isatty()
        self._thread = threading.Thread(target=self._draw, daemon=True) if drawn else None

    def __call__(self, what: str, done: int = 0, total: int = 0) -> None:
        self._text = f"{what} {done}/{total}" if total else what
        if self._verbose and (self._step is None or self._step[0] != what):
            self._end_step()
            self._step = what, time.monotonic()

    def _end_step(self) -> None:
        """Say what was done and how long it took; what is left behind by an error ends there, too."""
        if self._step is not None:
            what, start = self._step
            self._stream.write(f"tflite2q: {what}: {time.monotonic() - start:.1f} s\n")
            self._step = None

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
        self._end_step()
        if self._thread is not None:
            self._thread.join()
        self.wipe()
