"""How like the original a conversion answers, and how like it must at least be.

The floors follow from what a scheme does to the grid.  Rounding to b bits over a range of 8 standard deviations leaves
20 log10(2^b sqrt(12) / 8) = 6.02 b - 7.3 dB of signal to noise.  Layers add their noise independently, so the powers of
the noise of all layers that round are summed.  MARGIN_DB is for wider ranges and for what the last layers amplify.

The bits that a scheme changes (BITS):

- A conversion from 8 bits to 8 bits on a grid of the same step rounds no more than the original does: 8 bits.
- The same holds for int16x8 and float32: they hardly round, but the original they are compared with does, and its
  rounding is the difference that is seen.
- symmetric-int8 spends half of its codes on numbers that ReLU outputs never take: 7 bits.
- Scales that are powers of two are up to twice as coarse, symmetric in addition, and so are the weights: 6 bits.
- One scale for all channels of weights costs channels with a quarter of the largest range two bits: 6 bits, where the
  weights had a scale for each channel, or had a zero point that must go.
- 4-bit weights are 4 bits, and n levels are log2(n); fewer than 4 bits promise nothing, and are not judged.

A clamp that is lost leaves outputs that have nothing to do with the original's.  Unrelated signals of equal power
differ by twice that power, -3 dB; an output that is constant has 0 dB; measured were figures up to 1 dB.  No floor lies
below LOWEST_DB.  Many layers of 4-bit weights are as loud as their signal, so their floor may lie lower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, log10, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import Value
from tflite2q.evaluation import coding, tasks
from tflite2q.evaluation.tasks.keypoints import Keypoints
from tflite2q.rewrites.scheme import Layer, Scheme

Array = npt.NDArray[Any]

MARGIN_DB = 10.0
LOWEST_DB, LOWEST_DB_4_BITS = 3.0, -1.0
UNJUDGED_DB = -99.0
# (bits, share): of the answers of networks that work, 90 % and more stay the same with 8 or 7 bits, about 80 % with 6
# and 20 % with 4; lost clamps leave 1 %.
SHARES = ((7.0, 0.75), (6.0, 0.5), (4.0, 0.25), (0.0, 0.0))
# Softmax makes much of little noise, so classes may speak for scores; not where the noise is far beyond the scheme's.
CLASSES_DB = 10.0
CLASSES = 10  # with fewer, outputs that are unrelated often agree
IOU = 0.5  # boxes that share this much of their union show the same thing


@dataclass(frozen=True)
class Likeness:
    """One figure and the least it may be: `kind` is "dB", or "top-1", "boxes", "keypoints" or "equal" (shares of 1, of
    so many `samples`)."""

    kind: str
    figure: float
    floor: float
    samples: int
    before: str = ""  # another figure, in words, that was not enough

    @property
    def good(self) -> bool:
        return self.figure >= self.floor

    @property
    def undecided(self) -> bool:
        """Whether so few samples leave it open on which side of the floor the share lies: two standard errors."""
        if self.kind == "dB":
            return False
        if not self.samples:
            return True
        return abs(self.figure - self.floor) < 2 * sqrt(self.figure * (1 - self.figure) / self.samples)

    @property
    def words(self) -> str:
        if self.kind == "dB":
            return f"{self.figure:.1f} dB (floor {self.floor:.1f})"
        return f"{self.before}{self.kind} {self.figure:.0%} (floor {self.floor:.0%})"


def bits(layer: Layer, weights: Value | None) -> float:
    """Bits of precision by which a layer of a scheme can differ from the 8-bit original's; see the head of this file.

    `weights` are the original's, None for a layer without.
    """
    found = [8.0]
    if layer.activations.dtype in ("int8", "uint8") and layer.activations.symmetric:
        found.append(7.0)
    if layer.activations.scale == "power-of-two":
        found.append(6.0)
    if weights is not None and weights.type.quantized and layer.weights.dtype != "float32":
        if layer.weights.dtype == "int4":
            found.append(4.0)
        if layer.weights.levels:
            found.append(log2(layer.weights.levels))
        parameters = weights.type.parameters
        anew = len(parameters.scale) > 1 or (layer.weights.symmetric and not parameters.symmetric)
        if layer.weights.granularity == "per-tensor" and anew:
            found.append(6.0)
    return min(found)


def precisions(graph: Graph, scheme: Scheme) -> list[float]:
    """The bits of each layer that rounds sums or products, at least one."""
    layers, found = scheme.layers(graph), []
    for op in graph.ops:
        operands = graph.ins(op)
        if op.name in layers and (op.macs(operands, graph.outs(op)) or hasattr(op, "rescale")):
            weights = next((v for k, v in enumerate(operands) if v and op.operand(k).role == "weights"), None)
            found.append(bits(layers[op.name], weights))
    return found or [bits(scheme.layer, None)]


def floor_db(found: Sequence[float]) -> float:
    """The least signal to noise, in dB, that layers of so many bits excuse."""
    if min(found) < 4:
        return UNJUDGED_DB
    noise = sum(10 ** (-(6.02 * each - 7.3) / 10) for each in found)
    lowest = LOWEST_DB_4_BITS if min(found) <= 4 else LOWEST_DB
    return max(lowest, -10 * log10(noise) - MARGIN_DB)


def share_floor(precision: float) -> float:
    """The least share of answers (classes, boxes, integers) that stay."""
    return next(share for least, share in SHARES if precision >= least)


def judge(
    before: Graph,
    after: Graph,
    original: Sequence[Sequence[Array]],
    converted: Sequence[Sequence[Array]],
    scheme: Scheme,
) -> list[Likeness]:
    """Every output's likeness over samples (outer) of outputs (inner), the one that decides for it."""
    per_layer, count = precisions(before, scheme), len(original)
    precision, floor = min(per_layer), floor_db(per_layer)
    points = _keypoints(before, original, converted, after)
    if points is not None:
        moved, number = points
        return [Likeness("keypoints", moved, share_floor(precision), number)]
    boxes = _detection(before)
    found = []
    if boxes is not None:
        share = [_matched(a, b, boxes) for a, b in zip(original, converted, strict=True)]
        found.append(Likeness("boxes", float(np.mean(share)), share_floor(precision), count))
    for index, (first, second) in enumerate(zip(before.outputs, after.outputs, strict=True)):
        if boxes is not None and index in boxes:
            continue
        a = np.stack([sample[index] for sample in original])
        b = np.stack([sample[index] for sample in converted])
        found.append(_output(a, b, before[first], after[second], floor, precision))
    return found


