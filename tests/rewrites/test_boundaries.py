"""Where old and new meet: interfaces, mixed rules, shared parameters, and no requantization that is not needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge import judge
from networks import Net, everything
from test_converted_files import assert_judged_equal

import tflite2q
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.ops.eltwise import Requantize
from tflite2q.dialect.ops.normalize import LogSoftmax
from tflite2q.dialect.text import parse_graph
from tflite2q.dialect.types import Quantization
from tflite2q.errors import Unchanged
from tflite2q.evaluation import calibration, coding
from tflite2q.execution import reference
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.writer import write
from tflite2q.rewrites import Conversion, scheme
from tflite2q.rewrites.forecast import Forecast

INT8 = """
[activations]
dtype = "int8"
symmetric = {symmetric}
[weights]
dtype = "int8"
"""


def requantizations(graph: Graph) -> list[tuple[str | None, str]]:
    return [(op.inputs[0], op.outputs[0]) for op in graph.ops if isinstance(op, Requantize)]


def chain(**more: object) -> Net:
    """x -> a -> b -> c, three convolutions; a and c are never negative."""
    net = Net(seed=1)
    x = net.input("x", (1, 4, 4, 3), (0.02, 120))
    a = net.conv(x, "a", 4, (0.1, 0), activation="RELU", **more)
    b = net.conv(a, "b", 4, (0.2, 130), **more)
    net.conv(b, "c", 4, (0.3, 0), activation="RELU", **more)
    return net


def saved(conversion: Conversion, folder: Path) -> Graph:
    """The converted graph, once LiteRT has confirmed its bits."""
    path = folder / "converted.tflite"
    conversion.save(path)
    assert_judged_equal(conversion.graph, path)
    return conversion.graph


# --- interfaces ---


def test_keep_requantizes_at_the_models_own_inputs_and_outputs_only(tmp_path: Path) -> None:
    conversion = tflite2q.convert(chain().graph("c"), "int8")
    graph = saved(conversion, tmp_path)
    first, last = requantizations(graph)
    assert (first[0], last[1]) == ("x", "c")
    assert conversion.requantizations == 2
    assert [graph[n].type.dtype for n in ("x", "a", "b", "c")] == ["uint8", "int8", "int8", "uint8"]
    # uint8 to int8 with the zero point shifted by 128 is lossless: it flips the top bit.
    codes = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3) * 5
    every = reference.run_every(graph, codes)
    np.testing.assert_array_equal(every[first[1]].view(np.uint8), codes ^ 0x80)


def test_scheme_changes_the_interface_and_inserts_nothing(tmp_path: Path) -> None:
    conversion = tflite2q.convert(chain().graph("c"), "int8", "scheme")
    graph = saved(conversion, tmp_path)
    assert requantizations(graph) == []
    assert {value.type.dtype for value in graph.values} == {"int8", "int32"}


def test_an_output_that_is_read_again_is_computed_once(tmp_path: Path) -> None:
    before = chain().graph("b", "c")
    graph = saved(tflite2q.convert(before, "int8"), tmp_path)
    assert [op.mnemonic for op in graph.ops].count("q.conv2d") == 3
    assert len(requantizations(graph)) == 3
    assert graph.outputs == ("b", "c")
    assert graph["b"] == before["b"]


def test_an_input_that_is_an_output_too_stays_what_it_is(tmp_path: Path) -> None:
    graph = saved(tflite2q.convert(chain().graph("x", "c"), "int8"), tmp_path)
    assert graph["x"].type.dtype == "uint8"


def test_requantizations_of_the_original_that_become_identities_are_dropped() -> None:
    net = Net(dtype="uint8")
    x = net.input("x", (1, 2, 2, 3), (0.02, 120))
    as_int8 = net.values[x].type.with_(dtype="int8", quantization=Quantization.per_tensor(0.02, -8))
    net.values["y"] = net.values[x].with_(name="y", type=as_int8)
    net.op(Requantize(inputs=(x,), outputs=("y",)))
    net.dtype = "int8"
    net.conv("y", "c", 4, (0.1, 3))
    conversion = tflite2q.convert(net.graph("c"), "int8", "scheme")
    assert requantizations(conversion.graph) == []
    assert conversion.requantizations == -1
    assert conversion.graph["x"].type.dtype == "int8"


@pytest.mark.parametrize("name", ["float32", "weight-only", "int16x8", "asymmetric-uint8"])
@pytest.mark.parametrize("interface", ["keep", "scheme"])
@pytest.mark.parametrize("outputs", [("sum",), ("sum", "same"), ("same",)])
def test_a_requantization_that_changed_nothing_hinders_no_scheme(
    name: str, interface: str, outputs: tuple[str, ...], tmp_path: Path
) -> None:
    """Some converters leave a QUANTIZE between equal parameters, which real numbers have no cast for."""
    net = Net("int8")
    x = net.input("x", (1, 4), (0.05, 3))
    net.op(Requantize(inputs=(x,), outputs=(net.value("same", (1, 4), (0.05, 3)),), version=2))
    net.add("same", x, "sum", (0.1, 3))
    before = net.graph(*outputs)
    after = saved(tflite2q.convert(before, name, interface), tmp_path)
    codes = np.array([[-128, -7, 3, 127]], np.int8)
    moved = coding.transfer([codes], [before["x"]], [after["x"]])
    for output, got, want in zip(outputs, reference.run(after, *moved), reference.run(before, codes), strict=True):
        error = coding.real(got, after[output]) - coding.real(want, before[output])
        assert np.abs(error).max() <= 0.6 * before[output].type.scale


@pytest.mark.parametrize("name", ["asymmetric-uint8", "symmetric-int8", "int16x8", "float32"])
@pytest.mark.parametrize("interface", ["keep", "scheme"])
def test_wide_codes_are_made_of_a_type_that_has_a_kernel(name: str, interface: str, tmp_path: Path) -> None:
    """LiteRT's QUANTIZE makes int32 of int16 only, and int16 with a zero point of no int16."""
    net = Net("int8")
    x = net.input("x", (1, 4), (0.05, 3))
    y = net.dense(x, "y", 4, (0.1, 3))
    net.dtype = "int16"
    net.value("short", (1, 4), (0.002, 0))
    net.dtype = "int32"
    net.value("wide", (1, 4), (0.001, 0))
    net.op(Requantize(inputs=(y,), outputs=("short",), version=2))
    graph = net.graph(net.op(Requantize(inputs=("short",), outputs=("wide",), version=2)))
    conversion = tflite2q.convert(graph, name, interface)
    saved(conversion, tmp_path)
    with pytest.raises(Unchanged):
        tflite2q.convert(conversion.graph, name, interface)


