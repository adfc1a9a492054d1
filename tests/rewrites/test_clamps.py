"""Clamps that only the range of codes made: kept by every scheme, whatever op makes the value.

The networks are in the style of early converters: no activation stated, codes that end at 0 and 6.  What they compute
is told by real numbers with an explicit clip behind each op, without any code of the conversion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from judge import judge
from networks import Net

import tflite2q
from tflite2q import rewrites
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.binary import Prelu, SquaredDifference
from tflite2q.dialect.ops.conv import Conv2D
from tflite2q.dialect.ops.dense import BatchMatmul
from tflite2q.dialect.ops.eltwise import Mul, Requantize
from tflite2q.dialect.ops.lookup import Lookup
from tflite2q.dialect.ops.reduce import Mean
from tflite2q.dialect.ops.transpose_conv import TransposeConv
from tflite2q.dialect.types import Quantization, TensorType, Value
from tflite2q.errors import Unchanged, UnsupportedError
from tflite2q.evaluation import calibration, data
from tflite2q.execution import reference, runtime
from tflite2q.flatbuffer import reader, writer
from tflite2q.rewrites import clamps, scheme
from tflite2q.rewrites.clamps import Clamp

Array = np.ndarray
SIX = (6 / 255, 0)  # ends at 0 and 6
OFF = (6 / 255, 4)  # ends at -0.094 and 5.906
BOTH = (6 / 255, 85)  # ends at -2 and 4


# --- networks ---


def q(net: Net, pair: tuple[float, int]) -> tuple[float, int]:
    return (pair[0], pair[1] - 128) if net.dtype == "int8" else pair


def start(dtype: str = "uint8", shape: tuple[int, ...] = (1, 4, 4, 3)) -> tuple[Net, str]:
    net = Net(dtype=dtype, seed=3)
    return net, net.input("x", shape, q(net, (1 / 16, 128)))


def chain() -> Graph:
    net, x = start()
    y = net.max_pool(net.depthwise(net.conv(x, "a", 4, SIX), "b", SIX, spread=30), "pooled")
    y = net.flatten(net.conv(y, "c", 4, OFF, spread=20), "flat")
    return net.graph(net.dense(y, "d", 5, BOTH, spread=60))


def branches() -> Graph:
    net, x = start()
    left, right = net.conv(x, "left", 4, SIX, spread=40), net.conv(x, "right", 4, BOTH, spread=40)
    total = net.add(left, right, "sum", SIX)
    less = net.add(left, right, "difference", (3 / 255, 0), subtract=True)
    net.value("product", net.shape(left), (4 / 255, 20))
    product = net.op(Mul(inputs=(total, right), outputs=("product",)))
    joined = net.concat([product, less, total], "joined", (2 / 255, 0))
    return net.graph(net.conv(joined, "last", 3, BOTH, spread=60), "sum")


def outputs() -> Graph:
    """Values that are the model's outputs and read again, or moved before they are."""
    net, x = start()
    y = net.conv(x, "a", 4, SIX)
    z = net.conv(y, "b", 4, OFF, spread=40)
    net.flatten(z, "moved")
    return net.graph("a", "moved")


def requantized() -> Graph:
    net, x = start()
    net.value("narrow", net.shape(x), OFF)
    net.op(Requantize(inputs=(x,), outputs=("narrow",)))
    return net.graph(net.conv("narrow", "y", 4, BOTH, spread=30))


def from_reals() -> Graph:
    net = Net(seed=3)
    net.inputs.append("x")
    net.values["x"] = Value("x", TensorType((1, 4, 4, 3), "float32"))
    net.value("codes", (1, 4, 4, 3), OFF)
    net.op(Requantize(inputs=("x",), outputs=("codes",)))
    return net.graph(net.conv("codes", "y", 4, BOTH, spread=30))


def looked_up() -> Graph:
    net, x = start()
    net.value("leaky", net.shape(x), OFF)
    net.op(Lookup(inputs=(x,), outputs=("leaky",), function="LEAKY_RELU", alpha=0.5, version=2))
    net.value("relu", net.shape(x), (3 / 255, 0))
    net.op(Lookup(inputs=("leaky",), outputs=("relu",), function="RELU"))
    return net.graph("leaky", "relu")


def averaged() -> Graph:
    net, x = start()
    axes = net.constant("axes", np.array([1, 2], np.int32))
    net.value("mean", (1, 3), (1 / 255, 30))
    net.op(Mean(inputs=(x, axes), outputs=("mean",)))
    return net.graph(net.dense("mean", "y", 4, BOTH))


def sloped() -> Graph:
    net, x = start()
    slopes = net.constant("slopes", np.array([[[200, 90, 128]]], np.uint8), Quantization.per_tensor(0.02, 128))
    net.value("prelu", net.shape(x), OFF)
    return net.graph(net.op(Prelu(inputs=(x, slopes), outputs=("prelu",))))


