"""rewrite: a subgraph that an operator does nothing but run stands in the operator's place.

before: y = STABLEHLO_COMPOSITE 1 (x)            subgraph 1: (a) -> (c):  b = MUL(a, a);  c = ADD(b, a)
after:  b = MUL(x, x);  y = ADD(b, x)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tflite2q.dialect.ops import BY_BUILTIN
from tflite2q.errors import ModelError, UnsupportedError
from tflite2q.flatbuffer.records import ModelRecord, OperatorRecord, SubgraphRecord, TensorRecord
from tflite2q.flatbuffer.variables import called, renumbered

# The option that names the subgraph, by the operator that runs it once, on its operands, to its results.
RUNS: Mapping[str, str] = {"STABLEHLO_COMPOSITE": "DecompositionSubgraphIndex", "CALL": "Subgraph"}
DEEPEST = 16  # calls within calls
MOST_PARTS = 1 << 16  # operators, and tensors, that calls may unfold to


def inlined(model: ModelRecord, index: int) -> tuple[ModelRecord, int]:
    """The model with what subgraph `index` runs in place of the operators that run it, and the new index of that.

    So it is in the regions of its operators.  Subgraphs that nothing else needs are dropped.  Raises ModelError for
    references that lead nowhere, UnsupportedError for calls too deep or too many.
    """
    subgraphs, bodies, todo = list(model.subgraphs), set[int](), [index]
    done: set[int] = set()
    while todo:
        place = todo.pop()
        if place in done:
            continue
        done.add(place)
        subgraphs[place] = _unfolded(model, place, bodies)
        todo += regions(replace(model, subgraphs=tuple(subgraphs)), place)
    return _without(replace(model, subgraphs=tuple(subgraphs)), bodies - done, index)


def _unfolded(model: ModelRecord, place: int, bodies: set[int]) -> SubgraphRecord:
    """Subgraph `place` without operators that only run others; these are added to `bodies`."""
    graph = model.subgraphs[place]
    for _ in range(DEEPEST):
        runs = [int(op.options[option]) for op in graph.operators if (option := _runs(model, op))]  # type: ignore[arg-type]
        if not runs:
            return graph
        bodies.update(runs)
        graph = _once(model, graph)
    raise UnsupportedError(f"subgraphs that run each other more than {DEEPEST} deep are not supported")


def regions(model: ModelRecord, place: int) -> list[int]:
    """The subgraphs that operators of subgraph `place` have as regions.  Raises ModelError if one does not exist."""
    found = []
    for index, op in enumerate(model.subgraphs[place].operators):
        for option in region_options(model, op):
            region = op.options.get(option, 0)
            if not isinstance(region, int) or not 0 <= region < len(model.subgraphs):
                raise ModelError(
                    f"operator {index} calls subgraph {region!r}, which does not exist; the file is damaged"
                )
            found.append(region)
    return found


def region_options(model: ModelRecord, op: OperatorRecord) -> tuple[str, ...]:
    """The options of an operator that name subgraphs which become regions of an op."""
    code = model.codes[op.code] if 0 <= op.code < len(model.codes) else None
    if code is None or code.custom or code.name not in BY_BUILTIN:
        return ()
    return BY_BUILTIN[code.name][0].subgraphs


def region_bodies(model: ModelRecord, index: int) -> frozenset[int]:
    """The subgraphs that become regions of subgraph `index` or of regions of it, and that nothing else needs."""
    bodies: set[int] = set()
    todo = [index]
    while todo:
        new = set(regions(model, todo.pop())) - bodies
        bodies |= new
        todo += new
    return frozenset(_idle(model, bodies - {index}, index))


def _idle(model: ModelRecord, bodies: set[int], index: int | None = None) -> set[int]:
    """Those of `bodies` that no signature and no subgraph but `index` and each other refers to."""
    idle = bodies - {signature.subgraph for signature in model.signatures}
    while needed := idle & {
        place
        for number, graph in enumerate(model.subgraphs)
        if number not in idle and number != index
        for op in graph.operators
        for place in called(op)
    }:
        idle -= needed
    return idle


def _without(model: ModelRecord, bodies: set[int], index: int) -> tuple[ModelRecord, int]:
    """The model without those of `bodies` that no signature and no other subgraph refers to, and the new `index`."""
    idle = _idle(model, bodies)
    kept = [number for number in range(len(model.subgraphs)) if number not in idle]
    places = {old: new for new, old in enumerate(kept)}

    def moved(graph: SubgraphRecord) -> SubgraphRecord:
        operators = (replace(op, options=dict(renumbered(op.options, places))) for op in graph.operators)
        return replace(graph, operators=tuple(operators))

    if not idle:
        return model, index
    signatures = (replace(s, subgraph=places.get(s.subgraph, s.subgraph)) for s in model.signatures)
    subgraphs = tuple(moved(model.subgraphs[number]) for number in kept)
    return replace(model, subgraphs=subgraphs, signatures=tuple(signatures)), places[index]


def _runs(model: ModelRecord, op: OperatorRecord) -> str | None:
    """The option of an operator that names the subgraph it runs; None for all other operators."""
    if not 0 <= op.code < len(model.codes):
        raise ModelError(f"operator code {op.code} does not exist; the file is damaged")
    code = model.codes[op.code]
    option = None if code.custom else RUNS.get(code.name)
    return option if option in op.options else None


def _once(model: ModelRecord, graph: SubgraphRecord) -> SubgraphRecord:
    """`graph` with the operators of one level of calls."""
    tensors, operators = list(graph.tensors), list[OperatorRecord]()
    for op in graph.operators:
        option = _runs(model, op)
        if option is None:
            operators.append(op)
        else:
            operators += _body(model, op, int(op.options[option]), tensors)  # type: ignore[arg-type]
        if max(len(operators), len(tensors) - len(graph.tensors)) > MOST_PARTS:
            raise UnsupportedError(f"calls that unfold to more than {MOST_PARTS} operators are not supported")
    return replace(graph, tensors=tuple(tensors), operators=tuple(operators))


def _body(model: ModelRecord, call: OperatorRecord, place: int, tensors: list[TensorRecord]) -> list[OperatorRecord]:
    """The operators of subgraph `place` on the operands of `call`; their own tensors are added to `tensors`."""
    name = model.codes[call.code].name
    if not 0 <= place < len(model.subgraphs):
        raise ModelError(f"{name} runs subgraph {place}, which does not exist; the file is damaged")
    body = model.subgraphs[place]
    if len(body.inputs) != len(call.inputs) or len(body.outputs) != len(call.outputs):
        raise ModelError(f"{name} does not give subgraph {place} its inputs and outputs; the file is damaged")
    if len(set(body.outputs)) < len(body.outputs) or set(body.outputs) & set(body.inputs):
        raise UnsupportedError(
            f"{name} of subgraph {place}, which returns an input or twice the same, is not supported"
        )
    stands = {-1: -1, **dict(zip(body.inputs, call.inputs, strict=True))}
    stands.update(zip(body.outputs, call.outputs, strict=True))
    for index, tensor in enumerate(body.tensors):
        if index not in stands:
            stands[index] = len(tensors)
            tensors.append(tensor)

    def placed(indices: tuple[int, ...]) -> tuple[int, ...]:
        try:
            return tuple(stands[index] for index in indices)
        except KeyError as error:
            raise ModelError(f"tensor {error} of subgraph {place} does not exist; the file is damaged") from error

    return [
        replace(op, inputs=placed(op.inputs), outputs=placed(op.outputs), intermediates=placed(op.intermediates))
        for op in body.operators
    ]
