"""The engines of a comparison: both models compiled, here or on a device, in LiteRT, and in the reference."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from tflite2q import files
from tflite2q.dialect.graph import Graph
from tflite2q.errors import TargetError, Tflite2qError, UnsupportedError, hint
from tflite2q.evaluation.engines import (
    COMPILED,
    CONVERTED,
    EMULATED,
    LITERT,
    LITERT_REFERENCE,
    ORIGINAL,
    REFERENCE,
    Called,
    Contender,
    Emulated,
    Engine,
    InLitert,
)
from tflite2q.evaluation.results import Progress
from tflite2q.execution import litert, reference, runtime
from tflite2q.flatbuffer import writer
from tflite2q.micro.memory import Layout

if TYPE_CHECKING:
    from tflite2q.execution.remote import Device
    from tflite2q.execution.runtime import Executable

Array = npt.NDArray[Any]
KERNELS = {LITERT: litert.DEFAULT, LITERT_REFERENCE: litert.REFERENCE}


class Absent(Engine):
    """An engine that cannot run a model."""

    def start(self, arrays: Any) -> None:
        raise TargetError("not there")

    def finish(self) -> list[Array]:
        raise TargetError("not there")


@dataclass
class EveryValue:
    """The reference, which keeps every value of its last run."""

    graph: Graph
    stream: bool
    values: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.running = reference.Stream(self.graph)

    def __call__(self, *arrays: Array) -> list[Array]:
        self.values = self.running.step_every(*arrays) if self.stream else reference.run_every(self.graph, *arrays)
        return [self.values[name] for name in self.graph.outputs]


@dataclass
class Setup:
    """How both graphs are run; `few` is the number of samples for slow engines, `emulate` the microcontroller whose
    code runs in an emulator, too, `speed` and `profile` tell whether models and single layers are timed, `notes`
    collects what a user should know."""

    graphs: tuple[Graph, Graph]
    target: str
    threads: int
    device: Device | None
    stream: bool
    few: int
    progress: Progress
    emulate: str | None = None
    speed: bool = False
    profile: bool = False
    notes: list[str] = field(default_factory=list)
    every: tuple[EveryValue, EveryValue] | None = None
    memory: Layout | None = None  # of the converted model's code in an emulator

    @property
    def models(self) -> tuple[tuple[str, Graph], ...]:
        return tuple(zip((ORIGINAL, CONVERTED), self.graphs, strict=True))

    @property
    def judged(self) -> int | None:
        """The number of samples for the reference kernels; all (None) if an emulator is compared with them."""
        return self.few if self.emulate is None or self.few == 0 else None

    @contextmanager
    def contenders(self) -> Iterator[list[Contender]]:
        """All engines with both models, in the order of the report; LiteRT's processes start while TVM compiles."""
        with ExitStack() as held:
            found = self._litert(held)
            compiled = self._compiled(held)
            found += self._reference(None if compiled is None else self.judged)
            yield found + (compiled or []) + self._emulated(held)

    def _reference(self, limit: int | None) -> list[Contender]:
        if limit == 0:
            return []
        before, after = self.graphs
        self.every = EveryValue(before, self.stream), EveryValue(after, self.stream)
        rows = zip(self.models, self.every, strict=True)
        return [Contender(REFERENCE, model, graph, Called(run), limit) for (model, graph), run in rows]

    def _compiled(self, held: ExitStack) -> list[Contender] | None:
        """Both models compiled; None, with a note, if this machine cannot run them; a device raises TargetError."""
        try:
            found = self._executables()
        except TargetError as error:
            if self.device is not None:
                raise
            self.notes.append(f"outputs come from the NumPy reference and speed was not measured: {error}")
            return None
        rows = []
        for (model, graph), executable in zip(self.models, found, strict=True):
            held.callback(executable.close)
            run = executable.stream().step if self.stream else executable.run
            profile = None if self.device is not None else executable.profile
            rows.append(Contender(COMPILED, model, graph, Called(run), None, executable.times, profile))
        return rows

    def _executables(self) -> tuple[Executable, Executable]:
        self.progress("compiling", 0, 2)
        first = runtime.compile(self.graphs[0], target=self.target, threads=self.threads)
        if self.device is None:
            first.require_runnable()
        self.progress("compiling", 1, 2)
        second = runtime.compile(self.graphs[1], target=self.target, threads=self.threads)
        if self.device is None:
            return first, second
        from tflite2q.execution.remote import Session

        self.progress(f"connecting to {self.device.name}", 0, 0)
        session = Session(self.device)
        return session.upload(first), session.upload(second)

    def _emulated(self, held: ExitStack) -> list[Contender]:
        """Both models (one, if they are the same) as code for a microcontroller; raises TargetError where there is no
        emulator, and what says why the converted model has no code."""
        if self.emulate is None:
            return []
        from tflite2q.micro import emulator

        rows = []
        models = self.models[self.graphs[0] == self.graphs[1] :]
        for number, (model, graph) in enumerate(models):
            self.progress(f"building for the emulated {self.emulate}", number, len(models))
            try:
                session = emulator.Session(graph, self.emulate, self.stream)
            except UnsupportedError as error:
                if model == CONVERTED:
                    raise
                rows.append(Contender(EMULATED, model, graph, Absent(), failed=str(error)))
                continue
            held.callback(session.close)
            rows.append(Contender(EMULATED, model, graph, Emulated(session)))
            self.memory = session.memory
        return rows

    def _litert(self, held: ExitStack) -> list[Contender]:
        """Both models in LiteRT, with both kinds of kernels."""
        if not litert.available():
            self.notes.append("LiteRT was not run; to include it: pip install 'tflite2q[litert]'")
            return []
        if self.device is not None:
            self.notes.append(f"times were measured on {self.device.name}; LiteRT ran here and was not timed")
        folder = str(held.enter_context(files.temporary_folder()))
        # State stays in LiteRT's interpreter from run to run, so that it can only follow a stream.
        stateful = not self.stream and any(graph.states for graph in self.graphs)
        if stateful:
            self.notes.append(
                hint("LiteRT keeps state from run to run, so that its outputs are compared with --stream only")
            )
        rows = []
        paths = {model: _written(folder, model, graph) for model, graph in self.models}
        for engine in (LITERT, LITERT_REFERENCE):
            limit = self.judged if engine == LITERT_REFERENCE else None
            if limit == 0 or (stateful and engine == LITERT_REFERENCE):
                continue
            for model, graph in self.models:
                path, reason = paths[model]
                if path is None:
                    rows.append(Contender(engine, model, graph, Absent(), failed=reason))
                    continue
                child = litert.Child(path, self.threads, KERNELS[engine])
                held.callback(child.close)
                timed = engine == LITERT and self.device is None
                rows.append(
                    Contender(
                        engine, model, graph, InLitert(child), 0 if stateful else limit, child.time if timed else None
                    )
                )
        return rows


def _written(folder: str, stem: str, graph: Graph) -> tuple[str | None, str]:
    """The graph as a file for LiteRT, or why there is none."""
    if graph.place:
        return None, "it runs the file's first subgraph"
    path = os.path.join(folder, f"{stem}.tflite")
    try:
        writer.save(graph, path)
    except Tflite2qError as error:
        return None, str(error)
    return path, ""


def of(contenders: list[Contender], engine: str, model: str) -> Contender | None:
    """The contender of an engine and a model that has not failed."""
    return next((c for c in contenders if (c.engine, c.model) == (engine, model) and c.failed is None), None)
