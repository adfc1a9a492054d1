"""What a case must give: LiteRT's kernels say it, or the specification of an operator that LiteRT has no kernel for."""

from __future__ import annotations

from collections.abc import Sequence

from cases import WITHOUT_REFERENCE
from draw import Array, Case
from hlo_statements import WITHOUT_KERNEL, stated
from judge import judge

from tflite2q.flatbuffer.writer import write

Verdicts = list[tuple[Case, list[Array] | str]]


def verdicts(cases: Sequence[Case]) -> Verdicts:
    """Each with what LiteRT computes, by its reference kernels where there are any, or in words why it does not."""
    found: dict[int, list[Array] | str] = {}
    for kernels in ("ref", "optimized"):
        places = [i for i, case in enumerate(cases) if _kernels_of(case) == kernels]
        models = [(write(cases[i].graph), cases[i].inputs) for i in places]
        found.update(zip(places, judge(models, kernels), strict=True))
    found.update((i, stated(case)) for i, case in enumerate(cases) if _kernels_of(case) == "none")
    return [(case, found[index]) for index, case in enumerate(cases)]


def _kernels_of(case: Case) -> str:
    """Which kernels LiteRT has for a case; "none": the operator's specification judges."""
    if case.builtin in WITHOUT_KERNEL:
        return "none"
    return "optimized" if case.builtin in WITHOUT_REFERENCE else "ref"
