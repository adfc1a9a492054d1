"""Printing and writing results, the same way in every command."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from tflite2q import files
from tflite2q.cli.printable import printable
from tflite2q.cli.verbosity import Verbosity, current
from tflite2q.errors import OutputError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

# The width of a table in a file or a pipe: wide enough for all names.
PLAIN_WIDTH = 200


class Closed(io.StringIO):
    """Stands for a stream that whoever started the process had closed."""


def require_stdout() -> None:
    """Raise UsageError if what '-' asks for would be lost."""
    if isinstance(sys.stdout, Closed):
        raise UsageError("stdout is closed, and '-' asks for it; give a file")


@contextmanager
def writing(stream: str = "stdout") -> Iterator[None]:
    """Raise OutputError, which names the stream, where it cannot be written; a reader that has enough stays an error of
    its own."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        why = error.strerror or error
        raise OutputError(f"{stream}: cannot be written: {why}; write to another place, or make space there") from error


def echo(text: str, nl: bool = True, err: bool = False) -> None:
    """Print to stdout, or to stderr.  Raises OutputError."""
    with writing("stderr" if err else "stdout"):
        click.echo(text, nl=nl, err=err)


def check_json(json_path: str | None, *inputs: str | None) -> None:
    """Raise UsageError before any work if the JSON cannot be written there.  Existing reports are replaced."""
    files.refuse_outputs({"--json": json_path}, inputs, force=True)


def write(path: str | None, content: str) -> None:
    """Write a report to `path`, replacing what is there; '-' prints it."""
    if path == "-":
        require_stdout()
        echo(content, nl=False)
    elif path is not None:
        files.write(Path(path), content.encode(), force=True)


def write_bytes(path: Path, content: bytes | memoryview, force: bool) -> None:
    """Write a file of any kind; '-' is stdout.  Errors as `files.write`."""
    if str(path) == "-":
        require_stdout()
        with writing():
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
    else:
        files.write(path, content, force)


def emit(
    document: Mapping[str, Any],
    json_path: str | None,
    text: Callable[[Console], None],
    silent: bool = False,
    err: bool = False,
) -> None:
    """Print `text`, or the JSON of `document` for '-'; write it to any other `json_path` too.

    `silent`: another report has been printed instead.  `err`: text goes to stderr, because a file goes to stdout.
    """
    if json_path == "-":
        require_stdout()
        echo(encoded(document), nl=False)
        return
    if not silent and current() is not Verbosity.QUIET:
        echo(_rendered(text), nl=False, err=err)
    if json_path is not None:
        files.write(Path(json_path), encoded(document).encode(), force=True)


def encoded(document: Mapping[str, Any]) -> str:
    """A document as people and programs read it."""
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _rendered(text: Callable[[Console], None]) -> str:
    """The output of `text` for stdout: tables with rules on a terminal, plain aligned columns elsewhere.

    Rich does not write to stdout itself because it ends the process when the reader of a pipe has enough.
    """
    from rich.console import Console

    terminal = sys.stdout.isatty()
    stream = io.StringIO()
    width = None if terminal else PLAIN_WIDTH
    # NO_COLOR means no escape at all, bold headings included (https://no-color.org names colours only).
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    text(Console(file=stream, force_terminal=terminal, width=width, highlight=False, color_system=colours))
    return printable(stream.getvalue(), styled=terminal)