# --- what was asked for already ---


@pytest.mark.parametrize("interface", ["keep", "scheme"])
def test_a_model_that_is_already_so_is_unchanged(interface: str) -> None:
    with pytest.raises(Unchanged, match="already follows scheme asymmetric-uint8"):
        tflite2q.convert(chain().graph("c"), "asymmetric-uint8", interface)
    once = tflite2q.convert(chain().graph("c"), "symmetric-int8", interface).graph
    with pytest.raises(Unchanged):
        tflite2q.convert(once, "symmetric-int8", interface)


# --- values ---


@settings(max_examples=40)  # of whole networks
@given(st.integers(0, 2**32 - 1))
def test_activations_shifted_by_128_stand_for_the_same_numbers(seed: int) -> None:
    before = everything(seed)
    after = tflite2q.convert(before, "int8", "scheme").graph
    for op in before.ops:
        old, new = before[op.name].type, after[op.name].type
        if op.mnemonic == "q.concat":
            continue  # its parts come to share parameters
        assert (new.scale, new.zero_point) == (old.scale, old.zero_point - 128)


@settings(max_examples=40)  # of whole networks
@given(st.integers(0, 2**32 - 1))
def test_symmetric_zero_points_are_0_wherever_they_are_a_choice(seed: int) -> None:
    before = everything(seed)
    after = tflite2q.convert(before, "symmetric-int8", "scheme").graph
    for value in after.values:
        if value.type.quantization is None:
            continue
        if value.name == "scores":  # softmax prescribes its result
            assert value.type.quantization == Quantization.per_tensor(1 / 256, -128)
        else:
            assert value.type.quantization.symmetric, value.name


