"""A cache of results, addressed by content.

A key is the hash of everything that a result depends on; an entry names its files by the hashes of their contents,
and begins with a hash of its own.
Files are written before the entry that names them, and both by renaming, so that an interruption leaves a
whole entry or none.  Everything read is checked against its hash: a damaged cache costs time, never a result.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from tflite2q import files
from tflite2q.batch import places
from tflite2q.batch.places import Folder, Place, digest, digest_of_file
from tflite2q.batch.records import Outcome, Settings
from tflite2q.errors import DataError, UsageError
from tflite2q.execution import libraries
from tflite2q.execution.libraries import VARIABLE
from tflite2q.version import fingerprint

FOLDER = ".tflite2q-cache"
# Packages whose version can change a result.
CONVERTING = ("numpy", "flatbuffers", "tflite")
RUNNING = ("apache-tvm", "ai-edge-litert", "pillow", "pycocotools")


def place(out: Place) -> Place:
    """The place of the cache: $TFLITE2Q_CACHE, or a folder inside the place of the outputs."""
    given = libraries.chosen_folder()
    if given is not None and places.is_url(os.environ[VARIABLE]):
        raise UsageError(f"${VARIABLE} is {os.environ[VARIABLE]}, which must be a folder of this machine")
    found = Folder(given) if given is not None else places.of(out.name(FOLDER))
    return Folder(found.path.absolute()) if isinstance(found, Folder) else found  # jobs run in folders of their own


@functools.cache
def digest_of_data(path: str) -> str:
    """The hash of a file, of a CSV with the files that it lists, or of all files in a folder with their names.

    Raises DataError if one cannot be read.
    """
    whole = hashlib.sha256()
    for name, each in files_of(path):
        try:
            whole.update(f"{name}\0{digest_of_file(each)}\0".encode(errors="surrogateescape"))
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error
    return whole.hexdigest()


def files_of(path: str) -> list[tuple[str, Path]]:
    """A file, a CSV with the files that it lists, or all files in a folder, with their names relative to where it lies.

    Raises DataError for anything but a regular file.
    """
    where = Path(path)
    if where.is_dir():
        found = sorted(each for each in where.rglob("*") if each.is_file())
    elif where.suffix.lower() == ".csv" and where.is_file():
        found = [where, *_listed(where)]
    else:
        found = [where]
    for each in found:
        if not each.is_file():
            raise DataError(f"{path}: is not a regular file; give a file or a folder of files")
    return [(os.path.relpath(each, where.parent), each) for each in found]


def _listed(table: Path) -> Iterator[Path]:
    """The files that the first column of a CSV names, as far as they exist; other first columns are plain labels."""
    for cell in places.first_cells(table):
        if (table.parent / cell).is_file():
            yield table.parent / cell


@functools.cache
def version(running: bool) -> str:
    """The version of the program, with a hash of its sources, and those of the packages that it computes with."""
    found = [fingerprint()]
    for name in (*CONVERTING, *(RUNNING if running else ())):
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return "; ".join(found)


def key(content: str, name: str, settings: Settings) -> str:
    """The key of a result: the hash of the model's content, the name that reports give it, and all settings."""
    asked = asdict(settings)
    for what, path in settings.paths.items():
        (asked if what == "calibrate" else asked["compare"])[what] = [Path(path).name, digest_of_data(path)]
    facts = {"content": content, "name": name, "settings": asked, "version": version(settings.running)}
    if settings.running:
        facts["machine"] = machine()
    return digest(json.dumps(facts, sort_keys=True).encode())


@functools.cache
def machine() -> list[str]:
    """What the target `native` and measurements depend on: system and processor."""
    from tflite2q.lower import targets

    return [*os.uname()[::4], *sorted(targets.reported_features())]


class Cache:
    """A place of results: `entries` by key, and `content` by hash.

    Work that is not finished lies in `staging`, which of a store's cache is a folder of this machine.
    """

    def __init__(self, where: Path | Place) -> None:
        self.place = places.of(where)
        self._lock = threading.Lock()
        self._stack = ExitStack()
        try:
            self.place.make()
            if isinstance(self.place, Folder):
                self._staging = self.place.path / "staging"
                for name in ("entries", "content", "staging"):
                    (self.place.path / name).mkdir(exist_ok=True)
                self._sweep(self.place.path)
            else:
                self._staging = self._stack.enter_context(files.temporary_folder())
        except OSError as error:
            raise UsageError(
                f"{self.place.name()}: cannot be made: {error.strerror or error}; give another -o or ${VARIABLE}"
            ) from error

    def _sweep(self, folder: Path) -> None:
        """Remove what killed runs left."""
        for entry in os.scandir(self._staging):
            if files.abandoned(entry.path, entry.name):
                shutil.rmtree(entry.path, ignore_errors=True)
        files.sweep(folder / "entries")
        files.sweep(folder / "content")

    def close(self) -> None:
        """Remove what is temporary: also the folders of jobs that an interruption, at any moment, left."""
        for folder in self._staging.glob(f"{files.owner()}-*"):
            shutil.rmtree(folder, ignore_errors=True)
        self._stack.close()

    def _stage(self, number: int) -> Path:
        return self._staging / f"{files.owner()}-{number}"

    def stage(self, number: int) -> Path:
        """A new folder for a job, until `unstage` or `close`.  Raises OSError."""
        self.unstage(number)
        self._stage(number).mkdir()
        return self._stage(number)

    def unstage(self, number: int) -> None:
        """Remove the folder of a job that has ended."""
        shutil.rmtree(self._stage(number), ignore_errors=True)

    def find(self, key: str) -> Outcome | None:
        """The outcome that is kept for a key, if all its files are there too."""
        if not self.place.has(f"entries/{key}.entry"):
            return None
        try:
            hashed, _, encoded = self.place.read(f"entries/{key}.entry").partition(b"\n")
            if hashed != _sealed(key, encoded):
                return None
            outcome = Outcome.of(json.loads(encoded))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        return outcome if all(self.has(each) for each in outcome.outputs.values()) else None

    def has(self, hashed: str) -> bool:
        """Whether content with that hash is here."""
        return self.place.has(f"content/{hashed}")

    def content(self, hashed: str) -> bytes | None:
        """Content by its hash; None, and it is forgotten, if it was damaged."""
        try:
            found = self.place.read(f"content/{hashed}")
        except OSError:
            return None
        if digest(found) == hashed:
            return found
        self.place.remove(f"content/{hashed}")
        return None

    def adopt(self, path: Path, content: bytes) -> str:
        """Move a file of `staging`, which holds `content`, here; its hash.  Raises OSError."""
        hashed = digest(content)
        if isinstance(self.place, Folder):
            os.replace(path, self.place.path / "content" / hashed)
        elif not self.has(hashed):
            self.place.write(f"content/{hashed}", content)
        return hashed

    def keep(self, key: str, outcome: Outcome) -> None:
        """Keep the outcome of a key, whose files were adopted.  Raises OSError and UsageError."""
        encoded = json.dumps(asdict(outcome), sort_keys=True).encode()
        with self._lock:
            self.place.write(f"entries/{key}.entry", _sealed(key, encoded) + b"\n" + encoded)


def _sealed(key: str, encoded: bytes) -> bytes:
    """The first line of the entry of a key: the hash of both, so that no other and no damaged one passes for it."""
    return digest(f"{key}\n".encode() + encoded).encode()
