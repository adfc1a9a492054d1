"""A model's code for a microcontroller, as files; and whether it fits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tflite2q import files
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.names import short
from tflite2q.errors import LimitError, UsageError
from tflite2q.lower.targets import Micro
from tflite2q.micro import build, memory, package, source, steps
from tflite2q.micro.program import Program

ENDINGS = (".a", ".c", ".zip")


@dataclass(frozen=True)
class Library:
    """A program, its memory plan, and for which microcontroller they are."""

    target: Micro
    program: Program
    plan: memory.Plan

    @property
    def constant_bytes(self) -> int:
        """Weights and tables in flash; code comes on top."""
        return self.program.weight_bytes + self.program.table_bytes

    def files(self, ending: str) -> Mapping[str, bytes]:
        """Contents by file name.  Raises TargetError where an archive is asked for and nothing can compile it."""
        text, header = source.source(self.program, self.plan), source.header(self.program, self.plan)
        if ending == ".zip":
            return {f"{self.program.stem}.zip": package.archive(self.program, text, header)}
        code = text.encode() if ending == ".c" else build.archive(text, header, self.program.stem, self.target)
        return {f"{self.program.stem}{ending}": code, f"{self.program.stem}.h": header.encode()}


def make(graph: Graph, stem: str, target: Micro, whole: bool = False) -> Library:
    """The code of `graph`; functions are named after `stem`, and the arena also holds inputs and outputs if it holds
    the `whole`.  Raises UnsupportedError that names the layer and op."""
    program = steps.program(graph, stem, target.family)
    return Library(target, program, memory.plan(program, whole))


def check_fits(library: Library, max_arena: int | None, max_flash: int | None) -> None:
    """Raise LimitError with what `excess` says, if anything."""
    if found := excess(library, max_arena, max_flash):
        raise LimitError("; ".join(found))


def excess(library: Library, max_arena: int | None, max_flash: int | None) -> list[str]:
    """Why a library does not fit, a sentence for RAM and one for flash: the layer that needs most, and the layer with
    which the constants no longer fit."""
    program, plan, found = library.program, library.plan, list[str]()
    if max_arena is not None and plan.bytes + program.state_bytes > max_arena:
        state = f" and the state {program.state_bytes}" if program.states else ""
        found.append(f"the arena takes {plan.bytes} bytes{state}, and the limit is {max_arena}{_most(program, plan)}")
    if max_flash is not None and library.constant_bytes > max_flash:
        total = sum(table.bytes for table in program.constants)
        first = ""
        for step in program.steps:
            total += sum(table.bytes for table in step.tables)
            if total > max_flash and not first:
                first = f"; {step.mnemonic} {short(step.layer)!r} is the first that does not fit"
        found.append(f"constants take {library.constant_bytes} bytes, and the limit is {max_flash}{first}")
    return found


def _most(program: Program, plan: memory.Plan) -> str:
    """Which layer an arena is for."""
    if not plan.items:
        return ""
    layer = program.steps[plan.peak]
    return f"; {layer.mnemonic} {short(layer.layer)!r} needs most, and no plan takes fewer than {plan.bound}"


@dataclass(frozen=True)
class Verdict:
    """Whether a model of `layers` layers fits a microcontroller: layers without a kernel, what is too much (sentences),
    and what it needs (None where a layer has no kernel).  `mended`: whether it would fit as int8 (None: not tried)."""

    model: str
    target: str
    layers: int
    refused: tuple[steps.Refused, ...]
    excess: tuple[str, ...]
    needs: Fit | None
    max_arena: int | None = None
    max_flash: int | None = None
    mended: bool | None = None

    @property
    def fits(self) -> bool:
        """Whether every layer has a kernel, and nothing is too much."""
        return not self.refused and not self.excess


def verdict(graph: Graph, model: str, target: Micro, max_arena: int | None, max_flash: int | None) -> Verdict:
    """Whether a graph fits, before anything is written."""
    refused = steps.refused(graph, target.family)
    if refused:
        return Verdict(model, target.name, len(graph.ops), refused, (), None, max_arena, max_flash)
    made = make(graph, "model", target)
    too_much = tuple(excess(made, max_arena, max_flash))
    return Verdict(model, target.name, len(graph.ops), (), too_much, fit(made), max_arena, max_flash)


@dataclass(frozen=True)
class Need:
    """What a layer needs: bytes of the arena while it runs, of its constants, and its multiply-accumulates."""

    layer: str
    op: str
    kernel: str
    arena: int
    constants: int
    macs: int


@dataclass(frozen=True)
class Fit:
    """What a model needs on a microcontroller: bytes of the arena, of which no plan needs fewer than `bound`, and of
    the state that stays between runs; bytes of constants in flash, of which `tables` are no weights or biases;
    multiply-accumulates; and each step's share."""

    target: str
    arena: int
    bound: int
    state: int
    constants: int
    tables: int
    macs: int
    steps: tuple[Need, ...]


