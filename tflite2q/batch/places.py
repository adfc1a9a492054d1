"""Where models come from and results go: folders of this machine, and object stores through fsspec.

A store is named by a URL (`s3://bucket/folder`, `gs://`, `az://`, `memory://`); `file://` is a folder of this machine.
fsspec, and the package that knows the kind of store, are imported when a URL is met.
"""

from __future__ import annotations

import csv
import hashlib
import os
import posixpath
import re
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from tflite2q import files
from tflite2q.errors import OutputError, UsageError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOCAL = re.compile(r"(file|local)://", re.IGNORECASE)


def is_url(path: str | None) -> bool:
    """Whether a path names a store; `file://` names this machine."""
    return path is not None and _URL.match(path) is not None and _LOCAL.match(path) is None


def plain(path: str) -> str:
    """`file:///a` as `/a`; anything else as it is."""
    return _LOCAL.sub("", path, count=1)


def joined(base: str, path: str) -> str:
    """A path of a file that lies in the folder `base`, a path or a URL; absolute ones and URLs as they are."""
    path, mark = plain(path), _URL.match(base)
    if _URL.match(path):
        return path
    if os.path.isabs(path) or mark is None or not is_url(base):
        return os.path.join(base, path)
    return mark[0] + posixpath.normpath(f"{base[mark.end() :]}/{path}")


def parent(path: str) -> str:
    """The folder that a file lies in."""
    return path.rpartition("/")[0] if is_url(path) else os.path.dirname(path)


class Place(Protocol):
    """A folder whose files are named relative to it, with slashes.  All may raise OSError."""

    def name(self, relative: str = "") -> str:
        """The name of a file, or of the place itself, for messages."""
        ...

    def identity(self, relative: str = "") -> str:
        """Equal for two names of one file."""
        ...

    def digest(self, relative: str) -> str | None:
        """The hash of a file; None if there is none."""
        ...

    def look(self, names: Iterable[str]) -> None:
        """Hash files that `digest` will be asked for, several at once where each takes time to come."""
        ...

    def has(self, relative: str) -> bool: ...

    def is_folder(self, relative: str) -> bool: ...

    def beside(self, stem: str) -> list[str]:
        """The files whose names are `stem` with an ending."""
        ...

    def read(self, relative: str) -> bytes: ...

    def write(self, relative: str, content: bytes) -> None:
        """Write a file, whole or not at all, over what is there."""
        ...

    def remove(self, relative: str) -> None: ...

    def make(self) -> None:
        """Make it, or find out whether it can be reached."""
        ...


def of(path: str | Path | Place) -> Place:
    """The place that a path or a URL names.  Raises UsageError for a URL that fsspec cannot open."""
    if not isinstance(path, (str, Path)):
        return path
    return Store(str(path)) if is_url(str(path)) else Folder(Path(plain(str(path))))


def make(place: Place) -> None:
    """Make a place, or find out whether it can be reached.  Raises UsageError."""
    try:
        place.make()
    except OSError as error:
        raise UsageError(
            f"{place.name()}: cannot be made or reached: {error.strerror or error}; check the path, or the URL, "
            "network and credentials"
        ) from error


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def digest_of_file(path: str | Path) -> str:
    with open(path, "rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else digest(file.read())
        )


def identity(path: str) -> str:
    """Equal for two names of one file: hard links and links of any kind, and URLs that mean the same."""
    if is_url(path):
        system, where = _opened(path)
        return str(system.unstrip_protocol(where)).rstrip("/")
    where = os.path.realpath(plain(path))
    try:
        status = os.stat(where)
    except OSError:
        return where
    linked = stat.S_ISREG(status.st_mode) and status.st_nlink > 1
    return f"{status.st_dev}:{status.st_ino}" if linked else where


