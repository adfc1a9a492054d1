"""Errors of single layers inside two whole models, and where they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.op import Op, Operands, Tensor
from tflite2q.dialect.types import Value
from tflite2q.errors import Tflite2qError
from tflite2q.evaluation import coding
from tflite2q.evaluation.figures import Pair
from tflite2q.evaluation.likeness import apart, sqnr, steps
from tflite2q.evaluation.results import Diagnosis, Histogram, LayerError, worst_layers
from tflite2q.execution import reference

Array = npt.NDArray[Any]

BINS = 48  # of a histogram, at most
MOST_OWN = 0.5  # a layer whose own noise is a smaller share of all passes on the noise of an earlier one


@dataclass
class _Seen:
    """Sums over the samples for one layer; `first_signal` and `first_noise` are of the first sample alone."""

    signal: float = 0.0
    noise: float = 0.0
    worst: float = 0.0
    elements: int = 0
    clipped: int = 0
    codes: tuple[tuple[int, int], tuple[int, int]] | None = None  # lowest and highest, of both models
    first_signal: float = 0.0
    first_noise: float = 0.0
    own_noise: float | None = None


class LayerTally:
    """Errors of each layer's first result that both graphs compute under the same name, summed over samples.

    The first sample also shows what each layer does by itself: it is run on the original's values.
    """

    def __init__(self, original: Graph, converted: Graph) -> None:
        self.original, self.converted = original, converted
        self.seen: dict[str, _Seen] = {}
        self.first: tuple[Mapping[str, Array], Mapping[str, Array]] | None = None

    def add(self, before: Mapping[str, Array], after: Mapping[str, Array]) -> None:
        """One sample: every value of both graphs by name."""
        first = self.first is None
        alone = _Alone(self.original, self.converted, before) if first else None
        for op in self.original.ops:
            value, other = self.original[op.name], self.converted.by_name.get(op.name)
            if other is None or op.name not in after or other.type.shape != value.type.shape:
                continue
            a = coding.real(before[op.name], value).astype(np.float64)
            numbers, difference = apart(a, coding.real(after[op.name], other))
            found = self.seen.setdefault(op.name, _Seen())
            signal, noise = float(np.sum(np.square(numbers))), float(np.sum(np.square(difference)))
            found.signal, found.noise = found.signal + signal, found.noise + noise
            found.worst = max(found.worst, float(difference.max(initial=0.0)))
            _add_codes(found, (before[op.name], after[op.name]), (value, other), a)
            if alone is not None:
                found.first_signal, found.first_noise = signal, noise
                found.own_noise = alone.noise(op.name) if noise > 0 else None
        if first:
            self.first = dict(before), dict(after)

    def result(self) -> tuple[LayerError, ...]:
        """In the original's order."""
        why = {op.name: self._diagnosis(op.name) for op in self.original.ops if op.name in self.seen}
        lines = [
            LayerError(op.name, op.mnemonic, sqnr(found.signal, found.noise),
                       steps(found.worst, self.original[op.name]), why[op.name])
            for op in self.original.ops
            for found in [self.seen.get(op.name)]
            if found is not None
        ]  # fmt: skip
        drawn = {line.name for line in worst_layers(lines)}
        drawn |= {origin for name in drawn if (origin := why[name].origin) is not None}
        return tuple(
            replace(line, diagnosis=replace(why[line.name], histogram=self._histogram(line.name)))
            if line.name in drawn else line
            for line in lines
        )  # fmt: skip

    def _diagnosis(self, name: str) -> Diagnosis:
        found, value, other = self.seen[name], self.original[name], self.converted[name]
        unused = None
        if found.codes is not None:
            unused = Pair(*(_unused(v, ends) for v, ends in zip((value, other), found.codes, strict=True)))
        share = self._own_share(name)
        return Diagnosis(
            own_sqnr_db=None if found.own_noise is None else sqnr(found.first_signal, found.own_noise),
            own_share=share,
            origin=self._origin(name) if share is not None and share < MOST_OWN else None,
            clipped=found.clipped / found.elements if found.elements else None,
            unused_bits=unused,
            step_ratio=other.type.scale / value.type.scale if _single(value) and _single(other) else None,
        )

    def _own_share(self, name: str) -> float | None:
        found = self.seen[name]
        if found.own_noise is None or found.first_noise == 0:
            return None
        return min(found.own_noise / found.first_noise, 1.0)

    def _origin(self, name: str) -> str | None:
        """The earlier layer where the noise starts: of the operands, the one with most noise, and so on backwards."""
        place = name
        while True:
            op = self.original.producers[place]
            sources = [self._layer_of(operand) for operand in op.inputs]
            noisy = {s: found for s in sources if s is not None and (found := self.seen.get(s)) and found.first_noise}
            if not noisy:
                return place if place != name else None
            place = min(noisy, key=lambda s: sqnr(noisy[s].first_signal, noisy[s].first_noise) or math.inf)
            share = self._own_share(place)
            if share is None or share >= MOST_OWN:
                return place

    def _layer_of(self, name: str | None) -> str | None:
        """The layer, by its first result, that computes a value of the original."""
        op = None if name is None else self.original.producers.get(name)
        return None if op is None else op.name

    def _histogram(self, name: str) -> Histogram | None:
        """The values of the first sample, in bins of a whole number of the coarser model's steps."""
        value, other = self.original[name], self.converted[name]
        if self.first is None or not (_single(value) and _single(other)):
            return None
        pair = [coding.real(values[name], v) for values, v in zip(self.first, (value, other), strict=True)]
        if not pair[0].size:
            return None
        step = max(value.type.scale, other.type.scale)
        low = min(float(each.min()) for each in pair) - step / 2
        high = max(float(each.max()) for each in pair) + step / 2
        width = step * math.ceil((high - low) / step / BINS)
        bins = max(math.ceil((high - low) / width), 1)
        high = low + bins * width
        counts = (np.histogram(each, bins, (low, high))[0] for each in pair)
        original, converted = (tuple(int(count) for count in each) for each in counts)
        return Histogram(low, high, original, converted, _ends(value), _ends(other))


