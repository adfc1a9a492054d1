"""`tflite2q search`"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tflite2q.cli.kinds import ANY_PATH, FINITE, MODEL, POSITIVE, words
from tflite2q.cli.options import (
    MOST_JOBS,
    command,
    force_option,
    json_option,
    max_pixels_option,
    memory_option,
    remote_options,
    shape_option,
    skip_bad_option,
    target_option,
    threads_option,
)
from tflite2q.cli.verbosity import Verbosity, current, from_threads, remark

if TYPE_CHECKING:
    from tflite2q.mixing.crew import Crew

GOALS = ("size", "compressed", "flash", "ram", "speed")


@command(short_help="Find the mix of schemes that costs least for a given loss.")
@click.argument("model", type=MODEL)
@click.option("--data", type=ANY_PATH, required=True, help="Samples, as for compare.")
@click.option(
    "--labels",
    type=MODEL,
    help="Ground-truth labels, as for compare; without them, agreement with the original is measured.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Use only the first N samples.")
@skip_bad_option
@max_pixels_option
@click.option(
    "--goal",
    type=click.Choice(GOALS),
    default=GOALS[0],
    show_default=True,
    help="What to minimize: the file's size, its compressed size, the time of a run on the target, or on a "
    "microcontroller the constants in flash or the RAM during a run.",
)
@click.option(
    "--max-top1-drop",
    "max_drop",
    type=FINITE,
    default=0.5,
    show_default=True,
    metavar="POINTS",
    help="Largest allowed loss of top-1 accuracy (without labels: of agreement), in percentage points.",
)
@click.option(
    "--schemes",
    default="int8,int8-w4",
    show_default=True,
    metavar="A,B,...",
    help="Schemes to choose from: names or .toml files.  Every layer starts with the first.",
)
@click.option("--budget", type=POSITIVE, metavar="MIN", help="Finish within this many minutes.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1, max=MOST_JOBS),
    help="Number of processes that measure.  [default: one for each processor]",
)
@click.option(
    "--dask", metavar="ADDRESS",
    help="Measure on the Dask cluster whose scheduler has this address; needs tflite2q[cluster].",
)  # fmt: skip
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Random seed for choosing the samples that select a mix, and those on which layers are measured.",
)
@click.option("-o", "--output", type=ANY_PATH, required=True, metavar="MIXED.toml", help="The scheme file to write.")
@click.option(
    "--picture",
    type=ANY_PATH,
    metavar="FILE.png",
    help="Draw the Pareto front to this file.  [default: beside the scheme file]",
)
@shape_option
@target_option
@threads_option
@memory_option
@remote_options
@force_option
@json_option
def search(
    model: str, data: str, labels: str | None, limit: int | None, goal: str, max_drop: float, schemes: str,
    budget: float | None, jobs: int | None, dask: str | None, seed: int, output: str, picture: str | None,
    shapes: dict[str, tuple[int, ...]], target: str, threads: int, rpc: str | None, tracker: str | None,
    key: str | None, timeout: float, force: bool, json_path: str | None, skip_bad: bool,
) -> None:  # fmt: skip
    """Find the mix of schemes, layer by layer, that saves most within a loss of top-1, and write it as a scheme file.

    The search first changes each layer alone and measures the effect on the output.  From these measurements it builds
    mixes, measures each as a whole, and keeps those that no other mix beats.  Half of the samples select one of these,
    and the other half confirms the selection; the report says what the samples can and cannot decide.  If the first
    scheme alone loses more than allowed, the exit code is 1.  Measurements are stored in MIXED.search.json: an
    interrupted search resumes from there, and a search with another --max-top1-drop or --goal reuses them.  With
    --rpc, or --tracker and --key, times are measured on a remote device.
    """
    from tflite2q import files
    from tflite2q.cli import models
    from tflite2q.cli import output as out
    from tflite2q.cli.progress import Progress
    from tflite2q.evaluation.compare import dataset
    from tflite2q.execution import remote
    from tflite2q.mixing import Settings, search, show
    from tflite2q.mixing.crew import Budget
    from tflite2q.rewrites import scheme

    time = Budget(budget)
    where = Path(output)
    drawing = Path(picture) if picture is not None else where.with_suffix(".png") if show.can_draw() else None
    outputs = {"--output": where, "--picture": drawing, "--json": json_path}
    files.refuse_outputs(outputs, [model, data, labels], force, "--json")
    graph = models.opened(model, shapes).graph
    chosen = scheme.find_all(schemes)
    samples = dataset(graph, data, labels, limit, skip_bad=skip_bad)
    for note in samples.notes:
        remark(note)
    device = remote.device(rpc, tracker, key, timeout)
    settings = Settings(goal, max_drop, target, threads, seed, budget, jobs=jobs, device=device)
    measured = where.with_suffix(".search.json")
    with Progress() as progress, _crew(dask) as crew:
        try:
            found = search(graph, chosen, samples, settings, measured, progress, crew, time)
        except KeyboardInterrupt:
            if measured.exists():
                remark(f"measurements so far are kept in {measured}; run the same command again to continue")
            raise
    files.write(where, found.text.encode(), force)
    name = Path(model).name
    if drawing is not None:
        show.picture(found, goal, name, drawing, force)
    out.emit(show.values(found, goal, name), json_path, lambda console: show.text(console, found, goal))
    if json_path != "-" and current() is not Verbosity.QUIET:
        out.echo(f"wrote {where}" + (f" and {drawing}" if drawing is not None else ""))
        out.echo(f"to convert: tflite2q convert {words(model, scheme=where, data=data, limit=found.calibration)}")


@contextmanager
def _crew(dask: str | None) -> Iterator[Crew | None]:
    """The cluster that measures; None for this machine."""
    if dask is None:
        yield None
        return
    from tflite2q.batch.connection import Connection

    crew = Connection(dask, told=from_threads())
    try:
        yield crew
    finally:
        crew.close()
