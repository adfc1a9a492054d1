"""The summary of a batch as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tflite2q.batch.places import Place
from tflite2q.batch.records import CHANGE, CHANGED_LAYERS, EQUAL_ANSWERS, FINE, PAGE, SIZE, Record, Summary

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA_VERSION = 1


def counts(summary: Summary) -> str:
    """How many jobs ended how, in a sentence."""
    parts = [f"{count} {state}" for state, count in summary.counts.items()]
    cached = f"; {summary.cached} taken from the cache" if summary.cached else ""
    plural = "" if len(summary.records) == 1 else "s"
    return f"{len(summary.records)} conversion{plural}: {', '.join(parts)}{cached}"


def figures(records: Sequence[Record]) -> list[str]:
    """The names of all figures that occur, in an order that depends on nothing else."""
    first = (SIZE, CHANGE, CHANGED_LAYERS)

    def place(name: str) -> tuple[int, str]:
        known = first.index(name) if name in first else len(first) + (name == EQUAL_ANSWERS)
        return known, name

    return sorted({name for record in records for name in record.outcome.figures}, key=place)


def line(record: Record, done: int, total: int) -> str:
    """One job, as it ends."""
    outcome = record.outcome
    why = f": {outcome.reason}" if outcome.reason and outcome.state not in FINE else ""
    how = "cached" if record.cached else f"{record.seconds:.1f} s"
    return one_line(f"{done}/{total} {record.job.name} -> {record.job.settings.scheme}: {outcome.state} ({how}){why}")


def one_line(text: str) -> str:
    """Text whose names may hold ends of lines: what follows one could pass for something that this program says, and
    build servers take orders from lines."""
    return " ".join(text.splitlines())


def text(console: Console, summary: Summary) -> None:
    """A table of all jobs, the reasons of those that did not end well, and how many ended how."""
    from rich.text import Text

    from tflite2q.report.fitted import FittedTable

    names = figures(summary.records)
    table = FittedTable(
        ("model", False), ("scheme", False), ("result", False), *((n, True) for n in names), ("s", True)
    )
    for record in summary.records:
        outcome = record.outcome
        cells = [record.job.name, record.job.settings.scheme, outcome.state]
        cells += [outcome.figures.get(name, "") for name in names]
        cells.append("cached" if record.cached else f"{record.seconds:.1f}")
        table.add_row(*map(Text, cells))
    console.print(table)
    for record in summary.records:
        if record.outcome.reason and record.outcome.state not in FINE:
            said = f"{record.job.name} -> {record.job.settings.scheme}: {record.outcome.reason}"
            console.print(Text(one_line(said)), soft_wrap=True)
    console.print(Text(counts(summary)), soft_wrap=True)


def document(summary: Summary, out: Place) -> dict[str, Any]:
    """Keys: schema_version, counts (by state), cached, exit_code, seconds, jobs: {model, source, scheme, state, reason,
    outputs (paths), report (the path of its page, or null), figures, gates: {name, sentence, passed}, notes, seconds,
    cached}."""
    return {
        "schema_version": SCHEMA_VERSION,
        "counts": summary.counts,
        "cached": summary.cached,
        "exit_code": summary.exit_code,
        "seconds": round(summary.seconds, 3),
        "jobs": [_job(record, out) for record in summary.records],
    }


def _job(record: Record, out: Place) -> dict[str, Any]:
    job, outcome = record.job, record.outcome
    return {
        "model": job.name,
        "source": job.source,
        "scheme": job.settings.scheme,
        "state": outcome.state,
        "reason": outcome.reason,
        "outputs": [out.name(f"{job.stem}{ending}") for ending in job.endings() if ending in outcome.outputs],
        "report": out.name(f"{job.stem}{PAGE}") if PAGE in outcome.outputs else None,
        "figures": {name: outcome.figures[name] for name in figures([record])},
        "gates": [{"name": name, "sentence": text, "passed": passed} for name, text, passed in outcome.gates],
        "notes": list(outcome.notes),
        "seconds": round(record.seconds, 3),
        "cached": record.cached,
    }
