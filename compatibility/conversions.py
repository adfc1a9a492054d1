"""The stages of a scheme: convert, write, read again, run by other engines, and how like the original it answers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy.typing as npt

import tflite2q
from compatibility import engines, exact, likeness
from compatibility.engines import Answer
from compatibility.likeness import Likeness
from compatibility.original import Subject, outputs_of
from compatibility.records import DOCUMENTED, NOTHING, OK, REFUSED, UNMEASURED, WRONG
from compatibility.stages import ENGINE, Outcome
from tflite2q.dialect.graph import Graph
from tflite2q.errors import DataError, Unchanged
from tflite2q.evaluation import coding
from tflite2q.execution import reference
from tflite2q.rewrites import Conversion
from tflite2q.rewrites import scheme as schemes

Array = npt.NDArray[Any]

LEAST_SAMPLES = 2
# Where a scheme computes in real numbers, the last digit of a sum decides which code is next to it.
REAL_STEPS = 1


@dataclass
class Converted:
    """A conversion, its file, and the graph that is read from that."""

    conversion: Conversion
    path: Path
    again: Graph

    @property
    def steps(self) -> int:
        """How far codes may be from another engine's."""
        layer = self.conversion.scheme.layer
        return REAL_STEPS if "float32" in (layer.activations.dtype, layer.weights.dtype) else 0


def scheme(subject: Subject, name: str) -> None:
    """All parts of one scheme but compiled code."""
    with tempfile.TemporaryDirectory() as folder:
        made = _make(subject, name, Path(folder, "converted.tflite"))
        if made is None:
            return
        _engines(subject, made)
        subject.log.do("likeness", lambda: _likeness(subject, made.conversion))


def compiled(subject: Subject, name: str) -> None:
    """Code for this processor from a conversion, against the reference of the same."""

    def run() -> Outcome | None:
        conversion = _convert(subject, name)
        if conversion is None:
            return Outcome(NOTHING)
        steps = _steps(subject, conversion.graph)
        subject.log.check_time()
        want = outputs_of(reference.Stream(conversion.graph), steps)
        subject.log.check_time()
        got = outputs_of(tflite2q.compile(conversion.graph).stream(), steps)
        real = "float32" in (conversion.scheme.layer.activations.dtype, conversion.scheme.layer.weights.dtype)
        problem = exact.outputs(conversion.graph, got, want, REAL_STEPS if real else 0)
        return Outcome(WRONG if problem else OK, problem)

    subject.log.do("run", run)


def _convert(subject: Subject, name: str) -> Conversion | None:
    """The model under a scheme, None where it already is what the scheme asks for; made once."""
    if name not in subject.conversions:
        try:
            subject.conversions[name] = tflite2q.convert(subject.graph, name)
        except Unchanged:
            subject.conversions[name] = None
    found: Conversion | None = subject.conversions[name]
    return found


def _make(subject: Subject, name: str, path: Path) -> Converted | None:
    """Convert, write and read again; None where one of these did not go well."""
    done: list[Conversion] = []
    read: list[Graph] = []

    def convert() -> Outcome:
        conversion = _convert(subject, name)
        if conversion is None:
            return Outcome(NOTHING)
        done.append(conversion)
        return Outcome()

    def write() -> Outcome:
        done[0].save(path)
        read.append(tflite2q.load(path))
        problem = _unequal(as_file(done[0].graph), read[0])
        return Outcome(WRONG if problem else OK, problem)

    if not subject.log.do("convert", convert):
        return None
    subject.log.do("file", write)
    return Converted(done[0], path, read[0]) if read else None


def as_file(graph: Graph) -> Graph:
    """The graph as its file says it: a .tflite holds a scheme's parameters, never its arithmetic of rescaling."""
    ops = (op.with_(rescale="tflite") if hasattr(op, "rescale") else op for op in graph.ops)
    return replace(graph, ops=tuple(op.with_(regions=tuple(map(as_file, op.regions))) for op in ops))


def _unequal(made: Graph, read: Graph) -> str:
    """What distinguishes the graph that was written from the one that was read, "" for nothing."""
    if made == read:
        return ""
    for what in ("inputs", "outputs", "values", "ops", "name", "description", "signatures", "metadata", "files"):
        a, b = getattr(made, what), getattr(read, what)
        if a != b:
            first = next((f"{x!s:.80} became {y!s:.80}" for x, y in zip(a, b, strict=False) if x != y), "their number")
            return f"reading the written file changes its {what}: {first}"
    return "reading the written file gives another graph"


def _engines(subject: Subject, made: Converted) -> None:
    """The written file in LiteRT, both kinds of kernels, and in TFLite Micro, on a photo, random input or a stream."""
    log, graph = subject.log, made.again
    steps = _steps(subject, graph)
    held: list[list[Array]] = []
    if not log.do("reference", lambda: held.append(outputs_of(reference.Stream(graph), steps))):
        return
    ours = held[0]

    def ask(reference: bool) -> Answer:
        return subject.litert.run(made.path, steps, log.until, reference=reference)

    def judged() -> Outcome:
        told = ask(True)
        if told.state != engines.RAN:
            return _unanswered(subject, told)
        problem = exact.outputs(graph, ours, told.outputs, made.steps)
        return _attributed(subject, made, steps[0], problem) if problem else Outcome()

    def optimized() -> Outcome:
        told = ask(False)
        if told.state != engines.RAN:
            return _unanswered(subject, told)
        return Outcome(detail=exact.worst_step(ours, told.outputs))

    def micro() -> Outcome:
        told = subject.micro.run(made.path, steps, log.until, outputs=len(graph.outputs))
        if told.state != engines.RAN:
            return _absent(told)
        return Outcome(detail=exact.worst_step(ours, told.outputs))

    log.do("LiteRT reference", judged, ENGINE)
    log.do("LiteRT", optimized, ENGINE)
    log.do("TFLite Micro", micro, ENGINE)


