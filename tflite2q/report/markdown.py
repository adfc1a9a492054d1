"""A comparison as Markdown, for a pull request or a job's summary."""

from __future__ import annotations

from collections.abc import Sequence

from tflite2q.evaluation.results import Comparison, Gate
from tflite2q.report import tables, words
from tflite2q.report.tables import Rows


def comparison(results: Sequence[Comparison]) -> str:
    """Verdict and headline first, the rest folded away."""
    return "\n".join(_one(result) for result in results)


def _one(result: Comparison) -> str:
    lines = [f"## {escaped(result.model)} → {escaped(result.other)}", ""]
    if result.gates:
        failed = len(result.failed_gates)
        verdict = (
            f"**{failed} of {len(result.gates)} gates failed**" if failed else f"**{len(result.gates)} gates passed**"
        )
        lines += [verdict, "", _table(_gates(result.gates))]
    if result.accuracy is not None:
        lines += [f"{escaped(words.samples(result.accuracy))}; {escaped(words.task(result.accuracy))}.", ""]
    found = list(tables.of_comparison(result))
    if result.headline is not None and found:
        lines.append(_table(found.pop(0)))
    if result.size is not None and result.size.original and result.size.converted:
        before, after = result.size.original, result.size.converted
        change = words.relative(before, after)
        lines += [f"Size: {words.size_in_bytes(before)} → {words.size_in_bytes(after)} ({change}).", ""]
    lines += [f"- {escaped(line)}" for line in evidence(result)]
    lines.append("")
    for table in found:
        lines += ["<details>", f"<summary>{escaped(table.title)}</summary>", "", _table(table), "</details>", ""]
    lines += [f"- note: {escaped(note)}" for note in result.notes]
    return "\n".join([*lines, "", escaped(words.machine(result)), ""])


def evidence(result: Comparison) -> list[str]:
    """The paired comparisons in words, a line each."""
    if result.accuracy is None:
        return []
    return [
        words.evidence(f"{s.label}, {result.accuracy.engine}", s.difference)
        for s in result.accuracy.scores
        if s.difference is not None
    ]


def _gates(gates: Sequence[Gate]) -> Rows:
    columns = (("gate", False), ("figure", True), ("bound", True), ("", False))
    rows = tuple(
        (
            f"{gate.name} ({gate.label})",
            words.amount(gate.figure, gate.unit),
            f"{'at least' if gate.at_least else 'at most'} {words.amount(gate.bound, gate.unit)}",
            "passed" if gate.passed else "**FAILED**",
        )
        for gate in gates
    )
    return Rows("gates", columns, rows)


def _table(table: Rows) -> str:
    heads = [escaped(head) for head, _ in table.columns]
    rules = ["---:" if right else "---" for _, right in table.columns]
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, rules, *rows))


def _cell(text: str) -> str:
    return text if text.startswith("**") else escaped(text)


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, GitHub's too, where `$` begins a formula and `~~` a deletion."""
    for mark in "\\`*_<>|[]&~$":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
