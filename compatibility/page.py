"""The results as a page of Markdown, and as one JSON object; neither holds a path of the machine."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import environment
from compatibility import table
from compatibility.examine import Settings
from compatibility.records import CRASH, NOTHING, OK, REFUSED, UNMEASURED, WRONG, Check, Row, count, faults

PACKAGES = ("tflite2q", "apache-tvm", "ai-edge-litert", "tflite-micro", "numpy")

INTRODUCTION = """\
# Compatibility

What became of {files} `.tflite` files ({where}) in every part of the program. `make test-public` wrote this page.
`make lint` does not check it, because making it again takes the files and about {minutes} minutes of one job:

```
make test-public FILES="{folders}" PAGE=docs/compatibility.md TIME={seconds}
```

Made with {versions}; Python {python}, {machine}; commit {commit}, {date}.

## What is checked

Each file is examined by a process of its own, which may take {seconds} seconds and {memory} GiB of resident memory.

- **Load.** The file is read, or refused in one line with an error of the program's own. A traceback, a death, a hang or
  more memory than allowed is a *crash*.
- **Reference.** Every tensor of the NumPy reference is compared with LiteRT's reference kernels (`BUILTIN_REF`) on two
  random inputs and, where the input is an image, on two pictures: integers bit for bit, real numbers within 1e-5 of the
  largest. Where LiteRT refuses a file or dies of it, TFLite Micro judges the outputs; where that cannot either, the
  check is *not measured*. Models that keep state are also run over a stream of a hundred steps, by every engine and
  in every part below. A difference that begins at an op whose deviation `docs/ops.md` names is *documented*.
- **Compiled.** Compiled code gives the reference's outputs bit for bit on {levels}: all levels of x86 that
  the processor has.
- **Schemes.** Each shipped scheme is applied. The file that is written is read again (equal graph) and run by LiteRT's
  reference kernels (equal outputs; a step apart where a scheme computes in real numbers), by LiteRT's default kernels
  and by TFLite Micro. A file that LiteRT calls inconsistent is wrong; a type that its kernels do not take is LiteRT's
  limit and listed below. Code compiled for this processor equals the conversion's own reference.
- **Likeness.** Outputs of the conversion are compared with the original's, by the reference, on eight pictures
  ({pictures}) or random inputs: signal to noise in dB, and where that is less than 10 dB below its floor, top-1 of
  classifiers with ten classes or more; detections by class and IOU of at least one half; keypoints that the original
  finds by their place; integers without a scale by equality. Where so few samples leave it open on which side of its
  floor a share lies, twice as many are taken, up to all, and what stays open is *not measured*.

A stage that runs out of its share of the time is *not measured* and counted as such. A file is *ok* if everything was
measured and right, *incomplete* if what was measured was right, *wrong* if a result differs from its judge's.

## Floors of likeness

Rounding to *b* bits over a range of 8 standard deviations leaves 6.02 *b* - 7.3 dB of signal to noise. The noise of all
layers with weights or sums adds up, and {margin:g} dB are allowed for wider ranges and for what last layers amplify.
*b* is

- 8 for 8-bit schemes, which round as often as the original does, and for `int16x8` and `float32`: those hardly round,
  but the original does, and that is the difference which shows;
- 7 where activations are symmetric, which may leave half of the codes unused;
- 6 where scales are powers of two, or where one new scale serves all channels of a layer's weights;
- 4 for 4-bit weights.

