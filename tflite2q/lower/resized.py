"""Argmax of resized images without the images.

    before: y = resize_bilinear(x); z = argmax(y)
    after:  y = x;                  z = argmax(resize_bilinear(x))

A segmentation network ends so.  The resized map has several times as many elements as anything before it, and only the
argmax reads it.
"""

from __future__ import annotations

from collections.abc import Mapping

from tflite2q.dialect.graph import Graph
from tflite2q.kernels.contracts import (
    ArgMaxContract,
    Contract,
    CopyContract,
    ResizeBilinearContract,
    ResizedArgMaxContract,
)


def merged(graph: Graph, found: Mapping[int, Contract]) -> dict[int, Contract]:
    """Contracts by index of op, with every resize that only an argmax of its channels reads left to that one."""
    contracts = dict(found)
    makers = {name: index for index, op in enumerate(graph.ops) for name in op.outputs[:1]}
    for index, op in enumerate(graph.ops):
        argmax, source = found.get(index), str(op.inputs[0]) if op.inputs else ""
        maker = makers.get(source, -1)
        resize = found.get(maker)
        if not isinstance(argmax, ArgMaxContract) or not isinstance(resize, ResizeBilinearContract):
            continue
        if source not in graph.outputs and graph.consumers[source] == (op,):
            contracts[index] = ResizedArgMaxContract(resize, argmax)
            contracts[maker] = CopyContract(resize.inputs[0])
    return contracts
