"""The stages of the model as it is: load, the reference against other engines, compiled code against the reference."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import tflite2q
from compatibility import engines, exact
from compatibility.engines import Engine
from compatibility.records import DOCUMENTED, OK, UNMEASURED, WRONG
from compatibility.samples import Samples, samples
from compatibility.stages import ENGINE, Log, Outcome
from tflite2q.dialect.graph import Graph
from tflite2q.errors import DataError
from tflite2q.execution import reference as interpreter

Array = npt.NDArray[Any]


@dataclass
class Subject:
    """The file that is examined and what is known of it so far."""

    path: Path
    log: Log
    photos: Path | None
    litert: Engine = field(default_factory=lambda: Engine("litert"))
    micro: Engine = field(default_factory=lambda: Engine("micro"))
    # What the reference answered: inputs and outputs, of `data.exact`; outputs, of `data.likely` (None: it refused).
    answers: list[tuple[list[Array], list[Array]]] = field(default_factory=list)
    likely: list[list[Array] | None] = field(default_factory=list)
    conversions: dict[str, Any] = field(default_factory=dict)  # by the scheme's name
    runs_in_litert: bool = False
    _stream: interpreter.Stream | None = None  # on which `likely` was answered so far
    _graph: Graph | None = None
    _data: Samples | None = None

    @property
    def graph(self) -> Graph:
        assert self._graph is not None
        return self._graph

    @property
    def stream(self) -> interpreter.Stream:
        if self._stream is None:
            self._stream = interpreter.Stream(self.graph)
        return self._stream

    @property
    def data(self) -> Samples:
        if self._data is None:
            self._data = samples(self.graph, self.photos)
        return self._data

    def close(self) -> None:
        self.litert.close()
        self.micro.close()


def load(subject: Subject) -> bool:
    """Read the file; where that is refused, say whether LiteRT could run it.  Whether there is a graph."""

    def read() -> Outcome:
        subject._graph = graph = tflite2q.load(subject.path)
        return Outcome(figures={"ops": len(graph.ops), "macs": macs(graph)})

    def other() -> Outcome:
        told = subject.litert.run(subject.path, None, subject.log.until)
        words = "runs it" if told.state == engines.RAN else f"{told.state}: {told.why}"
        return Outcome(detail=words, figures={"runs": told.state == engines.RAN})

    if subject.log.do("file", read):
        return True
    subject.log.do("LiteRT", other, ENGINE)
    return False


def macs(graph: Graph) -> int:
    """Multiply-accumulates of one run."""
    return sum(int(op.macs(graph.ins(op), graph.outs(op))) for op in graph.ops)


def reference(subject: Subject) -> bool:
    """Every tensor against LiteRT's reference kernels, on all samples for which there is time.

    Whether the reference has an answer.
    """
    graph, log = subject.graph, subject.log
    for index, inputs in enumerate(_exact(subject)):
        held: dict[str, Array] = {}

        def run(inputs: list[Array] = inputs, held: dict[str, Array] = held) -> None:
            held.update(interpreter.run_every(graph, *inputs))
            subject.answers.append((inputs, [held[name] for name in graph.outputs]))

        def compare(inputs: list[Array] = inputs, held: dict[str, Array] = held) -> Outcome:
            return _judge(subject, inputs, held)

        if log.do(f"run {index}", run):
            # What an engine does to its process is the engine's affair; the figures of its answer are the program's.
            log.do(f"judge {index}", compare, ENGINE)
        if time.monotonic() > log.until:
            break
    if subject.answers and graph.states:
        log.do("stream", lambda: _judge_stream(subject), ENGINE)
    return bool(subject.answers)


def outputs_of(stream: Any, steps: Sequence[Sequence[Array]]) -> list[Array]:
    """What a stream answers to steps, each output with the steps on its first axis."""
    return [np.stack(column) for column in zip(*(stream.step(*inputs) for inputs in steps), strict=True)]


def _judge_stream(subject: Subject) -> Outcome:
    """What LiteRT's reference kernels say to the outputs of a stream, and to every tensor of its last step."""
    graph, steps = subject.graph, subject.data.steps
    stream = interpreter.Stream(graph)
    every = [stream.step_every(*inputs) for inputs in steps]
    told = subject.litert.run(subject.path, steps, subject.log.until, every=True)
    if told.state != engines.RAN:
        late = told.state == engines.LATE
        return Outcome(UNMEASURED, "time" if late else f"no judge: LiteRT {told.state}: {told.why}")
    ours = [np.stack([held[name] for held in every]) for name in graph.outputs]
    culprit, problem, seen = exact.tensors(graph, every[-1], told.tensors)
    problem = exact.outputs(graph, ours, told.outputs) or problem
    figures = {"judge": "LiteRT", "steps": len(steps), "tensors": seen}
    if culprit is not None and (named := culprit.deviates(graph.ins(culprit), graph.outs(culprit))):
        return Outcome(DOCUMENTED, f"{problem}; docs/ops.md: {named}", figures)
    return Outcome(WRONG if problem else OK, problem, figures)


