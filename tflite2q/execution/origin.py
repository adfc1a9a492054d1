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

# Shared libraries of the systems that code is compiled for, an archive of object files, and WebAssembly's object.
LOADED = (".so", ".dylib", ".dll", ".tar")
OBJECTS = (".wasm", ".o")
ENDINGS = (*LOADED, *OBJECTS)


def check_ending(path: str | os.PathLike[str], target: targets.Target | None = None) -> None:
    """Raise UsageError if the name of a library, for `target` if it is known, has an ending that is not of what is
    written."""
    endings = ENDINGS if target is None or targets.architecture(target.mtriple) == "wasm32" else LOADED
    if Path(path).suffix not in endings:
        told = "" if target is None else f"for {target.name}, "
        raise UsageError(f"{os.fspath(path)}: {told}a library's name ends in {', '.join(endings)}; name it so")


def check_loaded(path: str | os.PathLike[str]) -> None:
    """Raise DataError if the system would not take a file of that name for a library."""
    if Path(path).suffix not in LOADED:
        raise DataError(f"{os.fspath(path)}: a library is loaded by a name in {', '.join(LOADED)}; rename it")


class Origin(Protocol):
    """What an executable takes its code from; `source` is what that is compiled from, None where it is not known."""

    @property
    def source(self) -> Source | None: ...

    def load(self) -> Any:
        """The code that runs on this machine."""
        ...


@dataclass(frozen=True)
class Library:
    """A library by its path, and the mark of the file that was found there."""

    path: str
    mark: files.Mark
    source: None = None

    def load(self) -> Any:
        from tflite2q.lower.loading import load

        with suppress(OSError):  # which loading says better
            if files.mark(self.path) != self.mark:
                raise DataError(f"{self.path}: was replaced after it was opened; open it again")
        return load(self.path)


@dataclass
class Compiled:
    """What was compiled, and its library in the cache, if that has one."""

    source: Source
    library: str | None = None

    def load(self) -> Any:
        """The library of the cache, or what was compiled if that has none that can be loaded."""
        from tflite2q.lower.loading import load

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
    check_ending(path, source.named)
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
    """Raise TargetError unless this machine has the architecture, system and features that the code needs."""
    obstacle = _obstacle(description)
    if obstacle is not None:
        raise TargetError(f"compiled for {description.target}, {obstacle}")


def _obstacle(description: Manifest) -> str | None:
    """Why this machine cannot run the code, and what to do; None if it can."""
    triple = description.spec.get("mtriple", "")
    there, here = targets.architecture(triple), targets.architecture(platform.machine())
    if triple and there != here:
        return f"but this machine ({here}) cannot run code for {there}; load it there, or compile for native"
    there, here = targets.system(triple), targets.system(platform.system())
    if "" not in (there, here) and there != here:
        return f"but this system ({here}) cannot run code for {there}; load it there, or compile for native"
    missing = targets.missing_features(description.features)
    if missing:
        return f"but this processor lacks {', '.join(missing)}, which the code may use; compile for native"
    return None