def multiplied() -> Graph:
    net, x = start("int8", (1, 4, 4))
    net.value("product", (1, 4, 4), q(net, BOTH))
    net.op(BatchMatmul(inputs=(x, x), outputs=("product",), version=2))
    net.value("square", (1, 4, 4), q(net, SIX))
    return net.graph(net.op(SquaredDifference(inputs=("product", x), outputs=("square",), version=2)))


def transposed() -> Graph:
    net, x = start("int8")
    shape = net.constant("shape", np.array([1, 4, 4, 5], np.int32))
    weights = net.weights("w", (5, 1, 1, 3))
    net.value("y", (1, 4, 4, 5), q(net, SIX))
    return net.graph(net.op(TransposeConv(inputs=(shape, weights, x), outputs=("y",), version=2)))


NETWORKS: dict[str, Callable[[], Graph]] = {
    f.__name__: f
    for f in (
        chain, branches, outputs, requantized, from_reals, looked_up, averaged, sloped, multiplied, transposed
    )
}  # fmt: skip

# --- the same in real numbers ---


def convolved(x: Array, w: Array, b: Array | float, op: Op) -> Array:
    if op.mnemonic == "q.depthwise_conv2d":
        wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return sum(wide[:, i : i + 4, j : j + 4] * w[:, i, j] for i in range(3) for j in range(3)) + b
    return np.einsum("nhwc,oc->nhwo", x, w[:, 0, 0]) + b


def pooled(x: Array) -> Array:
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))


FORMULAS: dict[str, Callable[..., Array]] = {
    "q.conv2d": lambda op, x, w, b: convolved(x, w, b, op),
    "q.depthwise_conv2d": lambda op, x, w, b: convolved(x, w, b, op),
    "q.transpose_conv2d": lambda op, _, w, x: convolved(x, w, 0.0, op),
    "q.dense": lambda op, x, w, b: x.reshape(-1, w.shape[1]) @ w.T + b,
    "q.batch_matmul": lambda op, a, b: a @ b,
    "q.add": lambda op, a, b: a - b if op.subtract else a + b,
    "q.mul": lambda op, a, b: a * b,
    "q.squared_difference": lambda op, a, b: (a - b) ** 2,
    "q.prelu": lambda op, x, alpha: np.where(x < 0, x * alpha, x),
    "q.concat": lambda op, *parts: np.concatenate(parts, axis=3),
    "q.max_pool2d": lambda op, x: pooled(x),
    "q.mean": lambda op, x, axes: x.mean(axis=(1, 2)),
    "q.reshape": lambda op, x: x.reshape(1, -1),
    "q.requantize": lambda op, x: x,
    "q.lookup": lambda op, x: np.where(x < 0, x * (0.5 if op.function == "LEAKY_RELU" else 0.0), x),
}


def ends(kind: TensorType) -> tuple[float, float]:
    low, high = np.iinfo(kind.dtype).min, np.iinfo(kind.dtype).max
    return kind.scale * (low - kind.zero_point), kind.scale * (high - kind.zero_point)


def real(value: Value, array: Array) -> Array:
    if value.type.dtype in ("uint8", "int8", "int16"):
        return value.type.scale * (array.astype(np.float64) - value.type.zero_point)
    return array.astype(np.float64)


def truth(graph: Graph, x: Array, clip: bool = True) -> dict[str, Array]:
    """Every value in real numbers; each result clipped to what its codes can say, unless that is left out."""
    found = {"x": x}
    for op in graph.ops:
        operands = [found[n] if n in found else constant(graph, op, n) for n in op.inputs]
        y = FORMULAS[op.mnemonic](op, *operands)
        found[op.name] = np.clip(y, *ends(graph[op.name].type)) if clip else y
    return found


def constant(graph: Graph, op: Op, name: str | None) -> Array:
    value = graph[str(name)]
    if name and name.endswith("/b"):
        x, weights = graph[str(op.inputs[0])].type, graph[str(op.inputs[1])].type
        return value.data * x.scale * weights.scale
    return real(value, value.data)


def samples(graph: Graph, count: int = 3) -> list[Array]:
    """Codes of the input, or real numbers far beyond what is quantized."""
    kind = graph["x"].type
    draw = np.random.default_rng(5)
    if kind.dtype == "float32":
        return [draw.normal(0, 6, kind.shape).astype(np.float32) for _ in range(count)]
    low, high = np.iinfo(kind.dtype).min, np.iinfo(kind.dtype).max
    return [draw.integers(low, high + 1, kind.shape).astype(kind.dtype) for _ in range(count)]


