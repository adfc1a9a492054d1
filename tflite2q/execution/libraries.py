"""Compiled libraries, kept between runs by what they were compiled from.

They lie in the folder `libraries` of $TFLITE2Q_CACHE, or else of the user's cache (`~/.cache/tflite2q` on Linux);
TFLITE2Q_CACHE=off keeps none.  A library is code, so the folder is for its user alone: one that others may write to is
not used.  Libraries are written whole, by renaming, and checked against their checksum before they are loaded, so
that any number of processes may share a folder.  Above LARGEST bytes, those that were used longest ago are removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tflite2q import files
from tflite2q.errors import DataError, TargetError, UsageError
from tflite2q.execution import manifest
from tflite2q.execution.manifest import Manifest
from tflite2q.version import fingerprint

VARIABLE = "TFLITE2Q_CACHE"
OFF = "off"
SIZE_VARIABLE = "TFLITE2Q_CACHE_MB"
LARGEST_MB = 1024
MOST_DIGITS = 12  # of a number of megabytes: no disk holds more
SUFFIX = ".so"
ROOM = 1 << 28  # bytes that a disk must have left: a cache never fills one up


def chosen_folder() -> Path | None:
    """The folder that $TFLITE2Q_CACHE names; None if it names none, or switches caches off."""
    given = os.environ.get(VARIABLE)
    return Path(given) if given and given != OFF else None


def folder() -> Path | None:
    """The folder of libraries; None if none are kept."""
    if os.environ.get(VARIABLE) == OFF:
        return None
    try:
        chosen = chosen_folder() or _user_cache() / "tflite2q"
    except RuntimeError:  # a user without a home, as in containers
        return None
    return chosen.absolute() / "libraries"


def _user_cache() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def key(facts: Mapping[str, Any]) -> str:
    """The name of what is compiled from `facts`, which must say everything but the version of this program."""
    content = json.dumps({**facts, "version": fingerprint()}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def find(name: str) -> tuple[str, Manifest] | None:
    """The path of the library called `name`, which is whole, and its manifest; None if there is none."""
    where = _usable(folder())
    if where is None:
        return None
    path = where / f"{name}{SUFFIX}"
    if not path.is_file():
        return None
    with suppress(OSError):  # a folder may be there to be read alone
        os.utime(path)  # it is the one used last
    try:
        return str(path), manifest.read(path)
    except DataError:
        with suppress(OSError):
            path.unlink(missing_ok=True)  # damaged: compile it again
        return None


def keep(name: str, write: Callable[[Path], None]) -> str | None:
    """Let `write` make the library called `name`; its path, or None if it cannot be kept."""
    where = place()
    if where is None:
        return None
    path = where / f"{name}{SUFFIX}"
    try:
        with files.replacing(path, force=True) as temporary:
            write(temporary)
    except (OSError, UsageError, TargetError):  # a full disk, or no linker: it runs from memory as well
        return None
    _shrink(where, path)
    return str(path)


def place() -> Path | None:
    """The folder where libraries can be kept now; None if they cannot.  Raises UsageError as `_largest`."""
    _largest()  # a wrong number is said before anything is compiled for it
    where = _usable(folder(), make=True)
    if where is None or min(_free(where), _free(Path(tempfile.gettempdir()))) < ROOM:
        return None
    return where


def adopt(name: str, library: str | os.PathLike[str]) -> None:
    """Keep a copy of a library that was written elsewhere."""

    def copy(path: Path) -> None:
        shutil.copyfile(library, path)

    keep(name, copy)


def _usable(where: Path | None, make: bool = False) -> Path | None:
    """The folder, if it is this user's alone to write."""
    if where is None:
        return None
    try:
        if make:
            where.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = where.stat()
    except OSError:
        return None
    if os.name == "posix" and (found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        return None
    return where


def _free(where: Path) -> int:
    try:
        return shutil.disk_usage(where).free
    except OSError:
        return 0


def _largest() -> int:
    """How many bytes are kept.  Raises UsageError for a variable that is no number."""
    given = os.environ.get(SIZE_VARIABLE) or str(LARGEST_MB)
    if not given.isdecimal() or len(given) > MOST_DIGITS:
        raise UsageError(f"${SIZE_VARIABLE} is {given}, which must be a number of megabytes, such as {LARGEST_MB}")
    return int(given) << 20


def _shrink(where: Path, kept: Path) -> None:
    """Remove the libraries used longest ago until the others fit; never `kept`."""
    found = []
    with suppress(OSError):
        for entry in os.scandir(where):
            with suppress(OSError):  # another process removes, too
                status = entry.stat()
                if stat.S_ISREG(status.st_mode):
                    found.append((status.st_mtime, status.st_size, Path(entry.path)))
    left = sum(size for _, size, _ in found) - _largest()
    for _, size, path in sorted(found):
        if left <= 0:
            return
        if path != kept:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            left -= size
