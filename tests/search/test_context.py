"""Mixes put together from whole conversions are what converting gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.evaluation import calibration
from tflite2q.flatbuffer import writer
from tflite2q.mixing.context import Context, convert, fits, with_conversions
from tflite2q.mixing.mix import choices, followed
from tflite2q.rewrites import scheme


def plain(name: str) -> scheme.Scheme:
    """A shipped scheme without what makes layers depend on each other."""
    found = scheme.find(name)
    return replace(found, layer=replace(found.layer, recover=replace(found.layer.recover, reconstruct="none")))


def context(digits: Path, names: list[str]) -> Context:
    graph = tflite2q.load(digits)
    samples = tuple(calibration.noise_images(graph)[:3])
    schemes = tuple(map(plain, names))
    bare = Context(graph, schemes, samples, calibration.observe(graph, samples))
    whole = [convert(graph, each, samples, bare.seen) for each in schemes]
    return with_conversions(bare, whole, choices(graph, schemes))


def test_weights_alone_are_spliced(digits: Path) -> None:
    found = context(digits, ["int8", "int8-w4"])
    assert found.spliced
    for count in (1, 3, 8):
        mix = dict.fromkeys(list(choices(found.original, found.schemes))[:count], 1)
        assert writer.write(found.graph(mix)) == writer.write(found.converted(mix))
        assert found.graph(mix) != found.whole[0]
    assert found.graph({}) is found.whole[0]


@pytest.mark.parametrize("names", [["int16x8", "int8"], ["int8", "power-of-two"]])
def test_other_activations_are_converted(digits: Path, names: list[str]) -> None:
    found = context(digits, names)
    assert not found.spliced
    first = next(iter(choices(found.original, found.schemes)))
    assert not all(fits(found.whole, op, 1) for op in choices(found.original, found.schemes))
    assert writer.write(found.graph({first: 1})) == writer.write(found.converted({first: 1}))


def test_ops_without_a_choice_follow_what_they_read(digits: Path) -> None:
    graph = tflite2q.load(digits)
    schemes = [scheme.find("int16x8"), scheme.find("int8")]
    options = choices(graph, schemes)
    layers = [each.layers(graph) for each in schemes]
    everything = followed(dict.fromkeys(options, 1), graph, layers)
    assert "block1/add" in everything
    narrow = [scheme.find(name) for name in ("int8", "int8-w4")]
    weights = dict.fromkeys(choices(graph, narrow), 1)
    assert followed(weights, graph, [each.layers(graph) for each in narrow]) == weights
    lone = followed({"block1/project": 1}, graph, layers)
    assert "block1/add" not in lone  # its other operand stays as it was

    def casts(found: Graph) -> int:
        return sum(op.mnemonic == "q.requantize" for op in found.ops)

    mixed = context(digits, ["int16x8", "int8"])
    assert casts(mixed.graph(dict.fromkeys(options, 1))) <= casts(mixed.whole[1]) + 1


def test_a_context_travels_without_what_it_has_measured(digits: Path) -> None:
    import pickle

    found = context(digits, ["int8", "int8-w4"])
    found.memo["something"] = 1
    other = pickle.loads(pickle.dumps(found))
    assert not other.memo and other.whole == found.whole and other.spliced
