"""What options and arguments are: paths, models, reports, finite numbers, numbers of bytes."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import Any, BinaryIO

import click

LONGEST = 18  # digits of a size
HEAD, BLOCK = 1 << 12, 1 << 20  # bytes that tell what a stream is, and that are copied at once

READER, PIPED = "tflite2q.stdin", "tflite2q.piped"  # in a command's context: what reads stdin, and into which file


class PathName(click.Path):
    """The name of a file or folder; an empty one, as of a variable that is not set, would be the folder one is in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "" or (isinstance(value, str) and "\0" in value):
            self.fail("an empty name is not a path" if not value else "a path cannot contain a zero byte", param, ctx)
        return super().convert(value, param, ctx)


# Endings of models, schemes, libraries, code and samples: what a report, which replaces the last one, would destroy.
# Spelled out, so that --help imports nothing; a test compares them with what is read and written.
NO_REPORTS = (
    ".tflite", ".q.txt", ".toml", ".so", ".dylib", ".dll", ".wasm", ".o", ".tar", ".a", ".c", ".h", ".zip", ".npy",
    ".npz", ".csv", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip


class _Report(PathName):
    """Where a report is written, or '-'.  It may replace a file, but none whose name says that it is no report."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        ending = next((each for each in NO_REPORTS if str(value).lower().endswith(each)), None)
        if ending is not None:
            self.fail(f"{value!r} ends in {ending}, as no report does; give it another name", param, ctx)
        return super().convert(value, param, ctx)


REPORT = _Report(dir_okay=False, allow_dash=True)
FILE = PathName(dir_okay=False)
ANY_PATH = PathName()


STDIN = "stdin"  # what messages call a model from there, and the stem of its temporary file


class Piped(str):
    """The path of a temporary file that holds a model given on stdin."""


def shown(path: str, given: str = STDIN) -> str:
    """A model's path as messages have it: of one from stdin `given`, as its temporary file says nothing to anyone."""
    return given if isinstance(path, Piped) else path


def words(model: str, **options: object) -> str:
    """A model and options as a shell takes them, for a command that a message suggests; None is left out."""
    given = [(f"--{name}", str(value)) for name, value in options.items() if value is not None]
    return shlex.join([shown(model, "-"), *(word for pair in given for word in pair)])


class _Model(PathName):
    """The path of a model; '-' reads it from stdin into a file that lasts as long as the command."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value != "-" or ctx is None:
            return super().convert(value, param, ctx)
        from tflite2q import files
        from tflite2q.dialect.text import TEXT_SUFFIX

        if ctx.meta.setdefault(READER, param) is not param:
            raise click.UsageError("only one file can come from stdin", ctx)
        if sys.stdin is None:
            raise click.UsageError("stdin is closed; give a file", ctx)
        head = sys.stdin.buffer.read(HEAD)
        suffix = ".tflite" if b"\0" in head[:256] else TEXT_SUFFIX  # text has no zero bytes, a flatbuffer many
        path = Path(ctx.with_resource(files.temporary_folder())) / f"{STDIN}{suffix}"
        with path.open("wb") as file:
            file.write(head)
            if suffix == TEXT_SUFFIX or head[4:8] == b"TFL3":  # what is no model may never end
                _copied(sys.stdin.buffer, file)
        ctx.meta[PIPED] = str(path)
        return Piped(path)


def _copied(source: BinaryIO, file: BinaryIO) -> None:
    """Copy the rest of a model, unless it is more than could be read.  Raises UnsupportedError."""
    from tflite2q import limits
    from tflite2q.errors import UnsupportedError

    size = 0
    while block := source.read(BLOCK):
        size += len(block)
        limits.require_memory(2 * size, "reading a model from stdin", UnsupportedError)
        file.write(block)


MODEL = _Model(dir_okay=False, allow_dash=True)


class Finite(click.FloatRange):
    """A number that is neither infinite nor NaN, which comparisons with bounds let through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return found

    def _describe_range(self) -> str:
        """What help says of the bounds; click would print those that are not there."""
        return "" if self.min is None and self.max is None else super()._describe_range()


FINITE = Finite()
POSITIVE = Finite(min=0, min_open=True)


UNITS = {"": 1, "B": 1, "K": 1 << 10, "KB": 1 << 10, "KIB": 1 << 10, "M": 1 << 20, "MB": 1 << 20, "MIB": 1 << 20}


class Bytes(click.IntRange):
    """A number of bytes, perhaps in kB or MB: 1024 or 1024 * 1024 bytes, as memories of microcontrollers are sized."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = str(value).strip().upper()
        digits = text.rstrip("BIKM ")
        unit = UNITS.get(text[len(digits) :].strip())
        if unit is None or not digits.isdecimal() or len(digits) > LONGEST:
            self.fail(f"{value!r} is not a number of bytes, such as 65536, 64kB or 1MB", param, ctx)
        return super().convert(int(digits) * unit, param, ctx)
