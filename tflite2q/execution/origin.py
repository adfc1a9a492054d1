"""Where the code of an executable comes from: compiled here, or read from a library; and how it is saved."""

from __future__ import annotations

import os
import platform
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tflite2q import files
from tflite2q.errors import DataError, TargetError, UsageError
from tflite2q.execution import libraries
from tflite2q.execution.manifest import Manifest
from tflite2q.execution.source import Source
from tflite2q.lower import targets

# Shared libraries of the systems that code is compiled for, WebAssembly's object, and an archive of object files.
ENDINGS = (".so", ".dylib", ".dll", ".wasm", ".o", ".tar")


def check_ending(path: str | os.PathLike[str]) -> None:
    """Raise UsageError if the name of a library has an ending that says nothing of what is written."""
    if Path(path).suffix not in ENDINGS:
        raise UsageError(f"{os.fspath(path)}: a library's name ends in {', '.join(ENDINGS)}; name it so")


class Origin(Protocol):
    """What an executable takes its code from; `source` is what that is compiled from, None where it is not known."""

    @property
    def source(self) -> Source | None: ...

    def load(self) -> Any:
        """The code that runs on this machine."""
        ...


@dataclass(frozen=True)
class Library:
    """A library by its path."""

    path: str
    source: None = None

    def load(self) -> Any:
        from tflite2q.lower.machine import load

        return load(self.path)


@dataclass
class Compiled:
    """What was compiled, and its library in the cache, if that has one."""

    source: Source
    library: str | None = None

    def load(self) -> Any:
        """The library of the cache, or what was compiled if that has none that can be loaded."""
        from tflite2q.lower.machine import load

        if self.library is None or not os.path.exists(self.library):  # another process may have removed it
            kept = libraries.find(self.source.key)  # saved since, or by another process
            self.library = kept[0] if kept else libraries.keep(self.source.key, self.source.export)
        if self.library is not None:
            with suppress(DataError):  # removed just now, or in a folder whose files the system does not run
                return load(self.library)
        return self.source.in_memory()


@dataclass(frozen=True)
class Elsewhere:
    """Another machine."""

    source: None = None

    def load(self) -> Any:
        raise UsageError("the code is on another machine, and runs there")


def save(source: Source, path: str | os.PathLike[str], force: bool) -> None:
    """Write a library, or object files; raises as `Executable.save`."""
    check_ending(path)
    shared = Path(path).suffix == libraries.SUFFIX
    kept = libraries.find(source.key) if shared else None
    with files.replacing(Path(path), force) as temporary:
        if kept is None:
            source.export(temporary)
        else:
            shutil.copyfile(kept[0], temporary)
    if shared and kept is None:
        libraries.adopt(source.key, path)


def check_runnable(description: Manifest) -> None:
    """Raise TargetError unless this machine has the architecture and the features that the code needs."""
    obstacle = _obstacle(description)
    if obstacle is not None:
        raise TargetError(f"compiled for {description.target}, {obstacle}")


def _obstacle(description: Manifest) -> str | None:
    """Why this machine cannot run the code, and what to do; None if it can."""
    triple = description.spec.get("mtriple", "")
    there, here = targets.architecture(triple), targets.architecture(platform.machine())
    if triple and there != here:
        return f"but this machine ({here}) cannot run code for {there}; load it there, or compile for native"
    missing = targets.missing_features(description.features)
    if missing:
        return f"but this processor lacks {', '.join(missing)}, which the code may use; compile for native"
    return None
