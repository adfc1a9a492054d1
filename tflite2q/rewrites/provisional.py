"""rewrite: a model of real numbers gets 16-bit codes as fine as its data allow; a scheme then chooses coarser ones.

    before: %y: f32 = q.conv2d(%x: f32, %w: f32, %b: f32)
    after:  %x_codes: s16 = q.requantize(%x); %y_codes: s16 = q.conv2d(%x_codes, %w, %b)
            %y: f32 = q.dequantize(%y_codes)

This is a step of a conversion, not a model that could run: the layers still have real weights and biases.  All later
steps are those of quantized models.  Only ops that have a form in the scheme's codes take part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from tflite2q.arithmetic import rounding
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op
from tflite2q.dialect.ops.eltwise import Dequantize, Requantize
from tflite2q.dialect.spans import Span, clipped, of_codes, of_constant, union
from tflite2q.dialect.types import Constant, Quantization, TensorType, Value
from tflite2q.errors import InvalidGraph, SchemeError, hint
from tflite2q.rewrites.clamps import limits
from tflite2q.rewrites.edit import Editor
from tflite2q.rewrites.plan import Plan, computes_codes, is_activation
from tflite2q.rewrites.scheme import Scheme
from tflite2q.rewrites.statistics import Observation, RealRange, has_room, roomy

DTYPE, MOST = "int16", 32767
IDLE = float(np.float32(1 / MOST))  # of values that were always 0: from -1 to 1, beside which others keep their bits
REAL = "float32"


@dataclass(frozen=True)
class Provisional:
    """The graph with codes.

    `names` are the original names of its ops, casts left out; `codes` names what holds the codes of an original value.
    """

    graph: Graph
    names: Mapping[str, str]
    codes: Mapping[str, str]


def wanting(graph: Graph, plan: Plan) -> dict[str, str]:
    """The ops of a model of real numbers that a plan turns to codes, by name, and the dtype of those; none of a model
    that computes with codes."""
    if computes_codes(graph):
        return {}
    return {op.name: dtype for op in graph.ops if (dtype := _coded(op, graph, plan)) is not None}


def _coded(op: Op, graph: Graph, plan: Plan) -> str | None:
    """The dtype of codes that `op`, which computes on real numbers, is to have; None if it stays."""
    wanted = plan.layer(op).activations.dtype
    dtype = None if wanted == REAL or op.carries or op.converts or not op.convertible else op.computes_in(wanted)
    if dtype is None or not all(value.type.dtype == REAL for value in graph.outs(op)):
        return None
    if not op.takes_codes(graph.ins(op)):
        return None
    operands = 0
    for index, name in enumerate(op.inputs):
        role = op.operand(index).role
        if name is None or role == "plain":
            continue
        value = graph[name]
        if role == "activation":
            operands += 1
            constant = value.constant is not None or op.constant_dtype(index, dtype) == dtype
            if value.type.dtype != REAL or not constant or value.variable:
                return None
        elif value.constant is None:
            return None
    return dtype if operands else None


def needs_data(scheme: Scheme) -> SchemeError:
    asked = hint("needs --data for a float model")
    return SchemeError(f"scheme {scheme.name} {asked}: its ranges come from samples that `convert` is given")


class Coding:
    """What a plan turns to codes in a model of real numbers.

    `dtypes` are the codes of each op that takes part.  `leaders` names, for each value that gets codes, one of those
    that share its parameters: the same for all of them.  `apart` are, by op, the operands whose parameters the format
    prescribes (TANH: steps of 1/32768), and that the op must share with numbers that these do not hold: they are cast
    before it.
    """

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph, self.plan = graph, plan
        self.dtypes = wanting(graph, plan)
        self.ops = [op for op in graph.ops if op.name in self.dtypes]
        self.apart = self._apart()
        self.leaders = self._leaders()

    def kinds(self, extremes: Mapping[str, RealRange]) -> dict[str, TensorType]:
        """The types of the values that get codes, from the least and greatest number of each; tied values share
        theirs."""
        ending = self._ending()
        reach: dict[str, float] = {}
        for name, leader in self.leaders.items():
            if name in ending:
                reach.setdefault(leader, 0.0)
                continue
            low, high = _extremes(self.graph[name], extremes)
            reach[leader] = max(reach.get(leader, 0.0), -low, high)
        return {name: _kind(self.graph[name].type, reach[leader]) for name, leader in self.leaders.items()}

    def with_room(self, extremes: Mapping[str, RealRange]) -> dict[str, RealRange]:
        """`extremes` in which codes with room for new data have it, as far as their values can go.

        None have it that a steep function reads: its results would lose more.
        """
        found, spans = dict(extremes), limits(self.graph).spans
        wide = [op for op in self.ops if has_room(self.plan.layer(op).activations)]
        narrow = {self.leaders[name] for op in wide if op.steep for name in op.inputs if name in self.leaders}
        for op in wide:
            for name in extremes.keys() & {*_numbers(op)}:
                if self.leaders[name] not in narrow:
                    found[name] = union(extremes[name], clipped(roomy(extremes[name]), spans[name]))
        return found

    def _apart(self) -> dict[str, set[str]]:
        prescribed: dict[str, Quantization] = {}
        found: dict[str, set[str]] = {}
        for op in self.ops:
            dtype = self.dtypes[op.name]
            fixed = op.fixed_result(dtype)
            if fixed is not None:
                prescribed.update(dict.fromkeys(op.outputs, fixed))
                continue
            for group in op.ties(dtype):
                sources = {name for name in group if name in op.inputs}
                known = {prescribed[name] for name in sources & prescribed.keys()}
                held = [of_codes(TensorType((), dtype, kind)) for kind in known]
                others = {name for name in sources - prescribed.keys() if not _within(self.graph[name], held)}
                results = {*group} & {*op.outputs}
                if len(known) == 1 and not others:
                    prescribed.update((name, next(iter(known))) for name in results)
                elif known and (others or results):
                    found.setdefault(op.name, set()).update(sources & prescribed.keys())
        return found

    def _leaders(self) -> dict[str, str]:
        leader: dict[str, str] = {}

        def find(name: str) -> str:
            while leader.setdefault(name, name) != name:
                name = leader[name]
            return name

        for op in self.ops:
            for name in _numbers(op):
                find(name)
            for group in op.ties(self.dtypes[op.name]):
                tied = [name for name in group if name in leader and name not in self.apart.get(op.name, ())]
                for name in tied[1:]:
                    leader[find(name)] = find(tied[0])
        return {name: find(name) for name in leader}

    def _ending(self) -> set[str]:
        """The constants that share their parameters with results alone: they need no room for what no result is.

        1e12, of which a MINIMUM is to be no more, else leaves nothing of the steps of 0.3.
        """
        found, compared = set[str](), set[str]()
        for op in self.ops:
            tied = {name for group in op.ties(DTYPE) if {*group} & {*op.outputs} for name in group}
            constants = {name for name in _numbers(op) if self.graph[name].constant is not None}
            found |= constants & tied
            compared |= constants - tied
        return found - compared


def provisional(coding: Coding, seen: Mapping[str, Observation]) -> Provisional:
    """The graph with the codes of the observations' types.  Raises InvalidGraph for constants that are no numbers."""
    types = coding.kinds({name: _span(observation) for name, observation in seen.items()})
    types.update({name: seen[name].kind for name in types if name in seen})
    return _Maker(coding, types).run()


