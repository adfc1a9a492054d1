"""Sparse constants to dense ones.

A sparse tensor's elements are stored level by level, as `SparsityParameters` describe: axes in an order of traversal,
some of them cut into blocks whose axes come last, each level dense or with the indices that are there (CSR).  Source:
TFLite's schema.fbs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.types import STORAGE
from tflite2q.flatbuffer.records import ModelRecord, SubgraphRecord, TensorRecord

Numbers = npt.NDArray[np.int64]

MOST_GROWTH, SMALL = 64, 1 << 20  # bytes that constants may unpack to: so many times those stored, beside a few
DENSE = 0  # format of a level


class _Malformed(Exception):
    """The description contradicts itself or the data."""


def densified(model: ModelRecord) -> ModelRecord:
    """rewrite: sparse constants become dense; a DENSIFY of one goes, and its result is the constant.

    What cannot be unpacked stays as it is.
    """
    if not any(tensor.beyond.get("Sparsity") for graph in model.subgraphs for tensor in graph.tensors):
        return model
    buffers = list(model.buffers)
    room = MOST_GROWTH * sum(len(data) for data in buffers) + SMALL
    subgraphs = []
    for graph in model.subgraphs:
        tensors = list(graph.tensors)
        for index, tensor in enumerate(tensors):
            data = _unpacked(tensor, buffers, room)
            if data is not None:
                room -= len(data)
                tensors[index] = replace(tensor, buffer=len(buffers), problem=None, beyond={})
                buffers.append(data)
        subgraphs.append(_without_densify(model, replace(graph, tensors=tuple(tensors))))
    return replace(model, buffers=tuple(buffers), subgraphs=tuple(subgraphs))


def _without_densify(model: ModelRecord, graph: SubgraphRecord) -> SubgraphRecord:
    tensors, operators = list(graph.tensors), []
    for op in graph.operators:
        named = 0 <= op.code < len(model.codes) and model.codes[op.code].name == "DENSIFY"
        single = named and len(op.inputs) == len(op.outputs) == 1
        if not single or not _in_range(len(tensors), (*op.inputs, *op.outputs)):
            operators.append(op)
            continue
        source, target = tensors[op.inputs[0]], tensors[op.outputs[0]]
        known = source.problem is None and source.dtype == target.dtype and op.inputs[0] not in graph.inputs
        if not known or target.problem is not None or not len(model.buffers) or source.buffer < len(model.buffers):
            operators.append(op)
            continue
        tensors[op.outputs[0]] = replace(target, buffer=source.buffer, shape=source.shape, shape_signature=None)
    return replace(graph, tensors=tuple(tensors), operators=tuple(operators))


def _in_range(count: int, indices: Sequence[int]) -> bool:
    return all(0 <= index < count for index in indices)


def _unpacked(tensor: TensorRecord, buffers: Sequence[bytes | memoryview], room: int) -> bytes | None:
    """The dense bytes of a sparse constant; None for other tensors, and where they would not fit in `room`."""
    sparsity = tensor.beyond.get("Sparsity")
    stored = 0 < tensor.buffer < len(buffers) and len(buffers[tensor.buffer]) > 0
    if not sparsity or tensor.variable or not stored or tensor.dtype not in STORAGE or tensor.dtype == "int4":
        return None
    if not set(tensor.beyond) <= {"Sparsity", "Quantization"} or tensor.beyond.get("Quantization", {}).get("details"):
        return None
    dtype = np.dtype(STORAGE[tensor.dtype])
    size = float(np.prod(np.array(tensor.shape, np.float64))) * dtype.itemsize
    if min(tensor.shape, default=0) < 1 or size > room:
        return None
    data = buffers[tensor.buffer]
    try:
        values = np.frombuffer(data, dtype)
        return dense(values, tensor.shape, sparsity).tobytes()
    except (_Malformed, KeyError, IndexError, ValueError, TypeError, OverflowError):
        return None


def dense(values: npt.NDArray[Any], shape: Sequence[int], sparsity: Mapping[str, Any]) -> npt.NDArray[Any]:
    """The tensor of `shape` whose stored elements are `values`.  Raises errors of many kinds where they do not fit."""
    order, blocks = sparsity["traversal_order"], sparsity.get("block_map", [])
    levels = sparsity["dim_metadata"]
    rank = len(shape)
    if sorted(order) != list(range(rank + len(blocks))) or len(levels) != len(order):
        raise _Malformed("an order that does not name every axis once")
    if len(set(blocks)) != len(blocks) or not _in_range(rank, blocks):
        raise _Malformed("blocks of axes that do not exist")
    place: Numbers = np.zeros(1, np.int64)
    columns: list[Numbers] = []
    for level in levels:
        place, columns = _expanded(level, place, columns, math.prod(shape))
    if place.size != values.size or (place.size and not (place.min() >= 0 and place.max() < values.size)):
        raise _Malformed("another number of elements")
    by_axis = dict(zip(order, columns, strict=True))
    index = [by_axis[axis] for axis in range(rank)]
    for number, axis in enumerate(blocks):
        width = int(levels[order.index(rank + number)].get("dense_size", 0))
        index[axis] = index[axis] * width + by_axis[rank + number]
    for axis, extent in enumerate(shape):
        if index[axis].size and not (index[axis].min() >= 0 and index[axis].max() < extent):
            raise _Malformed("an index beyond the shape")
    result = np.zeros(tuple(shape), values.dtype)
    result[tuple(index)] = values[place]
    return result


def _expanded(
    level: Mapping[str, Any], place: Numbers, columns: list[Numbers], most: int
) -> tuple[Numbers, list[Numbers]]:
    """Places in the next level and the indices of the axes so far, one for each element of it that is stored."""
    if level.get("format", DENSE) == DENSE:
        size = int(level.get("dense_size", 0))
        if size < 1 or place.size * size > most:
            raise _Malformed("more elements than the tensor has")
        inner = np.tile(np.arange(size), place.size)
        parent = np.repeat(np.arange(place.size), size)
        return place[parent] * size + inner, [*(column[parent] for column in columns), inner]
    segments, indices = (np.array(level[name][1]["values"], np.int64) for name in ("array_segments", "array_indices"))
    first, last = segments[place], segments[place + 1]
    if (last < first).any() or (first < 0).any() or (last > indices.size).any() or (last - first).sum() > most:
        raise _Malformed("segments that are none")
    counts = last - first
    parent = np.repeat(np.arange(place.size), counts)
    start = np.cumsum(counts) - counts
    found = np.arange(int(counts.sum())) - start[parent] + first[parent]
    return found, [*(column[parent] for column in columns), indices[found]]
