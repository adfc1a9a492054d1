"""Every operator on random models of its own: the oracle against LiteRT's kernels, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from agreement import assert_agrees
from cases import FAMILIES, cases
from draw import Array, Case
from together import together
from verdicts import Verdicts, verdicts

from tflite2q.dialect.ops import BY_BUILTIN
from tflite2q.execution import reference

pytest.importorskip("ai_edge_litert")

QUICK, SLOW = 12, 200
PARTS = 4


@pytest.fixture(scope="module")
def quick() -> Mapping[str, Verdicts]:
    """A dozen cases of each family, those of many families judged in one process."""
    families = [list(FAMILIES)[first::PARTS] for first in range(PARTS)]

    def judged(part: int) -> Verdicts:
        return verdicts([case for family in families[part] for case in cases(family, QUICK)])

    found = {}
    for names, part in zip(families, together("single_ops", PARTS, judged), strict=True):
        found.update((name, part[at * QUICK : (at + 1) * QUICK]) for at, name in enumerate(names))
    return found


def check(case: Case, expected: list[Array] | str) -> None:
    assert not isinstance(expected, str), f"LiteRT refused {case.graph.ops[0]}: {expected}"
    assert_agrees(case, reference.run(case.graph, *case.inputs), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dozen(family: str, quick: Mapping[str, Verdicts]) -> None:
    assert len(quick[family]) == QUICK
    for case, expected in quick[family]:
        check(case, expected)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_hundreds(family: str) -> None:
    for case, expected in verdicts(list(cases(family, SLOW, seed=1))):
        check(case, expected)


def test_every_operator_has_cases() -> None:
    covered = {next(iter(cases(family, 1))).builtin for family in FAMILIES}
    also = {case.builtin for family in ("ARG_MAX-int8",) for case in cases(family, QUICK)}
    assert set(BY_BUILTIN) == covered | also | {"READ_VARIABLE", "ASSIGN_VARIABLE"}  # tests of streams have these