def answer_again(subject: Subject) -> None:
    """The reference's outputs once more, for a process that takes over from one that died."""
    for inputs in _exact(subject):
        with suppress(DataError):
            subject.answers.append((inputs, interpreter.run(subject.graph, *inputs)))
        if time.monotonic() > subject.log.until:
            break


def _exact(subject: Subject) -> tuple[list[Array], ...]:
    """The samples; where they cannot be made, that is a check of its own."""
    found: list[tuple[list[Array], ...]] = []
    subject.log.do("samples", lambda: found.append(subject.data.exact))
    return found[0] if found else ()


def _judge(subject: Subject, inputs: list[Array], held: dict[str, Array]) -> Outcome:
    """What LiteRT's reference kernels say to the reference's tensors, or TFLite Micro where they cannot."""
    graph = subject.graph
    told = subject.litert.run(subject.path, [inputs], subject.log.until, every=True)
    if told.state == engines.LATE:
        return Outcome(UNMEASURED, "time")
    ours = [held[name][None] for name in graph.outputs]
    if told.state == engines.RAN:
        subject.runs_in_litert = True
        culprit, problem, seen = exact.tensors(graph, held, told.tensors)
        problem = problem or exact.outputs(graph, ours, told.outputs)
        total = sum(len(op.outputs) for op in graph.ops)
        figures = {"judge": "LiteRT", "tensors": seen, "of": total}
        if culprit is not None and (named := culprit.deviates(graph.ins(culprit), graph.outs(culprit))):
            return Outcome(DOCUMENTED, f"{problem}; docs/ops.md: {named}", figures)
        return Outcome(WRONG if problem else OK, problem, figures)
    note = f"LiteRT {told.state}: {told.why}"
    second = subject.micro.run(subject.path, [inputs], subject.log.until, outputs=len(graph.outputs))
    if second.state != engines.RAN:
        return Outcome(UNMEASURED, f"no judge: {note}; TFLite Micro {second.state}: {second.why}")
    problem = exact.outputs(graph, ours, second.outputs)
    return Outcome(WRONG if problem else OK, problem, {"judge": "TFLite Micro", "note": note})


def compiled(subject: Subject, level: str) -> None:
    """Code for a level of the processor against the reference, on the samples that the reference answered."""

    def run() -> Outcome:
        executable = tflite2q.compile(subject.graph, level)
        done = 0
        for inputs, want in subject.answers:
            problem = exact.outputs(subject.graph, executable.run(*inputs), want)
            if problem:
                return Outcome(WRONG, problem)
            done += 1
        if not subject.graph.states:
            return Outcome(figures={"samples": done})
        steps = subject.data.steps
        want = outputs_of(interpreter.Stream(subject.graph), steps)
        problem = exact.outputs(subject.graph, outputs_of(executable.stream(), steps), want)
        return Outcome(WRONG if problem else OK, problem, {"samples": done, "steps": len(steps)})

    subject.log.do("run", run)
