"""The layers of a conversion, reconstructed one after the other (docs/reconstruction.md).

Inputs of a layer come from the network whose earlier layers are already rounded, wanted results from the original:
so later layers correct the errors of earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.op import Op, Operands, Tensor
from tflite2q.dialect.ops.eltwise import Add, Dequantize
from tflite2q.dialect.types import Constant, Value
from tflite2q.reconstruction.layer import Outcome, Skip, reconstructed
from tflite2q.reconstruction.rows import Rows
from tflite2q.reconstruction.streams import Stream, most_bytes
from tflite2q.rewrites import Conversion, LayerChange
from tflite2q.rewrites.edit import Editor
from tflite2q.rewrites.traces import Trace, slot_of

Array = npt.NDArray[Any]
Progress = Callable[[str, int, int], None]
MEMORY = 2 << 30  # bytes for the values of both networks; what does not fit is not looked at


@dataclass(frozen=True)
class Change:
    """New constants of the op `name`."""

    name: str
    weights: Value | None
    bias: Value | None


def wanted(conversion: Conversion, data: bool) -> bool:
    """Whether the scheme asks for the reconstruction of any layer, with `data` or without."""
    settings = [trace.exact.settings.recover for trace in conversion.traces]
    return any(each.reconstruct != "none" and (data or each.without_data == "noise") for each in settings)


def reconstruct(
    conversion: Conversion,
    original: Graph,
    samples: Sequence[Sequence[Array]],
    converted: Sequence[Sequence[Array]],
    source: str,
    progress: Progress = lambda *_: None,
) -> Conversion:
    """`conversion` of `original` with its layers reconstructed on `samples`, which are `converted` for the new graph.

    `source` says in the report what the samples are.  Layers that share their weights, and those in branches and loops,
    stay as they are.  Raises DataError for samples that the models do not take.
    """
    graph = conversion.graph
    count = min(len(samples), max(MEMORY // (most_bytes(graph) + most_bytes(original)), 1))
    old, new = Stream(original, samples[:count]), Stream(graph, converted[:count])
    wished = [trace for trace in conversion.traces if trace.exact.settings.recover.reconstruct != "none"]
    traces = _in_order([trace for trace in wished if _possible(trace, old, new, graph)], old, new)
    changes: list[Change] = []
    outcomes: list[Outcome] = []
    for number, trace in enumerate(traces):
        progress("reconstructing layers", number, len(traces))
        new.run(trace.name)
        old.run(trace.origin)
        op = new.graph.ops[new.done]
        outcome = reconstructed(trace, old, new, graph[trace.weights], _skip(trace, old, new), number)
        outcomes.append(outcome)
        changes.append(Change(trace.name, outcome.weights, outcome.bias))
        _install(changes[-1], op, new)
    if not outcomes:
        return conversion
    remark = _remark(outcomes, count, len(samples), source, len(wished) - len(traces))
    touched = {trace.origin for trace, outcome in zip(traces, outcomes, strict=True) if outcome.changed}
    layers = tuple(_touched(layer) if layer.name in touched else layer for layer in conversion.layers)
    made = verify(_changed(graph, changes))
    return replace(conversion, graph=made, layers=layers, remarks=(*conversion.remarks, remark))


def _touched(layer: LayerChange) -> LayerChange:
    """The change of a layer that was reconstructed: it no longer follows its inputs alone."""
    return replace(layer, loss="corrected" if layer.loss == "exact" else layer.loss, bound=None)


def _possible(trace: Trace, old: Stream, new: Stream, graph: Graph) -> bool:
    """Whether a layer can be reconstructed."""
    if trace.exact.settings.weights.dtype == "float32":
        return False
    if trace.name not in new.place or trace.origin not in old.place:
        return False
    op, was = new.graph.ops[new.place[trace.name]], old.graph.ops[old.place[trace.origin]]
    plain = Rows.possible(op) and type(op) is type(was) and op.inputs[1] is not None
    return plain and len(graph.consumers[trace.weights]) == 1 and graph[trace.weights].type.quantization is not None


def _in_order(traces: Sequence[Trace], old: Stream, new: Stream) -> list[Trace]:
    """The layers in the order of execution, without any that the original runs in another order."""
    found: list[Trace] = []
    for trace in sorted(traces, key=lambda trace: new.place[trace.name]):
        if not found or old.place[trace.origin] > old.place[found[-1].origin]:
            found.append(trace)
    return found


def _skip(trace: Trace, old: Stream, new: Stream) -> Skip | None:
    """The addition that alone reads the layer's result, if its other operand is there in both networks."""
    found = []
    if trace.exact.result_gain.size > 1:
        return None
    for stream, name in ((old, trace.origin), (new, trace.name)):
        op = stream.graph.ops[stream.place[name]]
        readers = stream.graph.consumers[name]
        if getattr(op, "activation", "NONE") != "NONE" or len(readers) != 1 or name in stream.graph.outputs:
            return None
        adding = readers[0]
        others = [other for other in adding.inputs if other != name]
        if not isinstance(adding, Add) or len(others) != 1 or others[0] is None or not stream.holds(others[0]):
            return None
        if stream.known[others[0]].type.shape != stream.known[name].type.shape:
            return None
        found.append(others[0])
    return Skip(*found)


def _install(change: Change, op: Op, stream: Stream) -> None:
    """Let the op that is run next use its new constants."""
    for slot, value in ((slot_of(op), change.weights), (slot_of(op, "bias"), change.bias)):
        if slot is None or value is None:
            continue
        name = str(op.inputs[slot])
        if stream.known[name].type.dtype == "float32" and value.type.quantized:  # weights that are dequantized
            plain = stream.known[name]
            cast = Dequantize(inputs=(value.name,), outputs=(name,))
            (data,) = cast.compute(stream.core, Operands(cast, [Tensor(value, value.data)]), [plain])
            value = plain.with_(constant=Constant(np.asarray(data)))
        stream.set(op, slot, value)


def _changed(graph: Graph, changes: Sequence[Change]) -> Graph:
    """`graph` with new constants; a bias that other ops read, too, is copied."""
    editor = Editor(graph)
    names = {change.name: change for change in changes}
    ops = []
    for op in graph.ops:
        change = names.get(op.name)
        if change is not None and change.weights is not None:
            editor.values[change.weights.name] = change.weights
        if change is not None and change.bias is not None:
            slot, name = op.index("bias"), change.bias.name
            if len(graph.consumers[name]) == 1:
                editor.values[name] = change.bias
            else:
                name = editor.add(change.bias, near=name)
            op = op.with_(inputs=(*op.inputs[:slot], name, *op.inputs[slot + 1 :]))
        ops.append(op)
    editor.ops = ops
    return editor.graph()


def _remark(outcomes: Sequence[Outcome], used: int, given: int, source: str, left: int) -> str:
    """A note: what was reconstructed, on which samples, and what it gained."""
    changed = [o for o in outcomes if o.weights is not None and o.before > 0]
    looked = f"{used} of {given} {source}, as many as fit in memory" if used < given else f"{used} {source}"
    text = f"{len(changed)} layers reconstructed on {looked}"
    if changed:
        ratio = float(np.exp(np.mean([np.log(max(o.after, 1e-12) / o.before) for o in changed])))
        text += f"; squared errors of their results are {ratio:.2g} of those of plain rounding (geometric mean)"
    return text + (f"; {left} layers stay as they were rounded" if left else "")
