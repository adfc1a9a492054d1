"""Models of real numbers, and of real activations with integer weights, as the source of a conversion."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import effects
import numpy as np
import pytest
import settings
from draw import Draw
from hybrid_cases import block_dense
from judge import judge

import tflite2q
from tflite2q.cli import run
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.ops import Dequantize
from tflite2q.dialect.text import parse_graph
from tflite2q.dialect.types import Constant, Value
from tflite2q.errors import SchemeError, Unchanged
from tflite2q.execution import reference
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.writer import write

Array = np.ndarray[Any, Any]
SCHEMES = (
    "int8",
    "int8-per-tensor",
    "symmetric-int8",
    "int16x8",
    "asymmetric-uint8",
    "power-of-two",
    "float32-rescale",
)
STAYS_REAL = ("float32", "dynamic-range", "weight-only")


@pytest.fixture(scope="module")
def real() -> Graph:
    """The float32 model that the small network is, with inputs and outputs in real numbers."""
    return tflite2q.convert(settings.network(), "float32", interface="scheme").graph


@pytest.fixture(scope="module")
def inputs(real: Graph) -> Array:
    kind = settings.network()["x"].type
    codes = settings.samples(settings.network()).astype(np.float64)
    return (kind.scale * (codes - kind.zero_point)).astype(np.float32)


@pytest.fixture
def data(inputs: Array, tmp_path: Path) -> Path:
    path = tmp_path / "samples.npy"
    np.save(path, inputs)
    return path


def outputs(graph: Graph, x: Array) -> Array:
    """The last layer of the network in real numbers."""
    kind = graph[graph.inputs[0]].type
    if kind.quantized:
        x = np.clip(np.rint(x / kind.scale) + kind.zero_point, *kind.range).astype(kind.dtype)
    (y,) = reference.run(graph, x)
    kind = graph[graph.outputs[0]].type
    return kind.scale * (y.astype(np.float64) - kind.zero_point) if kind.quantized else y.astype(np.float64)


def signal_to_noise(graph: Graph, real: Graph, inputs: Array) -> float:
    pairs = [(outputs(graph, x[None]), outputs(real, x[None])) for x in inputs]
    noise = sum(float(((a - b) ** 2).sum()) for a, b in pairs)
    if noise == 0:
        return math.inf
    return 10 * float(np.log10(sum(float((b**2).sum()) for _, b in pairs) / noise))


def runs_in_litert(graph: Graph, x: Array) -> None:
    """LiteRT's reference kernels compute what ours do: codes equal, real numbers to the last digits."""
    (found,) = judge([(write(graph), [x])])
    assert not isinstance(found, str), found
    (got,) = reference.run(graph, x)
    np.testing.assert_allclose(got, found[0], rtol=1e-5, atol=1e-6 * float(np.abs(got).max()))


@pytest.mark.parametrize("interface", ["keep", "scheme"])
@pytest.mark.parametrize("name", SCHEMES)
def test_data_make_a_float_model_integer(name: str, interface: str, real: Graph, inputs: Array, data: Path) -> None:
    new = tflite2q.convert(real, name, interface=interface, data=data).graph
    layers = [op for op in new.ops if "weights" in [slot.name for slot in op.slots]]
    assert len(layers) == 4 and all(new[op.name].type.quantized for op in layers)
    ends = [new[end].type.dtype for end in (*new.inputs, *new.outputs)]
    assert (ends == ["float32", "float32"]) == (interface == "keep")
    assert signal_to_noise(new, real, inputs) > (17 if name in ("power-of-two", "asymmetric-uint8") else 25)
    if interface == "keep" and name not in ("power-of-two", "float32-rescale"):
        runs_in_litert(new, inputs[:1])
    assert read(write(new)).ops


