"""`tflite2q batch`"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from tflite2q.cli.kinds import ANY_PATH, FILE, POSITIVE, PathName
from tflite2q.cli.options import (
    MOST_JOBS,
    allow_unsupported_option,
    at_most_one_to_stdout,
    command,
    interface_option,
    json_option,
    pixel_options,
    report_options,
    skip_bad_option,
    task_options,
    threads_option,
    together,
)
from tflite2q.cli.verbosity import from_threads, remark

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tflite2q.batch.places import Place
    from tflite2q.batch.records import Job, Record, Summary
    from tflite2q.batch.run import Batch, Engine
    from tflite2q.cli.progress import Progress

REPORTS = (
    ("markdown", "Also write the summary as Markdown, for a pull request; '-' prints it instead of the text."),
    (
        "junit",
        "Also write it as JUnit XML, a test case for each model and gate; '-' prints it instead of the text.",
    ),
    ("html", "Also write an HTML index that links each model's files and reports."),
)
comparison_options = together(
    [
        click.option(
            "--compare",
            is_flag=True,
            help="Compare each conversion with its model; implied by --data, --labels, --gates, --limit, --skip-bad, "
            "--speed, --task, --label-names, --fit, --mean and --std, which say how.",
        ),
        click.option("--data", type=ANY_PATH, help="Samples to compare on, as for compare.  [default: random]"),
        click.option("--labels", type=ANY_PATH, help="Ground truth, as for compare."),
        click.option("--gates", type=FILE, metavar="FILE.toml", help="Gates for each comparison, as for compare."),
        click.option("--limit", type=click.IntRange(min=1), help="Use only the first N samples."),
        skip_bad_option,
        click.option(
            "--speed",
            is_flag=True,
            help="Also measure times; needs --jobs 1, as jobs would disturb each other.",
        ),
    ]
)


@command(short_help="Convert many models, each in a process of its own.")
@click.argument("sources", metavar="[SOURCE]...", type=ANY_PATH, nargs=-1)
@click.option(
    "--manifest", type=FILE, metavar="FILE.toml",
    help="A list of models and what to do with each: [[models]] with path, scheme, data, labels, gates, targets, ...",
)  # fmt: skip
@click.option(
    "--scheme", "schemes", metavar="NAME|FILE", multiple=True,
    help="Scheme to convert to: a name that `tflite2q schemes` lists, or a .toml file; repeatable.",
)  # fmt: skip
@click.option("--schemes", "listed", metavar="A,B,...", help="Several schemes at once.")
@click.option(
    "-o", "--output", type=PathName(file_okay=False), required=True, metavar="FOLDER",
    help="Folder (or its URL in an object store) for MODEL-stem.SCHEME.tflite and its report.  Subfolders of sources "
    "are kept.",
)  # fmt: skip
@interface_option
@click.option(
    "--unchanged", type=click.Choice(("copy", "skip", "fail")), default="copy", show_default=True,
    help="If a model already follows the scheme: copy it, write nothing, or count it as refused.",
)  # fmt: skip
@click.option("--calibrate", type=ANY_PATH, metavar="DATA", help="Samples with which to calibrate float models.")
@allow_unsupported_option
@click.option(
    "--target", "targets", multiple=True, metavar="NAME",
    help="Also compile each conversion with TVM for this target, to a shared library; repeatable.",
)  # fmt: skip
@comparison_options
@task_options
@pixel_options
@threads_option
@click.option(
    "--jobs",
    type=click.IntRange(min=1, max=MOST_JOBS),
    help="Number of models at once.  [default: one for each processor]",
)
@click.option(
    "--time", "seconds", type=POSITIVE, default=600.0, show_default=True, metavar="SECONDS",
    help="Time limit of each model.",
)  # fmt: skip
@click.option(
    "--memory", type=POSITIVE, metavar="GB", help="Memory limit of each model.  [default: a fair share of what is free]"
)
@click.option(
    "--dask", metavar="ADDRESS",
    help="Run on the Dask cluster whose scheduler has this address, instead of this machine; needs tflite2q[cluster].",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite files in FOLDER that no batch has written.")
@report_options(REPORTS)
@json_option
def batch(
    sources: tuple[str, ...], manifest: str | None, schemes: tuple[str, ...], listed: str | None, output: str,
    dask: str | None,
    jobs: int | None, seconds: float, memory: float | None, force: bool, markdown_path: str | None,
    junit_path: str | None, html_path: str | None, json_path: str | None, **asked: Any,
) -> int:  # fmt: skip
    """Convert each SOURCE, a model or a folder of models, and whatever --manifest lists.

    Sources, FOLDER, the manifest, data and reports may also be URLs of object stores (s3://, gs://, az://, ...), which
    fsspec opens; needs tflite2q[stores] and the package for the kind of store, such as s3fs.

    Each model is converted in its own process, with limits on time and memory, so that one that fails, hangs or dies
    does not affect the others; the summary says why.  Results are cached by content in FOLDER/.tflite2q-cache (or
    $TFLITE2Q_CACHE): running the same command again does only what has changed or was interrupted.

    The exit code is 3 if some input cannot be used, else 1 if a gate failed.  docs/batch.md describes manifests.
    """
    paths = {"json": json_path, "markdown": markdown_path, "junit": junit_path, "html": html_path}
    at_most_one_to_stdout(paths.values())
    from tflite2q import cgroups, files
    from tflite2q.batch import places, plan
    from tflite2q.batch.run import Batch
    from tflite2q.cli.progress import Progress
    from tflite2q.errors import UsageError

    jobs = jobs or cgroups.processors()
    names = (*schemes, *(name.strip() for name in (listed or "").split(",") if name.strip()))
    out = places.of(output)
    with ExitStack() as stack:
        fetch = places.Fetched(stack)
        found = plan.jobs(sources, manifest, plan.Asked(schemes=names, **asked), out, fetch)
        inputs = [path for job in found for path in (job.source, *job.settings.paths.values())]
        inputs += [*fetch.urls, *([manifest] if manifest is not None else [])]
        reports = {f"--{kind}": path and places.plain(path) for kind, path in paths.items()}
        places.make(out)
        plan.refuse_reports(reports, [path for path in inputs if places.is_url(path)], found, out)
        local = {option: path for option, path in reports.items() if not places.is_url(path)}
        files.refuse_outputs(local, map(places.plain, inputs), force=True)
        if (jobs > 1 or dask is not None) and any((job.settings.compare or {}).get("speed") for job in found):
            raise UsageError("--speed needs --jobs 1: models that run at the same time disturb each other's times")
        work = Batch(found, out, force)
        with Progress() as progress:
            summary = _run(work, _engine(dask, jobs, seconds, memory, found, progress), found, progress)
    _write(summary, reports, out)
    return summary.exit_code


def _engine(
    dask: str | None, jobs: int, seconds: float, memory: float | None, found: Sequence[Job], progress: Progress
) -> Engine:
    from tflite2q.batch import cluster, local

    remarking = from_threads()

    def told(line: str) -> None:
        progress.wipe()
        remarking(line)

    held = None if memory is None else max(int(min(memory * 1e9, sys.maxsize)), 1)
    if dask is not None:
        return cluster.Cluster(dask, seconds, held, [job.settings for job in found], told)
    return local.Local(jobs, local.Limits(seconds, held or local.fair_memory(jobs)))


def _write(summary: Summary, reports: Mapping[str, str | None], out: Place) -> None:
    """Write or print the summary in all forms that are asked for.  Raises the first UsageError when all is done."""
    from tflite2q.batch import pages, places, show
    from tflite2q.cli import output
    from tflite2q.errors import UsageError

    page = reports["--html"]
    made = {
        "--markdown": lambda: pages.markdown(summary),
        "--junit": lambda: pages.junit(summary),
        "--html": lambda: pages.index(summary, "index.html" if page in (None, "-") else page, out),
        "--json": lambda: output.encoded(show.document(summary, out)),
    }
    failed: list[UsageError] = []
    for option, path in reports.items():
        try:
            if path is not None and places.is_url(path):
                places.write(path, made[option]().encode())
            elif path is not None and path != "-":
                output.write(path, made[option]())
        except UsageError as error:  # what can be told is told all the same
            failed.append(error)
    printed = [option for option, path in reports.items() if path == "-"]
    if printed:
        output.write("-", made[printed[0]]())
    else:
        output.emit({}, None, lambda console: show.text(console, summary))
    if failed:
        raise failed[0]


def _run(work: Batch, engine: Engine, found: Sequence[Job], progress: Progress) -> Summary:
    """Run with a line on stderr for each job that was done; where a person watches, of those that did not end well."""
    from tflite2q.batch import show
    from tflite2q.batch.records import FINE

    started, done, worked = time.monotonic(), 0, 0
    watched = sys.stderr.isatty()

    def told(record: Record) -> None:
        nonlocal done, worked
        done, worked = done + 1, worked + (not record.cached)
        if record.outcome.state not in FINE or not (watched or record.cached):
            progress.wipe()
            remark(show.line(record, done, len(found)))
        left = (time.monotonic() - started) / max(worked, 1) * (len(found) - done)
        progress(f"{done} of {len(found)} done, about {left:.0f} s left" if worked else "reading the cache")

    progress(f"0 of {len(found)} done")
    try:
        return work.run(engine, told)
    except KeyboardInterrupt:
        remark(f"{work.kept} of {len(found)} are done and kept; the same command continues")
        raise
