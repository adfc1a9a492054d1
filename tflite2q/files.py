"""Writing files whole or not at all."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tflite2q.errors import OutputError, UsageError, hint

OWNER = "tflite2q-"  # in the names of temporary files and folders; who owns one follows
_TEMPORARY = re.compile(rf"(\..*)\.{OWNER}([0-9]+[-0-9a-z_]*)(\.[^.]*)?", re.DOTALL)
LONGEST = 255  # bytes of a file's name
ROOM = 40  # of them for an owner
FORGOTTEN = 7 * 24 * 3600.0  # seconds after which what another machine left is nobody's

Mark = tuple[int, int, int, int]


def mark(path: str | os.PathLike[str]) -> Mark:
    """What a file is known by while nobody writes to it: device, number, bytes, and when it was written last."""
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def owner() -> str:
    """This process, as the names of what it has for a while say it."""
    return f"{os.getpid()}-{_numbering()}"


@functools.cache
def _numbering() -> str:
    """What numbers this process: this start of this system, or a container in it.

    Machines and containers that share a folder have processes of the same numbers.
    """
    said = [platform.node()]
    with suppress(OSError):
        said.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        said.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\0".join(said).encode()).hexdigest()[:8]


def abandoned(path: str | Path, named: str) -> bool:
    """Whether whoever owns what lies at `path` is gone: `named` begins with an `owner`.

    Of processes that others number, nothing is known but the time of what they left.
    """
    number, _, rest = named.partition("-")
    if not number.isdigit():
        return False
    if rest.partition("-")[0] == _numbering():
        return not alive(int(number))
    with suppress(OSError):
        return time.time() - os.stat(path).st_mtime > FORGOTTEN
    return False


def refuse_overwrite(path: str | Path, force: bool) -> None:
    """Raise UsageError if `path` is an existing file and `force` is not given, or cannot be a file at all."""
    where = Path(path)
    if where.is_dir():
        raise UsageError(f"{where}: is a folder; give the name of a file in it")
    if where.is_symlink() and not where.exists():
        raise UsageError(f"{where}: is a link to {where.readlink()}, which does not exist; remove it or make that file")
    if where.is_file() and not force:
        raise UsageError(f"{where}: exists already; {hint('--force')} overwrites it, or give another name")
    if not where.parent.is_dir():
        raise UsageError(f"{where}: there is no folder {where.parent}; make it first")


def refuse_outputs(
    outputs: Mapping[str, str | Path | None], inputs: Iterable[str | Path | None], force: bool, replaced: str = ""
) -> None:
    """Raise UsageError if a command may not write `outputs`, by option (None and "-": no file), before it works.

    None may be one of the `inputs`, or another one of the outputs, under whatever name; others are refused as in
    `refuse_overwrite`, where the option named `replaced` needs no `force`.
    """
    read = {_identity(path): str(path) for path in inputs if path is not None and str(path) != "-"}
    taken: dict[Hashable, str] = {}
    for option, path in outputs.items():
        if path is None or str(path) == "-":
            continue
        identity = _identity(path)
        if identity in read:
            raise UsageError(f"{option} {path}: is the input {read[identity]}; give another name")
        if identity in taken and not _is_device(path):
            raise UsageError(f"{option} {path}: {taken[identity]} names the same file; give another name")
        taken[identity] = option
        refuse_overwrite(path, force or option == replaced)


def _identity(path: str | Path) -> Hashable:
    """Equal for two names of one file: hard links and links of any kind."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def _is_device(path: str | Path) -> bool:
    where = Path(path)
    return where.exists() and not where.is_file()


@contextmanager
def replacing(path: str | Path, force: bool = False, tidy: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to `path` at the end of the block or removed if the block fails.

    What is not a regular file (/dev/null, a pipe) is written directly; of a link, the file that it leads to is
    replaced.  With `tidy`, which reads the whole folder, what a process that was killed left beside `path` is removed.
    Raises UsageError if `path` exists and `force` is not given, OutputError if it cannot be written.
    """
    refuse_overwrite(path, force)
    direct = _is_device(path)
    where = Path(path) if direct else Path(os.path.realpath(path))
    temporary = where if direct else where.with_name(f".{OWNER}{owner()}".join(_around(where)))
    if tidy and not direct:
        sweep(where.parent, where)
    try:
        yield temporary
        if not direct:
            temporary.replace(where)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}; give another place") from error
    finally:
        if not direct:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _around(path: Path) -> tuple[str, str]:
    """What stands before and behind the owner in the temporary name of a file.  A hash stands for a name that leaves an
    owner no room."""
    if len(os.fsencode(path.name)) <= LONGEST - ROOM:
        return f".{path.stem}", path.suffix
    hashed = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return f".{hashed}", path.suffix if len(os.fsencode(path.suffix)) < ROOM else ""


def sweep(folder: Path, of: Path | None = None) -> None:
    """Remove the temporary files in a folder whose processes are gone: those that were to become `of`, or all."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            found = _TEMPORARY.fullmatch(entry.name)
            if found is None or not entry.is_file():
                continue
            before, named, behind = found.groups("")
            if (of is None or (before, behind) == _around(of)) and abandoned(entry.path, named):
                os.unlink(entry.path)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder in the system's place for temporary files, removed at the end of the block.

    Those that killed processes of this user left behind are removed, too.
    """
    place = Path(tempfile.gettempdir())
    with suppress(OSError):
        for entry in os.scandir(place):
            named = entry.name.removeprefix(OWNER)
            if named != entry.name and abandoned(entry.path, named):
                shutil.rmtree(entry.path, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{OWNER}{owner()}-") as folder:
        yield Path(folder)


def alive(process: int) -> bool:
    """Whether there is such a process, which has not ended; True where that cannot be told."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return not _ended(process)


def _ended(process: int) -> bool:
    """Whether a process has ended and only waits, perhaps for long, for another to ask how."""
    try:
        return process_stat(process)[0] in (b"Z", b"X")
    except (OSError, IndexError):
        return False


def process_stat(process: int | str) -> list[bytes]:
    """The fields of /proc/PROCESS/stat behind the name, which may hold anything: the first is the state (proc(5)).

    Raises OSError where the process has ended, or the system has no such file.
    """
    return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()


def write(path: str | Path, content: bytes | memoryview, force: bool = False, tidy: bool = True) -> None:
    """Write `content` to `path`, all or nothing; `tidy` and errors as `replacing`."""
    with replacing(path, force, tidy) as temporary:
        temporary.write_bytes(content)