@pytest.mark.parametrize("name", SCHEMES)
def test_integers_at_the_ends_alone_make_no_integer_model(
    name: str, real: Graph, inputs: Array, tmp_path: Path
) -> None:
    """What turns inputs to real numbers, and results back, is left out: integers are read as integers."""
    original = settings.network()
    ends = tflite2q.convert(original, "float32", interface="keep").graph
    assert ends["x"].type == original["x"].type
    with pytest.raises(SchemeError, match=f"scheme {name} needs data for a float model"):
        tflite2q.convert(ends, name)
    np.save(tmp_path / "codes.npy", settings.samples(original))
    new = tflite2q.convert(ends, name, data=tmp_path / "codes.npy").graph
    assert all(value.type.dtype != "float32" for value in new.values)
    assert new["x"].type == original["x"].type
    assert signal_to_noise(new, real, inputs) > (17 if name in ("power-of-two", "asymmetric-uint8") else 25)


def test_ranges_weights_and_biases_are_those_of_the_real_numbers(real: Graph, inputs: Array, data: Path) -> None:
    """Scales by the observed extremes, weights by the largest of each channel, biases exactly (eq. S4)."""
    new = tflite2q.convert(real, "int8", interface="scheme", data=data).graph
    every = [reference.run_every(real, x[None]) for x in inputs]
    for name in ("x", "first", "deep", "point"):
        low, high = (min(float(e[name].min()) for e in every), max(float(e[name].max()) for e in every))
        scale = (max(high, 0) - min(low, 0)) / 255
        assert new[name].type.scale == pytest.approx(scale, rel=1e-4), name
    first, before = effects.layer(new, "first"), effects.layer(real, "first")
    weights, bias = (new[str(first.inputs[i])] for i in (1, 2))
    real_weights, real_bias = (real[str(before.inputs[i])].data.astype(np.float64) for i in (1, 2))
    scales = np.array(weights.type.parameters.scale)
    np.testing.assert_allclose(scales, np.abs(real_weights).reshape(8, -1).max(1) / 127, rtol=1e-6)
    for code, number, scale in zip(bias.data.tolist(), real_bias.tolist(), scales.tolist(), strict=True):
        exact = Fraction(number) / (Fraction(new["x"].type.scale) * Fraction(scale))
        assert abs(code - exact) <= Fraction(1, 2)


def test_percentiles_narrow_what_extremes_do_not(real: Graph, data: Path) -> None:
    plain = {**settings.INT8, "interface": "scheme"}
    tails = {**plain, "activations.range": "percentile", "activations.percentile": 98}
    whole, narrow = (tflite2q.convert(real, settings.of(s), data=data).graph["x"].type.scale for s in (plain, tails))
    assert narrow < 0.9 * whole


