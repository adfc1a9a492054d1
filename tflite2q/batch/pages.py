"""The summary of a batch for others to read: Markdown for a job's summary, JUnit for build servers, an HTML index."""

from __future__ import annotations

import html
import os
import posixpath
from collections.abc import Callable, Sequence
from urllib.parse import quote
from xml.etree import ElementTree

from tflite2q.batch import places, show
from tflite2q.batch.places import Place
from tflite2q.batch.records import FINE, GATES, PAGE, Record, Summary
from tflite2q.report import xml
from tflite2q.report.markdown import escaped


def markdown(summary: Summary) -> str:
    """The verdict first, then what did not end well with its reason, then the table of all, folded if it is long."""
    lines = ["## tflite2q batch", "", f"**{escaped(show.counts(summary))}**", ""]
    bad = [record for record in summary.records if record.outcome.state not in FINE]
    if bad:
        lines += [_row(("model", "scheme", "result", "reason")), _row(("---",) * 4)]
        lines += [_row(map(escaped, (*_names(r), r.outcome.state, r.outcome.reason))) for r in bad] + [""]
    names = show.figures(summary.records)
    reports = ("report",) if any(PAGE in record.outcome.outputs for record in summary.records) else ()
    heads = ("model", "scheme", "result", *names, "time", *reports)
    lines += ["<details>", "<summary>all models</summary>", ""]
    lines += [_row(map(escaped, heads)), _row(("---",) * len(heads))]
    for record in summary.records:
        cells = [*_names(record), record.outcome.state, *(record.outcome.figures.get(name, "") for name in names)]
        cells.append("cached" if record.cached else f"{record.seconds:.1f} s")
        cells += [f"{record.job.stem}{PAGE}" if PAGE in record.outcome.outputs else "" for _ in reports]
        lines.append(_row(map(escaped, cells)))
    return "\n".join([*lines, "", "</details>", ""])


def _names(record: Record) -> tuple[str, str]:
    return record.job.name, record.job.settings.scheme


def _row(cells: Sequence[str] | map[str]) -> str:
    return f"| {' | '.join(cells)} |"


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
    return xml.document(root)


def _cases(record: Record) -> list[ElementTree.Element]:
    outcome = record.outcome
    name = f"{record.job.name} -> {record.job.settings.scheme}"
    case = ElementTree.Element("testcase", classname=name, name="convert", time=f"{record.seconds:.3f}")
    if outcome.state not in (*FINE, GATES):
        ElementTree.SubElement(case, "error", message=outcome.reason, type=outcome.state).text = outcome.reason
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


def index(summary: Summary, page: str, out: Place) -> str:
    """A page of its own at `page`, a path or a URL, that links the outputs of each model in `out`.

    A name leads to the report of its comparison.  The page holds no times, so that the same results make the same page.
    """
    link = _linker(page, out)
    names = show.figures(summary.records)
    heads = "".join(f"<th>{_text(head)}</th>" for head in ("model", "scheme", "result", *names, "files", "reason"))
    rows = "\n".join(_html_row(record, names, link) for record in summary.records)
    counted = ", ".join(f"{count} {state}" for state, count in summary.counts.items())
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n<title>tflite2q batch</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>tflite2q batch</h1>\n<p>{_text(counted)}</p>\n"
        f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</body>\n</html>\n"
    )


def _linker(page: str, out: Place) -> Callable[[str], str]:
    """From a file in `out` to what a page links: a relative path where both are in one store, so that they can move."""
    if not places.is_url(page) and not places.is_url(out.name()):
        base = os.path.dirname(os.path.abspath(places.plain(page)))
        return lambda name: quote(os.fsencode(os.path.relpath(os.path.abspath(out.name(name)), base)))
    here, there = places.identity(places.parent(page)), out.identity()
    if places.is_url(page) and here.partition("://")[0] == there.partition("://")[0]:
        return lambda name: quote(posixpath.relpath(out.identity(name).partition("://")[2], here.partition("://")[2]))
    return lambda name: quote(out.name(name), safe="/:")


def _html_row(record: Record, names: Sequence[str], link: Callable[[str], str]) -> str:
    job, outcome = record.job, record.outcome
    links = {
        ending: f'<a href="{link(job.stem + ending)}">' for ending in job.endings() if ending in outcome.outputs
    }  # fmt: skip
    name = f"{links[PAGE]}{_text(job.name)}</a>" if PAGE in links else _text(job.name)
    cells = [name, _text(job.settings.scheme)]
    files = " ".join(f"{start}{_text(ending.lstrip('.'))}</a>" for ending, start in links.items())
    figures = [_text(outcome.figures.get(name, "")) for name in names]
    mark = "" if outcome.state in FINE else ' class="bad"'
    row = "".join(f"<td>{cell}</td>" for cell in cells)
    row += f"<td{mark}>{_text(outcome.state)}</td>"
    row += "".join(f"<td>{cell}</td>" for cell in (*figures, files, _text(outcome.reason)))
    return f"<tr>{row}</tr>"


def _text(text: str) -> str:
    return html.escape(text.translate(xml.FORBIDDEN))