class Folder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tidied: set[Path] = set()

    def name(self, relative: str = "") -> str:
        return str(self.path / relative)

    def identity(self, relative: str = "") -> str:
        return identity(self.name(relative))

    def digest(self, relative: str) -> str | None:
        path = self.path / relative
        return digest_of_file(path) if path.is_file() else None

    def look(self, names: Iterable[str]) -> None:
        """They are here."""

    def has(self, relative: str) -> bool:
        return (self.path / relative).is_file()

    def is_folder(self, relative: str) -> bool:
        return (self.path / relative).is_dir()

    def beside(self, stem: str) -> list[str]:
        folder, _, start = stem.rpartition("/")
        where = self.path / folder
        found = sorted(name for name in os.listdir(where) if name.startswith(f"{start}.")) if where.is_dir() else []
        return [posixpath.join(folder, name) for name in found]

    def read(self, relative: str) -> bytes:
        return (self.path / relative).read_bytes()

    def write(self, relative: str, content: bytes) -> None:
        where = self.path / relative
        where.parent.mkdir(parents=True, exist_ok=True)
        if where.parent not in self._tidied:  # once, as it reads the whole folder
            files.sweep(where.parent)
            self._tidied.add(where.parent)
        files.write(where, content, force=True, tidy=False)

    def remove(self, relative: str) -> None:
        (self.path / relative).unlink(missing_ok=True)

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)


AT_ONCE = 16  # files that are read from a store


class Store:
    """A folder in an object store.

    What is in it is listed once, a thousand names at a time, as asking for each file would cost a request; hashes are
    kept.  What others change during a run is not seen.  Raises UsageError for a URL that fsspec cannot open.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") if not url.endswith("://") else url
        self._system, root = _opened(url)
        self._root = root.rstrip("/")
        self._names: set[str] | None = None
        self._digests: dict[str, str] = {}

    def name(self, relative: str = "") -> str:
        return f"{self._url.rstrip('/')}/{relative}" if relative else self._url

    def identity(self, relative: str = "") -> str:
        return str(self._system.unstrip_protocol(self._path(relative))).rstrip("/")

    def _path(self, relative: str) -> str:
        return f"{self._root}/{relative}" if relative else self._root

    def _listed(self) -> set[str]:
        if self._names is None:
            with failing():
                self._system.invalidate_cache()
                found = self._system.find(self._root) if self._system.exists(self._root) else ()
                bucket = self._root.partition("/")[0]
                # Otherwise a bucket that is not there is an error of each output, after all the work.
                if bucket and not found and self._system.async_impl and not self._system.exists(bucket):
                    raise FileNotFoundError(f"there is no bucket {bucket}")
            self._names = {path[len(self._root) + 1 :] for path in found}
        return self._names

    def digest(self, relative: str) -> str | None:
        if not self.has(relative):
            return None
        if relative not in self._digests:
            try:
                self._digests[relative] = digest(self.read(relative))
            except FileNotFoundError:  # somebody else has removed it
                return None
        return self._digests[relative]

    def look(self, names: Iterable[str]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(self.digest, [name for name in names if self.has(name)]):
                pass

    def has(self, relative: str) -> bool:
        return relative in self._listed()

    def is_folder(self, relative: str) -> bool:
        return False  # in a store a file and a folder may have the same name

    def beside(self, stem: str) -> list[str]:
        return sorted(name for name in self._listed() if name.startswith(f"{stem}."))

    def read(self, relative: str) -> bytes:
        with failing():
            return bytes(self._system.cat_file(self._path(relative)))

    def write(self, relative: str, content: bytes) -> None:
        path = self._path(relative)
        with failing():
            if self._system.async_impl:  # object stores: an object appears whole, and has no folder
                self._system.pipe_file(path, content)
            else:
                self._system.makedirs(self._system._parent(path), exist_ok=True)
                # A file that its system renames when it is complete.
                with self._system.open(path, "wb", autocommit=False) as file:
                    file.write(content)
                if hasattr(file, "commit"):
                    file.commit()
        if self._names is not None:
            self._names.add(relative)
        self._digests[relative] = digest(content)

    def remove(self, relative: str) -> None:
        with failing():
            self._system.rm_file(self._path(relative))
        self._listed().discard(relative)
        self._digests.pop(relative, None)

    def make(self) -> None:
        self._listed()


@contextmanager
def failing() -> Iterator[None]:
    """Errors of a store's own kinds as OSError: each package has others, such as botocore's for missing credentials."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise OSError(text) from error


