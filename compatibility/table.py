"""A line for each file, and a summary of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from compatibility.records import (
    CRASH,
    DOCUMENTED,
    INCOMPLETE,
    NOTHING,
    OK,
    REFUSED,
    UNMEASURED,
    WRONG,
    Check,
    Row,
    count,
    faults,
)


def line(row: Row) -> str:
    """State, name, and what is the matter or what was checked."""
    head = f"{row.state:10} {row.name} ({row.seconds:.0f} s): "
    if row.state == REFUSED:
        return head + refusal(row)
    found = faults(row)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        return f"{head}{told(found[0])}{more}{_open(row)}"
    return f"{head}{'; '.join(filter(None, (_reference(row), _levels(row), _schemes(row))))}{_open(row)}"


def told(check: Check) -> str:
    """A check in words."""
    return f"{check.stage} {check.part}: {check.detail or check.state}"


def refusal(row: Row) -> str:
    """Why a file was refused, and whether LiteRT runs it."""
    return row.find("load", "file").detail + (" (LiteRT runs it)" if litert_runs(row) else "")


def litert_runs(row: Row) -> bool:
    """Whether LiteRT runs a file that was refused."""
    return bool(row.find("load", "LiteRT").figures.get("runs"))


def _open(row: Row) -> str:
    return f"; {row.unmeasured} not measured" if row.unmeasured else ""


def _reference(row: Row) -> str:
    judged = [c for c in row.checks if c.stage == "reference" and c.figures.get("judge") and c.state == OK]
    if not judged:
        return "no judge"
    tensors = judged[0].figures.get("tensors")
    what = f"{tensors} tensors" if tensors is not None else "outputs"
    steps = next((f" and a stream of {c.figures['steps']} steps" for c in judged if "steps" in c.figures), "")
    return f"{what} exact against {judged[0].figures['judge']} on {len(judged) - bool(steps)} inputs{steps}"


def _levels(row: Row) -> str:
    exact = [c.stage.partition("/")[2] for c in row.checks if c.stage.startswith("compiled/") and c.state == OK]
    return f"compiled equal on {', '.join(exact)}" if exact else ""


def _schemes(row: Row) -> str:
    states = Counter(row.find(stage, "convert").state for stage in row.stages("scheme"))
    words = {OK: "converted", NOTHING: "already so", REFUSED: "refused", UNMEASURED: "not measured"}
    return "schemes: " + ", ".join(f"{number} {words.get(state, state)}" for state, number in states.items())


def summary(rows: Sequence[Row]) -> str:
    """Counts of files and checks by state, and the reasons of refusals."""
    files = count(rows)
    lines = [
        f"{len(rows)} files: {files[OK]} ok, {files[WRONG]} wrong, {files[CRASH]} crashed, {files[REFUSED]} refused"
        f" ({sum(litert_runs(row) for row in rows if row.state == REFUSED)} of these LiteRT runs),"
        f" {files[INCOMPLETE]} incomplete: not all was measured",
    ]
    states = Counter(check.state for row in rows for check in row.checks)
    order = (OK, DOCUMENTED, WRONG, CRASH, REFUSED, NOTHING, UNMEASURED)
    lines.append(
        f"{sum(states.values())} checks: " + ", ".join(f"{states[state]} {state}" for state in order if states[state])
    )
    open_ = Counter(check.detail for row in rows for check in row.checks if check.state == UNMEASURED)
    for title, reasons in (("not measured", open_), ("refused", Counter(_refusals(rows)))):
        lines += [f"{title}: {number} x {why}" for why, number in reasons.most_common(20)]
    return "\n".join(lines)


def _refusals(rows: Iterable[Row]) -> list[str]:
    return [row.find("load", "file").detail for row in rows if row.state == REFUSED]
