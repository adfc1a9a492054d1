"""Variables that a model keeps from run to run: in memory of the caller's, which code reads where it lies.

What was read of a variable is a copy only where the variable changes while the copy is still needed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from tflite2q.dialect.graph import Graph
from tflite2q.micro.program import State, Step, Table

ALIGNMENT = 8  # of each variable: no element is wider


def placed(graph: Graph, prefix: str) -> dict[str, State]:
    """The variables that ops update, by name, one behind the other; `prefix` begins the names of tables."""
    found: dict[str, State] = {}
    at = 0
    for value in graph.states:
        state = State(value.name, at, Table(f"{prefix}_s{len(found)}", value.initial, True))
        found[value.name] = state
        at += -(-state.bytes // ALIGNMENT) * ALIGNMENT
    return found


def settled(
    steps: Sequence[Step], views: Mapping[str, str], outputs: Collection[str]
) -> tuple[tuple[Step, ...], Mapping[str, str]]:
    """The steps without the copies of variables that nothing needs, and by name which variable stands for each.

    `views` are the copies that steps make of variables, `outputs` what is needed after the last step.
    """
    last = {name: index for index, step in enumerate(steps) for name in step.reads}
    last |= dict.fromkeys(outputs, len(steps))
    same: dict[str, str] = {}
    for index, step in enumerate(steps):
        variable = views.get(step.writes[0])
        if variable is None:
            continue
        needed = range(index + 1, last.get(step.writes[0], index) + 1)
        if not any(variable in steps[k].writes for k in needed if k < len(steps)):
            same[step.writes[0]] = variable
    kept = (step for step in steps if step.writes[0] not in same)
    return tuple(replace(s, reads=tuple(same.get(name, name) for name in s.reads)) for s in kept), same
