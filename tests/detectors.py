"""SSD-like detectors in the style of the old converter: uint8 throughout, clamps left to the range, and the
post-processing a custom operator."""

from __future__ import annotations

from typing import Any

import numpy as np
from networks import Net

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Values
from tflite2q.dialect.ops.detection import DetectionPostprocess
from tflite2q.dialect.ops.lookup import Lookup
from tflite2q.dialect.ops.shape import Concat, Reshape
from tflite2q.dialect.types import Quantization, TensorType, Value

SIZE = 32
BOX = (0.07, 130)  # scale and zero point of the coded boxes
SCORE = (1 / 256, 0)
SPREAD = 24  # of weights, of which 127 would drive every score to one of its ends


def anchors(grids: tuple[int, ...], aspects: int) -> np.ndarray:
    """[n, 4] as (y, x, h, w) in parts of the image: `aspects` anchors at each place of square grids."""
    rows = []
    for grid in grids:
        for place in range(grid * grid):
            y, x = divmod(place, grid)
            for aspect in range(aspects):
                stretch = (1.0, 0.6, 1.6)[aspect % 3]
                rows.append(((y + 0.5) / grid, (x + 0.5) / grid, 1.2 / grid * stretch, 1.2 / grid / stretch))
    return np.array(rows)


def ssd(seed: int = 0, classes: int = 5, background: int = 1, aspects: int = 3, **options: Any) -> Graph:
    """Two feature maps, a head of boxes and one of classes on each, joined; `options` of the post-processing."""
    net = Net(seed=seed)
    x = net.input("image", (1, SIZE, SIZE, 3), (1 / 128, 128))
    y = net.conv(x, "stem", 8, (6 / 255, 0), size=3, spread=SPREAD, stride_h=2, stride_w=2)
    y = net.depthwise(y, "deep", (6 / 255, 0), spread=SPREAD, stride_h=2, stride_w=2)
    first = net.conv(y, "first", 16, (6 / 255, 0), spread=SPREAD)
    second = net.conv(first, "second", 24, (6 / 255, 0), size=3, spread=SPREAD, stride_h=2, stride_w=2)
    maps = [_halved(net, name, value) for name, value in (("near", first), ("far", second))]
    entries = classes + background
    boxes = [_head(net, f"{name}/boxes", value, aspects, 4, BOX) for name, value in maps]
    logits = [_head(net, f"{name}/classes", value, aspects, entries, (0.09, 150)) for name, value in maps]
    grids = tuple(net.shape(value)[1] for _, value in maps)
    count = sum(grid * grid for grid in grids) * aspects
    joined = _joined(net, "boxes", boxes, (1, count, 4), BOX)
    together = _joined(net, "logits", logits, (1, count, entries), (0.09, 150))
    scores = net.value("scores", (1, count, entries), SCORE)
    net.op(Lookup(inputs=(together,), outputs=(scores,), function="LOGISTIC"))
    table = anchors(grids, aspects)
    step = float(np.float32(table.max() / 255))
    codes = net.constant("anchors", np.rint(table / step).astype(np.uint8), Quantization.per_tensor(step, 0))
    return _detected(net, (joined, scores, codes), classes, options)


def _halved(net: Net, name: str, x: str) -> tuple[str, str]:
    return name, net.conv(x, f"{name}/features", 16, (6 / 255, 0), size=3, spread=SPREAD, stride_h=2, stride_w=2)


def _head(net: Net, name: str, x: str, aspects: int, depth: int, q: tuple[float, int]) -> str:
    """A 1x1 convolution whose channels are `aspects` rows of `depth`."""
    grid = net.shape(x)[1]
    y = net.conv(x, name, aspects * depth, q, spread=SPREAD)
    flat = net.same(y, f"{name}/rows", (1, grid * grid * aspects, depth))
    return net.op(Reshape(inputs=(y,), outputs=(flat,), new_shape=net.shape(flat)))


def _joined(net: Net, name: str, parts: list[str], shape: tuple[int, ...], q: tuple[float, int]) -> str:
    net.value(name, shape, q)
    return net.op(Concat(inputs=tuple(parts), outputs=(name,), axis=1))


def _detected(net: Net, operands: tuple[str, str, str], classes: int, options: dict[str, Any]) -> Graph:
    settings = {"max_detections": 10, "num_classes": classes, "score_threshold": 0.3} | options
    names = tuple(f"detection{index}" for index in range(4))
    op = DetectionPostprocess(inputs=operands, outputs=names, **settings)
    ins = Values(op, (net.values[name] for name in operands))
    for name, shape in zip(names, op.infer(ins, ()), strict=True):
        net.values[name] = Value(name, TensorType(shape, "float32"))
    net.ops.append(op)
    return net.graph(*names)