def given(original: Graph, graph: Graph, codes: Array) -> Array:
    """The same input for a converted graph."""
    kind = graph["x"].type
    if kind == original["x"].type:
        return codes
    x = real(original["x"], codes)
    if kind.dtype == "float32":
        return x.astype(np.float32)
    low, high = np.iinfo(kind.dtype).min, np.iinfo(kind.dtype).max
    return np.clip(np.rint(x / kind.scale) + kind.zero_point, low, high).astype(kind.dtype)


# --- every scheme keeps every cut ---


@pytest.mark.parametrize("interface", ["keep", "scheme"])
@pytest.mark.parametrize("name", scheme.shipped())
@pytest.mark.parametrize("network", NETWORKS)
def test_values_keep_within_what_their_codes_said(network: str, name: str, interface: str) -> None:
    original = NETWORKS[network]()
    graph = converted(original, name, interface)
    for codes in samples(original):
        every = reference.run_every(graph, given(original, graph, codes))
        expected = truth(original, real(original["x"], codes))
        for op in original.ops:
            value = graph[op.name]
            got, (low, high) = real(value, every[op.name]), ends(original[op.name].type)
            step = value.type.scale if value.type.quantized else 1e-5
            assert low - step <= got.min() and got.max() <= high + step, op.name
            if not few_codes(name):  # such weights are other weights
                worst = np.abs(got - expected[op.name]).max()
                coarse = 0.25 if name == "power-of-two" else 0.12
                assert worst <= coarse * (high - low) + step, f"{op.name} {worst}"


def few_codes(name: str) -> bool:
    """Whether a scheme has weights of fewer than 8 bits."""
    weights = scheme.find(name).layer.weights
    return weights.dtype == "int4" or weights.levels > 0


def converted(original: Graph, name: str, interface: str = "scheme") -> Graph:
    if name.startswith("mixed") and not any(op.mnemonic == "q.conv2d" for op in original.ops):
        pytest.skip("has no first layer with weights")
    try:
        return tflite2q.convert(original, name, interface).graph
    except Unchanged:
        return original
    except UnsupportedError as nothing:
        assert f"scheme {name} changes nothing: there is no uint8 form of BATCH_MATMUL" in str(nothing)
        return original


@pytest.mark.parametrize("network", NETWORKS)
def test_the_cuts_of_these_networks_matter(network: str) -> None:
    """Without them the real numbers are far off, so the test above can fail."""
    original = NETWORKS[network]()
    worst = 0.0
    for codes in samples(original):
        x = real(original["x"], codes)
        with_cuts, without = truth(original, x), truth(original, x, clip=False)
        for name in original.outputs:
            low, high = ends(original[name].type)
            worst = max(worst, float(np.abs(with_cuts[name] - without[name]).max()) / (high - low))
    assert worst > 0.3


@pytest.mark.parametrize("name", ["int16x8", "float32"])
@pytest.mark.parametrize("network", NETWORKS)
def test_fine_schemes_compute_the_real_numbers(network: str, name: str) -> None:
    original = NETWORKS[network]()
    graph = converted(original, name)
    stays = any(v.type.dtype in ("uint8", "int8") and v.constant is None for v in graph.values)
    for codes in samples(original):
        every = reference.run_every(graph, given(original, graph, codes))
        expected = truth(original, real(original["x"], codes))
        for op in original.ops:
            got, (low, high) = real(graph[op.name], every[op.name]), ends(original[op.name].type)
            near = (high - low) * (1 / 60 if stays else 1 / 1000 if name == "int16x8" else 1e-5)
            np.testing.assert_allclose(got, expected[op.name], atol=near, rtol=0, err_msg=op.name)


# Clamps of every kind in the kernels of convolutions and sums.
QUICK = [("branches", "symmetric-int8"), ("chain", "power-of-two")]
FILES = ["symmetric-int8", "int16x8", "float32", "power-of-two"]


@pytest.mark.parametrize("name", FILES)
def test_litert_confirms_the_files(name: str) -> None:
    contents, inputs = [], []
    for make in NETWORKS.values():
        original = make()
        graph = converted(original, name)
        contents.append(writer.write(graph))
        inputs.append([given(original, graph, samples(original, 1)[0])])
    for content, x, found in zip(contents, inputs, judge(list(zip(contents, inputs, strict=True))), strict=True):
        assert not isinstance(found, str), found
        close(found, reference.run(reader.read(content), *x))


@pytest.mark.parametrize(
    ("network", "name"),
    [
        pytest.param(network, name, marks=() if (network, name) in QUICK else pytest.mark.slow)
        for network in NETWORKS
        for name in FILES
    ],
)
def test_compiled_code_keeps_the_cuts(network: str, name: str) -> None:
    original = NETWORKS[network]()
    graph = converted(original, name)
    exe = runtime.compile(graph)
    for codes in samples(original):
        close(exe.run(given(original, graph, codes)), reference.run(graph, given(original, graph, codes)))


