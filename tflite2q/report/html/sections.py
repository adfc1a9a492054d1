"""The parts of a comparison's page, each an element or None if there is nothing to show."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from tflite2q.dialect.names import short
from tflite2q.evaluation.figures import Change
from tflite2q.evaluation.results import Accuracy, Comparison, Gate, Histogram, Layer, Stage, worst_layers
from tflite2q.report import explain, markdown, tables, words
from tflite2q.report.html import charts
from tflite2q.report.html.markup import Child, Node, node
from tflite2q.report.html.tables import Cell, drawn, folded, of_cells
from tflite2q.report.tables import Rows

SMALL = 64  # pixels below which a thumbnail is enlarged with hard edges
LEAST_BARS = 2  # layers that make a chart


@dataclass(frozen=True)
class Place:
    """Where a comparison stands on the page: the level of its headings, and what its ids begin with."""

    level: int
    prefix: str

    def section(self, name: str, title: str, *children: Child) -> Node:
        """A section with a heading that names it."""
        heading = node(f"h{self.level}", title, id=f"{self.prefix}{name}")
        return node("section", heading, *children, aria_labelledby=f"{self.prefix}{name}")

    def heading(self, text: Child) -> Node:
        """A heading one level below those of sections."""
        return node(f"h{self.level + 1}", text)


def named(text: str) -> Node:
    """A name out of a file, set apart from the sentence around it."""
    return node("span", text, class_="name")


def of(result: Comparison, place: Place) -> list[tuple[str, str, Node]]:
    """The sections of one comparison: name, title, element."""
    accuracy = result.accuracy
    made = [
        ("summary", "Result", _summary(result)),
        ("accuracy", "Answers", _answers(accuracy)),
        ("changed", "Samples that changed their answer", _changed(accuracy)),
        ("engines", "Engines", _engines(result)),
        ("memory", "Memory", _memory(result)),
        ("layers", "Layers", _layers(result, place)),
        ("provenance", "Where these figures come from", _provenance(result)),
    ]
    return [(name, title, place.section(name, title, *parts)) for name, title, parts in made if parts]


def _summary(result: Comparison) -> list[Child]:
    parts: list[Child] = [verdict([result])]
    if result.accuracy is not None:
        about = "; ".join(filter(None, (words.samples(result.accuracy), words.task(result.accuracy))))
        parts.append(node("p", f"{about}."))
    parts.append(_facts(result))
    found = tables.headline(result)
    if found is not None:
        parts.append(drawn(found))
    evidence = markdown.evidence(result)
    if evidence:
        parts.append(node("ul", *(node("li", line) for line in evidence)))
    if result.gates:
        parts.append(drawn(_gates(result.gates)))
    if result.notes:
        parts += [node("p", node("strong", "Notes")), node("ul", *(node("li", note) for note in result.notes))]
    return [part for part in parts if part is not None]


def verdict(results: Sequence[Comparison]) -> Node | None:
    """Whether the gates passed, and which failed; of several models, with their names."""
    gates = [(result, gate) for result in results for gate in result.gates]
    if not gates:
        return None
    failed = [(result, gate) for result, gate in gates if not gate.passed]
    if not failed:
        text = f"All {len(gates)} gates passed." if len(gates) > 1 else "The gate passed."
        return node("div", node("p", text), class_="verdict good")
    lines = [
        node("li", *(() if len(results) == 1 else (named(result.other), ", ")), words.gate_figures(gate))
        for result, gate in failed
    ]
    said = f"{len(failed)} of {len(gates)} gates failed:" if len(gates) > 1 else "The gate failed:"
    return node("div", node("p", said), node("ul", *lines), class_="verdict bad")


def _gates(gates: Sequence[Gate]) -> Rows:
    columns = (("gate", False), ("what it bounds", False), ("figure", True), ("bound", True), ("verdict", False))
    rows = tuple(
        (
            gate.name,
            gate.label,
            words.amount(gate.figure, gate.unit),
            f"{'at least' if gate.at_least else 'at most'} {words.amount(gate.bound, gate.unit)}",
            "passed" if gate.passed else "FAILED",
        )
        for gate in gates
    )
    return Rows("gates", columns, rows)


def _facts(result: Comparison) -> Node | None:
    """The figures that decide, large."""
    tiles = []
    stages = () if result.headline is None else result.headline.stages
    if result.headline is not None and len(stages) > 1:
        tiles.append(_graded(result.headline.measure, stages[0], stages[-1]))
        gain = stages[-1].gain
        if gain is not None:
            before, after = (words.milliseconds(stage.median_ms) for stage in (stages[0], stages[-1]))
            tiles.append(("time of a run", f"{gain:.2f} times as fast", f"{before} → {after}"))
    size = result.size
    if size is not None and size.original and size.converted:
        change = words.relative(size.original, size.converted)
        before, after = words.size_in_bytes(size.original), words.size_in_bytes(size.converted)
        tiles.append(("size of the file", change, f"{before} → {after}"))
    measured = [layer for layer in result.layers if layer.max_step_error is not None or layer.sqnr_db is not None]
    if measured:
        exact = sum(layer.sqnr_db is None for layer in measured)
        tiles.append(("layers with equal results", f"{exact} of {len(measured)}", "inside the whole model"))
    found = [node("div", node("dt", a), node("dd", b), node("dd", c)) for a, b, c in tiles]
    return node("dl", *found, class_="facts") if found else None


def _graded(measure: str, first: Stage, last: Stage) -> tuple[str, str, str]:
    if last.score is not None and first.score is not None:
        said = "" if last.difference is None else f"; {words.noise(last.difference)}"
        change = words.points(last.score - first.score)
        return measure, change, f"{words.percent(first.score)} → {words.percent(last.score)}{said}"
    if last.agreement is None:
        return measure, "not measured", ""
    share = f"{last.agreement:.5f}" if measure.startswith("cosine") else words.percent(last.agreement)
    return measure, share, "converted against the original"


def _answers(accuracy: Accuracy | None) -> list[Child]:
    if accuracy is None:
        return []
    found = [tables.scores(accuracy), tables.figures(accuracy), tables.classes(accuracy)]
    parts: list[Child] = [drawn(rows) for rows in found if rows is not None]
    every = tables.classes(accuracy, None)
    if every is not None and (found[2] is None or len(every.rows) > len(found[2].rows)):
        parts.append(folded(every.title, drawn(every)))
    return parts


def _changed(accuracy: Accuracy | None) -> list[Child]:
    if accuracy is None or not accuracy.changed:
        return []
    count, shown = accuracy.changed_count, len(accuracy.changed)
    said = (
        f"{count} of {accuracy.samples} samples {'has' if count == 1 else 'have'} another answer in the converted model"
    )
    said += f"; the first {shown} are shown." if shown < count else "."
    return [node("p", said), node("ul", *map(_change, accuracy.changed), class_="samples")]


def _change(change: Change) -> Node:
    lines = [("original", change.original), ("converted", change.converted), ("truth", change.truth)]
    told = [part for name, text in lines if text for part in (node("dt", name), node("dd", text))]
    return node("li", _image(change), node("div", named(change.sample)), node("dl", *told))


def _image(change: Change) -> Node | None:
    if change.picture is None:
        return None
    encoded = base64.b64encode(change.picture).decode()
    width = int.from_bytes(change.picture[16:20], "big")  # of a PNG's header
    return node("img", src=f"data:image/png;base64,{encoded}", alt=f"what the models saw of {change.sample}",
                class_="small" if width < SMALL else None)  # fmt: skip


def _engines(result: Comparison) -> list[Child]:
    rows = tables.engines(result)
    if rows is None:
        return []
    about = (
        "Both models in every engine. “As original here” is the effect of the scheme, “as reference kernels” that of "
        "the engine's kernels. Times are medians, taken in turns."
    )
    return [node("p", about), drawn(rows)]


def _memory(result: Comparison) -> list[Child]:
    found = result.memory
    if found is None or not found.blocks:
        return []
    largest = max(found.blocks, key=lambda block: block.bytes)
    caption = (
        f"The arena of the converted model on {found.target}: {found.bytes:,} bytes. Each box is a tensor, as wide as "
        f"the layers that need it; the largest is {short(largest.name)} with {largest.bytes:,} bytes. Boxes overlap "
        "where a result takes the place of an operand that nothing reads any more."
    )
    return [node("figure", charts.memory(found), node("figcaption", caption))]


def _layers(result: Comparison, place: Place) -> list[Child]:
    measured = [layer for layer in result.layers if layer.max_step_error is not None or layer.sqnr_db is not None]
    worst = worst_layers(measured)
    names = {layer.name for layer in worst}
    parts: list[Child] = []
    if measured:
        exact = sum(layer.sqnr_db is None for layer in measured)
        parts.append(node("p", f"{exact} of {len(measured)} layers give equal results in both models. Errors are those "
                               "inside the whole model, with what earlier layers passed on."))  # fmt: skip
    if worst and len(measured) >= LEAST_BARS:
        parts.append(_bars(measured, sorted(names)))
    if worst:
        origins = {layer.diagnosis.origin for layer in worst if layer.diagnosis is not None} - names
        roots = [layer for layer in measured if layer.name in origins]
        parts += [place.heading("The worst layers"), _cards([*worst, *roots], place)]
    parts += _times(result.layers, place)
    if result.layers:
        parts.append(folded(f"all {len(result.layers)} layers: errors, and what was done", _every(result.layers)))
    return parts


def _times(lines: Sequence[Layer], place: Place) -> list[Child]:
    """The time of each layer in both models' compiled code."""
    timed = [(line.name, line.ms) for line in lines if line.ms is not None]
    if len(timed) < LEAST_BARS:
        return []
    sums = (sum(ms.original for _, ms in timed), sum(ms.converted for _, ms in timed))
    before, after = (words.milliseconds(total) for total in sums)
    caption = (
        f"In graph order; grey: the original, {before} in all, blue: the converted model, {after}. Both are compiled "
        "by tflite2q; each compiled function was timed by itself on one sample. LiteRT's Python package gives no times "
        "of single layers. A layer without height is computed with its neighbour."
    )
    figure = node("figure", charts.times(timed), _ends([name for name, _ in timed]), node("figcaption", caption))
    return [place.heading("The time of each layer"), figure]


