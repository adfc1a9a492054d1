"""The work on one model, in a process that does nothing else.

It runs in a folder that holds the model under its own name, so that messages and reports are the same wherever the
model came from.  It writes the files `out/ENDING`; `result.json` is written last, and atomically.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tflite2q import files
from tflite2q.batch.records import (
    CHANGE,
    CHANGED_LAYERS,
    CONVERTED,
    EQUAL_ANSWERS,
    GATES,
    MEMORY,
    MODEL,
    PAGE,
    RECORD,
    REFUSED,
    SIZE,
    TEXT,
    UNCHANGED,
    UNWRITTEN,
    Outcome,
    Settings,
    library,
)
from tflite2q.errors import CARRY_HINT, OutputError, Tflite2qError, Unchanged, UnsupportedError, command_line

if TYPE_CHECKING:
    from tflite2q.evaluation.models import Loaded
    from tflite2q.evaluation.results import Comparison
    from tflite2q.rewrites import Conversion

RESULT = "result.json"
OUT = "out"
TEMPORARY = "tmp"  # for what native code writes on its way


def prepare(folder: Path, name: str, content: bytes, settings: Settings) -> None:
    """Lay out the folder in which `perform` runs: the model, and links to where its data lie.  Raises OSError."""
    (folder / "in").mkdir()
    (folder / OUT).mkdir(exist_ok=True)
    (folder / TEMPORARY).mkdir()
    (folder / "in" / name).write_bytes(content)
    linked = {}
    for what, path in settings.paths.items():
        link = what if what != name else f"{what}-of-it"  # the model may have any name
        (folder / "in" / link).symlink_to(Path(path).parent)
        linked[what] = os.path.join(link, Path(path).name)
    settings = settings.moved(linked)
    (folder / "job.json").write_text(json.dumps({"name": name, "settings": asdict(settings)}), encoding="utf-8")


def clear(folder: Path) -> None:
    """Remove what a job that was ended made in `folder`, so that it can be done again.  Raises OSError."""
    (folder / RESULT).unlink(missing_ok=True)
    for name in (OUT, TEMPORARY):
        shutil.rmtree(folder / name)
        (folder / name).mkdir()


def perform(folder: Path) -> None:
    """Do the job that was laid out in `folder`.  Raises OutputError if what became of it cannot be written there."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    given = job["settings"]
    settings = Settings(**{**given, "targets": tuple(given["targets"])})
    os.chdir(folder / "in")
    try:
        with command_line():  # on which every batch begins, wherever its jobs are done
            outcome = converted(job["name"], settings, folder / OUT)
    except OutputError as error:
        outcome = Outcome(UNWRITTEN, str(error))
    except Tflite2qError as error:
        carriable = isinstance(error, UnsupportedError) and error.carriable and not settings.allow_unsupported
        outcome = Outcome(REFUSED, f"{error}; {CARRY_HINT}" if carriable else str(error))
    except MemoryError:
        outcome = Outcome(MEMORY, f"{job['name']}: not enough memory for this model")
    _write(folder / RESULT, json.dumps(asdict(outcome)))


def converted(name: str, settings: Settings, out: Path) -> Outcome:
    """Convert the model `name` and write what is asked for into `out`; the outcome lacks its outputs.

    Raises what the stages raise.
    """
    from tflite2q import pipeline
    from tflite2q.evaluation.models import content_of, opened
    from tflite2q.rewrites import scheme as schemes

    model = opened(name, settings.allow_unsupported)
    scheme = schemes.parse(settings.scheme_text, settings.scheme)
    same = ""
    try:
        new: Conversion | Loaded = pipeline.convert(model, scheme, data=settings.calibrate)
    except Unchanged as error:
        if settings.unchanged == "fail":
            raise
        new, same = model, str(error)
    content = model.content() if same else content_of(new)
    if not same or settings.unchanged == "copy":
        files.write(out / MODEL, content, tidy=False)
    for target in settings.targets:
        pipeline.compile(new, target, settings.threads).save(out / library(target))
    return _reported(model, new, settings, same, len(content), out)


def _reported(
    model: Loaded, new: Conversion | Loaded, settings: Settings, same: str, size: int, out: Path
) -> Outcome:  # fmt: skip
    """Write the reports of a conversion, or of the comparison that is asked for."""
    from tflite2q import pipeline
    from tflite2q.evaluation import compare
    from tflite2q.evaluation.models import Loaded, size_of
    from tflite2q.evaluation.results import Comparison, Size
    from tflite2q.report import html, markdown, words
    from tflite2q.report import json as documents

    if settings.compare is not None:
        result: Comparison = pipeline.compare(model, new, **settings.compare)
        result = replace(result, notes=(same, *result.notes)) if same else result
        if result.provenance is not None:  # equal inputs give equal bytes, whenever that is
            result = replace(result, provenance=replace(result.provenance, date=None))
        _write(out / TEXT, markdown.comparison([result]))
        _write(out / PAGE, html.comparison([result]))
    else:
        result = Comparison(
            model=Path(model.path).name,
            other=settings.scheme,
            scheme=settings.scheme,
            target=None,
            layers=() if isinstance(new, Loaded) else compare.layers_of(new),
            size=Size(size_of(model), size),
            notes=(same,) if isinstance(new, Loaded) else new.notes,
        )
    document = documents.comparison(result)
    _write(out / RECORD, json.dumps(document, indent=2, allow_nan=False) + "\n")
    gates = tuple((gate.name, words.gate(gate), gate.passed) for gate in result.gates)
    state = GATES if result.failed_gates else UNCHANGED if same else CONVERTED
    reason = "; ".join(words.gate(gate) for gate in result.failed_gates) or same
    figures = _figures(result) | {CHANGED_LAYERS: _changed_layers(model, new)}
    return Outcome(state, reason, {}, figures, gates, result.notes)


def _write(path: Path, text: str) -> None:
    files.write(path, text.encode(), tidy=False)


def _figures(result: Comparison) -> dict[str, str]:
    """The figures of a summary's table, but the layers."""
    from tflite2q.report import words

    found = {}
    if result.size is not None and result.size.original and result.size.converted:
        found[SIZE] = words.size_in_bytes(result.size.converted)
        found[CHANGE] = words.relative(result.size.original, result.size.converted)
    if result.accuracy is not None:
        for score in result.accuracy.scores:
            found[score.label] = f"{words.percent(score.original)} -> {words.percent(score.converted)}"
        if result.accuracy.agreement is not None:
            found[EQUAL_ANSWERS] = words.percent(result.accuracy.agreement)
    return found


def _changed_layers(model: Loaded, new: Conversion | Loaded) -> str:
    """How many layers lost something: by what the conversion did, whether it is compared or not."""
    from tflite2q.evaluation.models import Loaded

    if isinstance(new, Loaded):
        return f"0 of {sum(1 for _ in model.graph.every_op())}"
    return f"{sum(layer.loss not in (None, 'exact') for layer in new.layers)} of {len(new.layers)}"