class _Maker:
    def __init__(self, coding: Coding, types: Mapping[str, TensorType]) -> None:
        self.graph, self.types, self.apart = coding.graph, types, coding.apart
        self.chosen = coding.dtypes.keys()
        self.follows = coding.plan.scheme.interface == "scheme"
        self.casts: dict[tuple[str, TensorType], str] = {}
        self.results = {name for op in coding.ops for name in op.outputs}
        self.editor = Editor(coding.graph)
        self.ops: list[Op] = []
        self.codes: dict[str, str] = {}  # of a value of the original, the one that holds its codes
        self.reals: dict[str, str] = {}  # and the one that holds real numbers, where that is another
        self.names: dict[str, str] = {}

    def run(self) -> Provisional:
        for name in self.graph.inputs if self.follows else ():
            if name in self.types:
                self.editor.values[name] = self.graph[name].with_(type=self.types[name])
                self.codes[name] = name
        for op in self.graph.ops:
            made = self._coded(op) if op.name in self.chosen else self._plain(op)
            self.names[made.name] = op.name
        self._drop_unread()
        outputs = self.graph.outputs
        for name in outputs:
            if name in self.codes and name not in self.graph.inputs:
                self._real(name)
        self.editor.ops = self.ops
        return Provisional(self.editor.graph(), self.names, self.codes)

    def _coded(self, op: Op) -> Op:
        inputs = [
            self._operand(op, name) if name is not None and op.operand(index).role == "activation" else name
            for index, name in enumerate(op.inputs)
        ]
        for name in op.in_role("weights", "bias").values():
            if not np.isfinite(self.graph[name].data.astype(np.float64)).all():
                raise InvalidGraph(f"{op.mnemonic} {op.name!r}: {name!r} holds numbers that are not finite")
        results = [self._result(name) for name in op.outputs]
        self.ops.append(op.with_(inputs=tuple(inputs), outputs=tuple(results)))
        return self.ops[-1]

    def _plain(self, op: Op) -> Op:
        if isinstance(op, Requantize) and op.inputs[0] in self.codes:
            inputs: list[str | None] = [self.codes[op.inputs[0]]]  # of the model's own, made of real numbers until now
        else:
            inputs = [self._real(name) if name in self.codes else name for name in op.inputs]
        self.ops.append(op.with_(inputs=tuple(inputs)))
        return self.ops[-1]

    def _result(self, name: str) -> str:
        """The value for codes of a result: itself, unless the model's own output keeps its type."""
        value = self.graph[name].with_(type=self.types[name])
        if name in self.graph.outputs and not self.follows:
            self.codes[name] = self.editor.add(value.with_(name=f"{name}_codes"), near=name)
        else:
            self.editor.values[name] = value
            self.codes[name] = name
        return self.codes[name]

    def _operand(self, op: Op, name: str) -> str:
        """The value that `op` reads for the codes of value `name`: after a cast, if these stay apart from others."""
        code = self._code(name)
        apart = self.apart.get(op.name, set())
        if name not in apart:
            return code
        group = next(group for group in op.ties(DTYPE) if name in group)
        shared = next(each for each in (*op.outputs, *group) if each in group and each not in apart)
        kind = self.graph[name].type.with_(dtype=DTYPE, quantization=self.types[shared].quantization)
        if (name, kind) not in self.casts:
            cast = self.editor.add(self.graph[name].with_(name=f"{name}_cast", type=kind), near=name)
            self.ops.append(Requantize(inputs=(code,), outputs=(cast,)))
            self.casts[name, kind] = cast
        return self.casts[name, kind]

    def _code(self, name: str) -> str:
        """The value that holds the codes of value `name`."""
        if name not in self.codes:
            value = self.graph[name].with_(name=f"{name}_codes", type=self.types[name])
            if value.constant is not None:
                value = value.with_(constant=_quantized(value))
            self.codes[name] = self.editor.add(value, near=name)
            if value.constant is None:
                self.ops.append(Requantize(inputs=(self._source(name),), outputs=(self.codes[name],)))
        return self.codes[name]

    def _source(self, name: str) -> str:
        """The source of the codes of a real value: the model's own codes, if it only dequantizes those."""
        maker = self.graph.producers.get(name)
        codes = maker.inputs[0] if isinstance(maker, Dequantize) else None
        source = None if codes is None else self.graph[codes]
        if source is None or source.constant is not None or not is_activation(source):
            return name
        return source.name

    def _drop_unread(self) -> None:
        """Leave out what dequantizes codes that are read as codes now."""
        read = {name for op in self.ops for name in op.inputs} | {*self.graph.outputs}
        gone = {op.name for op in self.ops if isinstance(op, Dequantize) and op.name in self.names}
        gone -= read
        self.ops = [op for op in self.ops if op.name not in gone]
        self.names = {new: old for new, old in self.names.items() if new not in gone}

    def _real(self, name: str | None) -> str | None:
        """The value that holds the real numbers of value `name`, whose codes are known."""
        if name is None or (self.codes[name] != name and name not in self.results):
            return name
        if name not in self.reals:
            if self.follows and name in self.graph.outputs:
                return name
            apart = self.codes[name] != name
            real = self.graph[name].with_(name=f"{name}_real")
            self.reals[name] = name if apart else self.editor.add(real, near=name)
            self.ops.append(Dequantize(inputs=(self.codes[name],), outputs=(self.reals[name],)))
        return self.reals[name]


