"""Whole conversions of real models, judged by LiteRT: its reference kernels agree with ours on every tensor."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from litert import run_litert
from networks import everything
from surroundings import SHARED

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.errors import Unchanged, UnsupportedError
from tflite2q.evaluation import data
from tflite2q.execution import reference
from tflite2q.flatbuffer import reader
from tflite2q.rewrites import Conversion, scheme

SCHEMES = ("asymmetric-uint8", "int8", "symmetric-int8")
MODELS = sorted((SHARED / "models").glob("*.tflite"))
LARGE = 700_000  # bytes, above which most schemes are left to the slow tests


def cases() -> list[Any]:
    """(file stem, scheme, interface) of each model, scheme and interface."""
    found = []
    for path in MODELS:
        for name in SCHEMES:
            slow = [pytest.mark.slow] if path.stat().st_size > LARGE else []
            kept = slow if name == "symmetric-int8" else [pytest.mark.slow]
            found.append(pytest.param(path.stem, name, "keep", marks=kept))
            found.append(pytest.param(path.stem, name, "scheme", marks=slow))
    return found


def convert(path: Path, name: str, interface: str) -> Conversion:
    try:
        return tflite2q.convert(path, name, interface)
    except Unchanged as same:
        # It must be true, not only said: every quantized result inside is what the scheme asks for.
        wanted = scheme.find(name).layer.activations.dtype
        graph = tflite2q.load(path)
        inside = [v for op in graph.ops for v in graph.outs(op) if interface == "scheme" or v.name not in graph.outputs]
        assert {value.type.dtype for value in inside if value.type.quantized} <= {wanted, "int32"}
        pytest.skip(str(same))
    except UnsupportedError as unsupported:
        pytest.skip(str(unsupported))


def has_blocks(graph: Graph, op: Op) -> bool:
    """Whether weights have a scale for each block, which the reference kernels ignore.  test_hybrid judges these."""
    return any(value is not None and value.type.quantized and value.type.parameters.block for value in graph.ins(op))


def assert_judged_equal(graph: Graph, path: Path, seed: int = 0) -> None:
    """LiteRT's reference kernels compute our reference's bits in every tensor; its default kernels take the file.

    Sums of real numbers depend on their order: reals agree to 1e-5 of the largest, and codes behind them to a step.
    """
    (inputs,) = data.synthetic([graph[n] for n in graph.inputs], 1, seed)
    judged = run_litert(path, inputs, "ref", every=True)
    ours = reference.run_every(graph, *inputs)
    results = [name for op in takewhile(lambda op: not has_blocks(graph, op), graph.ops) for name in op.outputs]
    assert results and set(results) <= set(judged)
    in_reals = any(
        graph[op.name].type.dtype == "float32" and op.macs(graph.ins(op), graph.outs(op)) for op in graph.ops
    )
    for name in results:
        expected = judged[name].astype(np.float64)
        tolerance = 0.0
        if in_reals:
            tolerance = 1.0 if graph[name].type.quantized else 1e-5 * float(np.abs(expected).max())
        assert ours[name].dtype == judged[name].dtype
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=tolerance, err_msg=name)
    usual = run_litert(path, inputs, "default")
    assert list(usual) == list(graph.outputs)


@pytest.mark.parametrize(("model", "name", "interface"), cases())
def test_litert_computes_our_bits_on_converted_models(
    model: str, name: str, interface: str, shared: Path, tmp_path: Path
) -> None:
    original = shared / "models" / f"{model}.tflite"
    conversion = convert(original, name, interface)
    path = tmp_path / "converted.tflite"
    conversion.save(path)
    assert reader.load(path) == conversion.graph
    assert_judged_equal(conversion.graph, path)
    before = tflite2q.load(original)
    assert (conversion.graph.inputs, conversion.graph.outputs) == (before.inputs, before.outputs)
    if interface == "keep":
        assert all(before[name] == conversion.graph[name] for name in (*before.inputs, *before.outputs))
    assert [layer.name for layer in conversion.layers] == [op.name for op in before.ops]
    with pytest.raises(Unchanged):
        tflite2q.convert(conversion.graph, name, interface)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["int8", "symmetric-int8"])
def test_litert_computes_our_bits_on_small_networks(name: str, seed: int, tmp_path: Path) -> None:
    graph = everything(seed)
    for interface in ("keep", "scheme"):
        path = tmp_path / f"{interface}.tflite"
        conversion = tflite2q.convert(graph, name, interface)
        conversion.save(path)
        assert_judged_equal(conversion.graph, path, seed)


@pytest.mark.parametrize("name", sorted(set(scheme.shipped()) - set(SCHEMES)))
@pytest.mark.parametrize(
    "model",
    [
        "digits",
        "small",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("mobilenet_v1_0.25_128_quant", "vww_96_int8")),
    ],
)
def test_litert_computes_our_bits_under_every_shipped_scheme(
    model: str, name: str, digits: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A file holds parameters, not the arithmetic of rescaling: it is compared with what it says itself."""
    if model == "small":
        graph = everything(11)
    elif model == "digits":
        graph = tflite2q.load(digits)
    else:
        graph = tflite2q.load(request.getfixturevalue("shared") / "models" / f"{model}.tflite")
    path = tmp_path / "converted.tflite"
    try:
        tflite2q.convert(graph, name).save(path)
    except Unchanged as same:
        assert name == "symmetric-uint8"
        pytest.skip(str(same))
    assert_judged_equal(reader.load(path), path)