def _opened(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it.  Raises UsageError."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise UsageError(f"{url}: needs fsspec; pip install 'tflite2q[stores]'") from error
    try:
        system, path = url_to_fs(url)
    except ImportError as error:
        raise UsageError(f"{url}: {error}; install the package for this kind of store") from error
    except Exception as error:  # unknown protocols, and whatever a package raises for settings of its own
        raise UsageError(f"{url}: cannot be opened: {error}; check the URL and its settings") from error
    return system, str(path)


def unreachable(url: str, error: OSError) -> UsageError:
    """The error for a URL that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return UsageError(f"{url}: does not exist; check the URL")
    return UsageError(f"{url}: cannot be read: {error.strerror or error}; check the URL, network and credentials")


def read(path: str) -> bytes:
    """The content of a file or an object.  Raises OSError, and UsageError for a URL that cannot be read."""
    if not is_url(path):
        return Path(plain(path)).read_bytes()
    system, where = _opened(path)
    try:
        with failing():
            return bytes(system.cat_file(where))
    except OSError as error:
        raise unreachable(path, error) from error


def listed(url: str) -> list[str] | None:
    """The names of all objects below a URL, relative to it; None if it is an object itself.  Raises UsageError."""
    system, where = _opened(url)
    where = where.rstrip("/")
    try:
        with failing():
            system.invalidate_cache()
            if system.isfile(where) and not url.endswith("/"):
                return None
            found = system.find(where)
            if not found and not system.exists(where):
                raise FileNotFoundError(where)
    except OSError as error:
        raise unreachable(url, error) from error
    return sorted(path[len(where) + 1 :] for path in found)


def write(url: str, content: bytes) -> None:
    """Write an object.  Raises OutputError."""
    folder, _, name = url.rpartition("/")
    try:
        Store(folder).write(name, content)
    except OSError as error:
        raise OutputError(
            f"{url}: cannot be written: {error.strerror or error}; check the URL and credentials"
        ) from error


class Fetched:
    """Copies of what URLs name (data, labels, gates and schemes) in a folder of this machine as long as `stack` is
    open."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._folder: Path | None = None
        self._paths: dict[str, str] = {}

    @property
    def urls(self) -> list[str]:
        """The files that were fetched."""
        return list(self._paths)

    def __call__(self, path: str) -> str:
        """A path on this machine: of the copy of a file, of a folder, or of a CSV with the files that it lists.

        Raises UsageError for what cannot be read.
        """
        if not is_url(path):
            return plain(path)
        if self._folder is None:
            self._folder = self._stack.enter_context(files.temporary_folder())
        if path not in self._paths:
            where = self._folder / str(len(self._paths)) / path.rstrip("/").rpartition("/")[2]
            self._fetch(path.rstrip("/"), where)
            self._paths[path] = str(where)
        return self._paths[path]

    def _fetch(self, url: str, where: Path) -> None:
        names = listed(url)
        if names is not None:
            for name in names:
                self._write(f"{url}/{name}", Path(os.path.normpath(where / name)), where)
            return
        self._write(url, where, where.parent)
        if where.suffix.lower() != ".csv":
            return
        beside = set(listed(parent(url)) or ())
        for name in first_cells(where):
            if posixpath.normpath(name) in beside:
                self._write(joined(parent(url), name), Path(os.path.normpath(where.parent / name)), where.parent)

    def _write(self, url: str, path: Path, inside: Path) -> None:
        if not path.is_relative_to(inside):
            raise UsageError(f"{url}: its name leads out of its folder; rename it")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(read(url))


def first_cells(table: Path) -> Iterator[str]:
    """The first column of a CSV, which may name files."""
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        for row in csv.reader(file):
            if row and row[0].strip():
                yield row[0].strip()
