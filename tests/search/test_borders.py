"""Mixes with requantizations between neighbours, against all mixes there are."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

import tflite2q
from tflite2q.mixing.borders import Border, best, front, neighbours, sources
from tflite2q.mixing.mix import Option

LAYERS = "abcdef"
COST = st.integers(0, 20).map(float)
BORDERS = st.lists(st.tuples(st.sampled_from(LAYERS), st.sampled_from(LAYERS), COST), max_size=9).map(
    lambda rows: [Border(*row) for row in rows]
)


def options(schemes: int) -> st.SearchStrategy[list[Option]]:
    saving = st.integers(-5, 30).map(float)
    rows = st.tuples(st.sampled_from(LAYERS), st.integers(1, schemes), saving, COST)
    return st.lists(rows, min_size=1, max_size=9, unique_by=lambda t: t[:2]).map(
        lambda rows: [Option(*row) for row in rows]
    )


def total(mix: dict[str, int], found: list[Option], borders: list[Border], price: float) -> float:
    layers = {o.op for o in found}
    terms = sum(price * o.error - o.saving for o in found if mix.get(o.op) == o.scheme)
    inner = [b for b in borders if {b.first, b.second} <= layers]
    return terms + sum(b.cost for b in inner if mix.get(b.first, 0) != mix.get(b.second, 0))


def least(found: list[Option], borders: list[Border], price: float) -> float:
    layers = sorted({o.op for o in found})
    each = [[0, *(o.scheme for o in found if o.op == layer)] for layer in layers]
    return min(
        total({layer: k for layer, k in zip(layers, pick, strict=True) if k}, found, borders, price)
        for pick in product(*each)
    )


@settings(deadline=None)
@given(options(1), BORDERS, st.integers(0, 5).map(float))
def test_two_schemes_are_mixed_in_the_best_way(found: list[Option], borders: list[Border], price: float) -> None:
    assert abs(total(best(found, borders, price, {}), found, borders, price) - least(found, borders, price)) < 1e-9


@settings(deadline=None)
@given(options(3), BORDERS, st.integers(0, 5).map(float))
def test_more_schemes_are_never_worse_than_nothing_or_than_twice_the_best_borders(
    found: list[Option], borders: list[Border], price: float
) -> None:
    reached, bound = total(best(found, borders, price, {}), found, borders, price), least(found, borders, price)
    assert bound - 1e-9 <= reached <= 0.0
    # Known of expansion moves: at most the best one's terms and twice its borders (Boykov et al.).
    assert reached <= bound + sum(b.cost for b in borders) + 1e-9


@settings(deadline=None)
@given(options(1), BORDERS)
def test_the_front_begins_with_nothing_and_saves_ever_more(found: list[Option], borders: list[Border]) -> None:
    mixes = front(found, borders)
    assert mixes[0] == {}
    savings = [-total(mix, found, borders, 0.0) for mix in mixes]
    assert all(b >= a - 1e-9 for a, b in pairwise(savings))


def test_a_lone_cheap_layer_is_not_worth_two_requantizations() -> None:
    chain = [Border("a", "b", 3.0), Border("b", "c", 3.0)]
    lone = [Option("a", 1, 1.0, 9.0), Option("b", 1, 5.0, 0.0), Option("c", 1, 1.0, 9.0)]
    assert best(lone, chain, 1.0, {}) == {}
    assert best([o for o in lone if o.op == "b"], [], 1.0, {}) == {"b": 1}
    together = [Option(op, 1, 5.0, 0.1) for op in "abc"]
    assert best(together, chain, 1.0, {}) == {"a": 1, "b": 1, "c": 1}


def test_neighbours_are_found_through_ops_without_a_choice(digits: Path) -> None:
    graph = tflite2q.load(digits)
    layers = {"block1/depthwise": 1, "block1/project": 1, "block2/depthwise": 1}
    pairs = neighbours(graph, layers)
    assert ("block1/depthwise", "block1/project") in pairs
    assert ("block1/project", "block2/depthwise") in pairs
    assert sources(graph, layers)["block1/add"] == ("block1/project",)
