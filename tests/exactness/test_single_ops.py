"""Every operator on random models of its own: the oracle against LiteRT's reference kernels, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from cases import FAMILIES, cases
from draw import Case
from judge import Array, judge

from tflite2q.dialect.ops import BY_BUILTIN
from tflite2q.execution import reference
from tflite2q.flatbuffer.writer import write

pytest.importorskip("ai_edge_litert")

QUICK, SLOW = 12, 200
WITHOUT_REFERENCE = {"ELU", "CEIL", "ROUND"}  # BUILTIN_REF has no kernel for them

Verdicts = list[tuple[Case, list[Array] | str]]


def verdicts(named: list[Case]) -> Verdicts:
    return list(zip(named, judge([(write(case.graph), case.inputs) for case in named]), strict=True))


@pytest.fixture(scope="module")
def quick() -> Mapping[str, Verdicts]:
    """A dozen cases of each family, all judged in one process."""
    drawn = [(family, case) for family in FAMILIES for case in cases(family, QUICK)]
    judged = verdicts([case for _, case in drawn])
    found: dict[str, Verdicts] = {family: [] for family in FAMILIES}
    for (family, _), verdict in zip(drawn, judged, strict=True):
        found[family].append(verdict)
    return found


def check(case: Case, expected: list[Array] | str) -> None:
    assert not isinstance(expected, str), f"LiteRT refused {case.graph.ops[0]}: {expected}"
    results = reference.run(case.graph, *case.inputs)
    for name, got, want in zip(case.graph.outputs, results, expected, strict=True):
        if case.builtin == "TFLite_Detection_PostProcess" and got.ndim > 1:
            found = int(results[3][0])  # LiteRT leaves the rows behind as they were
            got, want = got[:, :found], want[:, :found]
        assert got.dtype == want.dtype and got.shape == want.shape, name
        if got.dtype == np.float32:
            largest = float(np.abs(want).max(initial=0.0, where=np.isfinite(want)))
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * largest, err_msg=str(case.graph.ops[0]))
        else:
            np.testing.assert_array_equal(got, want, err_msg=str(case.graph.ops[0]))


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
    assert set(BY_BUILTIN) - covered - also == WITHOUT_REFERENCE
    assert len(BY_BUILTIN) >= 60
