"""`tflite2q compare`"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from tflite2q.cli.kinds import ANY_PATH, FILE, MODEL
from tflite2q.cli.options import (
    allow_unsupported_option,
    at_most_one_to_stdout,
    command,
    interface_option,
    json_option,
    memory_option,
    pixel_options,
    remote_options,
    report_options,
    shape_option,
    signature_option,
    skip_bad_option,
    stream_option,
    target_option,
    task_options,
    threads_option,
    together,
)
from tflite2q.cli.printable import printable
from tflite2q.cli.verbosity import remark

if TYPE_CHECKING:
    from tflite2q.evaluation.models import Loaded
    from tflite2q.evaluation.results import Comparison
    from tflite2q.rewrites import Conversion

GATE_FAILED = 1
# Spelled out, so that --help imports nothing; a test compares them with micro.boards.
EMULATED = (
    "cortex-m0plus",
    "cortex-m3",
    "cortex-m4",
    "cortex-m7",
    "cortex-m33",
    "cortex-m55",
    "riscv32imac",
    "esp32c3",
)


def _offset(context: click.Context, parameter: click.Parameter, value: str) -> int | None:
    """None for auto."""
    if value == "auto":
        return None
    try:
        return int(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is neither 'auto' nor a whole number") from error


def _gate(name: str, metavar: str, help: str) -> Any:
    return click.option(f"--{name}", type=float, metavar=metavar, help=help)


# Names as in evaluation.gates.KINDS, which a TOML file takes all.
GATES = ("max_top1_drop", "min_agreement", "min_sqnr", "max_step_error", "min_speedup", "max_size_ratio", "min_miou",
         "max_map_drop")  # fmt: skip
gate_options = together(
    [
        _gate("max-top1-drop", "POINTS", "Gate: largest drop of top-1 accuracy, in percentage points."),
        _gate("min-agreement", "SHARE", "Gate: smallest share (0 to 1) of answers that are the same in both models."),
        _gate("min-sqnr", "DB", "Gate: smallest signal-to-noise ratio of the outputs."),
        _gate("max-step-error", "STEPS", "Gate: largest difference in any output, in steps of the original's scale."),
        _gate("min-speedup", "TIMES", "Gate: smallest speedup of the compiled conversion over the original in LiteRT."),
        _gate("max-size-ratio", "RATIO", "Gate: largest ratio of the converted file's size to the original's."),
        _gate("min-miou", "SHARE", "Gate: smallest mean IoU with the masks of --labels, else with the original's."),
        _gate("max-map-drop", "POINTS", "Gate: largest drop of mAP, in percentage points."),
        click.option(
            "--gates", "gates_path", type=FILE, metavar="FILE.toml",
            help="Read gates from a file, such as max_top1_drop = 0.5; options override them.",
        ),
    ]
)  # fmt: skip
REPORTS = (
    ("html", "Also write the report as one self-contained HTML file; '-' prints it instead of the text."),
    ("markdown", "Also write the report as Markdown, for a pull request; '-' prints it instead of the text."),
    ("junit", "Also write the gates as JUnit XML, one test case each; '-' prints it instead of the text."),
    (
        "model-explorer",
        "Also write each layer's signal-to-noise ratio as node data for Model Explorer; one comparison only.",
    ),
)


@command(short_help="Measure one model against another, with gates for CI.")
@click.argument("original", type=MODEL)
@click.argument("others", metavar="[OTHER]...", type=MODEL, nargs=-1)
@click.option(
    "--scheme", "schemes", metavar="NAME|FILE", multiple=True,
    help="Compare with ORIGINAL converted to this scheme (a name that `tflite2q schemes` lists, or a .toml file); "
    "repeatable.",
)  # fmt: skip
@interface_option
@click.option(
    "--data", type=ANY_PATH, help="Inputs: a folder of images, a CSV of file,label, .npy or .npz.  [default: random]"
)
@click.option(
    "--labels",
    type=ANY_PATH,
    help="Ground truth: class labels as a CSV of file,label (or one label per line), .npy or .npz; masks as a "
    "folder of images, .npy or .npz; boxes or keypoints as COCO JSON.",
)
@click.option(
    "--label-offset",
    metavar="auto|N",
    callback=_offset,
    default="auto",
    show_default=True,
    help="Add this to each label.  auto adds 1 if there are 1001 classes and all labels are below 1000 (class 0 is the "
    "background), and subtracts 1 from COCO's category numbers.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Use only the first N samples.")
@skip_bad_option
@task_options
@pixel_options
@target_option
@threads_option
@remote_options
@click.option(
    "--emulate",
    type=click.Choice(EMULATED),
    help="Also run code for this microcontroller in QEMU, on all samples, and count its instructions.  Without "
    "OTHER and --scheme, ORIGINAL is compared with itself.",
)
@click.option("--speed/--no-speed", default=True, show_default=True, help="Whether to measure the time per run.")
@click.option(
    "--layer-samples",
    type=click.IntRange(min=0),
    help="Number of samples for layers and reference kernels, which are slow; 0 skips both.  "
    "[default: 2, or 50 with --stream]",
)
@stream_option
@signature_option
@shape_option
@allow_unsupported_option
@gate_options
@click.option("--every-layer", is_flag=True, help="Show every layer, not only the worst ones.")
@report_options(REPORTS)
@memory_option
@json_option
def compare(
    original: str, others: tuple[str, ...], schemes: tuple[str, ...], interface: str | None, json_path: str | None,
    html_path: str | None, markdown_path: str | None, junit_path: str | None, model_explorer_path: str | None,
    gates_path: str | None,
    signature: str | None,
    shapes: dict[str, tuple[int, ...]], allow_unsupported: bool, every_layer: bool, rpc: str | None,
    tracker: str | None, key: str | None, timeout: float, fit: str, **options: Any,
) -> int:  # fmt: skip
    """Measure each OTHER, or ORIGINAL converted to each --scheme, against ORIGINAL: answers, speed, size and layers.

    Both models run in LiteRT (if ai-edge-litert is installed), compiled with TVM, and, on a few samples, in both
    reference kernels; this separates the effect of the kernels from that of the scheme.  They are timed alternately,
    with the same number of threads.  The task decides what is compared: classes, masks, boxes, keypoints or numbers.
    With --labels, the report shows accuracy and tests each difference for significance; without, it shows how often
    both models give the same answer.  Without --data, that is agreement on random inputs, not accuracy.  Errors are
    in steps: multiples of the original tensor's scale.

    Gates are limits on what is measured.  If one fails, it is named and the exit code is 1; a gate on something that
    is not measured is an error.  With --stream, the samples are the steps of one stream, for models that keep state.
    With --rpc, or --tracker and --key, the compiled models run on a remote device.  With --emulate, code for a
    microcontroller runs in QEMU.
    """
    alone = options["emulate"] is not None and not (others or schemes)
    if bool(others) == bool(schemes) and not alone:
        raise click.UsageError("give either a second model or --scheme NAME|FILE (each may be several)")
    if others and interface is not None:
        raise click.UsageError("--interface needs --scheme")
    if options["labels"] is not None and options["data"] is None:
        raise click.UsageError("--labels needs --data")
    if model_explorer_path is not None and len(others) + len(schemes) > 1:
        raise click.UsageError("--model-explorer shows one comparison; give one scheme or one other model")
    paths = {"json": json_path, "html": html_path, "markdown": markdown_path, "junit": junit_path}
    paths["model-explorer"] = model_explorer_path
    at_most_one_to_stdout(paths.values())
    from tflite2q import files
    from tflite2q.cli import models, output
    from tflite2q.cli.progress import Progress
    from tflite2q.evaluation import gates
    from tflite2q.execution import remote
    from tflite2q.report import html, json, junit, markdown, model_explorer, text

    outputs = {f"--{kind}": path for kind, path in paths.items()}
    files.refuse_outputs(outputs, [original, *others, options["data"], options["labels"], gates_path], force=True)
    given = {name: options.pop(name) for name in GATES}
    bounds = gates.read(gates_path) if gates_path is not None else {}
    bounds |= gates.checked({name: bound for name, bound in given.items() if bound is not None})
    options |= {"gates": bounds, "device": remote.device(rpc, tracker, key, timeout)}
    options |= {"fit": None if fit == "auto" else fit, "profile": html_path is not None}
    read = [models.opened(path, shapes, allow_unsupported, signature) for path in (original, *others)]
    if alone:
        read *= 2
    with Progress() as progress:
        results = _compared(read[0], read[1:], schemes, interface, progress, options)
    results = [_with_command(result) for result in results]
    shown = [models.unsaid(result, *read) for result in results]
    output.write(paths["html"], html.comparison(results))
    output.write(paths["markdown"], markdown.comparison(results))
    output.write(paths["junit"], junit.comparison(results))
    output.write(paths["model-explorer"], model_explorer.comparison(results[0]))
    silent = "-" in (html_path, markdown_path, junit_path, model_explorer_path)
    output.emit(
        json.comparisons(results), json_path, lambda console: text.comparisons(console, shown, every_layer), silent
    )
    return _verdict(results)


def _compared(
    original: Loaded, others: Sequence[Loaded], schemes: Sequence[str], interface: str | None, progress: Any,
    options: dict[str, Any],
) -> list[Comparison]:  # fmt: skip
    from tflite2q import pipeline

    converted: list[Conversion | Loaded] = [*others, *(_converted(original, name, interface) for name in schemes)]
    return [pipeline.compare(original, each, progress=progress, **options) for each in converted]


def _converted(model: Loaded, scheme: str, interface: str | None) -> Conversion | Loaded:
    """The converted model; the model itself, with a line on stderr, if it already follows the scheme."""
    from tflite2q import pipeline
    from tflite2q.errors import Unchanged

    try:
        return pipeline.convert(model, scheme, interface)
    except Unchanged as same:
        remark(f"{same}; it is compared with itself")
        return model


def _with_command(result: Comparison) -> Comparison:
    """The result with the command line that made it."""
    command = click.get_current_context().find_root().obj
    if result.provenance is None or command is None:
        return result
    return replace(result, provenance=replace(result.provenance, command=command))


def _verdict(results: Sequence[Comparison]) -> int:
    """The exit code; each failed gate is named on stderr, wherever the report goes."""
    from tflite2q.report import words

    code = 0
    for result in results:
        for gate in result.failed_gates:
            click.echo(printable(f"tflite2q: {result.model} -> {result.other}: {words.gate(gate)}"), err=True)
            code = GATE_FAILED
    return code
