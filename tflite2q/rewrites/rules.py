"""Rules of schemes: they select ops of a graph by kind, name and position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.names import ELISION, meant
from tflite2q.dialect.op import Op
from tflite2q.errors import SchemeError

Range = tuple[int, int]


class Beyond(SchemeError):
    """A position that a model does not have; an optional rule may name one."""


# Where positions begin.
COUNTED = {"index": 0, "from_input": 1, "from_output": 1}


@dataclass(frozen=True)
class Match:
    """The ops that a rule selects: every given key must match.

    `op` is a pattern for the mnemonic without "q.", `name` an op's name (its first result) as it is or as reports
    shorten it, or a pattern for names.  The others are ranges [first, last]: `index` among the ops, `from_input` and
    `from_output` among the ops with weights, counted from 1 at the nearer end, `channels` the output channels of an op
    with weights, `weights` how many it has.
    """

    op: str = "*"
    name: str = "*"
    index: Range | None = None
    from_input: Range | None = None
    from_output: Range | None = None
    channels: Range | None = None
    weights: Range | None = None

    @property
    def counts(self) -> bool:
        """Whether it selects ops by their place among the others."""
        return not (self.index is None and self.from_input is None and self.from_output is None)

    def among(self, where: Sequence[Place]) -> list[Place]:
        """The places in a graph that the rule matches.

        Raises Beyond for positions that do not exist, and SchemeError for a shortened name that could be several
        layers': it was printed for one of them.
        """
        self._check_positions(where)
        named = set(meant(self.name, [place.op.name for place in where]))
        found = [place for place in where if place.op.name in named and self._fits(place)]
        if ELISION in self.name and len(found) > 1:
            raise SchemeError(
                f"match.name = {self.name!r} could be {_listed([place.op.name for place in found])}; give more of the "
                f"name, or '*' in place of {ELISION!r} if all are meant"
            )
        return found

    def _check_positions(self, where: Sequence[Place]) -> None:
        weighted = sum(place.channels is not None for place in where)
        for key, given in (("from_input", self.from_input), ("from_output", self.from_output)):
            if given is not None and given[1] > weighted:
                count = f"{weighted} layer{'' if weighted == 1 else 's'} with weights"
                raise Beyond(f"match.{key} = {list(given)} reaches beyond the model, which has {count}")
        if self.index is not None and self.index[1] >= len(where):
            raise Beyond(f"match.index = {list(self.index)} reaches beyond the model's last op, {len(where) - 1}")

    def _fits(self, place: Place) -> bool:
        return fnmatchcase(place.op.mnemonic.removeprefix("q."), self.op) and all(
            wanted is None or (have is not None and wanted[0] <= have <= wanted[1])
            for wanted, have in (
                (self.index, place.index),
                (self.from_input, place.from_input),
                (self.from_output, place.from_output),
                (self.channels, place.channels),
                (self.weights, place.weights),
            )
        )


@dataclass(frozen=True)
class Place:
    """The position of an op in its graph; the last four fields only for ops with weights."""

    op: Op
    index: int
    from_input: int | None = None
    from_output: int | None = None
    channels: int | None = None
    weights: int | None = None


def places(graph: Graph) -> list[Place]:
    """The place of each op of the graph."""
    weighted: dict[str, tuple[int, int]] = {}
    for op in graph.ops:
        sizes = [graph[name].type for name in op.in_role("weights").values()]
        if sizes:
            channels = sizes[-1].shape[op.channel_axis] if sizes[-1].shape else 1
            weighted[op.name] = channels, sum(kind.size for kind in sizes)
    order = {name: position + 1 for position, name in enumerate(weighted)}
    return [
        Place(op, index, order[op.name], len(order) + 1 - order[op.name], *weighted[op.name])
        if op.name in order
        else Place(op, index)
        for index, op in enumerate(graph.ops)
    ]


@dataclass(frozen=True)
class Rule:
    """Changes to the scheme's settings for the ops that match; `changes` are (role, key, value).

    A rule that matches no op of a model is an error unless it is `optional`.
    """

    match: Match
    changes: tuple[tuple[str, str, Any], ...]
    optional: bool = False


def _listed(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names[:3])) + (f" or {len(names) - 3} more" if len(names) > 3 else "")
