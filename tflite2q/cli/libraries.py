"""What `convert --lib` writes: libraries for TVM's runtime, or code for microcontrollers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tflite2q.cli.progress import Progress
    from tflite2q.dialect.graph import Graph


class Limits(NamedTuple):
    """What a microcontroller has: bytes of the arena, which also holds inputs and outputs if `whole`, and bytes of
    constants."""

    arena: int | None
    flash: int | None
    whole: bool = False


def outputs(lib: str | None, target: str) -> dict[str, str | Path | None]:
    """The files that `--lib` writes: a library, and for a microcontroller its header, or those of a package."""
    from tflite2q.lower.targets import micro

    if lib is None or micro(target) is None:
        return {"--lib": lib}
    from tflite2q.micro import library

    places = library.places(lib)
    if library.is_folder(lib):  # which is made where it is not there yet
        places = [place for place in places if Path(place).parent.is_dir()]
        return {f"--lib ({place})": place for place in places}
    return dict(zip(("--lib", "the header of --lib"), places, strict=False))


def check(lib: str | None, target: str, limits: Limits) -> None:
    """Say before the work that a library cannot have that name, or what `limits` are for."""
    from tflite2q.errors import UsageError
    from tflite2q.lower.targets import MICROS, micro

    small = micro(target)
    if limits != Limits(None, None) and (small is None or lib is None):
        options = "--max-arena, --max-flash and --io-in-arena"
        raise UsageError(f"{options} are for --lib with a microcontroller as --target")
    if lib is None:
        return
    from tflite2q.micro import library

    if small is not None:
        library.check_path(lib)
        return
    if library.is_folder(lib) or Path(lib).suffix in library.ENDINGS:
        names = ", ".join(each.name for each in MICROS)
        raise UsageError(
            f"{lib}: code in {', '.join(library.ENDINGS)} or a folder is for microcontrollers, and --target is "
            f"{target}; give one of {names}, or a library's name"
        )
    from tflite2q.execution import origin

    origin.check_ending(lib)


def compiled(
    graph: Graph, lib: str | None, target: str, threads: int, limits: Limits, force: bool, progress: Progress
) -> list[str]:
    """The files written for `--lib`."""
    from tflite2q.execution import runtime
    from tflite2q.lower.targets import micro

    if lib is None:
        return []
    progress(f"compiling for {target}")
    small = micro(target)
    if small is None:
        runtime.compile(graph, target, threads).save(lib, force)
        return [lib]
    from tflite2q.micro import library

    made = library.make(graph, library.stem_of(lib), small, limits.whole)
    library.check_fits(made, limits.arena, limits.flash)
    return library.save(made, lib, force)