Outputs within one step of the coarser of both grids are alike whatever the figure. No floor is below {lowest:g} dB,
with 4-bit weights {lowest4:g} dB: outputs that have lost a clamp have little to do with the original's, which gives
1 dB to -3 dB. Of classes, boxes and integers {shares}
must stay: few samples are a coarse measure, and a lost clamp leaves about 1 %. Weights of fewer than 4 bits promise
nothing and are not judged.
"""


@dataclass(frozen=True)
class Cell:
    """Counts of checks by state, as a table shows them."""

    states: Counter[str]

    @property
    def text(self) -> str:
        """For instance `12, 1 wrong`; plain numbers are what went well."""
        others = [f"{self.states[s]} {s}" for s in (WRONG, CRASH, REFUSED, NOTHING, UNMEASURED) if self.states[s]]
        return ", ".join([str(self.states[OK]), *others])


def record(rows: Sequence[Row], settings: Settings, folders: Sequence[Path]) -> dict[str, Any]:
    """Everything, ready for JSON."""
    where = environment.here()
    return {
        "schema_version": 1,
        "versions": _versions(),
        "date": where.date,
        "commit": where.commit,
        "folders": [folder.resolve().name for folder in folders],
        "seconds": settings.seconds,
        "memory": settings.memory,
        "levels": list(settings.levels),
        "counts": count(rows),
        "files": [row.plain() for row in rows],
    }


def kept(path: Path, settings: Settings) -> list[Row]:
    """The rows of an earlier result.  Raises SystemExit if that was of other code, packages or limits."""
    found = json.loads(path.read_text("utf-8"))
    here = record([], settings, [])
    for key in ("commit", "versions", "seconds", "memory", "levels"):
        if found[key] != here[key]:
            raise SystemExit(f"{path}: is of {key} {found[key]}, not {here[key]}; examine every file again")
    return [Row.of(row) for row in found["files"]]


def render(rows: Sequence[Row], settings: Settings, folders: Sequence[Path]) -> str:
    """The page."""
    from compatibility import likeness

    where = environment.here()
    names = sorted({row.name.partition("/")[0] for row in rows})
    head = INTRODUCTION.format(
        files=len(rows),
        where=", ".join(f"`{name}`" for name in names),
        folders=" ".join(shown(folder) for folder in folders),
        minutes=max(1, round(sum(row.seconds for row in rows) / 60)),
        versions=", ".join(f"{name} {number}" for name, number in _versions().items()),
        python=platform.python_version(),
        machine=where.processor,
        commit=where.commit,
        date=where.date,
        seconds=f"{settings.seconds:g}",
        memory=f"{settings.memory / 2**30:.3g}",
        levels=", ".join(f"`{level}`" for level in settings.levels),
        pictures="photos" if settings.photos else "noise with the spectrum of photos, as there were none",
        lowest=likeness.LOWEST_DB,
        lowest4=likeness.LOWEST_DB_4_BITS,
        margin=likeness.MARGIN_DB,
        shares=", ".join(f"{share:.1%} with {bits:g} bits or more" for bits, share in likeness.SHARES[:3]),
    )
    sections = [head, "## Result", _summary(rows), _faults(rows), _schemes(rows), _files(rows)]
    return "\n".join(section.rstrip() + "\n" for section in sections if section)


def shown(folder: Path) -> str:
    """A folder as a reader may type it: relative as it was given, else its name alone."""
    return str(folder) if not folder.is_absolute() else folder.name


def _versions() -> dict[str, str]:
    return {name: found for name in PACKAGES if (found := environment._version(name))}


def _summary(rows: Sequence[Row]) -> str:
    first, *others = table.summary(rows).splitlines()
    return "\n".join([first, "", *(f"- {line}" for line in map(clean, others))])


def _faults(rows: Sequence[Row]) -> str:
    found = [(row.name, f"{c.stage} {c.part}", c.state, c.detail) for row in rows for c in faults(row)]
    return "## Wrong or crashed\n\n" + (_table(("file", "where", "state", "what"), found) if found else "Nothing.\n")


def _schemes(rows: Sequence[Row]) -> str:
    """A line for each scheme: how many files went well in each part."""
    stages = list(dict.fromkeys(stage for row in rows for stage in row.stages("scheme")))
    parts = ("convert", "file", "LiteRT reference", "LiteRT", "TFLite Micro", "likeness")
    lines = []
    for stage in stages:
        name = stage.partition("/")[2]
        cells = [_cell(rows, stage, part) for part in parts]
        compiled = _cell(rows, f"converted/{name}", "run")
        lines.append((f"`{name}`", *cells[:-1], compiled, cells[-1]))
    head = ("scheme", "converted", "read again equal", "LiteRT reference equal", "LiteRT runs", "TFLite Micro runs")
    title = "## Schemes\n\nFiles by result; a plain number is of those that went well.\n\n"
    return title + _table((*head, "compiled equal", "alike"), lines) + _reasons(rows, parts)


def _cell(rows: Sequence[Row], stage: str, part: str) -> str:
    found = [c for row in rows for c in row.checks if c.stage == stage and c.part in (part, "stage")]
    return Cell(Counter(check.state for check in found)).text


def _reasons(rows: Sequence[Row], parts: Sequence[str]) -> str:
    """Why conversions or engines refused, most frequent first."""
    found: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        for check in row.checks:
            if check.stage.startswith("scheme/") and check.part in parts and check.state == REFUSED:
                found[(check.stage.partition("/")[2], check.part, check.detail)] += 1
    by_reason: dict[tuple[str, str], list[str]] = {}
    for (name, part, why), _ in found.most_common():
        by_reason.setdefault((part, why), []).append(f"`{name}`")
    lines = [(part, ", ".join(names), why) for (part, why), names in by_reason.items()]
    return "\nWhat was refused, and why:\n\n" + _table(("part", "schemes", "reason"), lines) if lines else ""


def _files(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        text = table.refusal(row) if row.state == REFUSED else table.line(row).partition("): ")[2]
        lines.append((row.name, f"{row.size:,}", row.state, _likeness(row), text))
    return "## Files\n\n" + _table(
        ("file", "bytes", "state", "`int8` / `symmetric-int8` / `int16x8` alike", "what"), lines
    )


def _likeness(row: Row) -> str:
    """The figures of three schemes; a dash where there is none."""
    found: list[Check] = [row.find(f"scheme/{name}", "likeness") for name in ("int8", "symmetric-int8", "int16x8")]
    return " / ".join(_figure(check) for check in found)


def _figure(check: Check) -> str:
    figures = check.figures
    if not figures:
        return "-"
    if figures["kind"] == "dB":
        return "exact" if figures["figure"] >= 99 else f"{figures['figure']:.0f} dB"
    return f"{figures['figure']:.0%} {figures['kind']}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([clean(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def clean(text: str) -> str:
    """Text without the paths of this machine, nor what Markdown would read as markup."""
    for folder in {os.path.expanduser("~"), os.getcwd(), str(Path(__file__).parents[2])}:
        text = text.replace(f"{folder}/", "")
    return text.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
