"""The loss of each layer, with a bound on the error of its results."""

from __future__ import annotations

from dataclasses import dataclass

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import TensorType
from tflite2q.rewrites.decide import Decisions
from tflite2q.rewrites.plan import activations_of
from tflite2q.rewrites.weights import NewWeights


@dataclass(frozen=True)
class LayerChange:
    """The effect of a conversion on one op of the original.

    `loss`: "exact" (same integers, same grid), "rescaled" (`channels_rescaled` of `channels` weight channels lost
    precision), "corrected" (only its bias changed, which makes up for errors of earlier layers), "requantized" (the
    result has another grid), "quantized" (the result, or the weights of a float32 layer, were real numbers),
    "dequantized" (the result, or such weights, are real numbers now), None (unchanged: nothing of it is quantized, or
    it cannot follow the scheme).  `bound` is how far a result can be from the original's for equal real inputs, in
    steps of the new result (None: there is no bound within its range, or the layer was reconstructed).  `clamp` is the
    clamp added because only the range of the original's codes limited the result; `stays` why the op could not follow
    the scheme.
    """

    name: str
    op: str
    loss: str | None
    channels: int | None = None
    channels_rescaled: int | None = None
    bound: float | None = None
    clamp: str | None = None
    stays: str | None = None


def change(op: Op, old: Graph, decided: Decisions, channels: tuple[int, int] | None) -> LayerChange:
    """The loss of `op` of graph `old`, without its bound.

    `channels` is the number of channels of its new weights and how many of them lost precision (None: the weights
    stay).
    """
    stays = decided.own.stays(op, old)
    total, rescaled = channels or (None, None)
    weights = decided.own.real(op, old)
    if weights is not None:
        loss = real_loss(weights.type, decided.own.layer(op).weights.dtype, bool(rescaled))
        return LayerChange(op.name, op.mnemonic, loss, *((total, rescaled) if loss else (None, None)), stays=stays)
    if not activations_of(op, old):
        return LayerChange(op.name, op.mnemonic, None, stays=stays)
    changed = loss_class(old[op.name].type, decided.result(op, old), bool(rescaled))
    if decided.provisional:
        changed = "quantized"
    clamp = decided.kept.get(decided.inner(op))
    return LayerChange(op.name, op.mnemonic, changed, total, rescaled, None, str(clamp) if clamp else None, stays)


def loss_class(result: TensorType, now: TensorType, rescaled: bool) -> str:
    """The loss of a layer whose result was `result` and is `now`; `rescaled` if some of its weights lost precision."""
    if result.quantized and not now.quantized:
        return "dequantized"
    if result.quantized and now.scale != result.scale:
        return "requantized"
    return "rescaled" if rescaled else "exact"


def real_loss(weights: TensorType, dtype: str, rescaled: bool) -> str | None:
    """The loss of a layer of real numbers whose `weights` become `dtype`; None for real weights that stay."""
    if not weights.quantized:
        return None if dtype == "float32" else "quantized"
    if dtype == "float32":
        return "dequantized"
    return "rescaled" if rescaled else "exact"


def bound(op: Op, old: Graph, decided: Decisions, weights: NewWeights | None) -> float | None:
    """Steps of the new result by which it can differ, given equal real inputs: the weights' error on the largest
    input, half a step of each grid, and nothing where neither dtype nor grid nor weights changed.

    None for real numbers, and for a bound that says nothing because any two codes of the type are nearer.
    """
    result, now = old[op.name].type, decided.result(op, old)
    if not (result.quantized and now.quantized):
        return None
    steps = 0.0
    if now.scale != result.scale:
        steps += 0.5 + 0.5 * result.scale / now.scale
    elif now != result:
        steps += 1.0  # TFLite's uint8 and int8 kernels round some ties and multipliers differently
    if weights is not None and weights.rescaled.any() and op.source is not None:
        x = old[op.source].type
        reach = max(abs(code - x.zero_point) for code in x.range) * x.scale
        steps += weights.largest * reach / now.scale + 1.0
    low, high = now.range
    return steps if steps < high - low else None
