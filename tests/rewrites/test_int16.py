"""int16x8: every op that has a 16-bit kernel follows, what stays is named, and a second conversion changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from judge import judge
from networks import Net, everything

import tflite2q
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.binary import Prelu
from tflite2q.dialect.ops.normalize import LogSoftmax
from tflite2q.dialect.types import Quantization
from tflite2q.errors import Unchanged
from tflite2q.evaluation import data
from tflite2q.execution import reference
from tflite2q.flatbuffer import reader, writer


def judged(graph: Graph) -> Graph:
    """The graph as it is read from its file, once LiteRT has confirmed its bits."""
    content = writer.write(graph)
    back = reader.read(content)
    (inputs,) = data.synthetic([back[name] for name in back.inputs], 1, seed=5)
    (found,) = judge([(content, inputs)])
    assert not isinstance(found, str), found
    for got, want in zip(found, reference.run(back, *inputs), strict=True):
        np.testing.assert_array_equal(got, want)
    return back


def sloped() -> Graph:
    net = Net(seed=3)
    x = net.input("x", (1, 4, 4, 3), (1 / 16, 128))
    slopes = net.constant("slopes", np.array([[[200, 90, 128]]], np.uint8), Quantization.per_tensor(0.02, 128))
    net.value("prelu", net.shape(x), (0.05, 100))
    return net.graph(net.op(Prelu(inputs=(x, slopes), outputs=("prelu",))))


def test_softmax_and_the_interface_follow() -> None:
    graph = judged(tflite2q.convert(everything(1), "int16x8", "scheme").graph)
    assert {v.type.dtype for v in graph.values if v.constant is None} == {"int16"}
    assert graph["scores"].type.quantization == Quantization.per_tensor(1 / 32768, 0)


def test_slopes_of_prelu_have_8_bits() -> None:
    graph = judged(tflite2q.convert(sloped(), "int16x8", "scheme").graph)
    assert graph["slopes"].type.dtype == "int8"
    assert graph["prelu"].type.dtype == "int16"


@pytest.mark.parametrize("interface", ["keep", "scheme"])
@pytest.mark.parametrize("make", [lambda: everything(1), sloped], ids=["everything", "sloped"])
def test_a_file_converted_once_more_is_unchanged(make: object, interface: str) -> None:
    once = tflite2q.convert(make(), "int16x8", interface).graph  # type: ignore[operator]
    with pytest.raises(Unchanged):
        tflite2q.convert(reader.read(writer.write(once)), "int16x8", interface)


def test_what_must_stay_says_why() -> None:
    net = Net(seed=3)
    x = net.input("x", (1, 6), (0.1, 100))
    net.value("logs", (1, 6), (1 / 16, 255))
    net.op(LogSoftmax(inputs=(net.dense(x, "logits", 6, (0.2, 128)),), outputs=("logs",)))
    layers = {each.name: each.stays for each in tflite2q.convert(net.graph("logs"), "int16x8").layers}
    assert layers == {"logits": None, "logs": "there is no int16 form of LOG_SOFTMAX that tflite2q can write"}


@pytest.mark.parametrize(("name", "expected"), [("int16x8", "INT64"), ("float32", "FLOAT32"), ("int8", "INT32")])
def test_the_stated_type_of_a_bias_follows_it(name: str, expected: str) -> None:
    net = Net(seed=3)
    x = net.input("x", (1, 6), (0.1, 100))
    graph = net.graph(net.dense(x, "y", 4, (0.5, 128)))
    stated = graph.with_(ops=tuple(replace(op, bias_type="INT32") for op in graph.ops))
    converted = judged(tflite2q.convert(stated, name, "scheme").graph) if name != "float32" else None
    (op,) = (converted or tflite2q.convert(stated, name, "scheme").graph).ops[:1]
    assert op.bias_type == expected  # type: ignore[attr-defined]


def test_a_stated_bias_of_a_16_bit_file(shared: Path) -> None:
    path = shared / "cases" / "faults" / "FULLY_CONNECTED-int16_1.tflite"
    if not path.exists():
        pytest.skip("is not there")
    try:
        judged(tflite2q.convert(path, "int16x8", "scheme").graph)
    except Unchanged:
        judged(tflite2q.load(path))
