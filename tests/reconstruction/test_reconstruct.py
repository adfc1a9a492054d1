"""Reconstruction of small networks: results change less, and what is written is what was found."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from judge import judge
from networks import Net, everything

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.errors import SchemeError, Unchanged, UnsupportedError
from tflite2q.evaluation import calibration
from tflite2q.evaluation.coding import transfer
from tflite2q.execution import reference
from tflite2q.flatbuffer import reader, writer
from tflite2q.reconstruction.moments import DAMPING, Moments, Sums, compensated, steadied
from tflite2q.reconstruction.rounding import Path as Order
from tflite2q.reconstruction.streams import Stream
from tflite2q.rewrites import Conversion, scheme

Samples = list[list[npt.NDArray[Any]]]

FOUR_BITS = """
activations.dtype = "int8"
weights.dtype = "int4"
weights.rounding = "nearest"
"""


def smooth(graph: Graph, count: int, seed: int = 0) -> Samples:
    """Inputs whose neighbours are alike."""
    kind, random = graph[graph.inputs[0]].type, np.random.default_rng(seed)
    low, high = kind.range if kind.quantized else (-2.0, 2.0)
    _, h, w, c = kind.shape
    found = []
    for _ in range(count):
        coarse = random.uniform(low, high, (1, h // 4, w // 4, c)).repeat(4, 1).repeat(4, 2)
        image = np.clip(coarse + random.normal(0, (high - low) / 20, kind.shape), low, high)
        found.append([(np.rint(image) if kind.quantized else image).astype(kind.dtype)])
    return found


def chain(dtype: str = "uint8") -> Graph:
    """Convolutions of every kind with a residual sum; weights that 4 bits cannot hold, results that hardly saturate."""
    net = Net(dtype, seed=9)
    down = 128 if dtype == "int8" else 0
    y = net.conv(net.input("x", (1, 16, 16, 3), (0.02, 128 - down)), "first", 8, (0.25, 0 - down), 3, activation="RELU")
    y = net.depthwise(y, "deep", (0.9, 0 - down), activation="RELU", stride_h=2, stride_w=2)
    left = net.conv(y, "left", 8, (4.0, 128 - down))
    right = net.conv(left, "right", 8, (8.0, 128 - down))
    y = net.add(left, right, "sum", (9.0, 128 - down))
    y = net.flatten(net.average_pool(y, "mean"), "flat")
    return net.graph(net.dense(y, "logits", 6, (6.0, 128 - down)))


def made(graph: Graph, how: str, samples: Samples | None, more: str = FOUR_BITS) -> Conversion:
    return calibration.convert(graph, scheme.parse(f'{more}\nrecover.reconstruct = "{how}"', "tested"), samples)


def error(original: Graph, new: Graph, samples: Samples) -> float:
    """The mean squared difference of the outputs, in real numbers."""
    types = [[graph[name] for name in graph.inputs] for graph in (original, new)]
    total = 0.0
    for sample in samples:
        a, b = (real(graph, reference.run(graph, *given)) for graph, given in
                ((original, sample), (new, transfer(sample, *types))))  # fmt: skip
        total += float(((a - b) ** 2).mean())
    return total / len(samples)


def real(graph: Graph, outputs: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    kind = graph[graph.outputs[0]].type
    return kind.parameters.real(outputs[0]) if kind.quantized else outputs[0].astype(np.float64)


@pytest.mark.parametrize("how", ["hessian", "adaptive"])
def test_results_for_new_inputs_change_less(how: str) -> None:
    graph = chain()
    seen, held_out = smooth(graph, 32), smooth(graph, 16, seed=1)
    errors = [error(graph, made(graph, each, seen).graph, held_out) for each in ("none", how)]
    assert errors[1] < 0.4 * errors[0]


@pytest.mark.parametrize(
    "settings",
    [
        'weights.granularity = "per-tensor"',
        'weights.scale = "power-of-two"',
        "recover.equalize = true",
        "recover.bias_correction = true",
        'weights.range = "least-squares"',
    ],
)
def test_every_kind_of_scale(settings: str) -> None:
    graph = chain()
    seen, held_out = smooth(graph, 24), smooth(graph, 12, seed=1)
    plain, found = (made(graph, how, seen, FOUR_BITS + settings) for how in ("none", "hessian"))
    assert error(graph, found.graph, held_out) < 0.8 * error(graph, plain.graph, held_out)
    for name in ("first/w", "deep/w", "left/w", "logits/w"):
        kinds = [each.graph[name].type for each in (plain, found)]
        assert kinds[0].dtype == kinds[1].dtype
        assert kinds[0].parameters.axis == kinds[1].parameters.axis
        if "power-of-two" in settings:
            assert all(np.frexp(scale)[0] == 0.5 for scale in kinds[1].parameters.scale)


@pytest.mark.parametrize("how", ["hessian", "adaptive"])
@pytest.mark.parametrize("source", ["float32", "dynamic-range-w4"])
def test_a_scale_for_each_block(how: str, source: str, tmp_path: Path) -> None:
    """Dense layers are reconstructed, from real weights and from weights that have such scales already."""
    net = Net("int8", seed=3)
    y = net.flatten(net.input("x", (1, 8, 8, 4), (0.02, 3)), "flat")
    y = net.dense(y, "hidden", 24, (0.5, -128), activation="RELU")
    graph = net.graph(net.dense(y, "logits", 5, (0.9, 4)))
    real = tflite2q.convert(graph, source).graph
    seen, held_out = smooth(real, 40), smooth(real, 16, seed=1)
    text = 'activations.dtype = "float32"\nweights.dtype = "int4"\nweights.block = 64\nweights.rounding = "nearest"'
    plain, found = (made(real, each, seen, text) for each in ("none", how))
    assert error(real, found.graph, held_out) < 0.7 * error(real, plain.graph, held_out)
    kind = found.graph["hidden/w"].type
    assert (kind.dtype, kind.parameters.block, len(kind.parameters.scale)) == ("int4", 64, 24 * 256 // 64)
    assert all(np.float16(scale) == scale for scale in kind.parameters.scale)
    assert kind.parameters.scale != plain.graph["hidden/w"].type.parameters.scale
    writer.save(found.graph, tmp_path / "blocks.tflite")
    read = reader.load(tmp_path / "blocks.tflite")["hidden/w"]
    assert read.type.parameters == kind.parameters
    np.testing.assert_array_equal(read.data, found.graph["hidden/w"].data)


SOURCES = {
    "float32": "float32",
    "dynamic range": "dynamic-range",
    "weight-only": "weight-only",
}


@pytest.mark.parametrize("source", SOURCES)
def test_models_with_real_activations(source: str) -> None:
    graph = tflite2q.convert(chain(), SOURCES[source], interface="scheme").graph
    seen, held_out = smooth(graph, 24), smooth(graph, 12, seed=1)
    plain, found = (made(graph, how, seen) for how in ("none", "hessian"))
    assert found.remarks
    assert error(graph, found.graph, held_out) < 0.8 * error(graph, plain.graph, held_out)


@pytest.mark.parametrize("compute", ["integer", "float"])
def test_schemes_with_real_activations(compute: str) -> None:
    graph = chain()
    seen, held_out = smooth(graph, 24), smooth(graph, 12, seed=1)
    text = f'activations.dtype = "float32"\nweights.dtype = "int4"\nweights.compute = "{compute}"'
    plain, found = (made(graph, how, seen, text) for how in ("none", "hessian"))
    assert error(graph, found.graph, held_out) < 0.8 * error(graph, plain.graph, held_out)
    assert reader.read(writer.write(found.graph)) == found.graph


def test_what_is_written_is_what_litert_runs() -> None:
    models = []
    lowest = 0
    for graph in (chain(), chain("int8"), everything(3)):
        found = made(graph, "hessian", smooth(graph, 8))
        content = writer.write(found.graph)
        assert reader.read(content) == found.graph
        lowest = min(lowest, *(int(v.data.min()) for v in found.graph.values if v.type.dtype == "int4"))
        types = [[each[name] for name in each.inputs] for each in (graph, found.graph)]
        models += [(content, transfer(sample, *types)) for sample in smooth(graph, 3, seed=2)]
    for (content, given), answer in zip(models, judge(models), strict=True):
        assert not isinstance(answer, str), answer
        np.testing.assert_array_equal(reference.run(reader.read(content), *given)[0], answer[0])
    assert lowest == -8  # all sixteen codes


def test_what_need_not_be_rounded_stays() -> None:
    """int8 holds the integers of these weights; so nothing changes but biases, and those only where inputs did."""
    graph = chain()
    text = 'activations.dtype = "int8"\nweights.dtype = "int8"'
    plain, found = (made(graph, how, smooth(graph, 8), text) for how in ("none", "hessian"))
    for name in ("first/w", "deep/w", "left/w", "right/w", "logits/w"):
        if not any(trace.exact.rescaled.any() for trace in plain.traces if trace.weights == name):
            assert plain.graph[name] == found.graph[name]


def test_losses_and_bounds_are_no_longer_promised() -> None:
    graph = chain()
    text = 'activations.dtype = "int8"\nactivations.symmetric = true\nweights.dtype = "int8"'
    plain, found = (made(graph, how, smooth(graph, 8), text) for how in ("none", "hessian"))
    before = {layer.name: layer for layer in plain.layers}
    losses = []
    for trace, layer in (
        (trace, layer) for trace in found.traces for layer in found.layers if layer.name == trace.origin
    ):
        same = plain.graph.producers[trace.name], found.graph.producers[trace.name]
        equal = all(
            plain.graph[str(a)] == found.graph[str(b)] for a, b in zip(same[0].inputs, same[1].inputs, strict=True)
        )
        assert layer == before[layer.name] if equal else layer.bound is None
        losses.append(layer.loss)
        assert (layer.loss == "corrected") == (not equal and before[layer.name].loss == "exact")
    assert losses


def test_without_data_the_report_says_that_inputs_were_made_up() -> None:
    graph = chain()
    assert "made-up inputs" in made(graph, "hessian", None).notes[-1]
    assert "on 8 samples" in made(graph, "hessian", smooth(graph, 8)).notes[-1]
    assert not made(graph, "none", smooth(graph, 8)).remarks
    skipped = made(graph, "hessian", None, FOUR_BITS + 'recover.without_data = "skip"')
    assert skipped.graph == made(graph, "none", None).graph
    assert "(convert data, batch calibrate) loses much less" in skipped.notes[-1]


def test_equal_samples_give_equal_files() -> None:
    graph = chain()
    files = [writer.write(made(graph, "adaptive", smooth(graph, 8)).graph) for _ in range(2)]
    assert files[0] == files[1]


def test_convolutions_are_run_to_one_code() -> None:
    graph = everything(4)
    (sample,) = smooth(graph, 1)
    stream, exact = Stream(graph, [sample]), dict(reference.run_every(graph, *sample))
    given = {name: exact[name] for name in graph.inputs}
    for op in stream.graph.ops:
        stream._held.update({str(n): [exact[str(n)]] for n in op.inputs if n is not None and str(n) in stream._held})
        stream.step()
        if stream.holds(op.name):
            found = stream.of(op.name, 0)
            assert found is not None
            assert np.abs(found.astype(int) - exact[op.name].astype(int)).max() <= 1
            assert (found != exact[op.name]).mean() < 0.02
    assert given


@pytest.mark.parametrize(("levels", "ends"), [(16, (-8, 7)), (8, (-4, 3)), (4, (-2, 1)), (3, (-1, 1))])
def test_levels(levels: int, ends: tuple[int, int]) -> None:
    graph = chain()
    text = f'interface = "scheme"\nactivations.dtype = "int8"\nweights.dtype = "int8"\nweights.levels = {levels}'
    for how in ("none", "hessian"):
        new = made(graph, how, smooth(graph, 8), text).graph
        for name in ("first/w", "deep/w", "left/w", "logits/w"):
            codes = new[name].data
            assert ends[0] <= codes.min()
            assert codes.max() <= ends[1]
    with pytest.raises(Unchanged):
        made(new, "none", None, text)


@pytest.mark.parametrize(
    "text",
    [
        'activations.dtype = "int8"\nweights.dtype = "int4"\nweights.levels = 17',
        'activations.dtype = "int8"\nweights.dtype = "int8"\nweights.levels = 2',
        'activations.dtype = "int8"\nweights.dtype = "int8"\nweights.levels = 7.5',
        'activations.dtype = "int8"\nweights.dtype = "int4"\nweights.block = 32',
        'activations.dtype = "float32"\nweights.dtype = "int4"\nweights.block = 33',
    ],
)
def test_levels_and_blocks_that_there_are_not(text: str) -> None:
    with pytest.raises(SchemeError, match=r"levels|block"):
        scheme.parse(text, "tested")


@pytest.mark.parametrize("how", ["hessian", "adaptive"])
@pytest.mark.parametrize("codes", [[7], [7, 7], [0, 0, 0], [3, 200]])
def test_few_samples_and_equal_ones(how: str, codes: Sequence[int], digits: Path) -> None:
    # Inputs that do not change have a covariance of rounding errors alone.
    pictures = np.random.default_rng(1).integers(0, 17, (1, 8, 8, 1), dtype=np.uint8)
    samples = np.concatenate([pictures + np.uint8(code) for code in codes])
    asked = scheme.parse(f'{FOUR_BITS}recover.reconstruct = "{how}"\n', "few")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = tflite2q.convert(tflite2q.load(digits), asked, data=samples)
    x = transfer([samples[:1]], [tflite2q.load(digits)["input"]], [found.graph[found.graph.inputs[0]]])
    assert np.isfinite(reference.run(found.graph, *x)[0]).all()


def test_covariances_of_rounding_errors_have_factors() -> None:
    for seed in range(60):
        random = np.random.default_rng(seed)
        x = np.repeat(random.normal(size=(1, 1, 24)), 3, 1).astype(np.float32)
        sums = Sums()
        sums.add(x, np.ones((1, 3, 2), np.float32))
        h = Moments.of(sums, True).damped(DAMPING)
        factor = Order.of(h).factor
        assert np.isfinite(factor).all() and (np.diagonal(factor, axis1=1, axis2=2) > 0).all()
        assert np.isfinite(compensated((sums, sums), True, np.ones((1, 24, 2)))).all()


def test_covariances_that_are_fine_are_taken_as_they_are() -> None:
    seen: list[Any] = []
    h = np.eye(3)[None]
    assert steadied(h, lambda m: seen.append(m) or m) is h
    with pytest.raises(UnsupportedError, match="too large to reconstruct"):
        steadied(np.full((1, 3, 3), np.nan), np.linalg.cholesky)