@settings(max_examples=40)  # of whole networks
@given(st.integers(0, 2**32 - 1))
def test_a_symmetric_grid_spans_all_numbers_that_the_old_one_held(seed: int) -> None:
    before = everything(seed)
    after = tflite2q.convert(before, "symmetric-int8", "scheme").graph
    inputs = np.random.default_rng(seed).choice([0, 1, 254, 255], (4, *before["x"].type.shape)).astype(np.uint8)
    runs = [reference.run_every(before, each) for each in inputs]
    for name in ("x", "first", "deep", "left", "right", "sum", "logits"):
        old, reach = before[name].type, 127 * after[name].type.scale
        held = old.scale * (np.array([run[name] for run in runs], float) - old.zero_point)
        # Sums are what is held, rounded to the old steps.
        assert reach >= max(held.max(), -held.min() * 127 / 128) - old.scale / 2 * (1 + 1e-6)
        low, high = old.scale * -old.zero_point, old.scale * (255 - old.zero_point)
        assert reach <= max(high, -low) * (1 + 1e-6)


@pytest.mark.parametrize("name", ["symmetric-int8", "int16x8"])
def test_a_new_scale_ends_where_sums_do(name: str) -> None:
    """Codes of 12.75 at most, of which a unit's few weights reach a part: no step is spent on the rest."""
    net = Net(seed=3)
    x = net.input("x", (1, 6), (0.01, 100))
    graph = net.graph(net.dense(x, "y", 4, (0.1, 120), spread=20))
    (op,) = graph.ops
    weights, bias = graph.ins(op)["weights"], graph.ins(op)["bias"]
    real = weights.type.scale * (weights.data.astype(float) - weights.type.zero_point)
    low, high = 0.01 * (0 - 100), 0.01 * (255 - 100)
    added = bias.data * (0.01 * weights.type.scale)
    most = np.where(real > 0, real * high, real * low).sum(axis=1) + added
    least = np.where(real > 0, real * low, real * high).sum(axis=1) + added
    assert max(most.max(), -least.min()) < 12.7 / 2
    kind = tflite2q.convert(graph, name, "scheme").graph["y"].type
    lowest, highest = kind.range
    ends = 0.1 * np.floor(least.min() / 0.1), 0.1 * np.ceil(most.max() / 0.1)  # what they are rounded to
    assert kind.scale == pytest.approx(max(ends[1] / highest, ends[0] / lowest), rel=1e-6)


@settings(max_examples=40)  # of whole networks
@given(st.integers(0, 2**32 - 1), st.sampled_from(["int8", "symmetric-int8"]))
def test_values_that_must_share_parameters_do(seed: int, name: str) -> None:
    graph = tflite2q.convert(everything(seed), name).graph
    for op in graph.ops:
        for group in op.ties("int8"):
            assert len({graph[member].type.quantization for member in group}) == 1, op.name
        fixed = op.fixed_result("int8")
        assert fixed is None or graph[op.name].type.quantization == fixed


def test_a_fixed_result_that_is_moved_fixes_what_it_is_moved_to(tmp_path: Path) -> None:
    net = Net(seed=3)
    x = net.input("x", (1, 6), (0.1, 100))
    scores = net.softmax(net.dense(x, "logits", 6, (0.2, 128)), "scores")
    net.flatten(scores, "moved")
    graph = saved(tflite2q.convert(net.graph("moved"), "symmetric-int8", "scheme"), tmp_path)
    assert graph["moved"].type.parameters == graph["scores"].type.parameters == Quantization.per_tensor(1 / 256, -128)


# --- concatenation ---