def test_types_around_unsupported_operators_stay(shared: Path) -> None:
    before = tflite2q.load(
        shared / "models" / "posenet_mobilenet_v1_075_353_481_16_quant_decoder.tflite", allow_unsupported=True
    )
    after = tflite2q.convert(before, "symmetric-int8").graph
    (old,), (new,) = ([op for op in g.ops if op.mnemonic == "q.opaque"] for g in (before, after))
    assert [after[n].type for n in new.inputs] == [before[n].type for n in old.inputs]
    assert [after[n].type for n in new.outputs] == [before[n].type for n in old.outputs]
    assert {after[op.name].type.zero_point for op in after.ops if op.mnemonic == "q.conv2d"} == {0}


@pytest.mark.parametrize("name", ["int8", "symmetric-int8"])
def test_a_conversion_and_its_way_back_stay_close(name: str, digits: Path, digits_data: tuple[Path, Path]) -> None:
    """uint8 to int8 to uint8: what the first step lost at most doubles; labels hardly move."""
    before = tflite2q.load(digits)
    there = tflite2q.convert(before, name, "scheme").graph
    back = tflite2q.convert(there, "asymmetric-uint8", "scheme").graph
    assert {back[n].type.dtype for n in (*back.inputs, *back.outputs)} == {"uint8"}
    samples = data.load(digits_data[0], [before[n] for n in before.inputs], limit=100)
    agree = 0
    for x in samples:
        (first,), (last,) = reference.run(before, *x), reference.run(back, *x)
        agree += int(first.argmax() == last.argmax())
    assert agree >= 98


def test_layers_report_what_was_lost(shared: Path) -> None:
    """Classes of loss against a recount from the two graphs' constants."""
    before = tflite2q.load(shared / "models" / "mobilenet_v2_1.0_224_quant.tflite")
    conversion = tflite2q.convert(before, "int8")
    for op, layer in zip(before.ops, conversion.layers, strict=True):
        if layer.channels is None:
            continue
        old = before[op.inputs[1]]
        axis = op.channel_axis
        centred = np.moveaxis(old.data.astype(np.int64) - old.type.zero_point, axis, 0)
        widest = np.abs(centred.reshape(centred.shape[0], -1)).max(1)
        assert layer.channels == len(widest)
        assert layer.channels_rescaled == int((widest > 127).sum())
        assert layer.loss == ("rescaled" if layer.channels_rescaled else "exact")
    weighted = [layer for layer in conversion.layers if layer.channels]
    share = sum(layer.channels_rescaled for layer in weighted) / sum(layer.channels for layer in weighted)
    assert 0 < share < 0.05
