"""Writing files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tflite2q.errors import UsageError


def refuse_overwrite(path: str | Path, force: bool) -> None:
    """Raise UsageError if `path` is an existing file and `force` is not given, or cannot be a file at all."""
    where = Path(path)
    if where.is_dir():
        raise UsageError(f"{where}: is a folder; give the name of a file in it")
    if where.is_file() and not force:
        raise UsageError(f"{where}: exists already; give --force to overwrite it, or another name")
    if not where.parent.is_dir():
        raise UsageError(f"{where}: there is no folder {where.parent}; make it first")


@contextmanager
def replacing(path: str | Path, force: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to `path` at the end of the block or removed if the block fails.

    What is not a regular file (/dev/null, a pipe) is written directly.  Raises UsageError if `path` exists and `force`
    is not given, or if it cannot be written.
    """
    where = Path(path)
    refuse_overwrite(where, force)
    direct = where.exists() and not where.is_file()
    temporary = where if direct else where.with_name(f".{where.stem}.{os.getpid()}{where.suffix}")
    try:
        yield temporary
        if not direct:
            temporary.replace(where)
    except OSError as error:
        raise UsageError(f"{where}: cannot be written: {error.strerror or error}; give another place") from error
    finally:
        if not direct:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write(path: str | Path, content: bytes, force: bool = False) -> None:
    """Write `content` to `path`, all or nothing; errors as `replacing`."""
    with replacing(path, force) as temporary:
        temporary.write_bytes(content)