def _output(a: Array, b: Array, value: Value, other: Value, floor: float, precision: float) -> Likeness:
    """One output over samples, the first axis."""
    if a.dtype.kind in "iub" and not value.type.quantized:
        return Likeness("equal", float(np.mean(a == b)), share_floor(precision), len(a))
    x, y = _real(a, value), _real(b, other)
    figure = ratio_db(x, y, max(_step(value), _step(other)))
    if (
        floor - CLASSES_DB <= figure < floor
        and value.type.shape[-1:] >= (CLASSES,)
        and value.type.size == value.type.shape[-1]
    ):
        same = float(np.mean(x.reshape(len(x), -1).argmax(1) == y.reshape(len(y), -1).argmax(1)))
        return Likeness("top-1", same, share_floor(precision), len(a), f"{figure:.1f} dB (floor {floor:.1f}), ")
    return Likeness("dB", figure, floor, len(a))


def ratio_db(x: Array, y: Array, step: float) -> float:
    """Power of `x` about its mean over that of the difference, in dB, at most 99; 99 where no element is a step off.

    About the mean, because a constant carries nothing; without a step, 99 only where the two are equal.
    """
    apart = np.abs(x - y)
    if not np.all(np.isfinite(apart)):
        return -99.0
    if float(apart.max(initial=0.0)) <= step * 1.001:
        return 99.0
    noise = float(np.mean(np.square(apart)))
    signal = float(np.mean(np.square(x - x.mean())))
    return float(np.clip(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30)), -99, 99))


def _real(codes: Array, value: Value) -> Array:
    return np.stack([coding.real(sample, value) for sample in codes]).astype(np.float64)


def _step(value: Value) -> float:
    kind = value.type
    return max(kind.parameters.scale) if kind.quantized else 0.0


def _keypoints(
    before: Graph, original: Sequence[Sequence[Array]], converted: Sequence[Sequence[Array]], after: Graph
) -> tuple[float, int] | None:
    """The share of the keypoints found by the original that stay in their place, and their number; None for other
    models.  Keypoints that are not found are anywhere: the place of the largest of many small numbers."""
    values, others = ([graph[name] for name in graph.outputs] for graph in (before, after))
    task, _ = tasks.choose([before[name] for name in before.inputs], values, before)
    if not isinstance(task, Keypoints):
        return None
    pairs = [
        task.agreement(task.decode(a, values), task.decode(b, others)) for a, b in zip(original, converted, strict=True)
    ]
    number = int(sum(of for _, of in pairs))
    return sum(same for same, _ in pairs) / max(number, 1), number


def _detection(graph: Graph) -> tuple[int, int, int, int] | None:
    """Places of boxes, classes, scores and count among the outputs of a detector."""
    for op in graph.ops:
        if op.builtin.name == "TFLite_Detection_PostProcess" and all(name in graph.outputs for name in op.outputs):
            a, b, c, d = (graph.outputs.index(name) for name in op.outputs[:4])
            return a, b, c, d
    return None


def _matched(before: Sequence[Array], after: Sequence[Array], places: tuple[int, int, int, int]) -> float:
    """The share of the original's detections that the conversion has too: same class, IOU of the union shared."""
    (boxes, classes), (others, kinds) = _found(before, places), _found(after, places)
    if not len(boxes):
        return float(not len(others))
    free, hits = list(range(len(others))), 0
    for box, kind in zip(boxes, classes, strict=True):
        near = [i for i in free if kinds[i] == kind and _iou(box, others[i]) >= IOU]
        if near:
            hits += 1
            free.remove(max(near, key=lambda i: _iou(box, others[i])))
    return hits / len(boxes)


def _found(outputs: Sequence[Array], places: tuple[int, int, int, int]) -> tuple[Array, Array]:
    boxes, classes, _, count = (outputs[place] for place in places)
    number = int(count.reshape(-1)[0])
    return boxes.reshape(-1, 4)[:number], classes.reshape(-1)[:number]


def _iou(a: Array, b: Array) -> float:
    """Shared area over joint area of two boxes (top, left, bottom, right)."""
    height, width = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    inner = max(0.0, float(height)) * max(0.0, float(width))
    area = [max(0.0, float(box[2] - box[0])) * max(0.0, float(box[3] - box[1])) for box in (a, b)]
    return inner / (sum(area) - inner) if sum(area) > inner else float(np.array_equal(a, b))