def joined(parameters: list[tuple[float, int]], q: tuple[float, int]) -> Graph:
    net = Net(seed=5)
    x = net.input("x", (1, 4, 4, 3), (0.02, 120))
    parts = [net.conv(x, f"part{i}", 2, p) for i, p in enumerate(parameters)]
    return net.graph(net.concat(parts, "y", q))


def test_parts_of_other_scales_are_requantized_before_an_int8_concatenation(tmp_path: Path) -> None:
    before = joined([(0.1, 128), (0.2, 128), (0.2, 100)], (0.2, 128))
    graph = saved(tflite2q.convert(before, "int8", "scheme"), tmp_path)
    assert [source for source, _ in requantizations(graph)] == ["part0", "part2"]
    concat = graph.ops[-1]
    assert {graph[name].type.quantization for name in concat.inputs} == {graph["y"].type.quantization}
    # The rescaling that the uint8 concatenation did itself is the same, up to one step of a tie.
    codes = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), dtype=np.uint8)
    (old,) = reference.run(before, codes)
    (new,) = reference.run(graph, (codes ^ 0x80).view(np.int8))
    assert np.abs(old.astype(int) - 128 - new).max() <= 1


def test_parts_of_equal_scales_need_no_requantization(tmp_path: Path) -> None:
    graph = saved(tflite2q.convert(joined([(0.2, 128)] * 3, (0.2, 128)), "int8", "scheme"), tmp_path)
    assert requantizations(graph) == []


def test_symmetric_parts_of_equal_scales_share_the_new_one(tmp_path: Path) -> None:
    graph = saved(tflite2q.convert(joined([(0.2, 100)] * 2, (0.2, 100)), "symmetric-int8", "scheme"), tmp_path)
    assert requantizations(graph) == []
    assert graph["part0"].type.quantization == graph["y"].type.quantization


# --- mixed rules ---


def mixed(rules: str, symmetric: bool = False) -> scheme.Scheme:
    return scheme.parse(INT8.format(symmetric=str(symmetric).lower()) + rules, "mixed")


def test_a_rule_for_one_layer_requantizes_nothing_where_its_kernel_does_it(tmp_path: Path) -> None:
    """A convolution rescales to any parameters: another zero point of its result needs no op of its own."""
    rules = "[[rules]]\nmatch.name = 'b'\nactivations.symmetric = true\n"
    graph = saved(tflite2q.convert(chain().graph("c"), mixed(rules), "scheme"), tmp_path)
    assert requantizations(graph) == []
    assert graph["b"].type.zero_point == 0
    assert graph["a"].type.zero_point == -128


def test_a_layer_left_in_uint8_is_surrounded_by_two_requantizations(tmp_path: Path) -> None:
    rules = """
    [[rules]]
    match.name = "b"
    activations.dtype = "uint8"
    weights = {dtype = "uint8", symmetric = false, granularity = "per-tensor"}
    """
    before = chain().graph("c")
    graph = saved(tflite2q.convert(before, mixed(rules), "scheme"), tmp_path)
    assert [graph[op.name].type.dtype for op in graph.ops] == ["int8", "uint8", "uint8", "int8", "int8"]
    assert len(requantizations(graph)) == 2
    weights = next(op for op in graph.ops if op.name == "b").inputs[1]
    assert graph[weights] == before["b/w"]


def test_two_readers_with_the_same_wish_share_a_requantization(tmp_path: Path) -> None:
    net = Net(seed=2)
    x = net.input("x", (1, 4, 4, 3), (0.02, 120))
    a = net.conv(x, "a", 4, (0.1, 10))
    left, right = net.conv(a, "left", 4, (0.2, 130)), net.conv(a, "right", 4, (0.2, 120))
    net.add(left, right, "sum", (0.4, 128))
    rules = """
    [[rules]]
    match.name = "a"
    activations.dtype = "uint8"
    weights = {dtype = "uint8", symmetric = false, granularity = "per-tensor"}
    """
    graph = saved(tflite2q.convert(net.graph("sum"), mixed(rules), "scheme"), tmp_path)
    assert [source for source, _ in requantizations(graph)] == ["a"]


