"""`tflite2q search`"""

from __future__ import annotations

from pathlib import Path

import click

from tflite2q.cli.options import ANY_PATH, MODEL, force_option, json_option, shape_option, target_option, threads_option


@click.command(short_help="Find the mix of schemes that costs least for a given loss.")
@click.argument("model", type=MODEL)
@click.option("--data", type=ANY_PATH, required=True, help="Samples, as for compare.")
@click.option("--labels", type=MODEL, help="Right answers; without them agreement with the original counts.")
@click.option("--limit", type=click.IntRange(min=1), help="Use only the first N samples.")
@click.option("--goal", type=click.Choice(["size", "speed"]), default="size", show_default=True, help="What to save.")
@click.option(
    "--max-top1-drop", "max_drop", type=float, default=0.5, show_default=True, metavar="POINTS", help="Loss allowed."
)
@click.option(
    "--schemes",
    default="int8,int8-w4",
    show_default=True,
    metavar="A,B,...",
    help="What each layer may be: names or .toml files; layers start as the first has them.",
)
@click.option("--budget", type=float, metavar="MIN", help="Stop measuring single layers after so many minutes.")
@click.option("--seed", type=int, default=0, show_default=True, help="Chooses the samples that judge single layers.")
@click.option("-o", "--output", type=ANY_PATH, required=True, metavar="MIXED.toml", help="The scheme file to write.")
@click.option("--picture", type=ANY_PATH, metavar="FILE.png", help="Draw the front.  [default: beside the scheme file]")
@shape_option
@target_option
@threads_option
@force_option
@json_option
def search(
    model: str, data: str, labels: str | None, limit: int | None, goal: str, max_drop: float, schemes: str,
    budget: float | None, seed: int, output: str, picture: str | None, shapes: dict[str, tuple[int, ...]],
    target: str, threads: int, force: bool, json_path: str | None,
) -> None:  # fmt: skip
    """Find the mix of schemes, layer by layer, that saves most within a loss of top-1, and write it as a scheme file.

    Each layer is changed alone to see what that does to the output; the best mixes to first order form a front, and the
    chosen one is checked as a whole on all samples.  What was measured is kept in MIXED.search.json: an interrupted
    search takes up where it was, and another --max-top1-drop measures no layer twice.
    """
    from tflite2q import files, pipeline
    from tflite2q.cli import models
    from tflite2q.cli import output as out
    from tflite2q.cli.progress import Progress
    from tflite2q.search import Settings, search, show

    where = Path(output)
    drawing = Path(picture) if picture is not None else where.with_suffix(".png") if show.can_draw() else None
    for planned in (where, drawing):
        if planned is not None:
            files.refuse_overwrite(planned, force)
    out.check_json(json_path)
    graph = models.opened(model, shapes).graph
    chosen = [pipeline.scheme_of(name.strip()) for name in schemes.split(",") if name.strip()]
    samples = pipeline.dataset(graph, pipeline.Options(data=data, labels=labels, limit=limit))
    settings = Settings(goal, max_drop, target, threads, seed, budget)
    measured = where.with_suffix(".search.json")
    with Progress() as progress:
        try:
            found = search(graph, chosen, samples, settings, measured, progress)
        except KeyboardInterrupt:
            if measured.exists():
                click.echo(f"what was measured so far is in {measured}; the same command goes on from there", err=True)
            raise
    files.write(where, found.text.encode(), force)
    name = Path(model).name
    if drawing is not None:
        show.picture(found, goal, name, drawing, force)
    out.emit(show.values(found, goal, name), json_path, lambda console: show.text(console, found, goal))
    if json_path != "-":
        click.echo(f"wrote {where}" + (f" and {drawing}" if drawing is not None else ""))
