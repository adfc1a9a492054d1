"""Every value of every key of a scheme changes the converted graph, and changes it rightly.

The keys and their choices are those of `tflite2q.rewrites.scheme`: a new one fails here until the table has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import effects
import numpy as np
import pytest
import settings
from settings import BLOCKS, DYNAMIC, FLOAT32, INT4, INT8, INT16, SHIFT, SYMMETRIC, UINT8, Settings
from surroundings import Outcome

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.errors import SchemeError, Unchanged
from tflite2q.flatbuffer import reader, writer
from tflite2q.rewrites import scheme

NETWORKS: dict[str, Callable[[], Graph]] = {
    "uint8": settings.network, "int8": lambda: settings.network("int8"), "uneven": settings.uneven,
    "wide": settings.wide,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """Settings with the value and without it, and what must be true of the graph that the first ones give."""

    given: Settings
    other: Settings
    right: effects.Right
    network: str = "uint8"
    data: bool = False


def calibrated(right: effects.Right, key: str, value: Any, other: Any, base: Settings = SYMMETRIC) -> Entry:
    return Entry({**base, key: value}, {**base, key: other}, right, data=True)


def four_bits(right: effects.Right, key: str, value: Any, other: Any, **more: Any) -> Entry:
    base = {**INT8, "weights.dtype": "int4", **{f"weights.{name}": each for name, each in more.items()}}
    return Entry({**base, key: value}, {**base, key: other}, right)


RANGE, PERCENTILE = "activations.range", "activations.percentile"
TAILS = {**SYMMETRIC, PERCENTILE: 98}
RESCALE, PER_TENSOR = "rescale.arithmetic", "weights.granularity"
EQUAL = {**INT8, PER_TENSOR: "per-tensor"}
ENTRIES: dict[tuple[str, Any], Entry] = {
    ("activations.dtype", "uint8"): Entry(UINT8, INT16, effects.shifted("uint8", 128), "int8"),
    ("activations.dtype", "int8"): Entry(INT8, INT16, effects.shifted("int8", -128)),
    ("activations.dtype", "int16"): Entry(INT16, INT8, effects.centred("int16")),
    ("activations.dtype", "float32"): Entry(FLOAT32, INT8, effects.real_numbers),
    ("activations.symmetric", True): Entry(SYMMETRIC, INT8, effects.centred("int8")),
    ("activations.symmetric", False): Entry(INT8, SYMMETRIC, effects.shifted("int8", -128)),
    ("activations.scale", "any"): Entry(
        SYMMETRIC, {**SYMMETRIC, "activations.scale": "power-of-two"}, effects.centred("int8")
    ),
    ("activations.scale", "power-of-two"): Entry(
        {**SYMMETRIC, "activations.scale": "power-of-two"}, SYMMETRIC, effects.powers_of_two
    ),
    (RANGE, "min-max"): calibrated(effects.between(effects.min_max), RANGE, "min-max", "percentile", TAILS),
    (RANGE, "percentile"): calibrated(effects.between(effects.middle(98)), RANGE, "percentile", "min-max", TAILS),
    (RANGE, "least-squares"): calibrated(effects.least_squares_range, RANGE, "least-squares", "min-max"),
    (PERCENTILE, 99): calibrated(
        effects.between(effects.middle(99)), PERCENTILE, 99, 99.99, {**SYMMETRIC, RANGE: "percentile"}
    ),
    (PERCENTILE, 80.5): calibrated(
        effects.between(effects.middle(80.5), "int16"), PERCENTILE, 80.5, 99.99, {**INT16, RANGE: "percentile"}
    ),
    ("weights.dtype", "uint8"): Entry(UINT8, INT16, effects.legacy_weights, "int8"),
    ("weights.dtype", "int8"): Entry(INT8, {**INT8, "weights.dtype": "int4"}, effects.weights_of("int8")),
    ("weights.dtype", "int4"): Entry({**INT8, "weights.dtype": "int4"}, INT8, effects.weights_of("int4")),
    ("weights.dtype", "float32"): Entry(FLOAT32, INT8, effects.real_numbers),
    ("weights.symmetric", True): Entry(INT8, UINT8, effects.weights_of("int8")),
    ("weights.symmetric", False): Entry(UINT8, INT16, effects.legacy_weights, "int8"),
    (PER_TENSOR, "per-channel"): Entry(INT8, EQUAL, effects.weights_of("int8")),
    (PER_TENSOR, "per-tensor"): Entry(EQUAL, INT8, effects.one_scale),
    ("weights.range", "max"): four_bits(effects.weights_of("int4"), "weights.range", "max", "percentile"),
    ("weights.range", "least-squares"): four_bits(
        effects.least_squares_weights, "weights.range", "least-squares", "max", rounding="nearest"
    ),
    ("weights.range", "percentile"): four_bits(
        effects.weights_of("int4", 99.9), "weights.range", "percentile", "max"
    ),
    ("weights.percentile", 90): four_bits(
        effects.weights_of("int4", 90), "weights.percentile", 90, 99.9, range="percentile"
    ),
    ("weights.percentile", 60.5): four_bits(
        effects.weights_of("int4", 60.5), "weights.percentile", 60.5, 99.9, range="percentile"
    ),
    ("weights.rounding", "sum-preserving"): four_bits(
        effects.sums_preserved, "weights.rounding", "sum-preserving", "nearest"
    ),
    ("weights.rounding", "nearest"): four_bits(
        effects.rounded_to_nearest, "weights.rounding", "nearest", "sum-preserving"
    ),
    ("weights.scale", "any"): Entry(INT8, {**INT8, "weights.scale": "power-of-two"}, effects.weights_of("int8")),
    ("weights.scale", "power-of-two"): Entry(
        {**INT8, "weights.scale": "power-of-two"}, INT8, effects.weights_by_powers_of_two
    ),
    ("weights.levels", 15): Entry({**INT8, "weights.levels": 15}, INT8, effects.weights_of("int8", highest=7)),
    ("weights.levels", 31): Entry({**INT8, "weights.levels": 31}, INT8, effects.weights_of("int8", highest=15)),
    ("weights.block", 32): Entry({**BLOCKS, "weights.block": 32}, BLOCKS, effects.blocks_of(32), "wide"),
    ("weights.block", 64): Entry({**BLOCKS, "weights.block": 64}, BLOCKS, effects.blocks_of(64), "wide"),
    ("weights.compute", "integer"): Entry(DYNAMIC, {**DYNAMIC, "weights.compute": "float"}, effects.dynamic_range),
    ("weights.compute", "float"): Entry({**DYNAMIC, "weights.compute": "float"}, DYNAMIC, effects.weight_only),
    (RESCALE, "tflite"): Entry(SHIFT, {**SHIFT, RESCALE: "shift"}, effects.rescaled(effects.fixed_point)),
    (RESCALE, "float32"): Entry({**INT8, RESCALE: "float32"}, INT8, effects.rescaled(effects.single_precision)),
    (RESCALE, "shift"): Entry({**SHIFT, RESCALE: "shift"}, SHIFT, effects.rescaled(effects.shifting)),
    ("recover.bias_correction", True): Entry(
        {**INT8, "weights.dtype": "int4", "recover.bias_correction": True}, {**INT8, "weights.dtype": "int4"},
        effects.biases(corrected=True), data=True,
    ),
    ("recover.bias_correction", False): Entry(
        {**INT8, "weights.dtype": "int4"}, {**INT8, "weights.dtype": "int4", "recover.bias_correction": True},
        effects.biases(corrected=False), data=True,
    ),
    ("recover.equalize", True): Entry({**EQUAL, "recover.equalize": True}, EQUAL, effects.equalized, "uneven"),
    ("recover.equalize", False): Entry(EQUAL, {**EQUAL, "recover.equalize": True}, effects.not_equalized, "uneven"),
    ("recover.reconstruct", "none"): Entry(
        INT4, {**INT4, "recover.reconstruct": "hessian"}, effects.reconstructed("none"), data=True
    ),
    ("recover.reconstruct", "hessian"): Entry(
        {**INT4, "recover.reconstruct": "hessian"}, INT4, effects.reconstructed("hessian"), data=True
    ),
    ("recover.reconstruct", "adaptive"): Entry(
        {**INT4, "recover.reconstruct": "adaptive"}, INT4, effects.reconstructed("adaptive"), data=True
    ),
    ("recover.without_data", "noise"): Entry(
        {**INT4, "recover.reconstruct": "hessian"},
        {**INT4, "recover.reconstruct": "hessian", "recover.without_data": "skip"}, effects.reconstructed_on_noise,
    ),
    ("recover.without_data", "skip"): Entry(
        {**INT4, "recover.reconstruct": "hessian", "recover.without_data": "skip"},
        {**INT4, "recover.reconstruct": "hessian"}, effects.reconstructed("none"),
    ),
    ("interface", "keep"): Entry(
        {**INT8, "interface": "keep"}, {**INT8, "interface": "scheme"}, effects.interface_is("uint8")
    ),
    ("interface", "scheme"): Entry(
        {**INT8, "interface": "scheme"}, {**INT8, "interface": "keep"}, effects.interface_is("int8")
    ),
}  # fmt: skip

# Which ops of the network a rule is for, by each key of its match.
MATCHES = {
    "op": ("'depthwise*'", {"deep"}),
    "name": ("'poin?'", {"point"}),
    "index": ("[0, 1]", {"first", "deep"}),
    "from_input": ("[2, 3]", {"deep", "point"}),
    "from_output": ("[1, 1]", {"logits"}),
    "channels": ("[10, 12]", {"point", "logits"}),
    "weights": ("[96, 120]", {"point", "logits"}),
}

Cases = pytest.mark.parametrize("case", ENTRIES, ids=[f"{key}={value}" for key, value in ENTRIES])


def convert(entry: Entry, given: Settings, folder: Path, rules: str = "") -> Graph:
    original = NETWORKS[entry.network]()
    # Inputs and outputs follow the scheme, so that its settings hold everywhere.
    wanted = settings.of({"interface": "scheme", **given}, rules)
    data = sampled(original, folder) if entry.data else None
    try:
        return tflite2q.convert(original, wanted, data=data).graph
    except Unchanged:
        return original


def sampled(original: Graph, folder: Path) -> Path:
    path = folder / "samples.npy"
    np.save(path, settings.samples(original))
    return path


def test_every_value_of_every_key_is_here() -> None:
    known = {("interface", value) for value in scheme.INTERFACES}
    numbers = set()
    for role, kind in scheme.ROLES.items():
        for each in fields(kind):
            key = f"{role}.{each.name}"
            known |= {(key, choice) for choice in each.metadata["choices"]}
            numbers |= set() if each.metadata["choices"] else {key}
    assert {(key, value) for key, value in ENTRIES if key not in numbers} == known
    for key in numbers:
        assert sum(name == key for name, _ in ENTRIES) >= 2, f"{key}: two numbers show that the number counts"
    assert set(MATCHES) == {each.name for each in fields(scheme.Match)}
    others = {"layer", "rules", "interface", "name"}  # roles, rules; what is above; what the file is called
    assert {each.name for each in fields(scheme.Scheme)} == others | {"summary", "when"}
    assert {each.name for each in fields(scheme.Rule)} == {"match", "changes", "optional"}


@Cases
def test_the_value_has_its_effect(case: tuple[str, Any], tmp_path: Path) -> None:
    entry = ENTRIES[case]
    key, value = case
    assert (entry.given[key] if key in entry.given else _default(key)) == value
    new = convert(entry, entry.given, tmp_path)
    assert new != convert(entry, entry.other, tmp_path)
    entry.right(NETWORKS[entry.network](), new)


def _default(key: str) -> Any:
    role, _, name = key.partition(".")
    return next(each.default for each in fields(scheme.ROLES[role]) if each.name == name)


@Cases
def test_a_rule_for_all_ops_has_the_same_effect(case: tuple[str, Any], tmp_path: Path) -> None:
    key, _ = case
    if key == "interface":
        assert "interface" not in scheme.ROLES, "it is no setting of a layer"
        return
    entry = ENTRIES[case]
    every = {f"{role}.{each.name}": each.default for role, kind in scheme.ROLES.items() for each in fields(kind)}
    by_rule = convert(entry, entry.other, tmp_path, settings.rule({**every, **entry.given}))
    assert by_rule == convert(entry, entry.given, tmp_path)


@pytest.mark.parametrize("case", [case for case, entry in ENTRIES.items() if entry.data], ids=str)
def test_convert_with_data(case: tuple[str, Any], cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """The command line gives the same file, and another one without the samples."""
    entry = ENTRIES[case]
    original = NETWORKS[entry.network]()
    model, wanted = tmp_path / "model.tflite", tmp_path / "tested.toml"
    writer.save(original, model)
    wanted.write_text(settings.text({**entry.given, "interface": "scheme"}))
    data = sampled(original, tmp_path)
    for name, more in (("with", ("--data", data)), ("without", ())):
        outcome = cli("convert", model, "--scheme", wanted, *more, "-o", tmp_path / f"{name}.tflite")
        assert (outcome.code, outcome.err) == (0, "")
    content = (tmp_path / "with.tflite").read_bytes()
    assert content == writer.write(tflite2q.convert(model, wanted, data=data).graph)
    needs_data = case not in (("recover.bias_correction", False), ("recover.reconstruct", "none"))
    assert (content != (tmp_path / "without.tflite").read_bytes()) == needs_data
    entry.right(original, reader.read(content))


def test_percentile_100_is_all_that_was_seen(tmp_path: Path) -> None:
    whole = {**TAILS, PERCENTILE: 100}
    entry = calibrated(effects.between(effects.min_max), RANGE, "percentile", "min-max", whole)
    new = convert(entry, entry.given, tmp_path)
    assert new == convert(entry, entry.other, tmp_path)
    entry.right(settings.network(), new)


def test_least_squares_cut_nothing_off_where_steps_are_fine(tmp_path: Path) -> None:
    """The grid of 16 bits is so much finer than the original's that clipping can only lose."""
    entry = calibrated(effects.between(effects.min_max, "int16"), RANGE, "least-squares", "min-max", INT16)
    entry.right(settings.network(), convert(entry, entry.given, tmp_path))


@pytest.mark.parametrize("key", MATCHES)
def test_a_rule_changes_the_ops_that_it_matches(key: str, tmp_path: Path) -> None:
    wanted, names = MATCHES[key]
    entry = Entry(INT8, INT8, effects.one_scale)
    new = convert(entry, INT8, tmp_path, settings.rule({PER_TENSOR: "per-tensor"}, f"{{{key} = {wanted}}}"))
    for name in effects.WEIGHTED:
        single = new[str(new.producers[name].inputs[1])].type.parameters.axis is None
        assert single == (name in names), name


def test_an_optional_rule_may_match_nothing(tmp_path: Path) -> None:
    entry = Entry(INT8, INT8, effects.one_scale)
    nothing = {"settings": {PER_TENSOR: "per-tensor"}, "match": "{op = 'add'}"}
    assert convert(entry, INT8, tmp_path, settings.rule(**nothing, optional=True)) == convert(entry, INT8, tmp_path)
    with pytest.raises(SchemeError, match="matches no op of the model"):
        convert(entry, INT8, tmp_path, settings.rule(**nothing, optional=False))
