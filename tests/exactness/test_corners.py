"""Operators at the corners of what they take, and drawn wildly: the oracle against LiteRT's reference kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from agreement import assert_agrees
from cases import FAMILIES
from corner_cases import CORNERS
from draw import Array, Case, Draw, Family
from hlo_statements import WITHOUT_KERNEL
from judge import judge
from wild import Wild

from tflite2q.errors import InvalidGraph
from tflite2q.execution import reference
from tflite2q.flatbuffer.writer import write

pytest.importorskip("ai_edge_litert")

QUICK, SLOW = {"corners": 2, "wild": 1}, 60
STEPS = {"GELU-int16": 1}  # C's erfc and tanh are not always rounded correctly

KINDS: Mapping[str, Mapping[str, Family]] = {"corners": CORNERS, "wild": FAMILIES}


def drawn(kind: str, family: str, count: int, seed: int) -> Iterator[Case]:
    """At most `count` cases; draws that are no valid graph are left out."""
    for index in range(count):
        style = Wild if kind == "wild" or index % 3 == 0 else Draw
        try:
            yield KINDS[kind][family](style(np.random.default_rng([seed, index, *family.encode()])))
        except InvalidGraph:
            continue


def check(made: list[tuple[str, Case]]) -> None:
    verdicts: list[list[Array] | str] = judge([(write(case.graph), case.inputs) for _, case in made])
    # What LiteRT has no kernel for, test_single_ops judges by its specification.
    judged = [v for (_, case), v in zip(made, verdicts, strict=True) if case.builtin not in WITHOUT_KERNEL]
    refused = [verdict for verdict in judged if isinstance(verdict, str)]
    assert len(refused) < 0.4 * len(made) + 2, refused[:3]
    for (family, case), verdict in zip(made, verdicts, strict=True):
        if isinstance(verdict, str):
            continue
        with np.errstate(all="ignore"):
            results = reference.run(case.graph, *case.inputs)
        assert_agrees(case, results, verdict, STEPS.get(family, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_few(kind: str) -> None:
    check([(family, case) for family in KINDS[kind] for case in drawn(kind, family, QUICK[kind], 0)])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "family"), [(kind, family) for kind, found in KINDS.items() for family in found])
def test_many(kind: str, family: str) -> None:
    check([(family, case) for case in drawn(kind, family, SLOW, 1)])
