"""`tflite2q convert`"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tflite2q.cli.kinds import ANY_PATH, MODEL, PathName, Piped
from tflite2q.cli.options import (
    allow_unsupported_option,
    command,
    force_option,
    interface_option,
    json_option,
    limit_options,
    max_pixels_option,
    memory_option,
    runtime_option,
    scheme_option,
    shape_option,
    signature_option,
    skip_bad_option,
    target_option,
    threads_option,
)

if TYPE_CHECKING:
    from rich.console import Console

    from tflite2q.cli.progress import Progress
    from tflite2q.dialect.text import Constants
    from tflite2q.evaluation.models import Loaded, Model
    from tflite2q.rewrites import Conversion
    from tflite2q.rewrites.scheme import Scheme
    from tflite2q.runtimes.check import Check

STAGES = ("load", "convert", "lower")
UNCHANGED = ("skip", "copy", "fail")


@command(short_help="Rewrite a model to another quantization scheme.")
@click.argument("model", type=MODEL)
@scheme_option
@runtime_option(help="Without --scheme: choose the scheme and interface that suit it.  Always: check the result.")
@click.option(
    "-o",
    "--output",
    type=PathName(allow_dash=True),
    help="The .tflite to write; '-' writes it to stdout, and the report to stderr.  "
    "[default: MODEL-stem.SCHEME.tflite beside MODEL]",
)
@click.option(
    "--lib",
    type=ANY_PATH,
    metavar="OUT.so",
    help="Also compile the result with TVM to this shared library (.tar: object files).  For a microcontroller: an "
    "archive OUT.a or C source OUT.c, each with its header OUT.h; a package OUT.zip for CMake, Zephyr and Arduino; "
    "or OUT/, that package unpacked.",
)
@limit_options("For a microcontroller: fail with exit code 1 if the model")
@click.option(
    "--io-in-arena",
    is_flag=True,
    help="For a microcontroller: place inputs and outputs in the arena, at offsets that the header defines.",
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
    help="With --until: shorten long constants, or print them in full, so that every command can read the graph as "
    "*.q.txt.",
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
    help="Samples (as for compare) with which to calibrate ranges, correct biases and reconstruct weights.  Only float "
    "models need them.",
)
@skip_bad_option
@max_pixels_option
@memory_option
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Use only the first N samples of --data.",
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
    io_in_arena: bool,
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
    skip_bad: bool,
    limit: int,
    force: bool,
    json_path: str | None,
) -> None:
    """Rewrite a model to another quantization scheme and report what changed.

    Quantized models need no data.  Float models need --data for schemes with integer activations, but not for
    dynamic-range and weight-only.  Layers that keep every integer are `exact`; for others the loss is listed.
    A model that already follows the scheme is not rewritten, and the output says so; see --unchanged.
    --for RUNTIME finds a scheme and interface that suit the runtime, and checks the result against its rules.
    """
    _check(scheme or runtime, until, json_path)
    from tflite2q.cli import libraries, models
    from tflite2q.cli import output as out
    from tflite2q.cli.progress import Progress
    from tflite2q.evaluation import compare
    from tflite2q.evaluation.models import buffer_of, is_text, size_of
    from tflite2q.evaluation.results import Comparison, Size
    from tflite2q.execution import runtime as execution
    from tflite2q.report import json, rules, text

    samples = {"data": data, "limit": limit, "skip_bad": skip_bad}
    early = scheme is None or until is not None
    found = models.watched(model, shapes, allow_unsupported, signature) if early else None
    chosen, suits = _chosen(found, scheme, runtime, interface, data, unchanged)
    if found is not None and until is not None:
        with Progress() as progress:
            out.echo(_dump(found, chosen, samples, target, until, constants, progress))
        return
    name = str(runtime) if chosen is None else chosen.name
    path = _output(model, output, name)
    _refuse({"--output": path, **libraries.outputs(lib, target), "--json": json_path}, [model, data], force)
    libraries.check(lib, target, limits := libraries.Limits(max_arena, max_flash, io_in_arena))
    found = found or models.watched(model, shapes, allow_unsupported, signature)
    with Progress() as progress:
        progress("converting")
        conversion, same = (None, suits) if chosen is None else _converted(found, chosen, samples, unchanged, progress)
        graph = found.graph if conversion is None else conversion.graph
        given = conversion is None and not is_text(path)
        content = found.content() if given else buffer_of(conversion or found.graph, path)
        piped = output == "-"  # whoever reads stdout expects a model, changed or not
        written = [str(path)] if not piped and (conversion is not None or unchanged == "copy") else []
        made = libraries.compiled(graph, lib, target, threads, limits, force, progress)
        choices = execution.choices(graph, target) if explain else ()
        if piped or written:
            progress("writing")
            out.write_bytes(path, content, force)
    result = Comparison(
        model=Path(model).name,
        other=name,
        scheme=name,
        target=target if lib is not None else None,
        layers=() if conversion is None else compare.layers_of(conversion),
        size=Size(size_of(found), len(content)),
        notes=(same,) if conversion is None else (*conversion.notes, *_compressed(chosen, found, content)),
    )
    verdict = _verdict(str(path) if written else conversion or found, runtime)
    written += made
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
        if verdict is not None and same != rules.verdict(verdict):  # which would be said twice
            rules.fitted(console, verdict, suits if conversion is not None else "")

    out.emit(document, json_path, show, err=piped)


def _check(goal: str | None, until: str | None, json_path: str | None) -> None:
    """Raise UsageError for options that leave open what to do, or contradict each other."""
    if goal is None:
        raise click.UsageError("give --scheme NAME|FILE (`tflite2q schemes` lists the names) or --for RUNTIME")
    if until is not None and json_path is not None:
        raise click.UsageError("--json is for conversions, and --until ends before there is one; give only one of them")


def _compressed(scheme: Scheme | None, original: Loaded, content: bytes | memoryview) -> tuple[str, ...]:
    """What a scheme that uses few codes is for: the size of the file in an archive."""
    if scheme is None or not _few_codes(scheme):
        return ()
    before, after = (len(zlib.compress(each, 9)) for each in (original.content(), content))
    return (f"deflated, as in a zip file, it has {after} bytes (the original: {before})",)


def _few_codes(scheme: Scheme) -> bool:
    """Whether a scheme limits the codes of any layer's weights."""
    ruled = (
        role == "weights" and key == "levels" and value for rule in scheme.rules for role, key, value in rule.changes
    )
    return bool(scheme.layer.weights.levels) or any(ruled)


