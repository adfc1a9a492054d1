"""Writing a compiled model as a shared library, or as an archive of its object files."""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tflite2q.lower.link import link, linker

# TVM prints this for every constant it saves; it means nothing to a user.
NOISE = b"Warning: Scope Saving:"


def export(executable: Any, path: str, triple: str | None) -> None:
    """Write a relax executable to `path`, linked for LLVM's `triple` (None: this machine).

    A path ending in .tar gets the object files, unlinked.  Raises TargetError if there is no linker for the triple.
    """

    def join(output: str, objects: Sequence[str], **_: Any) -> None:
        if archive:
            _pack(output, objects)
        else:
            link(output, objects, triple)

    archive = path.endswith(".tar")
    if not archive:
        linker(triple)  # before the work: whether there is one
    with _without_noise():
        executable.export_library(path, fcompile=join)


def _pack(output: str, objects: Sequence[str]) -> None:
    """An uncompressed archive, in which a manifest can be found, and the same one for the same objects."""
    with tarfile.open(output, "w") as archive:
        for path in objects:
            member = tarfile.TarInfo(os.path.basename(path))
            member.size = os.path.getsize(path)
            with open(path, "rb") as content:
                archive.addfile(member, content)


@contextmanager
def _without_noise() -> Iterator[None]:
    """Keeps lines with NOISE, which native code writes, off stderr; other lines come out at the end of the block."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught:
                if NOISE not in line:
                    os.write(2, line)
