"""Writing files whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tflite2q.errors import OutputError, UsageError, hint

OWNER = "tflite2q-"  # in the names of temporary files and folders; the number of the process that owns one follows


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
    temporary = where if direct else where.with_name(f".{where.stem}.{OWNER}{os.getpid()}{where.suffix}")
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


def sweep(folder: Path, of: Path | None = None) -> None:
    """Remove the temporary files in a folder whose processes are gone: those that were to become `of`, or all."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            path = Path(entry.name)
            stem, mark, owner = path.stem.rpartition(f".{OWNER}")
            if not (mark and stem.startswith(".") and owner.isdigit() and entry.is_file()):
                continue
            if (of is None or (stem, path.suffix) == (f".{of.stem}", of.suffix)) and not alive(int(owner)):
                os.unlink(entry.path)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder in the system's place for temporary files, removed at the end of the block.

    Those that killed processes of this user left behind are removed, too.
    """
    place = Path(tempfile.gettempdir())
    with suppress(OSError):
        for entry in os.scandir(place):
            owner = entry.name.removeprefix(OWNER).partition("-")[0]
            if entry.name.startswith(OWNER) and owner.isdigit() and not alive(int(owner)):
                shutil.rmtree(entry.path, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{OWNER}{os.getpid()}-") as folder:
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