@pytest.mark.parametrize("first", ["int16", "int8", "uint8"])
def test_readers_of_an_input_of_the_scheme_may_want_different_types(first: str, tmp_path: Path) -> None:
    """The input becomes what its first reader wants, and the others read it behind a requantization."""
    net = Net(seed=3)
    x = net.input("x", (1, 4, 4, 3), (0.02, 120))
    a = net.conv(x, "a", 4, (0.1, 0), activation="RELU")
    b = net.conv(x, "b", 4, (0.2, 130))
    rules = {
        "int16": "activations.dtype = 'int16'\nactivations.symmetric = true\n",
        "int8": "activations.symmetric = true\n",
        "uint8": "activations.dtype = 'uint8'\nweights.dtype = 'uint8'\nweights.symmetric = false\n"
        "weights.granularity = 'per-tensor'\n",
    }
    for own in ("a", "b"):
        chosen = mixed(f"[[rules]]\nmatch.name = '{own}'\n{rules[first]}")
        (tmp_path / own).mkdir()
        made = saved(tflite2q.convert(net.graph(a, b), chosen, "scheme"), tmp_path / own)
        other = "b" if own == "a" else "a"
        assert (made[own].type.dtype, made[other].type.dtype) == (first, "int8")
        assert made["x"].type.dtype == made["a"].type.dtype
        assert len(requantizations(made)) == (first != "int8")


def test_a_symmetric_max_pool_keeps_the_parameters_of_what_it_pools(tmp_path: Path) -> None:
    net = Net(seed=4)
    x = net.input("x", (1, 4, 4, 3), (0.02, 120))
    net.conv(net.max_pool(net.conv(x, "a", 4, (0.1, 40)), "pooled"), "c", 4, (0.3, 90))
    rules = "[[rules]]\nmatch.op = 'max_pool2d'\nactivations.symmetric = true\n"
    graph = saved(tflite2q.convert(net.graph("c"), mixed(rules), "scheme"), tmp_path)
    assert graph["a"].type.parameters == graph["pooled"].type.parameters


@pytest.mark.parametrize("seed", range(3))
def test_litert_confirms_random_mixtures(seed: int, tmp_path: Path) -> None:
    """Every layer of a network draws its settings; whatever comes out, its bits are right."""
    draw = np.random.default_rng(seed)
    graph = everything(seed)
    uint8 = 'activations.dtype = "uint8"\nweights = {dtype = "uint8", symmetric = false, granularity = "per-tensor"}\n'
    choices = (uint8, "activations.symmetric = true\n", 'weights.granularity = "per-tensor"\n', None)
    rules = ""
    for op in graph.ops:
        chosen = choices[draw.integers(len(choices))]
        rules += f"[[rules]]\nmatch.name = {op.name!r}\n{chosen}" if chosen else ""
    saved(tflite2q.convert(graph, mixed(rules), "scheme"), tmp_path)


def test_what_stays_is_named_where_the_rest_is_already_so() -> None:
    net = Net("int8")
    x = net.input("x", (1, 4), (0.5, 1))
    net.value("logs", (1, 4), (16 / 256, 127))
    net.op(LogSoftmax(inputs=(net.dense(x, "y", 4, (0.25, 3)),), outputs=("logs",)))
    once = tflite2q.convert(net.graph("logs"), "int16x8", "scheme").graph
    with pytest.raises(Unchanged, match=r"already follows .* except where it cannot be \(.* int16 form of LOG_SOFTMAX"):
        tflite2q.convert(once, "int16x8", "scheme")


# --- what a layer lost ---


