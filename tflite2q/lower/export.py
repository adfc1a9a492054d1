"""Writing a compiled model as a shared library, or as an archive of its object files."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from typing import Any

from tflite2q import files
from tflite2q.lower.link import link, linker
from tflite2q.lower.noise import without_lines

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
            link(output, objects, triple, folder)

    archive = path.endswith(".tar")
    if not archive:
        linker(triple)  # before the work: whether there is one
    with files.temporary_folder() as folder, without_lines(NOISE):
        executable.export_library(path, fcompile=join, workspace_dir=str(folder))


def _pack(output: str, objects: Sequence[str]) -> None:
    """An uncompressed archive, in which a manifest can be found, and the same one for the same objects."""
    with tarfile.open(output, "w") as archive:
        for path in objects:
            member = tarfile.TarInfo(os.path.basename(path))
            member.size = os.path.getsize(path)
            with open(path, "rb") as content:
                archive.addfile(member, content)