def _ends(names: Sequence[str]) -> Node:
    """What stands under the ends of a chart of layers."""
    texts = f"1. {short(names[0])}", f"{len(names)}. {short(names[-1])}"
    return node("div", *(node("span", text) for text in texts), class_="ends", aria_hidden="true")


def _bars(lines: Sequence[Layer], worst: Sequence[str]) -> Node:
    caption = (
        "Noise of each layer's result, in graph order: the full height is a signal to noise of 0 dB, no height one of "
        f"{charts.QUIET_DB:.0f} dB or more; lines at 20 and 40 dB. The narrow bar within is the noise that the layer "
        "makes itself, the rest came from earlier layers. The worst layers are red and described below."
    )
    return node(
        "figure", charts.layers(lines, worst), _ends([line.name for line in lines]), node("figcaption", caption)
    )


def _cards(lines: Sequence[Layer], place: Place) -> Node:
    legend = node(
        "p",
        node("span", class_="key filled", aria_hidden="true"), "original, ",
        node("span", class_="key lined", aria_hidden="true"), "converted; dashed: the ends of the new type's range. "
        "Heights are square roots of counts over one sample.",
        class_="faint",
    )  # fmt: skip
    return node("div", legend, node("div", *(_card(line, place) for line in lines), class_="cards"))


