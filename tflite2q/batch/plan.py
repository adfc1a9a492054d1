"""Jobs from files, folders and a manifest; each job's outputs have distinct names."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tflite2q import limits
from tflite2q.batch import places
from tflite2q.batch.cache import FOLDER
from tflite2q.batch.places import Place
from tflite2q.batch.records import Job, Settings
from tflite2q.dialect.text import TEXT_SUFFIX
from tflite2q.errors import Tflite2qError, UsageError, require_count, require_number
from tflite2q.evaluation import gates
from tflite2q.evaluation.geometry import FITS
from tflite2q.evaluation.tasks import AUTO, TASKS
from tflite2q.limits import check_threads
from tflite2q.lower import targets
from tflite2q.rewrites import scheme as schemes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SUFFIX, SCHEME_SUFFIX = ".tflite", ".toml"
UNCHANGED = ("copy", "skip", "fail")
CHOICES: Mapping[str, Sequence[str]] = {
    "interface": schemes.INTERFACES,
    "unchanged": UNCHANGED,
    "task": (AUTO, *(kind.name for kind in TASKS)),
    "fit": (AUTO, *FITS),
}


@dataclass(frozen=True)
class Asked:
    """What is asked for some models, by the keys of a manifest; paths are as they are to be opened.

    `gates` is a file or a table of bounds.  What only a comparison uses asks for one.
    `origin` says where in a manifest each key was given, for errors; "" is the table of the model, and what the command
    line gave has none.
    """

    schemes: tuple[str, ...] = ()
    interface: str | None = None
    allow_unsupported: bool = False
    unchanged: str = UNCHANGED[0]
    targets: tuple[str, ...] = ()
    threads: int = 1
    calibrate: str | None = None
    compare: bool = False
    data: str | None = None
    labels: str | None = None
    label_names: str | None = None
    task: str | None = None
    fit: str | None = None
    mean: float | None = None
    std: float | None = None
    limit: int | None = None
    skip_bad: bool = False
    speed: bool = False
    gates: str | Mapping[str, Any] | None = None
    folder: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def said(self, key: str) -> Iterator[None]:
        """Within it, errors name the place in the manifest that gave `key`."""
        try:
            yield
        except Tflite2qError as error:
            if key not in self.origin:
                raise
            raise error.at(self.origin[key]) from error

    def settings(self) -> list[Settings]:
        """The settings for each scheme.  Raises SchemeError, and UsageError for what contradicts itself."""
        if not self.schemes:
            with self.said(""):
                raise UsageError("give a scheme: --scheme NAME|FILE, or scheme = ... in the manifest")
        if self.labels is not None and self.data is None:
            with self.said("labels"):
                raise UsageError("labels need data")
        self._check_choices()
        for key in PATHS:
            path = getattr(self, key)
            if path is not None and not os.path.exists(path):
                with self.said(key):
                    raise UsageError(f"{path}: does not exist; check the path")
        with self.said("gates"):
            comparison = self._comparison()
        with self.said("schemes"):
            found = [schemes.find(name, self.interface) for name in self.schemes]
        return [
            Settings(
                scheme.name, schemes.dump(scheme), self.allow_unsupported, self.unchanged, self.targets,
                self.threads, _whole(self.calibrate), comparison,
            )
            for scheme in found
        ]  # fmt: skip

    def _check_choices(self) -> None:
        """Raise UsageError or TargetError for what no model can be asked: each would only say so after its turn."""
        for key, known in CHOICES.items():
            given = getattr(self, key)
            if given is not None and given not in known:
                with self.said(key):
                    raise UsageError(f"{key} is {given!r}, not one of {', '.join(known)}")
        for key in ("mean", "std"):
            if getattr(self, key) is not None:
                with self.said(key):
                    require_number(key, getattr(self, key))
        if self.limit is not None:
            with self.said("limit"):
                require_count("limit", self.limit, 1)
        with self.said("threads"):
            check_threads(self.threads)
        with self.said("targets"):
            for name in self.targets:
                if "/" not in name:  # those are TVM's, which takes seconds to ask
                    targets.find(name)

    def fetched(self, fetch: Callable[[str], str]) -> Asked:
        """The same with paths of this machine in place of URLs."""
        local: dict[str, Any] = {}
        for key in (*PATHS, "gates"):
            path = getattr(self, key)
            if isinstance(path, str):
                with self.said(key):
                    local[key] = fetch(path)
        with self.said("schemes"):
            schemes = tuple(fetch(name) if name.endswith(SCHEME_SUFFIX) else name for name in self.schemes)
        return replace(self, schemes=schemes, **local)

    def _comparison(self) -> dict[str, Any] | None:
        """Keywords of `pipeline.compare`; None without a comparison."""
        bounds = gates.read(self.gates) if isinstance(self.gates, str) else gates.checked(self.gates or {})
        if not (self.compare or bounds or any(self._chosen(key) for key in COMPARING)):
            return None
        for name in bounds:
            if "speedup" in name and not self.speed:
                raise UsageError(f"{gates.KINDS[name].option}: times are not measured without --speed")
        found = {
            "data": _whole(self.data), "labels": _whole(self.labels), "label_names": _whole(self.label_names),
            **{key: getattr(self, key) for key in COMPARING if key not in PATHS and self._chosen(key)},
            "threads": self.threads, "speed": self.speed, "gates": bounds,
        }  # fmt: skip
        return {key: value for key, value in found.items() if value is not None}

    def _chosen(self, key: str) -> bool:
        """Whether a key of COMPARING says something; "auto", as the command line has it, leaves the choice open."""
        value = getattr(self, key)
        return value is not None and value is not False and value != AUTO


# Beside `gates`, the keys that only a comparison uses: each asks for one, instead of being ignored without it.
COMPARING = ("data", "labels", "label_names", "task", "fit", "mean", "std", "limit", "skip_bad", "speed")
PATHS = ("calibrate", "data", "labels", "label_names")
TYPES: Mapping[str, tuple[type, ...]] = {
    "interface": (str,), "allow_unsupported": (bool,), "unchanged": (str,), "threads": (int,), "compare": (bool,),
    "task": (str,), "fit": (str,), "mean": (int, float), "std": (int, float), "limit": (int,), "speed": (bool,),
    "skip_bad": (bool,),
    "gates": (str, dict), "folder": (str,), **dict.fromkeys(PATHS, (str,)),
}  # fmt: skip
LISTS = {"scheme": "schemes", "schemes": "schemes", "target": "targets", "targets": "targets"}


def jobs(
    sources: Sequence[str], manifest: str | None, asked: Asked, out: str | Path | Place,
    fetch: Callable[[str], str] = places.plain,
) -> list[Job]:  # fmt: skip
    """The jobs for all sources and all models of the manifest, in order; what a manifest says comes before `asked`.

    Sources, the manifest and `out` may be URLs; `fetch` makes other URLs (data, labels, gates, schemes) paths of this
    machine.  Raises UsageError for sources that do not exist, for two jobs with the same outputs, and for outputs that
    would replace an input.
    """
    out = places.of(out)
    wanted = [(source, asked) for source in sources]
    if manifest is not None:
        wanted += list(_manifest(manifest, asked))
    if not wanted:
        raise UsageError("give models, folders of models, or --manifest FILE.toml")
    found: dict[str, Job] = {}
    for source, each in wanted:
        settings = each.fetched(fetch).settings()
        with each.said("path"):
            for path, relative in models(source, out):
                bare = relative.removesuffix(TEXT_SUFFIX if relative.endswith(TEXT_SUFFIX) else Path(relative).suffix)
                for setting in settings:
                    stem = os.path.join(each.folder, f"{bare}.{setting.scheme}")
                    _add(found, Job(path, _readable(relative), stem, setting))
    _check(list(found.values()), out, manifest)
    return list(found.values())


def _add(found: dict[str, Job], job: Job) -> None:
    """Add a job; the same one twice is one."""
    other = found.setdefault(job.stem, job)
    if other.settings != job.settings or places.identity(other.source) != places.identity(job.source):
        raise UsageError(
            f"{job.source} and {other.source}: both would become {job.stem}{SUFFIX}; give them in two runs with "
            "different -o, or folder = ... in a manifest"
        )


def models(source: str, out: Place) -> Iterator[tuple[str, str]]:
    """The models of a source with their paths relative to it: a file itself, or all .tflite files below a folder.

    Hidden folders, and the output folder, are left out.  Raises UsageError.
    """
    if places.is_url(source):
        yield from _objects(source, out)
        return
    source = places.plain(source)
    if not os.path.isdir(source):
        if not os.path.lexists(source):
            raise UsageError(f"{source}: does not exist; give models, or folders of models")
        yield source, os.path.basename(source)
        return
    if os.path.realpath(source) == out.identity():
        raise _both(source)
    found = list(_below(source, (), out))
    if not found:
        raise UsageError(f"{source}: there is no {SUFFIX} file in this folder; give another")
    for path in found:
        yield path, os.path.relpath(path, source)


def _below(folder: str, around: tuple[str, ...], out: Place) -> Iterator[str]:
    """The models in a folder, before those in the folders in it, also where links lead to them; `around` are the real
    paths of the folders that it was reached by."""
    here = os.path.realpath(folder)
    try:
        entries = sorted((each for each in os.scandir(folder) if not each.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise _unreadable(error) from error
    folders = [each for each in entries if os.path.isdir(each.path)]
    yield from (each.path for each in entries if each.name.endswith(SUFFIX) and each not in folders)
    for each in folders:
        real = os.path.realpath(each.path)
        # A link to what it lies in has no end.
        endless = each.is_symlink() and any(f"{known}/".startswith(f"{real}/") for known in (here, *around))
        if real != out.identity() and not endless:
            yield from _below(each.path, (here, *around), out)


def _both(source: str) -> UsageError:
    return UsageError(f"{source}: is the output folder too, where results would become sources; give another -o")


def _objects(url: str, out: Place) -> Iterator[tuple[str, str]]:
    """Like `models`, for an object store."""
    names = places.listed(url)
    if names is None:
        yield url, url.rpartition("/")[2]
        return
    here, there = places.identity(url), out.identity()
    if here == there:
        raise _both(url)
    inner = f"{there.removeprefix(here).strip('/')}/" if there.startswith(f"{here}/") else None
    found = [
        name for name in names
        if name.endswith(SUFFIX) and not any(part.startswith(".") for part in name.split("/") if part != "..")
        and (inner is None or not name.startswith(inner))
    ]  # fmt: skip
    if not found:
        raise UsageError(f"{url}: there is no {SUFFIX} file in this folder; give another")
    for name in found:
        if ".." in name.split("/"):
            raise UsageError(f"{url}/{name}: its name leads out of its folder; rename it")
        yield f"{url.rstrip('/')}/{name}", name


def _unreadable(error: OSError) -> UsageError:
    return UsageError(f"{error.filename}: cannot be read: {error.strerror}; check its permissions")


def _check(found: Sequence[Job], out: Place, manifest: str | None) -> None:
    """Raise UsageError for an output that two jobs share, that is an input, or that cannot be a file."""
    inputs = {places.identity(job.source): job.source for job in found}
    inputs |= {places.identity(path): path for job in found for path in job.settings.paths.values()}
    if manifest is not None:
        inputs[places.identity(manifest)] = manifest
    taken: dict[str, Job] = {}
    cache = f"{out.identity(FOLDER)}/"
    for job in found:
        for ending in job.endings():
            path, identity = out.name(f"{job.stem}{ending}"), out.identity(f"{job.stem}{ending}")
            if identity in inputs:
                raise UsageError(f"{path}: is the input {inputs[identity]}; give another -o")
            if identity in taken:
                raise UsageError(f"{job.source} and {taken[identity].source}: both would write {path}; rename one")
            if out.is_folder(f"{job.stem}{ending}") or identity.startswith(cache):
                raise UsageError(f"{path}: is a folder or the cache; give another -o")
            taken[identity] = job


def refuse_reports(
    paths: Mapping[str, str | None], inputs: Iterable[str | None], found: Sequence[Job], out: Place
) -> None:
    """Raise UsageError for a report, by its option, that is an input, another report, or an output of a job."""
    taken = {places.identity(path): f"the input {path}" for path in inputs if path is not None}
    for job in found:
        taken |= {out.identity(f"{job.stem}{ending}"): f"what {job.source} becomes" for ending in job.endings()}
    for option, path in paths.items():
        if path is None or path == "-":
            continue
        identity = places.identity(path)
        if identity in taken:
            raise UsageError(f"{option} {path}: is {taken[identity]}; give another name")
        if places.is_url(path):
            taken[identity] = f"what {option} names, too"


def _manifest(path: str, asked: Asked) -> Iterator[tuple[str, Asked]]:
    """Each model of a manifest with what is asked for it.  Raises UsageError."""
    try:
        url = places.is_url(path)
        document = tomllib.loads(places.read(path).decode("utf-8-sig") if url else limits.text(places.plain(path)))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: is not TOML: {error}") from error
    except OSError as error:
        raise limits.unreadable(path, error, UsageError) from error
    except ValueError as error:
        raise UsageError(f"{path}: cannot be read; a manifest is a TOML file of [[models]]") from error
    _known(document, ("defaults", "models"), f"{path}: ")
    defaults = _merged(asked, document.get("defaults", {}), path, f"{path}: defaults")
    listed = document.get("models", [])
    if not isinstance(listed, list) or not listed:
        raise UsageError(f"{path}: lists no models; write [[models]] and path = ... for each")
    for number, table in enumerate(listed):
        where = f"{path}: models[{number}]"
        if not isinstance(table, dict) or not isinstance(table.get("path"), str):
            raise UsageError(f"{where}: needs path = ..., a model or a folder of models")
        rest = {key: value for key, value in table.items() if key != "path"}
        each = _merged(defaults, rest, path, where)
        origin = {**each.origin, "": where, "path": f"{where}.path"}
        yield places.joined(places.parent(path), table["path"]), replace(each, origin=origin)


def _merged(asked: Asked, table: Any, path: str, where: str) -> Asked:
    """`asked` with what a table of a manifest says."""
    if not isinstance(table, dict):
        raise UsageError(f"{where}: must be a table")
    _known(table, (*LISTS, *TYPES), f"{where}.")
    if len({LISTS[key] for key in table if key in LISTS}) < sum(key in LISTS for key in table):
        raise UsageError(f"{where}: give either scheme or schemes, either target or targets")
    changes: dict[str, Any] = {}
    for key, value in table.items():
        if key in LISTS:
            changes[LISTS[key]] = _names(value, path, f"{where}.{key}", key.startswith("scheme"))
            continue
        if not isinstance(value, TYPES[key]) or (isinstance(value, bool) and bool not in TYPES[key]):
            raise UsageError(f"{where}.{key}: is {value!r}, not {' or '.join(kind.__name__ for kind in TYPES[key])}")
        is_path = key in PATHS or (key == "gates" and isinstance(value, str))
        changes[key] = places.joined(places.parent(path), str(value)) if is_path else value
    folder = changes.get("folder", "")
    if os.path.isabs(folder) or ".." in Path(folder).parts or "\0" in folder:
        raise UsageError(f"{where}.folder: {folder!r} must lie inside the output folder")
    if folder:
        changes["folder"] = os.path.join(*Path(folder).parts) if Path(folder).parts else ""  # one name for each folder
    origin = {**asked.origin, **{str(LISTS.get(key, key)): f"{where}.{key}" for key in table}}
    return replace(asked, origin=origin, **changes)


def _names(value: Any, path: str, where: str, schemes: bool) -> tuple[str, ...]:
    """One name or several; the .toml files of schemes lie beside the manifest."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed or not all(isinstance(name, str) for name in listed):
        raise UsageError(f"{where}: is {value!r}, not a name or a list of names")
    base = places.parent(path)
    return tuple(places.joined(base, name) if schemes and name.endswith(SCHEME_SUFFIX) else name for name in listed)


def _known(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    names = list(known)
    for key in table:
        if key not in names:
            near = difflib.get_close_matches(key, names, 1, 0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"{where}{key} is unknown{hint}; known keys: {', '.join(names)}")


def _whole(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def _readable(name: str) -> str:
    """A file's name as text that can be printed, whatever its bytes are."""
    return os.fsencode(name).decode("utf-8", "replace")


# A field of a job that no list and no type knows could not be asked for.
assert {each.name for each in fields(Asked)} == {*LISTS.values(), *TYPES, "origin"}