class _Alone:
    """Runs single layers on the values that the original computed, rounded to the types that they have in the converted
    graph: that rounding is the noise of the layers that made them."""

    def __init__(self, original: Graph, converted: Graph, before: Mapping[str, Array]) -> None:
        self.original, self.converted, self.before = original, converted, before
        self.core = reference.core()

    def noise(self, name: str) -> float | None:
        """Power of the difference between both models' layer of that name; None for one that keeps state, or runs
        graphs of its own."""
        try:
            a = coding.real(self._expected(self.original.producers[name], name), self.original[name])
            b = coding.real(self._computed(name), self.converted[name])
        except (Tflite2qError, IndexError, _NotAlone):
            return None
        return float(np.sum(np.square(apart(a, b)[1])))

    def _expected(self, op: Op, name: str) -> Array:
        """What the original's layer makes of the rounded values; that is its result where rounding changed none."""
        given = {n: self._rounded(n) for n in op.inputs if n is not None}
        if all(np.array_equal(array, self.before[n]) for n, array in given.items()):
            return self.before[name]
        return self._run(op, self.original, given)[name]

    def _rounded(self, name: str) -> Array:
        value, other = self.original[name], self.converted.by_name.get(name)
        if value.constant is not None or other is None or other.type.shape != value.type.shape:
            return self.before[name]
        (there,) = coding.transfer([self.before[name]], [value], [other])
        return coding.transfer([there], [other], [value])[0]

    def _computed(self, name: str) -> Array:
        """A value of the converted graph, from values that the original has, too."""
        op = self.converted.producers.get(name)
        if op is None:
            raise _NotAlone
        return self._run(op, self.converted, {n: self._value(n) for n in op.inputs if n is not None})[name]

    def _value(self, name: str) -> Array:
        """An operand: the original's value of that name in the new type, else computed from such ones."""
        value, old = self.converted[name], self.original.by_name.get(name)
        if value.constant is not None:
            return value.constant.array
        if old is not None and name in self.before and old.type.shape == value.type.shape:
            return coding.transfer([self.before[name]], [old], [value])[0]
        return self._computed(name)

    def _run(self, op: Op, graph: Graph, given: Mapping[str, Array]) -> dict[str, Array]:
        if op.updates or op.regions or any(graph[n].variable for n in given):
            raise _NotAlone
        tensors = [None if n is None else Tensor(graph[n], given[n]) for n in op.inputs]
        with np.errstate(all="ignore"):
            results = op.compute(self.core, Operands(op, tensors), graph.outs(op))
        return dict(zip(op.outputs, results, strict=True))


class _NotAlone(Exception):
    """A layer that cannot be run by itself."""


def _add_codes(found: _Seen, codes: tuple[Array, Array], values: tuple[Value, Value], real: Array) -> None:
    """The codes that occur in both models, and how many of the original's numbers the new type cannot hold."""
    if not (_single(values[0]) and _single(values[1])) or not real.size:
        return
    low, high = _ends(values[1])
    slack = values[1].type.scale / 2  # rounding takes these to the last code
    found.elements += real.size
    found.clipped += int(np.count_nonzero((real < low - slack) | (real > high + slack)))
    ends = [(int(each.min()), int(each.max())) for each in codes]
    if found.codes is not None:
        ends = [(min(a, c), max(b, d)) for (a, b), (c, d) in zip(ends, found.codes, strict=True)]
    found.codes = ends[0], ends[1]


def _single(value: Value) -> bool:
    """Whether a value has codes with one scale."""
    return value.type.quantized and value.type.parameters.axis is None


def _ends(value: Value) -> tuple[float, float]:
    """The least and the greatest number that a value's codes stand for."""
    kind = value.type
    low, high = (float((code - kind.zero_point) * kind.scale) for code in kind.range)
    return low, high


def _unused(value: Value, ends: tuple[int, int]) -> float:
    """log2 of how many times as many codes the type has as lie between the `ends` that occur."""
    low, high = value.type.range
    return math.log2((high - low + 1) / (ends[1] - ends[0] + 1))
