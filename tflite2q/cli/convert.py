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
    scheme_option,
    shape_option,
    signature_option,
    target_option,
    threads_option,
)

if TYPE_CHECKING:
    from rich.console import Console

    from tflite2q.cli.progress import Progress
    from tflite2q.dialect.text import Constants
    from tflite2q.evaluation.models import Loaded
    from tflite2q.rewrites import Conversion
    from tflite2q.rewrites.scheme import Scheme

STAGES = ("load", "convert", "lower")
UNCHANGED = ("skip", "copy", "fail")


@command(short_help="Rewrite a model to another quantization scheme.")
@click.argument("model", type=MODEL)
@scheme_option
@click.option(
    "-o", "--output", type=ANY_PATH, help="The .tflite to write.  [default: MODEL-stem.SCHEME.tflite beside MODEL]"
)
@click.option(
    "--lib",
    type=ANY_PATH,
    metavar="OUT.so",
    help="Also compile it with TVM to this shared library (.tar: its object files).",
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
    output: str | None,
    lib: str | None,
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
    """
    if scheme is None:
        raise click.UsageError("give --scheme NAME|FILE (`tflite2q schemes` lists the names)")
    from tflite2q import files
    from tflite2q.cli import models
    from tflite2q.cli import output as out
    from tflite2q.cli.progress import Progress
    from tflite2q.evaluation import compare
    from tflite2q.evaluation.models import content_of, size_of, stem_of
    from tflite2q.evaluation.results import Comparison, Size
    from tflite2q.execution import runtime
    from tflite2q.report import json, text
    from tflite2q.rewrites import scheme as schemes

    if until is not None:
        with Progress() as progress:
            found = models.opened(model, shapes, allow_unsupported, signature)
            click.echo(_dump(found, scheme, interface, data, target, until, constants, progress))
        return
    chosen = schemes.find(scheme, interface)
    path = Path(output) if output is not None else Path(model).with_name(f"{stem_of(model)}.{chosen.name}.tflite")
    files.refuse_outputs({"--output": path, "--lib": lib, "--json": json_path}, [model, data], force, "--json")
    if lib is not None:
        from tflite2q.lower.target import resolve

        runtime.check_ending(lib)
        resolve(target)  # a name that does not exist is said before the work, not after
    found = models.opened(model, shapes, allow_unsupported, signature)
    with Progress() as progress:
        progress("converting")
        conversion, same = _converted(found, chosen, data, unchanged)
        graph = found.graph if conversion is None else conversion.graph
        content = found.content() if conversion is None else content_of(conversion)
        written = [str(path)] if conversion is not None or unchanged == "copy" else []
        if lib is not None:
            progress(f"compiling for {target}")
            runtime.compile(graph, target, threads).save(lib, force)
        choices = runtime.choices(graph, target) if explain else ()
        if written:
            files.write(path, content, force)
    result = Comparison(
        model=Path(model).name,
        other=chosen.name,
        scheme=chosen.name,
        target=target if lib is not None else None,
        layers=() if conversion is None else compare.layers_of(conversion),
        size=Size(size_of(found), len(content)),
        notes=(same,) if conversion is None else conversion.notes,
    )
    written += [] if lib is None else [lib]
    document = {**json.comparison(result), "written": written}

    def show(console: Console) -> None:
        if conversion is None:
            text.unchanged(console, same, written)
        else:
            text.conversion(console, models.unsaid(result, found), written)
        if explain:
            text.kernels(console, target, choices)

    out.emit({**document, "kernels": json.kernels(choices)} if explain else document, json_path, show)


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
    scheme: str,
    interface: str | None,
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
    conversion = pipeline.convert(model, scheme, interface, data=data)
    if until == "convert":
        return print_graph(conversion.graph, constants)
    progress(f"lowering for {target}")
    return runtime.lowered_text(conversion.graph, target)
