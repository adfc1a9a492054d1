"""Fronts of mixes against brute force, and mixes as scheme files."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tflite2q
from tflite2q.mixing.mix import Option, choices, front, scheme_of
from tflite2q.rewrites import scheme

STEPS = st.integers(1, 30).map(float)
OPTIONS = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.integers(1, 2), STEPS, STEPS),
    min_size=1,
    max_size=9,
    unique_by=lambda t: t[:2],
).map(lambda rows: [Option(*row) for row in rows])


def total(mix: dict[str, int], options: list[Option]) -> tuple[float, float]:
    """(saving, error) of a mix, if both add."""
    chosen = [o for o in options if mix.get(o.op) == o.scheme]
    return sum(o.saving for o in chosen), sum(o.error for o in chosen)


@given(OPTIONS)
def test_no_mix_saves_as_much_for_less_error_than_one_on_the_front(options: list[Option]) -> None:
    layers = sorted({o.op for o in options})
    per_layer = [[0, *(o.scheme for o in options if o.op == layer)] for layer in layers]
    every = [
        total({layer: k for layer, k in zip(layers, pick, strict=True) if k}, options) for pick in product(*per_layer)
    ]
    for mix in front(options):
        saving, error = total(mix, options)
        assert not any(s >= saving and e < error - 1e-9 for s, e in every)


@given(OPTIONS)
def test_each_mix_of_the_front_takes_one_more_step(options: list[Option]) -> None:
    mixes = front(options)
    assert mixes[0] == {}
    savings = [total(mix, options)[0] for mix in mixes]
    assert savings == sorted(savings)
    for before, after in pairwise(mixes):
        assert len(set(before.items()) ^ set(after.items())) in (1, 2)
    assert front(list(reversed(options))) == mixes


def test_the_front_by_hand() -> None:
    cheap, dear = Option("a", 1, 10.0, 1.0), Option("b", 1, 10.0, 5.0)
    huge = Option("c", 1, 100.0, 20.0)
    assert front([dear, huge, cheap]) == [{}, {"a": 1}, {"a": 1, "c": 1}, {"a": 1, "c": 1, "b": 1}]


def test_choices_are_layers_of_which_schemes_differ(digits: Path) -> None:
    graph = tflite2q.load(digits)
    both = [scheme.find("int8"), scheme.find("int8-w4")]
    found = choices(graph, both)
    assert len(found) == 8
    assert set(found) == {op.name for op in graph.ops if op.mnemonic in ("q.conv2d", "q.depthwise_conv2d", "q.dense")}
    assert choices(graph, [both[0], both[0]]) == {}


def test_a_mix_is_a_scheme_file_that_changes_just_its_layers(digits: Path) -> None:
    graph = tflite2q.load(digits)
    both = [scheme.find("int8"), scheme.find("int8-w4")]
    mixed = scheme_of({"block1/project": 1}, graph, both)
    again = scheme.parse(scheme.dump(mixed), mixed.name)
    assert again == mixed
    four_bits = [value.name for value in tflite2q.convert(graph, again).graph.values if value.type.dtype == "int4"]
    assert len(four_bits) == 1
    (consumer,) = tflite2q.convert(graph, again).graph.consumers[four_bits[0]]
    assert consumer.name == "block1/project"


@pytest.mark.parametrize("name", scheme.shipped())
def test_shipped_schemes_survive_being_written(name: str) -> None:
    found = scheme.find(name)
    assert scheme.parse(scheme.dump(found), name) == found
