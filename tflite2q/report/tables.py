"""The tables of a comparison as rows of text, for every format that has tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tflite2q.evaluation.figures import ClassLine
from tflite2q.evaluation.results import Accuracy, Comparison, EngineRun, Stage
from tflite2q.report import words

WORST_CLASSES = 5
SHOWN_CHANGES = 5
WORDS = 48  # characters of an answer in a table


@dataclass(frozen=True)
class Rows:
    """A table: its title, (heading, right-aligned) columns, and rows of cells."""

    title: str
    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[str, ...], ...]

    def without_empty(self) -> Rows:
        """The same without the columns that hold nothing."""
        kept = [k for k in range(len(self.columns)) if k == 0 or any(row[k] for row in self.rows)]
        rows = tuple(tuple(row[k] for k in kept) for row in self.rows)
        return Rows(self.title, tuple(self.columns[k] for k in kept), rows)


def headline(result: Comparison) -> Rows | None:
    """What a user gains, stage by stage."""
    found = result.headline
    if found is None:
        return None
    scored = any(stage.score is not None for stage in found.stages)
    columns = (("", False), (found.measure, True), ("change", True), ("time", True), ("gain", True))
    rows = [_stage(stage, scored, found.measure) for stage in found.stages]
    if not scored and any(row[1] for row in rows):
        rows[0] = (rows[0][0], "(compared with this)", *rows[0][2:])
    return Rows("what you gain", columns, tuple(rows)).without_empty()


def _stage(stage: Stage, scored: bool, measure: str) -> tuple[str, ...]:
    change = "" if stage.difference is None else (
        f"{words.points(stage.difference.value)} ({words.noise(stage.difference)})"
    )  # fmt: skip
    graded = "" if stage.score is None else words.percent(stage.score)
    share = graded if scored else _share(stage.agreement, measure)
    return (stage.label, share, change, words.milliseconds(stage.median_ms), words.gain(stage))


def summary(results: Sequence[Comparison]) -> Rows:
    """Several comparisons with the same original: the last stage of each headline, and the size."""
    rows = []
    for result in results:
        stage = None if result.headline is None else result.headline.stages[-1]
        size = result.size
        change = words.relative(size.original, size.converted) if size and size.original and size.converted else ""
        score = "" if stage is None or stage.score is None else words.percent(stage.score)
        same = "" if stage is None or result.headline is None else _share(stage.agreement, result.headline.measure)
        gates = "" if not result.gates else "FAILED" if result.failed_gates else "passed"
        gain = "" if stage is None else words.gain(stage)
        rows.append((result.other, score, same, gain, change, gates))
    columns = (
        ("converted", False),
        ("score", True),
        ("as original", True),
        ("gain", True),
        ("size", True),
        ("gates", False),
    )
    return Rows("all", columns, tuple(rows)).without_empty()


def engines(result: Comparison) -> Rows | None:
    """Both models in every engine."""
    if not result.engines:
        return None
    measure = "" if result.headline is None else result.headline.measure
    scored = any(run.score is not None for run in result.engines)
    cosine = measure.startswith("cosine")
    columns = (
        ("engine", False), ("model", False), ("samples", True), (measure if scored else "", True),
        ("as original here", True), ("as reference kernels", True), ("time", True), ("10 % to 90 %", True),
        ("instructions", True),
    )  # fmt: skip
    rows = tuple(_engine(run, cosine) for run in result.engines if run.samples or run.timing is not None)
    return Rows("engines", columns, rows).without_empty() if rows else None


def _engine(run: EngineRun, cosine: bool) -> tuple[str, ...]:
    timing = run.timing
    return (
        run.label,
        run.model,
        str(run.samples) if run.samples else "",
        "" if run.score is None else words.percent(run.score),
        _alike(run.agreement, run.max_step_error, cosine),
        _alike(run.kernel_agreement, run.kernel_step_error, cosine),
        "" if timing is None else words.milliseconds(timing.median_ms),
        "" if timing is None else f"{timing.p10_ms:.3f} to {timing.p90_ms:.3f}",
        "" if run.instructions is None else f"{run.instructions:,}",
    )


def _alike(share: float | None, steps: float | None, cosine: bool) -> str:
    """Agreement and the largest difference in one cell."""
    if steps == 0 and share in (1.0, None):
        return "equal"
    parts = ["" if share is None else _share(share, "cosine" if cosine else "")]
    return ", ".join(filter(None, [*parts, "" if steps is None else words.amount(steps, "steps")]))


def _share(value: float | None, measure: str) -> str:
    if value is None:
        return ""
    return f"{value:.5f}" if measure.startswith("cosine") else words.percent(value)


def scores(accuracy: Accuracy) -> Rows | None:
    """Correctness of both models in one engine."""
    if not accuracy.scores:
        return None
    columns = (("score", False), ("original", True), ("converted", True), ("change", True), ("95 % interval", True))
    rows = tuple(
        (
            score.label,
            words.percent(score.original),
            words.percent(score.converted),
            words.points(score.converted - score.original),
            "" if score.difference is None else
            f"{score.difference.low * 100:+.1f} to {score.difference.high * 100:+.1f}",
        )
        for score in accuracy.scores
    )  # fmt: skip
    return Rows(f"scores, both models in {accuracy.engine}", columns, rows).without_empty()


def figures(accuracy: Accuracy) -> Rows | None:
    """How alike the outputs are."""
    if not accuracy.figures:
        return None
    rows = tuple((found.label, words.figure(found)) for found in accuracy.figures)
    return Rows(
        f"the converted model against the original, in {accuracy.engine}", (("figure", False), ("", True)), rows
    )


def classes(accuracy: Accuracy, most: int | None = WORST_CLASSES) -> Rows | None:
    """The classes that changed most, or all of them."""
    changed = [line for line in accuracy.classes if _change(line) != 0]
    shown = sorted(changed, key=lambda line: (_change(line), line.number))[:most]
    if not shown:
        return None
    judged = any(line.original is not None for line in shown)
    noun = "keypoint" if accuracy.task is not None and accuracy.task.name == "keypoints" else "class"
    columns = ((noun, False), ("count", True), ("original", True), ("converted" if judged else "as original", True))
    rows = tuple(
        (
            line.name or f"{noun} {line.number}",
            f"{line.count:,}",
            "" if line.original is None else words.percent(line.original),
            "" if line.converted is None else words.percent(line.converted),
        )
        for line in shown
    )
    plural = "keypoints" if noun == "keypoint" else "classes"
    return Rows(f"{plural} that changed, worst first ({len(shown)} of {len(changed)})", columns, rows).without_empty()


def _change(line: ClassLine) -> float:
    return (line.converted or 0.0) - (1.0 if line.original is None else line.original)


def changes(accuracy: Accuracy, most: int = SHOWN_CHANGES) -> Rows | None:
    """Samples that changed their answer."""
    shown = accuracy.changed[:most]
    if not shown:
        return None
    columns = (("sample", False), ("original", False), ("converted", False), ("truth", False))
    rows = tuple(
        (change.sample, _cut(change.original), _cut(change.converted), _cut(change.truth or "")) for change in shown
    )
    title = f"samples that changed their answer ({len(shown)} of {accuracy.changed_count})"
    return Rows(title, columns, rows).without_empty()


def _cut(text: str) -> str:
    return text if len(text) <= WORDS else text[: WORDS - 1] + "…"


def of_comparison(result: Comparison) -> Sequence[Rows]:
    """All tables but those of layers and gates, in order."""
    accuracy = result.accuracy
    found = [headline(result), engines(result)]
    if accuracy is not None:
        found += [scores(accuracy), figures(accuracy), classes(accuracy), changes(accuracy)]
    return [table for table in found if table is not None]