def test_without_data_one_line_says_what_is_missing(
    real: Graph, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SchemeError, match="scheme int8 needs data for a float model"):
        tflite2q.convert(real, "int8")
    path = tmp_path / "model.tflite"
    path.write_bytes(write(real))
    assert run(["convert", str(path), "--scheme", "int8"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "scheme int8 needs --data for a float model" in line


def test_a_rule_keeps_a_layer_real(real: Graph, data: Path) -> None:
    rule = settings.rule({"activations.dtype": "float32", "weights.dtype": "float32"}, '{ name = "deep" }')
    new = tflite2q.convert(real, settings.of({**settings.INT8, "interface": "scheme"}, rule), data=data).graph
    assert new["deep"].type.dtype == "float32" and new["first"].type.dtype == new["point"].type.dtype == "int8"


@pytest.mark.parametrize("name", STAYS_REAL)
@pytest.mark.parametrize("source", ["float32", "float16", "dynamic-range", "weight-only", "uint8"])
def test_schemes_of_real_activations_need_no_data(source: str, name: str, real: Graph, inputs: Array) -> None:
    given = {"float32": lambda: real, "float16": lambda: halved(real), "uint8": settings.network}
    original = given[source]() if source in given else tflite2q.convert(real, source).graph
    try:
        new = tflite2q.convert(original, name, interface="scheme").graph
    except Unchanged:
        assert name == source
        return
    assert name != source
    assert signal_to_noise(new, real, inputs) > 30
    runs_in_litert(new, inputs[:1])
    with pytest.raises(Unchanged):
        tflite2q.convert(read(write(new)), name, interface="scheme")


def halved(graph: Graph) -> Graph:
    """Weights and biases as halves that the model dequantizes."""
    values, casts = list(graph.values), []
    for value in graph.values:
        if value.constant is not None and value.type.dtype == "float32":
            half = Value(f"{value.name}_half", value.type.with_(dtype="float16"))
            values.append(half.with_(constant=Constant(value.data.astype(np.float16))))
            values[values.index(value)] = value.with_(constant=None)
            casts.append(Dequantize(inputs=(half.name,), outputs=(value.name,), version=3))
    return verify(graph.with_(values=tuple(values), ops=(*casts, *graph.ops)))


def test_integers_are_kept_from_scheme_to_scheme(real: Graph) -> None:
    stored = tflite2q.convert(real, "weight-only").graph
    dynamic = tflite2q.convert(stored, "dynamic-range").graph
    again = tflite2q.convert(dynamic, "weight-only").graph
    weights = [v for v in stored.values if v.type.dtype == "int8"]
    assert len(weights) == 4
    for value in weights:
        assert dynamic[value.name] == again[value.name] == value
    assert not any(isinstance(op, Dequantize) for op in dynamic.ops)
    plain = tflite2q.convert(dynamic, "float32").graph
    for value in weights:
        np.testing.assert_array_equal(plain[value.name].data, value.type.parameters.real(value.data).astype(np.float32))


def test_scales_of_blocks_are_multiplied_out() -> None:
    case = block_dense(Draw(np.random.default_rng(1)))
    weights = case.graph[str(case.graph.ops[0].inputs[1])]
    units, columns = weights.type.shape
    scales = np.repeat(np.array(weights.type.parameters.scale).reshape(units, -1), 32, axis=1)
    assert scales.shape == (units, columns)
    new = tflite2q.convert(case.graph, "float32").graph
    np.testing.assert_array_equal(new[weights.name].data, (weights.data * scales).astype(np.float32))


def test_kernels_that_ignore_scales_of_blocks_are_named(digits: Path) -> None:
    for name, ignored in (("dynamic-range-w4", True), ("dynamic-range", False)):
        notes = tflite2q.convert(tflite2q.load(digits), name).notes
        assert any("ignore the scales of blocks" in note for note in notes) == ignored


def test_four_bits_only_where_a_kernel_takes_them(real: Graph) -> None:
    scheme = settings.of({"activations.dtype": "float32", "weights.dtype": "int4"})
    new = tflite2q.convert(real, scheme).graph
    dtypes = {name: new[effects.layer(new, name).reads("weights")].type.dtype for name in ("first", "point", "logits")}
    assert dtypes == dict.fromkeys(dtypes, "int4")
    deep = next(op for op in new.ops if op.mnemonic == "q.depthwise_conv2d")
    assert new[deep.reads("weights")].type.dtype == "int8"


@pytest.mark.parametrize("name", ["kws_dynamic_wi8", "kws_weight_only_wi8", "dtln_quant_1"])
@pytest.mark.parametrize("scheme", [*STAYS_REAL, "int8", "int16x8"])
def test_shared_models(name: str, scheme: str, shared: Path, tmp_path: Path) -> None:
    path = shared / "cases" / "dynamic_range" / f"{name}.tflite"
    graph = tflite2q.load(path)
    rng = np.random.default_rng(0)
    given = [rng.normal(size=graph[n].type.shape).astype(np.float32) for n in graph.inputs]
    np.savez(tmp_path / "samples.npz", **{n: x[None] for n, x in zip(graph.inputs, given, strict=True)})
    try:
        new = tflite2q.convert(graph, scheme, data=tmp_path / "samples.npz").graph
    except Unchanged:
        return
    (found,) = judge([(write(new), given)])
    assert not isinstance(found, str), found
    for got, expected, true in zip(reference.run(new, *given), found, reference.run(graph, *given), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
        assert ((got - true) ** 2).sum() < 1e-2 * (true**2).sum()


def test_stored_weights_of_layers_that_stay_real_stay_stored(real: Graph) -> None:
    """A layer of integers beside a weight-only one, which no integer scheme without data may change."""
    stored = tflite2q.convert(real, "weight-only").graph
    integers = settings.network()
    renamed = {name: f"{name}_q" for name in integers.by_name}
    values = [value.with_(name=renamed[value.name]) for value in integers.values]
    ops = [
        op.with_(inputs=tuple(renamed.get(str(n), n) for n in op.inputs), outputs=tuple(renamed[n] for n in op.outputs))
        for op in integers.ops
    ]
    both = verify(
        stored.with_(
            inputs=(*stored.inputs, "x_q"),
            outputs=(*stored.outputs, "logits_q"),
            values=(*stored.values, *values),
            ops=(*stored.ops, *ops),
        )
    )
    new = tflite2q.convert(both, "int8").graph
    assert [op for op in new.ops if op in stored.ops] == list(stored.ops)
    assert new["first_q"].type.dtype == "int8"


def test_halves_alone_are_no_reason_to_write_a_file(real: Graph) -> None:
    stored = halved(tflite2q.convert(real, "dynamic-range").graph)
    with pytest.raises(Unchanged):
        tflite2q.convert(stored, "dynamic-range")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
@pytest.mark.parametrize("scheme", STAYS_REAL)
def test_biases_that_are_stored_as_integers(dtype: str, scheme: str) -> None:
    """Their codes have a scale of their own, which is not that of the layer's sums."""
    graph = verify(
        parse_graph(
            f"""graph "main" {{
              inputs (%x) outputs (%y)
              values {{
                %x : float32[2, 4] %y : float32[2, 3]
                %w : int8[3, 4] <0.5:0> = [1, 2, -3, 127, -127, 5, 6, 7, 8, 9, 10, 11] %weights : float32[3, 4]
                %b : {dtype}[3] <0.25:0> = [1, 50, 100] %bias : float32[3]
              }}
              ops {{
                %weights = q.dequantize(%w) version 2 %bias = q.dequantize(%b) version 2
                %y = q.dense(%x, %weights, %bias)
              }}
            }}"""
        )
    )
    new = tflite2q.convert(graph, scheme, "keep").graph
    bias = new[str(new.ops[-1].inputs[2])]
    np.testing.assert_array_equal(bias.data, np.float32([0.25, 12.5, 25.0]))
    x = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
    ((want,), (got,)) = judge([(write(each), [x]) for each in (graph, new)])
    step = float(np.abs(x).max()) / 127 if scheme == "dynamic-range" else 0.0  # which activations are rounded to
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=step / 2 * 64 * 4)


@pytest.mark.parametrize("scheme", ["dynamic-range", "dynamic-range-w4"])
def test_groups_of_one_scale_compute_in_real_numbers(scheme: str, tmp_path: Path) -> None:
    """LiteRT's kernel for them takes a scale for each channel; their integers stay as they are."""
    graph = verify(
        parse_graph(
            """graph "main" {
              inputs (%x) outputs (%y)
              values {
                %x : float32[1, 2, 2, 2] %y : float32[1, 2, 2, 2] %bias : float32[2] = [0.5, -1.5]
                %w : int8[2, 1, 1, 1] <0.1:0> = [3, -127] %weights : float32[2, 1, 1, 1]
              }
              ops { %weights = q.dequantize(%w) version 2 %y = q.conv2d(%x, %weights, %bias) {padding = VALID} }
            }"""
        )
    )
    with pytest.raises(Unchanged):
        tflite2q.convert(graph, scheme, "keep")
    x = np.arange(8, dtype=np.float32).reshape(1, 1, 2, 2, 2)
    np.savez(tmp_path / "data.npz", x=x)
    per_tensor = settings.of({**settings.INT8, "weights.granularity": "per-tensor"})
    new = tflite2q.convert(tflite2q.convert(graph, per_tensor, "keep", data=tmp_path / "data.npz").graph, scheme).graph
    (want,), (got,) = judge([(write(each), [x[0]]) for each in (graph, new)])
    step = float(np.ptp(want)) / 255  # of the codes between, to whose range results are kept
    np.testing.assert_allclose(got, want, rtol=0, atol=step)
