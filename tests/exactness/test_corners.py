"""Operators at the corners of what they take, and drawn wildly: the oracle against LiteRT's reference kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
from agreement import assert_agrees
from cases import FAMILIES
from corner_cases import CORNERS
from draw import Case, Draw, Family
from verdicts import verdicts
from wild import Halves, Wild

from tflite2q.errors import InvalidGraph
from tflite2q.execution import reference

pytest.importorskip("ai_edge_litert")

QUICK, SLOW = {"corners": 2, "wild": 1, "halves": 1}, 60

KINDS: Mapping[str, Mapping[str, Family]] = {"corners": CORNERS, "wild": FAMILIES, "halves": FAMILIES}
STYLES: Mapping[str, Sequence[type[Draw]]] = {"corners": (Wild, Draw, Draw), "wild": (Wild,), "halves": (Halves,)}


def drawn(kind: str, family: str, count: int, seed: int) -> Iterator[Case]:
    """At most `count` cases; draws that are no valid graph are left out."""
    for index in range(count):
        style = STYLES[kind][index % len(STYLES[kind])]
        try:
            yield KINDS[kind][family](style(np.random.default_rng([seed, index, *family.encode()])))
        except InvalidGraph:
            continue


def check(made: list[Case]) -> None:
    found = verdicts(made)
    refused = [verdict for _, verdict in found if isinstance(verdict, str)]
    assert len(refused) < 0.4 * len(made) + 2, refused[:3]
    for case, verdict in found:
        if isinstance(verdict, str):
            continue
        with np.errstate(all="ignore"):
            results = reference.run(case.graph, *case.inputs)
        assert_agrees(case, results, verdict)


@pytest.mark.parametrize("kind", KINDS)
def test_a_few(kind: str) -> None:
    check([case for family in KINDS[kind] for case in drawn(kind, family, QUICK[kind], 0)])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "family"), [(kind, family) for kind, found in KINDS.items() for family in found])
def test_many(kind: str, family: str) -> None:
    check(list(drawn(kind, family, SLOW, 1)))