def fit(library: Library) -> Fit:
    """What a library needs, before anything is compiled."""
    program, plan = library.program, library.plan
    needs = [
        Need(s.layer, s.mnemonic, s.call.split("(")[0], plan.needs[i],
             sum(table.bytes for table in s.tables), s.macs)
        for i, s in enumerate(program.steps)
    ]  # fmt: skip
    macs = sum(step.macs for step in program.steps)
    return Fit(
        library.target.name, plan.bytes, plan.bound, program.state_bytes, library.constant_bytes, program.table_bytes,
        macs, tuple(needs),
    )  # fmt: skip


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a folder, which gets what a package holds: it ends in a slash, or is one."""
    return os.fspath(path).endswith(("/", os.sep)) or Path(path).is_dir()


def stem_of(path: str | os.PathLike[str]) -> str:
    """What the files of a library at `path` are called, without their endings."""
    return Path(path).resolve().name if is_folder(path) else Path(path).stem


def check_path(path: str | os.PathLike[str]) -> None:
    """Raise UsageError for a name that says not what is written, or that builds cannot take, and a folder in none."""
    packed = is_folder(path) or Path(path).suffix == ".zip"  # CMake reads names as lists with variables
    if bad := [c for c in stem_of(path) if c in ('"\\;$' if packed else '"\\') or not c.isprintable()]:
        by = "CMake" if bad[0] in ";$" else "C"
        raise UsageError(f"{os.fspath(path)}: {by} takes no file with {bad[0]!r} in its name; choose another one")
    if is_folder(path):
        if not Path(path).resolve().parent.is_dir():
            raise UsageError(f"{os.fspath(path)}: there is no folder {Path(path).parent}; make it first")
    elif Path(path).suffix not in ENDINGS:
        raise UsageError(
            f"{os.fspath(path)}: code for a microcontroller ends in {', '.join(ENDINGS)}, or is a folder FOLDER/; "
            "name it so"
        )


def places(path: str | os.PathLike[str]) -> list[str]:
    """The files that a library at `path` is written to."""
    found = Path(path)
    if is_folder(path):
        return [str(found / place) for place in package.places(stem_of(path))]
    return [str(found), *([] if found.suffix == ".zip" else [str(found.with_suffix(".h"))])]


def save(library: Library, path: str | os.PathLike[str], force: bool = False) -> list[str]:
    """Write NAME.a or NAME.c and NAME.h beside it, NAME.zip, or what that holds into a folder; the names written.

    Raises UsageError for files that exist.
    """
    check_path(path)
    folder = is_folder(path)
    if folder:
        text, header = source.source(library.program, library.plan), source.header(library.program, library.plan)
        packed = package.contents(library.program, text, header)
        contents = {Path(path) / place: content.encode() for place, content in packed.items()}
    else:
        contents = {Path(path).with_name(name): data for name, data in library.files(Path(path).suffix).items()}
    for place in contents:
        if place.parent.is_dir() or not folder:
            files.refuse_overwrite(place, force)
    for place, content in contents.items():
        if folder:
            place.parent.mkdir(parents=True, exist_ok=True)
        files.write(place, content, force)
    return [str(place) for place in contents]
