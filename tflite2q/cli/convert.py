"""`tflite2q convert`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tflite2q.cli.options import (
    ANY_PATH,
    MODEL,
    allow_unsupported_option,
    command,
    force_option,
    interface_option,
    json_option,
    runtime_option,
    scheme_option,
    shape_option,
    signature_option,
    target_option,
    threads_option,
)

if TYPE_CHECKING:
    from rich.console import Console

    from tflite2q.cli.progress import Progress
    from tflite2q.dialect.graph import Graph
    from tflite2q.dialect.text import Constants
    from tflite2q.evaluation.models import Loaded
    from tflite2q.rewrites import Conversion
    from tflite2q.rewrites.scheme import Scheme

STAGES = ("load", "convert", "lower")
UNCHANGED = ("skip", "copy", "fail")


@command(short_help="Rewrite a model to another quantization scheme.")
@click.argument("model", type=MODEL)
@scheme_option
@runtime_option(help="Without --scheme: choose the scheme and interface that suit it.  Always: check the result.")
@click.option(
    "-o", "--output", type=ANY_PATH, help="The .tflite to write.  [default: MODEL-stem.SCHEME.tflite beside MODEL]"
)
@click.option(
    "--lib",
    type=ANY_PATH,
    metavar="OUT.so",
    help="Also compile it with TVM to this shared library (.tar: its object files); for a microcontroller, write an "
    "archive OUT.a or C OUT.c, and OUT.h, or a package OUT.zip for CMake, Zephyr and Arduino.",
)
@click.option(
    "--max-arena",
    type=click.IntRange(min=0),
    metavar="BYTES",
    help="Of a microcontroller: fail with exit code 1 if the model needs more RAM for its tensors.",
)
@click.option(
    "--max-flash",
    type=click.IntRange(min=0),
    metavar="BYTES",
    help="Of a microcontroller: fail with exit code 1 if the model's constants need more flash.",
)
@target_option
@threads_option
@interface_option
@click.option("--explain", is_flag=True, help="Show which kernel computes each layer on --target, and why.")
@click.option(
    "--until", type=click.Choice(STAGES), help="Stop after this stage and print the graph or module; write nothing."
)
@click.option(
    "--constants",
    type=click.Choice(["elided", "full"]),
    default="elided",
    show_default=True,
    help="With --until: shorten long constants, or print a graph that every command reads again as *.q.txt.",
)
@signature_option
@shape_option
@allow_unsupported_option
@click.option(
    "--unchanged",
    type=click.Choice(UNCHANGED),
    default=UNCHANGED[0],
    show_default=True,
    help="If the model already follows the scheme: write nothing, copy the model, or fail with exit code 3.",
)
@click.option(
    "--data",
    type=ANY_PATH,
    help="Samples (as for compare) to calibrate new ranges and bias correction on; only float models need them.",
)
@force_option
@json_option
def convert(
    model: str,
    scheme: str | None,
    runtime: str | None,
    output: str | None,
    lib: str | None,
    max_arena: int | None,
    max_flash: int | None,
    target: str,
    threads: int,
    interface: str | None,
    explain: bool,
    until: str | None,
    constants: Constants,
    signature: str | None,
    shapes: dict[str, tuple[int, ...]],
    allow_unsupported: bool,
    unchanged: str,
    data: str | None,
    force: bool,
    json_path: str | None,
) -> None:
    """Rewrite a model to another quantization scheme and report what changed.

    Quantized models need no data.  Float models need --data for integer activations, and none for the schemes
    dynamic-range and weight-only.  Layers that keep every integer are `exact`; the loss of others is listed.
    A model that already follows the scheme is left unchanged, and the output says so; see --unchanged.
    --for RUNTIME tries which scheme and interface suit a runtime, and ends with what its rules say of the file.
    """
    if scheme is None and runtime is None:
        raise click.UsageError("give --scheme NAME|FILE (`tflite2q schemes` lists the names) or --for RUNTIME")
    from tflite2q import files, pipeline
    from tflite2q.cli import models
    from tflite2q.cli import output as out
    from tflite2q.cli.progress import Progress
    from tflite2q.evaluation import compare
    from tflite2q.evaluation.models import content_of, size_of, stem_of
    from tflite2q.evaluation.results import Comparison, Size
    from tflite2q.execution import runtime as execution
    from tflite2q.report import json, rules, text

    early = scheme is None or until is not None
    found = models.opened(model, shapes, allow_unsupported, signature) if early else None
    chosen, suits = _chosen(found, scheme, runtime, interface, data, unchanged)
    if found is not None and until is not None:
        with Progress() as progress:
            click.echo(_dump(found, chosen, data, target, until, constants, progress))
        return
    name = str(runtime) if chosen is None else chosen.name
    path = Path(output) if output is not None else Path(model).with_name(f"{stem_of(model)}.{name}.tflite")
    header = _check_library(lib, target, limits := (max_arena, max_flash))
    outputs = {"--output": path, "--lib": lib, "the header of --lib": header, "--json": json_path}
    files.refuse_outputs(outputs, [model, data], force, "--json")
    found = found or models.opened(model, shapes, allow_unsupported, signature)
    with Progress() as progress:
        progress("converting")
        conversion, same = (None, suits) if chosen is None else _converted(found, chosen, data, unchanged)
        graph = found.graph if conversion is None else conversion.graph
        content = found.content() if conversion is None else content_of(conversion)
        written = [str(path)] if conversion is not None or unchanged == "copy" else []
        progress(f"compiling for {target}" if lib is not None else "converting")
        libraries = _compiled(graph, lib, target, threads, limits, force)
        choices = execution.choices(graph, target) if explain else ()
        if written:
            files.write(path, content, force)
    result = Comparison(
        model=Path(model).name,
        other=name,
        scheme=name,
        target=target if lib is not None else None,
        layers=() if conversion is None else compare.layers_of(conversion),
        size=Size(size_of(found), len(content)),
        notes=(same,) if conversion is None else conversion.notes,
    )
    verdict = None if runtime is None else pipeline.check(str(path) if written else model, runtime, mend=False)
    written += libraries
    document = {
        **json.comparison(result),
        "written": written,
        **({"kernels": json.kernels(choices)} if explain else {}),
        **({} if verdict is None else {"check": json.check(verdict)}),
    }

    def show(console: Console) -> None:
        if conversion is None:
            text.unchanged(console, same, written)
        else:
            text.conversion(console, models.unsaid(result, found), written)
        if explain:
            text.kernels(console, target, choices)
        if verdict is not None:
            rules.fitted(console, verdict, suits if conversion is not None else "")

    out.emit(document, json_path, show)


Limits = tuple[int | None, int | None]  # bytes of the arena, bytes of constants


def _check_library(lib: str | None, target: str, limits: Limits) -> str | None:
    """Say before the work that a library cannot have that name, or that a target does not exist.

    The header that is written with a library for a microcontroller, None where there is none.
    """
    from tflite2q.errors import UsageError
    from tflite2q.lower.targets import micro

    small = micro(target)
    if limits != (None, None) and (small is None or lib is None):
        raise UsageError("--max-arena and --max-flash are for --lib with a microcontroller as --target")
    if lib is None:
        return None
    if small is not None:
        from tflite2q.micro import library

        library.check_path(lib)
        return library.header_of(lib)
    from tflite2q.execution import runtime
    from tflite2q.lower.target import resolve

    runtime.check_ending(lib)
    resolve(target)
    return None


def _compiled(graph: Graph, lib: str | None, target: str, threads: int, limits: Limits, force: bool) -> list[str]:
    """The files written for `--lib`."""
    from tflite2q.execution import runtime
    from tflite2q.lower.targets import micro

    if lib is None:
        return []
    small = micro(target)
    if small is None:
        runtime.compile(graph, target, threads).save(lib, force)
        return [lib]
    from tflite2q.micro import library

    made = library.make(graph, Path(lib).stem, small)
    library.check_fits(made, *limits)
    return library.save(made, lib, force)


def _chosen(
    model: Loaded | None,
    scheme: str | None,
    runtime: str | None,
    interface: str | None,
    data: str | None,
    unchanged: str,
) -> tuple[Scheme | None, str]:
    """The scheme that is named, or the one that suits the runtime; as `_suiting`."""
    from tflite2q.cli.progress import Progress
    from tflite2q.rewrites import scheme as schemes

    if scheme is not None or model is None or runtime is None:
        return schemes.find(str(scheme), interface), ""
    with Progress() as progress:
        progress(f"trying schemes for {runtime}")
        return _suiting(model, runtime, interface, data, unchanged)


def _suiting(
    model: Loaded, runtime: str, interface: str | None, data: str | None, unchanged: str
) -> tuple[Scheme | None, str]:
    """The scheme, with its interface, that suits a runtime best, and a sentence about it; None if no layer breaks a
    rule.

    Raises UnsupportedError where none of the runtime's schemes is possible or helps.
    """
    from tflite2q import pipeline
    from tflite2q.errors import Unchanged, UnsupportedError
    from tflite2q.report import rules
    from tflite2q.rewrites import scheme as schemes

    found = pipeline.check(model, runtime, data=data, interface=interface)
    if not found.breaches:
        if unchanged == "fail":
            raise Unchanged(rules.verdict(found))
        return None, rules.verdict(found)
    if found.wanted is None:
        tried = "; ".join(rules.tried(trial) for trial in found.trials)
        raise UnsupportedError(f"{rules.verdict(found)}, and no scheme that suits it leaves fewer: {tried}")
    wanted = found.wanted
    sentence = f"{runtime} takes scheme {wanted.scheme}, {rules.kept(wanted)}"
    return schemes.find(wanted.scheme, wanted.interface), sentence


def _converted(model: Loaded, scheme: Scheme, data: str | None, unchanged: str) -> tuple[Conversion | None, str]:
    """The conversion, or None with the reason if the model already follows the scheme."""
    from tflite2q import pipeline
    from tflite2q.errors import Unchanged

    try:
        return pipeline.convert(model, scheme, data=data), ""
    except Unchanged as error:
        if unchanged == "fail":
            raise
        return None, str(error)


def _dump(
    model: Loaded,
    scheme: Scheme | None,
    data: str | None,
    target: str,
    until: str,
    constants: Constants,
    progress: Progress,
) -> str:
    """The graph (or, lowered, the module) after a stage, as text."""
    from tflite2q import pipeline
    from tflite2q.dialect.text import print_graph
    from tflite2q.execution import runtime

    if until == "load":
        return print_graph(model.graph, constants)
    graph = model.graph if scheme is None else pipeline.convert(model, scheme, data=data).graph
    if until == "convert":
        return print_graph(graph, constants)
    progress(f"lowering for {target}")
    return runtime.lowered_text(graph, target)