def _verdict(model: Model, runtime: str | None) -> Check | None:
    """What the rules of a runtime say of a model, if one is named."""
    from tflite2q import pipeline

    return None if runtime is None else pipeline.check(model, runtime, mend=False)


def _refuse(outputs: dict[str, str | Path | None], inputs: list[str | None], force: bool) -> None:
    """Raise UsageError, before the work, for outputs that may not be written; --json needs no --force."""
    from tflite2q import files

    if [str(path) for path in outputs.values()].count("-") > 1:
        raise click.UsageError("only one file can go to stdout; give --output or --json a file")
    files.refuse_outputs(outputs, inputs, force, "--json")


def _output(model: str, output: str | None, name: str) -> Path:
    """Where the model is written.  Raises UsageError where that cannot be told."""
    from tflite2q.evaluation.models import stem_of

    if output is not None:
        return Path(output)
    if isinstance(model, Piped):
        raise click.UsageError("a model from stdin has no name; give --output FILE, or '-' for stdout")
    return Path(model).with_name(f"{stem_of(model)}.{name}.tflite")


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


def _converted(
    model: Loaded, scheme: Scheme, samples: dict[str, Any], unchanged: str, progress: Progress
) -> tuple[Conversion | None, str]:
    """The conversion, or None with the reason if the model already follows the scheme."""
    from tflite2q import pipeline
    from tflite2q.errors import Unchanged

    try:
        return pipeline.convert(model, scheme, **samples, progress=progress), ""
    except Unchanged as error:
        if unchanged == "fail":
            raise
        return None, str(error)


def _dump(
    model: Loaded,
    scheme: Scheme | None,
    samples: dict[str, Any],
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
    graph = model.graph if scheme is None else pipeline.convert(model, scheme, **samples).graph
    if until == "convert":
        return print_graph(graph, constants)
    progress(f"lowering for {target}")
    return runtime.lowered_text(graph, target)
