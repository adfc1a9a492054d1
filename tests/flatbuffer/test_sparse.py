"""Sparse constants are read as dense ones, equal to what LiteRT's DENSIFY makes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from judge import judge

from tflite2q.errors import UnsupportedError
from tflite2q.execution import reference
from tflite2q.flatbuffer import schema
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.records import ModelRecord, OperatorCode, OperatorRecord, SubgraphRecord, TensorRecord
from tflite2q.flatbuffer.sparse import dense
from tflite2q.flatbuffer.writer import write

Array = np.ndarray[Any, Any]


def vector(numbers: list[int], rng: np.random.Generator) -> list[Any]:
    kinds = ["Int32Vector"] + ["Uint16Vector"] * (max(numbers) < 2**16) + ["Uint8Vector"] * (max(numbers) < 2**8)
    return [kinds[int(rng.integers(len(kinds)))], {"values": numbers}]


def packed(array: Array, rng: np.random.Generator) -> tuple[Array, dict[str, Any]]:
    """The stored elements of `array` and a random description of them: order, blocks, formats of the levels."""
    blocks = [axis for axis, n in enumerate(array.shape) if n % 2 == 0 and rng.random() < 0.4]
    split = array.reshape([e for a, n in enumerate(array.shape) for e in ((n // 2, 2) if a in blocks else (n,))])
    places = np.cumsum([0, *(2 if axis in blocks else 1 for axis in range(array.ndim))])
    outer, inner = [int(p) for p in places[:-1]], [int(places[axis]) + 1 for axis in blocks]
    expanded = split.transpose(outer + inner)
    order = [int(a) for a in rng.permutation(array.ndim)] + [array.ndim + int(b) for b in rng.permutation(len(blocks))]
    moved = expanded.transpose(order)
    formats = [
        int(level < array.ndim and rng.random() < 0.6) for level in range(len(order))
    ]  # LiteRT's blocks are dense
    levels, nodes = [], [moved]
    for chosen in formats:
        size = nodes[0].shape[0] if nodes else 1
        if not chosen or not nodes or not any(node.any() for node in nodes):
            levels.append({"format": 0, "dense_size": size})
            nodes = [part for node in nodes for part in node]
            continue
        kept = [[i for i in range(size) if node[i].any()] for node in nodes]
        segments = np.cumsum([0, *(len(row) for row in kept)]).tolist()
        indices = [i for row in kept for i in row]
        level = {"array_segments": vector(segments, rng), "array_indices": vector(indices, rng)}
        levels.append({"format": 1, "dense_size": size, **level})
        nodes = [node[i] for node, row in zip(nodes, kept, strict=True) for i in row]
    description = {"traversal_order": order, "block_map": blocks, "dim_metadata": levels}
    return np.array([node.item() for node in nodes], array.dtype), description


def drawn(rng: np.random.Generator, dtype: str = "float32") -> Array:
    shape = tuple(int(n) for n in rng.integers(1, 7, rng.integers(1, 5)))
    array = rng.integers(1, 100, shape).astype(dtype)
    return np.where(rng.random(shape) < 0.3, array, 0).astype(dtype)


def densify(array: Array, values: Array, description: dict[str, Any]) -> ModelRecord:
    """DENSIFY of a constant, and the negative of it, so that there is something to compute."""
    kind, shape = array.dtype.name, array.shape
    beyond = {"Sparsity": description}
    tensors = (
        TensorRecord("x", (1,), "float32", 0),
        TensorRecord("sparse", shape, kind, 1, problem="is sparse", beyond=beyond),
        TensorRecord("dense", shape, kind, 0),
        TensorRecord("y", shape, kind, 0),
    )
    operators = (OperatorRecord(0, (1,), (2,)), OperatorRecord(1, (2, 2), (3,), options_type="AddOptions"))
    codes = (OperatorCode("DENSIFY"), OperatorCode("ADD"))
    graph = SubgraphRecord("main", tensors, (0,), (3,), operators)
    return ModelRecord("", codes, (b"", values.tobytes()), (graph,), (), ())


@pytest.mark.parametrize("seed", range(60))
def test_elements_come_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    array = drawn(rng, ("float32", "int8", "float16")[seed % 3])
    values, description = packed(array, rng)
    np.testing.assert_array_equal(dense(values, array.shape, description), array)


def test_densify_as_litert_has_it() -> None:
    made = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        array = drawn(rng)
        made.append((array, schema.encode(densify(array, *packed(array, rng)))))
    x = np.zeros(1, np.float32)
    for (array, data), judged in zip(made, judge([(data, [x]) for _, data in made]), strict=True):
        graph = read(data)
        assert [op.mnemonic for op in graph.ops] == ["q.add"]
        (y,) = reference.run(graph, x)
        np.testing.assert_array_equal(y, 2 * array)
        assert not isinstance(judged, str), judged
        np.testing.assert_array_equal(y, judged[0])
        assert read(write(graph)) == graph


def test_a_small_file_cannot_unpack_to_a_large_tensor() -> None:
    description = {
        "traversal_order": [0],
        "block_map": [],
        "dim_metadata": [
            {
                "format": 1,
                "dense_size": 0,
                "array_segments": ["Uint8Vector", {"values": [0, 1]}],
                "array_indices": ["Uint8Vector", {"values": [3]}],
            }
        ],
    }
    record = densify(np.zeros(8, np.float32), np.ones(1, np.float32), description)
    graph = record.subgraphs[0]
    tensors = [replace(t, shape=(1 << 28,)) if t.name != "x" else t for t in graph.tensors]
    record = replace(record, subgraphs=(replace(graph, tensors=tuple(tensors)),))
    read(schema.encode(densify(np.zeros(8, np.float32), np.ones(1, np.float32), description)))
    with pytest.raises(UnsupportedError, match=r"is sparse|DENSIFY"):
        read(schema.encode(record))
