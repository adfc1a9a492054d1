"""`tflite2q compare`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tflite2q.cli.options import (
    ANY_PATH,
    MODEL,
    allow_unsupported_option,
    command,
    interface_option,
    json_option,
    pixel_options,
    remote_options,
    scheme_option,
    shape_option,
    signature_option,
    stream_option,
    target_option,
    threads_option,
)

if TYPE_CHECKING:
    from tflite2q.evaluation.models import Loaded
    from tflite2q.rewrites import Conversion


def _offset(context: click.Context, parameter: click.Parameter, value: str) -> int | None:
    """None for auto."""
    if value == "auto":
        return None
    try:
        return int(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is neither 'auto' nor a whole number") from error


@command(short_help="Measure one model against another.")
@click.argument("original", type=MODEL)
@click.argument("other", type=MODEL, required=False)
@scheme_option
@interface_option
@click.option(
    "--data", type=ANY_PATH, help="Inputs: folder of images, CSV of file,label, .npy or .npz.  [default: random]"
)
@click.option(
    "--labels", type=MODEL, help="Ground-truth labels: CSV of file,label (or one label per line), .npy or .npz."
)
@click.option(
    "--label-offset",
    metavar="auto|N",
    callback=_offset,
    default="auto",
    show_default=True,
    help="Added to each label; auto adds 1 for 1001 classes and labels below 1000 (class 0 is background).",
)
@click.option("--limit", type=click.IntRange(min=1), help="Use only the first N samples.")
@pixel_options
@target_option
@threads_option
@remote_options
@click.option("--speed/--no-speed", default=True, show_default=True, help="Whether to measure the time of a run.")
@click.option(
    "--layer-samples",
    type=click.IntRange(min=0),
    help="Number of samples on which layers are compared, by the NumPy reference; 0 skips layers.  "
    "[default: 2, or 50 with --stream]",
)
@stream_option
@signature_option
@shape_option
@allow_unsupported_option
@click.option("--every-layer", is_flag=True, help="Show every layer, not only the worst ones.")
@json_option
def compare(
    original: str, other: str | None, scheme: str | None, interface: str | None, json_path: str | None,
    signature: str | None, shapes: dict[str, tuple[int, ...]], allow_unsupported: bool, every_layer: bool,
    rpc: str | None, tracker: str | None, key: str | None, timeout: float, **options: Any,
) -> None:  # fmt: skip
    """Measure OTHER, or ORIGINAL converted to --scheme, against ORIGINAL: accuracy, layers, speed and size.

    Both models are compiled with TVM and timed in turns, with the same number of threads.  LiteRT's times are shown
    too if ai-edge-litert is installed.  With --labels, top-1 and top-5 are measured; without, how often both models
    give the same class.  Errors are in steps: multiples of the original tensor's scale.  With --stream the samples are
    the steps of one stream, for models that keep state.  With --rpc, or --tracker and --key, both models run on a
    remote device.
    """
    if (other is None) == (scheme is None):
        raise click.UsageError("give either a second model or --scheme NAME|FILE")
    if other is not None and interface is not None:
        raise click.UsageError("--interface needs --scheme")
    if options["labels"] is not None and options["data"] is None:
        raise click.UsageError("--labels needs --data")
    from tflite2q import pipeline
    from tflite2q.cli import models, output
    from tflite2q.cli.progress import Progress
    from tflite2q.execution import remote
    from tflite2q.report import json, text

    output.check_json(json_path)
    device = remote.device(rpc, tracker, key, timeout)
    read = [models.opened(path, shapes, allow_unsupported, signature) for path in (original, other) if path is not None]
    with Progress() as progress:
        converted = _converted(read[0], scheme, interface) if scheme is not None else read[1]
        result = pipeline.compare(read[0], converted, progress=progress, device=device, **options)
    shown = models.unsaid(result, *read)
    output.emit(json.comparison(result), json_path, lambda console: text.comparison(console, shown, every_layer))


def _converted(model: Loaded, scheme: str, interface: str | None) -> Conversion | Loaded:
    """The converted model; the model itself, with a line on stderr, if it already follows the scheme."""
    from tflite2q import pipeline
    from tflite2q.errors import Unchanged

    try:
        return pipeline.convert(model, scheme, interface)
    except Unchanged as same:
        click.echo(f"tflite2q: {same}; it is compared with itself", err=True)
        return model