@pytest.mark.parametrize(
    ("name", "losses"),
    [
        ("int8", ["exact", "exact"]),
        ("symmetric-int8", ["requantized", "requantized"]),
        ("int16x8", ["requantized", "requantized"]),
        ("float32", ["dequantized", "dequantized"]),
    ],
)
@pytest.mark.parametrize("interface", ["keep", "scheme"])
def test_the_layer_that_makes_an_output_lost_what_it_lost(name: str, losses: list[str], interface: str) -> None:
    """Also where a cast takes its result back to the type that the output keeps."""
    net = Net()
    x = net.input("x", (1, 4, 4, 2), (0.05, 3))
    graph = net.graph(net.conv(net.conv(x, "a", 3, (0.1, 3)), "b", 4, (0.1, 20)))
    conversion = tflite2q.convert(graph, name, interface)
    assert [layer.loss for layer in conversion.layers] == losses
    assert [layer.loss for layer in Forecast(graph).layers(scheme.find(name, interface))] == losses
    bounds = [layer.bound for layer in conversion.layers]
    assert bounds == [None, None] if name == "float32" else min(bounds) > 0


def test_a_dequantized_constant_that_is_an_output_becomes_real(tmp_path: Path) -> None:
    graph = verify(
        parse_graph(
            """graph "g" { inputs (%x) outputs (%y, %z) values {
            %c : int8[2] <0.5:0> = [1, 2]
            %y : float32[2]
            %x : int8[2] <0.1:0>
            %z : int8[2] <0.2:0>
            } ops {
            %y = q.dequantize(%c) version 2
            %z = q.add(%x, %x) version 2
            } }"""
        )
    )
    made = tflite2q.convert(graph, "float32")
    made.save(tmp_path / "new.tflite")
    assert_judged_equal(made.graph, tmp_path / "new.tflite")
    given = np.array([20, -8], np.int8)
    for found, wanted in zip(reference.run(made.graph, given), ([0.5, 1.0], given), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_real_result_may_be_an_output_and_feed_a_quantized_layer() -> None:
    graph = verify(
        parse_graph(
            """graph "g" { inputs (%x) outputs (%y, %z) values {
            %x : float32[1, 2]
            %y : float32[1, 2]
            %w : float32[1, 2] = [1, 1]
            %z : float32[1, 1]
            } ops {
            %y = q.lookup(%x) {function = SIN}
            %z = q.dense(%y, %w, _)
            } }"""
        )
    )
    given = np.array([[1.0, 2.0]], np.float32)
    new = calibration.convert(graph, scheme.find("int16x8"), [[given]]).graph
    assert new[new.producers["z"].inputs[0] or ""].type.dtype == "int16"
    for found, wanted in zip(reference.run(new, given), reference.run(graph, given), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("scheme_name", ["float32", "weight-only", "dynamic-range"])
@pytest.mark.parametrize(
    ("shape", "signature"), [("[2, 3]", ""), ("[]", ""), ("[1, 3]", "dynamic[-1, 3]"), ("[1, 1]", "dynamic[-1, -1]")]
)
def test_real_outputs_that_are_equal_stay_apart(scheme_name: str, shape: str, signature: str) -> None:
    """Two casts of one tensor are outputs, and a cast of an input is: in real numbers there is no cast, but a copy."""
    codes = f"int8{shape} <0.5:-3> {signature}"
    real = f"float32{shape} {signature}"
    graph = parse_graph(
        f"""graph "main" {{
          inputs (%x)
          outputs (%a, %b, %c)
          values {{ %x : {codes} %y : {codes} %a : {real} %b : {real} %c : {real} }}
          ops {{
            %y = q.add(%x, %x) {{pot_scale_int16 = false}} version 2
            %a = q.dequantize(%y) version 2
            %b = q.dequantize(%y) version 2
            %c = q.dequantize(%x) version 2
          }}
        }}"""
    )
    new = tflite2q.convert(graph, scheme_name, interface="scheme").graph
    assert new.outputs == graph.outputs and new["x"].type.dtype == "float32"
    written = write(new)
    assert read(written) == new
    x = np.arange(6, dtype=np.float32)[: int(np.prod(graph["x"].type.shape))].reshape(graph["x"].type.shape)
    told = judge([(written, [x])])[0]
    assert not isinstance(told, str), told
    for got in (told, reference.run(new, x)):
        for array, want in zip(got, (2 * x, 2 * x, x), strict=True):
            np.testing.assert_array_equal(array, want)