def close(got: list[Array], want: list[Array]) -> None:
    for a, b in zip(got, want, strict=True):
        if a.dtype == np.float32:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(a, b)


# --- how they are written ---


def layer(pair: tuple[float, int], spread: int = 127) -> Graph:
    net, x = start()
    return net.graph(net.conv(net.conv(x, "a", 4, pair, spread=spread), "last", 4, BOTH))


def written(graph: Graph, name: str) -> dict[str, str | None]:
    return {each.name: each.clamp for each in tflite2q.convert(graph, name, "scheme").layers}


@pytest.mark.parametrize(
    ("pair", "name", "expected"),
    [
        (SIX, "int8", None),  # the range is the old one
        (SIX, "symmetric-int8", "RELU"),  # the upper end is where the new codes end
        (SIX, "int16x8", "RELU"),
        (SIX, "power-of-two", "RELU6"),
        (SIX, "float32", "RELU6"),
        ((0.023528477177023888, 0), "float32", "RELU6"),  # 5.99976, as converters measured it
        ((5 / 255, 0), "float32", "RELU, <= 5"),
        ((2 / 254, 127), "float32", ">= -1, <= 1.00787"),  # RELU_N1_TO_1 would cut more
        (OFF, "float32", ">= -0.0941176, <= 5.90588"),
        (OFF, "symmetric-int8", ">= -0.0941176"),
        (BOTH, "int16x8", ">= -2"),
        ((6 / 128, 128), "int16x8", "<= 5.95312"),
    ],
)
def test_a_cut_is_a_fused_activation_where_it_can_be(pair: tuple[float, int], name: str, expected: str | None) -> None:
    assert written(layer(pair), name)["a"] == expected


def test_a_cut_that_nothing_reaches_is_not_written() -> None:
    """Three products of at most 0.2 and 1 stay within [-2, 4]."""
    net = Net(seed=1)
    x = net.input("x", (1, 4, 4, 3), (1 / 256, 0))
    weights = net.weights("w", (4, 1, 1, 3), spread=10)
    net.value("y", (1, 4, 4, 4), BOTH)
    graph = net.graph(net.op(Conv2D(inputs=(x, weights), outputs=("y",))))
    assert clamps.limits(graph).cuts == {}
    assert written(graph, "float32") == {"y": None}


def test_pure_movement_and_a_cast_at_the_output_share_the_cut() -> None:
    graph = outputs()
    kept = {op.name: op for op in tflite2q.convert(graph, "float32", "scheme").graph.ops}
    assert [name for name, op in kept.items() if op.mnemonic == "q.maximum"] == ["b_above_floor", "b"]
    net, x = start()
    net.conv(x, "y", 4, OFF)
    alone = net.graph("y")
    assert [each.clamp for each in tflite2q.convert(alone, "float32", "keep").layers] == [None]
    assert [each.clamp for each in tflite2q.convert(alone, "float32", "scheme").layers] != [None]


def test_reports_count_the_clamps() -> None:
    conversion = tflite2q.convert(chain(), "float32", "scheme")
    assert conversion.notes[0] == (
        "4 layers were clamped only by their range of codes; now explicit: 2 as a fused RELU6, 2 as separate ops"
    )
    assert tflite2q.convert(chain(), "int8", "scheme").notes == ()


def test_a_forecast_tells_of_the_clamps() -> None:
    for name in scheme.shipped():
        graph, chosen = branches(), scheme.find(name)
        try:
            said = [each.clamp for each in rewrites.Forecast(graph).layers(chosen)]
        except Unchanged:
            continue
        assert said == [each.clamp for each in tflite2q.convert(graph, name).layers], name


def test_a_clamp_says_what_it_does() -> None:
    assert str(Clamp("RELU", -np.inf, 5.5)) == "RELU, <= 5.5"


# --- equalization ---


def test_equalization_divides_no_channel_that_the_range_cut_off() -> None:
    net, x = start()
    graph = net.graph(net.conv(net.conv(x, "a", 8, SIX, spread=100), "last", 4, BOTH, spread=60))
    plain = scheme.find("float32")
    equal = replace(plain, layer=replace(plain.layer, recover=scheme.Recovery(equalize=True)), interface="scheme")
    inputs = list(data.synthetic([graph["x"]], 6))
    after = rewrites.convert(graph, equal, calibration.observe(graph, inputs)).graph
    for (codes,) in inputs:
        expected = truth(graph, real(graph["x"], codes))["last"]
        (got,) = reference.run(after, given(graph, after, codes))
        np.testing.assert_allclose(got, expected, atol=0.05)
