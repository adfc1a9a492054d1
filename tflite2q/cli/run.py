"""`tflite2q run`"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from tflite2q.cli.kinds import ANY_PATH, FILE, MODEL
from tflite2q.cli.options import (
    NATIVE,
    command,
    force_option,
    json_option,
    memory_option,
    pixel_options,
    remote_options,
    shape_option,
    signature_option,
    skip_bad_option,
    stream_option,
    target_option,
    task_options,
    threads_option,
)

if TYPE_CHECKING:
    from rich.console import Console

    from tflite2q.dialect.types import Value
    from tflite2q.evaluation.geometry import Fit
    from tflite2q.evaluation.models import Loaded
    from tflite2q.evaluation.prediction import Prediction
    from tflite2q.execution.remote import Device
    from tflite2q.execution.runtime import Executable


@command("run", short_help="Run a model or a compiled library.")
@click.argument("model", metavar="MODEL|LIB", type=MODEL)
@click.option(
    "--input",
    "inputs",
    type=ANY_PATH,
    multiple=True,
    required=True,
    metavar="FILE",
    help="A folder of images, an image, a CSV of files, .npy or .npz.  Give it once, or once per input, in order.",
)
@click.option(
    "--output",
    type=FILE,
    metavar="FILE",
    help="Write the outputs: .npz (arrays by name), .npy (one output), or .png (the segmentation mask of one picture; "
    "pixels are class numbers).",
)
@click.option(
    "--draw",
    type=FILE,
    metavar="OUT.png",
    help="Draw the answer (boxes, keypoints, mask, class) on the picture; one sample only.",
)
@task_options
@click.option("--limit", type=click.IntRange(min=1), help="Use only the first N samples.")
@skip_bad_option
@click.option("--profile", is_flag=True, help="Also show the time, G MAC/s and share of the total of each op.")
@stream_option
@signature_option
@shape_option
@pixel_options
@target_option
@threads_option
@remote_options
@memory_option
@force_option
@json_option
def run_command(
    model: str, inputs: tuple[str, ...], output: str | None, limit: int | None, profile: bool, stream: bool,
    signature: str | None, shapes: dict[str, tuple[int, ...]], mean: float | None, std: float | None, target: str,
    threads: int, rpc: str | None, tracker: str | None, key: str | None, timeout: float, force: bool,
    json_path: str | None, draw: str | None, task: str, label_names: str | None, fit: str, skip_bad: bool,
) -> None:  # fmt: skip
    """Compile a model with TVM and run it, or run a library that `convert --lib` wrote, and show the outputs.

    The answer is the five best classes, boxes, keypoints, the classes of a mask, or else the range of each output; see
    --task.  --output writes the exact codes, with samples on the first axis.  With --stream, the samples are the steps
    of one stream: a model that keeps state continues from the previous sample instead of its initial state.  With
    --rpc, or --tracker and --key, the model runs on a remote device.  --profile times each op of a model (not of a
    library) on this machine, on the first sample.
    """
    from tflite2q import files
    from tflite2q.cli import models
    from tflite2q.cli import output as out
    from tflite2q.cli.progress import Progress
    from tflite2q.errors import UsageError
    from tflite2q.evaluation import drawing, prediction, tasks
    from tflite2q.evaluation.coding import Normalization
    from tflite2q.execution import remote
    from tflite2q.report import json, text

    if output is not None:
        prediction.check_suffix(output)
    outputs = {"--output": output, "--draw": draw, "--json": json_path}
    files.refuse_outputs(outputs, [model, *inputs], force, "--json")
    device = remote.device(rpc, tracker, key, timeout)
    library = Path(model).suffix == ".so"
    if library and target != NATIVE:
        raise UsageError("--target is for models; a library runs on the target that it was compiled for")
    if library and (shapes or signature is not None):
        raise UsageError("--shape and --signature are for models; a library has those that it was compiled with")
    if profile and (device is not None or library):
        raise UsageError("--profile times the ops of a .tflite model on this machine; give no library and no device")
    found = None if library else models.opened(model, shapes, signature=signature)
    with Progress() as progress, ExitStack() as held:
        progress("compiling")
        made = None
        if found is None:
            made = held.enter_context(closing(_executable(model, found, target, threads, device)))
            ins, outs = made.inputs, made.outputs
        else:  # they are known before anything is compiled
            graph = found.graph
            ins, outs = (tuple(graph[name] for name in side) for side in (graph.inputs, graph.outputs))
        reader, _ = tasks.choose(ins, outs, None if found is None else found.graph, task, label_names)
        chosen = reader.fit if fit == "auto" else cast("Fit", fit)
        samples = prediction.samples(inputs, ins, limit, Normalization.of(mean, std), chosen, skip_bad)
        _check_pictures(output, draw, reader.name, len(samples), samples.pictures is not None)
        executable = made or held.enter_context(closing(_executable(model, found, target, threads, device)))
        runner = executable.stream().step if stream else executable.run
        results = prediction.run(runner, executable.outputs, samples, reader, progress)
        if output is not None:
            files.write(output, _encoded(results, executable.outputs, Path(output).suffix.lower()), force)
        if draw is not None:
            files.write(draw, drawing.drawn(reader, results[0].answer, samples, 0), force)
        ops = executable.profile(*next(iter(samples))) if profile else []
    document = json.prediction(Path(model).name, results, reader.name)

    def show(console: Console) -> None:
        text.prediction(console, results)
        if profile:
            text.profile(console, ops)

    out.emit({**document, "profile": json.profile(ops)} if profile else document, json_path, show)


def _encoded(results: Sequence[Prediction], outputs: Sequence[Value], suffix: str) -> bytes:
    """The outputs as a file: a mask, or arrays."""
    from tflite2q.evaluation import drawing, prediction

    return drawing.mask_png(results[0].answer) if suffix == ".png" else prediction.encoded(results, outputs, suffix)


def _check_pictures(output: str | None, draw: str | None, task: str, samples: int, photo: bool) -> None:
    """Raise UsageError, before anything is compiled, for pictures that cannot be made."""
    from tflite2q.errors import UsageError

    mask = output is not None and Path(output).suffix.lower() == ".png"
    if mask and task != "segmentation":
        raise UsageError(f"{output}: a .png is the mask of a segmentation, and the task is {task}; see --task")
    if (mask or draw is not None) and samples != 1:
        raise UsageError(f"{draw or output}: shows one picture, and there are {samples}; give one, or --limit 1")
    if draw is not None and not photo:
        raise UsageError(f"{draw}: answers are drawn on a photo; give one as --input, not an array")


def _executable(path: str, model: Loaded | None, target: str, threads: int, device: Device | None) -> Executable:
    """The library at `path` loaded, or the `model` compiled; on a remote device if one is given."""
    from tflite2q.execution import runtime

    made = None if model is None else runtime.compile(model.graph, target, threads)
    if device is None:
        return runtime.load_library(path, threads) if made is None else made
    from tflite2q.execution.remote import Session

    session = Session(device)
    return session.load(path, threads) if made is None else session.upload(made)