def _card(line: Layer, place: Place) -> Node:
    figures = [line.op, "" if line.sqnr_db is None else f"signal to noise {words.amount(line.sqnr_db, 'dB')}"]
    if line.max_step_error is not None:
        figures.append(f"largest error {words.amount(line.max_step_error, 'steps')}")
    reasons = [node("li", reason) for reason in explain.reasons(line)]
    title = node(f"h{place.level + 2}", named(short(line.name)))
    found = None if line.diagnosis is None else line.diagnosis.histogram
    return node("article", title, node("p", ", ".join(filter(None, figures)), class_="faint"),
                node("ul", *reasons) if reasons else None, _histogram(found, line) if found else None,
                class_="card")  # fmt: skip


def _histogram(found: Histogram, line: Layer) -> Node:
    low, high = found.converted_range
    says = (
        f"Histogram of the results of {line.name}, from {found.low:.4g} to {found.high:.4g}, in both models; the new "
        f"type holds {low:.4g} to {high:.4g}."
    )
    ends = node("div", node("span", f"{found.low:.4g}"), node("span", f"{found.high:.4g}"), class_="ends",
                aria_hidden="true")  # fmt: skip
    return node("figure", charts.histogram(found, says), ends)


def _every(lines: Sequence[Layer]) -> Node:
    timed = any(line.ms is not None for line in lines)
    columns = (("layer", False), ("op", False), ("signal to noise", True), ("largest error", True), ("made here", True),
               *((("original", True), ("converted", True)) if timed else ()), ("what was done", False))  # fmt: skip
    rows: list[list[Cell]] = []
    for line in lines:
        share = None if line.diagnosis is None else line.diagnosis.own_share
        measured = line.max_step_error is not None or line.sqnr_db is not None
        quiet = "no noise" if measured else ""
        rows.append(
            [
                named(line.name),
                line.op,
                quiet if line.sqnr_db is None else words.amount(line.sqnr_db, "dB"),
                "" if line.max_step_error is None else words.amount(line.max_step_error, "steps"),
                "" if share is None else words.percent(share),
                *(_milliseconds(line) if timed else ()),
                explain.done(line),
            ]
        )
    return of_cells("layers in graph order", columns, rows)


def _milliseconds(line: Layer) -> tuple[str, str]:
    if line.ms is None:
        return "", ""
    return words.milliseconds(line.ms.original), words.milliseconds(line.ms.converted)


def _provenance(result: Comparison) -> list[Child]:
    parts: list[Child] = []
    machine = words.machine(result)
    if machine:
        parts.append(node("p", f"Measured on {machine}."))
    found = result.provenance
    if found is None:
        return parts
    if found.date is not None:
        parts.append(node("p", f"Measured at {found.date}."))
    if found.command is not None:
        parts += [node("p", "Command line:"), node("pre", node("code", found.command), tabindex="0")]
    if found.sources:
        columns = (("what", False), ("name", False), ("bytes", True), ("SHA-256", False))
        rows: list[list[Cell]] = [[s.role, named(s.name), f"{s.bytes:,}", named(s.sha256)] for s in found.sources]
        parts.append(of_cells("what was read", columns, rows))
    if found.scheme is not None:
        parts.append(folded(f"the scheme {result.scheme}", node("pre", node("code", found.scheme), tabindex="0")))
    return parts
