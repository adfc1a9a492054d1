"""Choosing between measured mixes: no other one is ever better in both figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite2q.mixing.choosing import choose, spread, undominated

# Small whole numbers, so that ties are common; and any numbers.
FIGURE = st.one_of(st.integers(0, 6).map(float), st.floats(-1e6, 1e6))
MEASURED = st.lists(st.tuples(FIGURE, FIGURE), min_size=1, max_size=30)


def same(one: tuple[float, float]) -> tuple[float, float]:
    return one


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] <= other[1] and one != other


@given(MEASURED, FIGURE)
def test_the_chosen_one_is_never_beaten_in_both_figures(measured: list[tuple[float, float]], limit: float) -> None:
    chosen = choose(measured, same, limit)
    within = [one for one in measured if one[1] <= limit]
    if chosen is None:
        assert not within
        return
    assert chosen in within
    assert not any(beats(one, chosen) for one in measured)
    assert chosen[0] == min(cost for cost, _ in within)


@given(MEASURED)
def test_what_is_left_is_what_no_other_one_beats(measured: list[tuple[float, float]]) -> None:
    left = undominated(measured, same)
    assert set(left) == {one for one in measured if not any(beats(other, one) for other in measured)}
    costs, losses = [one[0] for one in left], [one[1] for one in left]
    assert costs == sorted(costs, reverse=True) and losses == sorted(losses)
    assert len(set(left)) == len(left)


@pytest.mark.parametrize(("count", "most", "found"), [(3, 5, [0, 1, 2]), (9, 3, [0, 4, 8]), (9, 1, [8]), (0, 3, [])])
def test_a_series_is_thinned_evenly(count: int, most: int, found: list[int]) -> None:
    assert spread(range(count), most) == found
