"""Models with several signatures, each of a subgraph of its own: one is the model, the others are kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import Net
from surroundings import Outcome

import tflite2q
from tflite2q.dialect.graph import Graph, Signature
from tflite2q.dialect.text import parse_graph, print_graph
from tflite2q.errors import UsageError
from tflite2q.execution import reference
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.writer import write

CHILD = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

model, key, given, taken = sys.argv[1:]
interpreter = Interpreter(model_path=model, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
np.save(taken, interpreter.get_signature_runner(key)(x=np.load(given))["y"])
"""


def part(key: str, seed: int) -> Graph:
    net = Net(seed=seed)
    x = net.input("x", (1, 6), (0.05, 120))
    y = net.dense(x, "hidden", 8, (0.3, 100), activation="RELU")
    return net.graph(net.dense(y, "y", 4, (0.9, 128)), signatures=(Signature(key, (("x", "x"),), (("y", "y"),)),))


def model() -> bytes:
    parts = [part(key, seed) for seed, key in enumerate(("encode", "decode", "score"))]
    return write(parts[0].with_(others=tuple(parts[1:])))


def litert(data: bytes, key: str, x: Any, folder: Path) -> Any:
    paths = [folder / name for name in ("m.tflite", "x.npy", "y.npy")]
    paths[0].write_bytes(data)
    np.save(paths[1], x)
    command = [sys.executable, "-c", CHILD, str(paths[0]), key, str(paths[1]), str(paths[2])]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return np.load(paths[2])


X = np.random.default_rng(0).integers(0, 256, (1, 6), np.uint8)


@pytest.mark.parametrize(("key", "place"), [("encode", 0), ("decode", 1), ("score", 2)])
def test_one_is_converted_the_others_stay(key: str, place: int, tmp_path: Path) -> None:
    data = model()
    graph = read(data, signature=key)
    assert graph.place == place and [s.key for s in graph.signatures] == [key] and len(graph.others) == 2
    assert write(graph) == data and parse_graph(print_graph(graph)) == graph
    np.testing.assert_array_equal(reference.run(graph, X)[0], litert(data, key, X, tmp_path))
    new = tflite2q.convert(graph, "symmetric-int8").graph
    written = write(new)
    assert read(written, signature=key) == new
    for other in ("encode", "decode", "score"):
        expected = reference.run(new if other == key else read(data, signature=other), X)[0]
        np.testing.assert_array_equal(litert(written, other, X, tmp_path), expected)


def test_the_first_subgraph_is_the_model_unless_a_signature_is_given() -> None:
    graph = read(model())
    assert graph == read(model(), signature="encode")
    assert graph.notes == ("2 further subgraphs are kept unchanged; signature chooses 'decode', 'score'",)


def test_an_unknown_signature_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no signature 'x'; its signatures: 'encode', 'decode', 'score'"):
        read(model(), signature="x")


def test_commands_choose_a_signature(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    path, x, y = tmp_path / "model.tflite", tmp_path / "x.npy", tmp_path / "y.npy"
    path.write_bytes(model())
    np.save(x, X)
    assert cli("run", path, "--signature", "score", "--input", x, "--output", y).code == 0
    np.testing.assert_array_equal(np.load(y)[0], reference.run(read(model(), signature="score"), X)[0])
    new = tmp_path / "new.tflite"
    assert cli("convert", path, "--signature", "score", "--scheme", "int8", "-o", new).code == 0
    done = cli("compare", path, new, "--signature", "score", "--layer-samples", 0)
    assert done.code == 0 and "LiteRT did not run the original model: it runs the file's first subgraph" in done.out
    assert cli("inspect", path, "--signature", "other").code == 2
