"""Rules as data, and checking small networks against them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tflite
from networks import Net, everything

import tflite2q
from tflite2q.cli.options import RUNTIMES as SPELLED
from tflite2q.dialect.types import Quantization
from tflite2q.errors import UsageError
from tflite2q.flatbuffer.writer import save
from tflite2q.rewrites import scheme as schemes
from tflite2q.runtimes import edgetpu, micro, nnapi, xnnpack
from tflite2q.runtimes.rules import breaches
from tflite2q.runtimes.table import RUNTIMES, find

EVERY = pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=list(RUNTIMES))


def test_the_command_line_spells_every_runtime() -> None:
    assert tuple(RUNTIMES) == SPELLED


@EVERY
def test_rules_have_a_name_a_sentence_and_a_source(runtime) -> None:
    assert len({rule.id for rule in runtime.rules}) == len(runtime.rules)
    for rule in runtime.rules:
        assert rule.says.endswith(".")
        assert rule.source
    assert set(runtime.schemes) <= set(schemes.shipped())


def test_operators_in_tables_exist() -> None:
    """A name that is misspelt would silently be a rule about nothing."""
    known = {name for name in vars(tflite.BuiltinOperator) if name.isupper()}
    listed = {*micro.MICRO, *micro.CMSIS, *xnnpack.XNNPACK_KERNELS, *nnapi.KERNELS, *nnapi.VERSIONS, *edgetpu.OPERATORS}
    listed |= {name for runtime in RUNTIMES.values() for rule in runtime.rules for name in rule.on}
    assert listed <= known, listed - known


def test_an_unknown_runtime_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'ethos-u55'"):
        find("ethos-55")


def test_uint8_is_refused_by_tflite_micro_and_int8_mends_it() -> None:
    graph = everything(3)
    result = tflite2q.check(graph, "tflite-micro")
    assert result.broken == len(graph.ops) - 1  # RESHAPE moves any codes
    assert {breach.rule.id for breach in result.breaches} == {"types"}
    assert result.best is not None
    assert (result.best.scheme, result.best.interface, result.best.layers) == ("int8", "keep", 0)
    again = tflite2q.check(tflite2q.convert(graph, "int8", "keep"), "tflite-micro")
    assert again.breaches == ()


def test_what_is_tried_is_measured_on_the_converted_file() -> None:
    graph = everything(3)
    result = tflite2q.check(graph, "xnnpack")
    for trial in result.trials:
        converted = tflite2q.convert(graph, trial.scheme, trial.interface)
        assert trial.layers == tflite2q.check(converted, "xnnpack", mend=False).broken


def test_four_bit_weights_end_vela() -> None:
    converted = tflite2q.convert(everything(3), "int8-w4")
    result = tflite2q.check(converted, "ethos-u55")
    assert {breach.rule.id for breach in result.breaches} == {"int4"}
    assert result.best is not None
    assert result.best.scheme == "int8"


def test_shift_only_wants_powers_of_two() -> None:
    graph = everything(3)
    assert tflite2q.check(graph, "shift-only", mend=False).broken
    assert tflite2q.check(tflite2q.convert(graph, "power-of-two", "scheme"), "shift-only").breaches == ()


def test_a_stride_of_four() -> None:
    """Without padding the U55 takes it, with padding it does not."""
    for padding, broken in (("SAME", 1), ("VALID", 0)):
        net = Net("int8")
        x = net.input("x", (1, 16, 16, 3), (0.02, 0))
        y = net.conv(x, "y", 4, (0.1, 0), stride_h=4, stride_w=4)
        net.ops[-1] = net.ops[-1].with_(padding=padding)
        assert len(breaches(net.graph(y), RUNTIMES["ethos-u55"])) == broken


def test_the_sum_of_weights_has_a_limit() -> None:
    net = Net("int8")
    x = net.input("x", (1, 1 << 17), (0.02, 0))
    y = net.dense(x, "y", 2, (0.1, 0))
    weights = net.values["y/w"]
    full = np.full(weights.type.shape, 127, np.int8)
    net.constant("y/w", full, weights.type.quantization)
    assert [b.rule.id for b in breaches(net.graph(y), RUNTIMES["ethos-u85"])] == ["weight-sum"]


def test_the_edge_tpu_takes_one_vector_in_a_softmax() -> None:
    net = Net("int8")
    y = net.softmax(net.input("x", (2, 4), (0.1, 0)), "y")
    assert [b.rule.id for b in breaches(net.graph(y), RUNTIMES["edgetpu"])] == ["softmax"]


def test_nnapi_asks_for_versions() -> None:
    net = Net("int8")
    y = net.softmax(net.input("x", (1, 4), (0.1, 0)), "y")
    for version, broken in ((2, []), (3, ["version"])):
        net.ops[-1] = net.ops[-1].with_(version=version)
        assert [b.rule.id for b in breaches(net.graph(y), RUNTIMES["nnapi"])] == broken


def test_weights_per_channel_break_no_rule_of_per_axis() -> None:
    converted = tflite2q.convert(everything(3), "int8", "scheme").graph
    several = [v for v in converted.values if v.type.quantization is not None and len(v.type.quantization.scale) > 1]
    assert several
    assert breaches(converted, RUNTIMES["ethos-u55"]) == ()
    value = converted[converted.ops[0].name]
    scales = Quantization.per_channel([0.1 * k for k in range(1, value.type.shape[-1] + 1)], len(value.type.shape) - 1)
    odd = replace(value, type=value.type.with_(quantization=scales))
    changed = converted.with_(values=tuple(odd if v.name == odd.name else v for v in converted.values))
    assert "per-axis" in {b.rule.id for b in breaches(changed, RUNTIMES["ethos-u55"])}


def test_operators_that_reading_drops_are_asked_too(shared: Path) -> None:
    """CALL_ONCE and VAR_HANDLE become state; the Ethos-U55 knows neither."""
    path = shared / "cases" / "stateful" / "okay_nabu.tflite"
    result = tflite2q.check(path, "ethos-u55", mend=False)
    assert {"CALL_ONCE", "VAR_HANDLE"} <= {breach.operator for breach in result.breaches}
    assert tflite2q.check(path, "tflite-micro", mend=False).breaches == ()


def test_operators_that_are_not_implemented_are_asked(shared: Path) -> None:
    result = tflite2q.check(shared / "models" / "unknown_custom_op.tflite", "tflite-micro", mend=False)
    assert any("custom operator" in breach.what for breach in result.breaches)


def test_a_file_is_checked_as_its_graph(tmp_path: Path) -> None:
    graph = everything(5)
    path = tmp_path / "m.tflite"
    save(graph, path)
    for name in RUNTIMES:
        ours = tflite2q.check(graph, name, mend=False)
        assert tflite2q.check(path, name, mend=False).breaches == ours.breaches
