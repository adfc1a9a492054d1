"""Bringing a library into this process: what its file holds now, whatever was loaded under its name before."""

from __future__ import annotations

import os
import shutil
import tarfile
import threading
from pathlib import Path
from typing import Any

import tvm

from tflite2q import files
from tflite2q.errors import DataError
from tflite2q.lower.link import link

ARCHIVE = ".tar"
ENTRY = "vm_load_executable"  # the function by which a library gives its code
REFUSED = "Failed to load dynamic shared library "  # what TVM says before the system's own words

# What was loaded, by path and by file (device and inode).  A system takes a library that it knows by either for the
# same one, also where the file was replaced or written anew since.
_known: dict[str | tuple[int, ...], files.Mark] = {}
_knowing = threading.Lock()


def load(path: str) -> Any:
    """The code of a shared library, or of an archive of object files, which is linked first.

    Raises DataError if the system cannot load it, TargetError if there is no linker for an archive.
    """
    where = os.path.realpath(path)
    try:
        if where.endswith(ARCHIVE):
            with files.temporary_folder() as folder:
                return _code(path, _linked(where, folder))
        if _as_it_is(where):
            return _code(path, where)
        with files.temporary_folder() as folder:
            return _code(path, shutil.copyfile(where, str(folder / "library.so")))
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{path}: cannot be loaded: {getattr(error, 'strerror', None) or error}") from error


def _as_it_is(path: str) -> bool:
    """Whether the file can be loaded by its name: neither that nor the file itself stands for other content."""
    mark = files.mark(path)
    keys = (path, mark[:2])
    with _knowing:
        if any(_known.get(key, mark) != mark for key in keys):
            return False
        _known.update(dict.fromkeys(keys, mark))
    return True


def _linked(archive: str, folder: Path) -> str:
    """A shared library of the objects in an archive, in `folder`."""
    objects = []
    with tarfile.open(archive) as content:
        for number, member in enumerate(content):
            found = content.extractfile(member)
            if found is not None:
                objects.append(str(folder / f"{number}.o"))
                Path(objects[-1]).write_bytes(found.read())
    output = str(folder / "library.so")
    link(output, objects, None, folder)
    return output


def _code(path: str, place: str) -> Any:
    """The code of the library at `path`, of which `place` is the file to load."""
    try:
        module = tvm.runtime.load_module(place)
    except (RuntimeError, ValueError) as error:
        why = str(error).strip().splitlines()[-1].rpartition(REFUSED)[2].removeprefix(place).strip()
        raise DataError(f"{path}: cannot be loaded: {why}") from error
    if not module.implements_function(ENTRY):
        raise DataError(f"{path}: holds no model's code; compile it again")
    return module
