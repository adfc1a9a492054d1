"""The summary of a batch for others to read: Markdown for a job's summary, JUnit for build servers, an HTML index."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

from tflite2q.batch import show
from tflite2q.batch.records import FINE, GATES, Record, Summary

# What XML 1.0 cannot hold, of control characters.
CONTROL = dict.fromkeys((*range(9), 11, 12, *range(14, 32)), "\N{REPLACEMENT CHARACTER}")


def markdown(summary: Summary) -> str:
    """The verdict first, then what did not end well with its reason, then the table of all, folded if it is long."""
    lines = ["## tflite2q batch", "", f"**{_escaped(show.counts(summary))}**", ""]
    bad = [record for record in summary.records if record.outcome.state not in FINE]
    if bad:
        lines += [_row(("model", "scheme", "result", "reason")), _row(("---",) * 4)]
        lines += [_row(map(_escaped, (*_names(r), r.outcome.state, r.outcome.reason))) for r in bad] + [""]
    names = show.figures(summary.records)
    lines += ["<details>", "<summary>all models</summary>", ""]
    lines += [_row(("model", "scheme", "result", *map(_escaped, names), "time")), _row(("---",) * (4 + len(names)))]
    for record in summary.records:
        cells = [*_names(record), record.outcome.state, *(record.outcome.figures.get(name, "") for name in names)]
        lines.append(_row(map(_escaped, (*cells, "cached" if record.cached else f"{record.seconds:.1f} s"))))
    return "\n".join([*lines, "", "</details>", ""])


def _names(record: Record) -> tuple[str, str]:
    return record.job.name, record.job.settings.scheme


def _row(cells: Sequence[str] | map[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    for mark in "\\`*_<>|[]":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def junit(summary: Summary) -> str:
    """One suite: a case for each conversion, and one for each of its gates."""
    root = ElementTree.Element("testsuites", name="tflite2q batch")
    cases = [case for record in summary.records for case in _cases(record)]
    failures = sum(case.find("failure") is not None for case in cases)
    errors = sum(case.find("error") is not None for case in cases)
    suite = ElementTree.SubElement(
        root, "testsuite", name="tflite2q batch", tests=str(len(cases)), failures=str(failures), errors=str(errors),
        skipped="0", time=f"{summary.seconds:.3f}",
    )  # fmt: skip
    suite.extend(cases)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _cases(record: Record) -> list[ElementTree.Element]:
    outcome = record.outcome
    name = f"{record.job.name} -> {record.job.settings.scheme}".translate(CONTROL)
    case = ElementTree.Element("testcase", classname=name, name="convert", time=f"{record.seconds:.3f}")
    if outcome.state not in (*FINE, GATES):
        reason = outcome.reason.translate(CONTROL)
        ElementTree.SubElement(case, "error", message=reason, type=outcome.state).text = reason
    found = [case]
    for gate, sentence, passed in outcome.gates:
        case = ElementTree.Element("testcase", classname=name, name=gate, time="0")
        if not passed:
            ElementTree.SubElement(case, "failure", message=sentence, type="gate").text = sentence
        found.append(case)
    return found


STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; }
table { border-collapse: collapse; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid #8884; }
td.bad { font-weight: 600; color: #c33; }
"""


def index(summary: Summary, page: Path, out: Path) -> str:
    """A page of its own at `page` that links the outputs and reports of each model below `out`.

    It holds no times, so that the same results make the same page.
    """
    names = show.figures(summary.records)
    heads = "".join(f"<th>{_text(head)}</th>" for head in ("model", "scheme", "result", *names, "files", "reason"))
    rows = "\n".join(_html_row(record, names, page.parent, out) for record in summary.records)
    counted = ", ".join(f"{count} {state}" for state, count in summary.counts.items())
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n<title>tflite2q batch</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>tflite2q batch</h1>\n<p>{_text(counted)}</p>\n"
        f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</body>\n</html>\n"
    )


def _html_row(record: Record, names: Sequence[str], base: Path, out: Path) -> str:
    job, outcome = record.job, record.outcome
    links = []
    for ending in job.endings():
        if ending in outcome.outputs:
            where = quote(os.fsencode(os.path.relpath(out / f"{job.stem}{ending}", base)))
            links.append(f'<a href="{where}">{_text(ending.lstrip("."))}</a>')
    cells = [_text(job.name), _text(job.settings.scheme)]
    figures = [_text(outcome.figures.get(name, "")) for name in names]
    mark = "" if outcome.state in FINE else ' class="bad"'
    row = "".join(f"<td>{cell}</td>" for cell in cells)
    row += f"<td{mark}>{_text(outcome.state)}</td>"
    row += "".join(f"<td>{cell}</td>" for cell in (*figures, " ".join(links), _text(outcome.reason)))
    return f"<tr>{row}</tr>"


def _text(text: str) -> str:
    return html.escape(text.translate(CONTROL))