def _numbers(op: Op) -> Iterable[str]:
    """Operands in an activation's role, and results."""
    return [*op.in_role("activation").values(), *op.outputs]


def _within(value: Value, spans: Iterable[Span]) -> bool:
    """Whether a value is a constant that is in all `spans`."""
    return value.constant is not None and all(clipped(of_constant(value), span) == of_constant(value) for span in spans)


def _extremes(value: Value, extremes: Mapping[str, RealRange]) -> RealRange:
    if value.constant is None:
        return extremes.get(value.name, (0.0, 0.0))
    data = value.data.astype(np.float64)
    if not np.isfinite(data).all():
        raise InvalidGraph(f"{value.name!r} holds numbers that are not finite")
    return float(data.min(initial=0.0)), float(data.max(initial=0.0))


def _span(seen: Observation) -> RealRange:
    reach = seen.kind.scale * MOST
    return -reach, reach


def _kind(kind: TensorType, reach: float) -> TensorType:
    scale = float(np.float32(reach / MOST)) or IDLE
    return replace(kind, dtype=DTYPE, quantization=Quantization.per_tensor(scale, 0))


def _quantized(value: Value) -> Constant:
    steps = np.clip(value.data.astype(np.float64) / value.type.scale, -MOST, MOST)  # some are infinite
    return Constant(rounding.round_half_away(steps).astype(DTYPE))