def _attributed(subject: Subject, made: Converted, inputs: list[Array], problem: str) -> Outcome:
    """A difference from LiteRT: documented if it begins at an op whose deviation docs/ops.md names, else wrong."""
    told = subject.litert.run(made.path, [inputs], subject.log.until, every=True)
    if told.state != engines.RAN:
        return Outcome(WRONG, problem)
    held = reference.run_every(made.again, *inputs)
    culprit, where, _ = exact.tensors(made.again, held, told.tensors, made.steps)
    if culprit is not None and (named := culprit.deviates(made.again.ins(culprit), made.again.outs(culprit))):
        return Outcome(DOCUMENTED, f"{where}; docs/ops.md: {named}")
    return Outcome(WRONG, problem)


def _absent(told: Answer) -> Outcome:
    """An engine that gave no answer: it refused the file, or there was no time, or it died."""
    if told.state == engines.ENGINE_REFUSED:
        return Outcome(REFUSED, told.why)
    return Outcome(UNMEASURED, "time" if told.state == engines.LATE else f"{told.state}: {told.why}")


def _unanswered(subject: Subject, told: Answer) -> Outcome:
    """No answer from LiteRT.  A file that it calls inconsistent, though it ran the original, was written wrong.

    That a kernel does not take a type ("not supported", "Didn't find op") is said of LiteRT, not of the file.
    """
    outcome = _absent(told)
    if outcome.state == REFUSED and subject.runs_in_litert and inconsistent(told.why):
        return Outcome(WRONG, f"LiteRT calls the written file inconsistent: {told.why}")
    return outcome


def inconsistent(why: str) -> bool:
    """Whether a message of LiteRT finds two parts of a file at odds, rather than a type that a kernel lacks."""
    words = why.lower()
    lacks = ("not supported", "unsupported", "didn't find", "not currently", "only support", "unresolved", "resolve")
    return not any(word in words for word in lacks)


def _transferred(subject: Subject, graph: Graph, inputs: list[Array]) -> list[Array]:
    """The same real inputs in the types that a conversion takes."""
    before = subject.graph
    return coding.transfer(inputs, [before[n] for n in before.inputs], [graph[n] for n in graph.inputs])


def _steps(subject: Subject, graph: Graph) -> list[list[Array]]:
    """What engines run a conversion on: the steps of a stream if it has state, else the last sample as one step."""
    chosen = subject.data.steps or (subject.answers[-1][0],)
    return [_transferred(subject, graph, inputs) for inputs in chosen]


def _answer(stream: reference.Stream, inputs: list[Array]) -> list[Array] | None:
    """The outputs of the next step; None for random data that hold an index out of range."""
    try:
        return stream.step(*inputs)
    except DataError:
        return None


def _likeness(subject: Subject, conversion: Conversion) -> Outcome:
    """How like the original's the conversion's outputs are, on as many samples as it takes and there is time for."""
    pairs = _pairs(subject, conversion)
    before, after = _taken(pairs, len(subject.data.likely))
    if len(after) < LEAST_SAMPLES:
        return Outcome(UNMEASURED, "time" if len(subject.likely) < len(subject.data.likely) else "data out of range")

    def judged() -> list[Likeness]:
        return likeness.judge(subject.graph, conversion.graph, before, after, conversion.scheme)

    found = judged()
    while any(not each.good and each.undecided for each in found):
        more, converted = _taken(pairs, len(after))  # twice as many
        if not more:
            break
        before, after = before + more, after + converted
        found = judged()
    bad = [each for each in found if not each.good]
    chosen = min(bad or found, key=lambda each: each.figure - each.floor)
    figures = {"kind": chosen.kind, "figure": chosen.figure, "floor": chosen.floor, "samples": chosen.samples}
    words = f"{chosen.words} on {len(after)} {subject.data.source}"
    if bad and all(each.undecided for each in bad):
        return Outcome(UNMEASURED, f"too little data: {words}", figures)
    return Outcome(WRONG if bad else OK, words, figures)


def _pairs(subject: Subject, conversion: Conversion) -> Iterator[tuple[list[Array], list[Array]]]:
    """The outputs of the original and of the conversion, sample by sample, until there is no time for another one."""
    known = subject.data.likely
    stream = reference.Stream(conversion.graph)  # samples are its steps: without state, each starts anew
    slowest = 0.0
    for index in range(len(known) + len(subject.data.further)):
        start = time.monotonic()
        if start + slowest > subject.log.until:
            return
        inputs = known[index] if index < len(known) else subject.data.further[index - len(known)]()
        if index == len(subject.likely):
            subject.likely.append(_answer(subject.stream, inputs))
        answer = subject.likely[index]
        if answer is not None:
            yield answer, stream.step(*_transferred(subject, conversion.graph, inputs))
        slowest = max(slowest, time.monotonic() - start)


def _taken(pairs: Iterator[tuple[list[Array], list[Array]]], count: int) -> tuple[list[list[Array]], list[list[Array]]]:
    taken = list(islice(pairs, count))
    return [a for a, _ in taken], [b for _, b in taken]


def shipped() -> tuple[str, ...]:
    """The names of all shipped schemes."""
    return tuple(schemes.shipped())
