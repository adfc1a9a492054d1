"""Compiled models: compile, run, time, save and load them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from tflite2q import files, limits
from tflite2q.dialect import needs
from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import STORAGE, Value
from tflite2q.errors import DataError, UsageError
from tflite2q.execution import libraries, manifest
from tflite2q.execution.calls import Array, Batch, Bound, Sample, Stream, capacity, mapped, raise_refusal, run_each
from tflite2q.execution.checks import Inputs, Outputs, kinds
from tflite2q.execution.manifest import Manifest
from tflite2q.execution.origin import Compiled, Library, Origin, check_loaded, check_runnable, save
from tflite2q.execution.source import Source
from tflite2q.execution.times import OpTime, Stats

if TYPE_CHECKING:
    from tflite2q.lower.graph import Choice
    from tflite2q.lower.machine import Worker

E = TypeVar("E", bound="Executable")


def compile(
    graph: Graph,
    target: str = "native",
    threads: int = 1,
    use_kernels: bool = True,
    exec_mode: str = "compiled",
) -> Executable:
    """Compile `graph` for `target` (a name of `targets.TARGETS` or TVM's JSON).

    Without kernels every op is computed by core operations alone, slowly: the definition that kernels are compared
    with.  What was compiled before, of the same graph, for the same target, by the same version, is taken from the
    user's cache (see `libraries`).  Raises TargetError for unknown targets, UsageError for thread counts below 1.
    """
    return compiled(Executable, graph, target, threads, use_kernels, exec_mode)


def compiled(
    kind: type[E],
    graph: Graph,
    target: str = "native",
    threads: int = 1,
    use_kernels: bool = True,
    exec_mode: str = "compiled",
) -> E:
    """As `compile`, in a class of executables."""
    from tflite2q.lower.target import resolve, tvm_target

    limits.check_threads(threads)
    needs.require_compile(graph)
    chosen = resolve(target)
    source = Source(graph, chosen, tvm_target(chosen), use_kernels, exec_mode)
    found = libraries.find(source.key)
    if found is not None:
        library, description = found
        return kind(description, threads, Compiled(source, library))
    source.built  # noqa: B018 - errors belong to this call, and so does the time
    return kind(source.description, threads, Compiled(source))


def load_library(path: str | os.PathLike[str], threads: int = 1) -> Executable:
    """Load what `Executable.save` wrote.

    Raises DataError if the file is not such a library, TargetError if it is for another kind of machine.
    """
    return loaded(Executable, path, threads)


def loaded(kind: type[E], path: str | os.PathLike[str], threads: int = 1) -> E:
    """As `load_library`, in a class of executables."""
    limits.check_threads(threads)
    try:
        mark = files.mark(path)  # before it is read: what is loaded later must be what was
    except OSError as error:
        raise DataError(f"{os.fspath(path)}: cannot be read: {error.strerror}") from error
    description = manifest.read(path)
    check_runnable(description)
    check_loaded(path)
    return kind(description, threads, Library(os.path.abspath(path), mark))


def choices(graph: Graph, target: str = "native") -> tuple[Choice, ...]:
    """The kernel of each op of `graph` on `target`, and why faster kernels refused.  Raises TargetError."""
    from tflite2q.lower.graph import lower
    from tflite2q.lower.target import resolve, tvm_target

    return lower(graph, tvm_target(resolve(target))).choices


def lowered_text(graph: Graph, target: str = "native", use_kernels: bool = True) -> str:
    """The Relax and TIR text that `graph` lowers to for `target`, by kernels or by core operations alone."""
    from tflite2q.lower.graph import lower
    from tflite2q.lower.target import resolve, tvm_target

    text: str = lower(graph, tvm_target(resolve(target)), use_kernels).module.script()
    return text


class Executable:
    """A compiled model.  `inputs` and `outputs` are values with names, types and quantization parameters.

    Any number of threads may use it at once: each call has a virtual machine and argument tensors of its own while it
    lasts, so that calls run side by side.  They are kept for later calls; there are as many as calls were ever made at
    once.
    """

    def __init__(self, description: Manifest, threads: int, origin: Origin) -> None:
        self.manifest = description
        self.threads = threads
        self._origin = origin
        self._takes, self._gives = Inputs(description.inputs), Outputs(description.outputs)
        self._initial = [value.data for value in description.states]
        self._results = kinds((*description.outputs, *description.states))
        self.capacity = capacity((*description.inputs, *description.outputs, *description.states))
        self._code: Any = None
        self._making = threading.Lock()
        # Those that no thread is using; the last one used is the next to be used, and the one that is timed.
        self._idle: list[Worker] = []
        self._pools: dict[tuple[int, int], ThreadPoolExecutor] = {}

    def __repr__(self) -> str:
        ends = (", ".join(f"{v.type.dtype}{list(v.type.shape)}" for v in side) for side in (self.inputs, self.outputs))
        named = f"{self.manifest.model!r} " if self.manifest.model else ""
        return f"<Executable {named}{' -> '.join(ends)}, for {self.manifest.target}, threads {self.threads}>"

    @property
    def inputs(self) -> tuple[Value, ...]:
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[Value, ...]:
        return self.manifest.outputs

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The kernel of each op and why faster kernels refused; empty for a library that was loaded by its name."""
        return () if self._origin.source is None else self._origin.source.lowered.choices

    def close(self) -> None:
        """Release what the model holds on another machine; does nothing on this one."""

    def require_runnable(self) -> None:
        """Raise TargetError if this machine cannot run the code."""
        check_runnable(self.manifest)

    def run(self, *arrays: npt.ArrayLike, out: Sequence[Array] | None = None) -> list[Array]:
        """The model's outputs for `arrays`, one for each input, of its shape, dtype and, where it decides shapes, data.

        They are written to `out`, if it is given: one array for each output, of its shape and dtype; without a copy, if
        its memory is as that of `empty_outputs`.  Other libraries' arrays will do for both, if they share their memory
        by DLPack, as torch's do.
        A model with state starts from its initial one; `stream` keeps it from run to run.

        Raises DataError if they do not fit or have no defined result, such as an index out of range;
        TargetError if the code is for another machine.
        """
        checked = self._takes.checked(arrays)
        if out is not None:
            self._call(checked + self._initial, self._gives.checked(out))
            return list(out)
        if not self._initial:
            return self._call(checked)
        return self._call(checked + self._initial)[: len(self.manifest.outputs)]

    def empty_outputs(self) -> list[Array]:
        """New arrays for `out`, to which compiled code writes by itself: without gaps, at a multiple of 64 bytes."""
        return self._gives.made()

    def bind(self) -> Bound:
        """Inputs and outputs that stay in place from run to run, for calls that copy nothing.  Raises TargetError."""
        return Bound(self, self._new_worker())

    def map(self, samples: Iterable[Sample], workers: int | None = None) -> Iterator[list[Array]]:
        """The outputs for each sample, in order: an array, or a tuple or list of one array for each of several inputs.

        Samples are spread over `workers` threads; by default as many as there are processors for the `threads` of
        each.  They are taken a little ahead of the outputs that are asked for, so they may be endless.  They are copied
        then, so all may come in one array that changes; those of a list or a tuple are not, and must stay as they are.
        Raises as `run`, at the sample that does not fit, and what `samples` raise, behind the outputs of those before.
        """
        return mapped(self, samples, self._workers(workers))

    def batch(self, count: int, workers: int | None = None) -> Batch:
        """The model on `count` samples at once, along the first axis of inputs and outputs, by `workers` threads as in
        `map`.  Raises UsageError for models with state or with values without axes."""
        return Batch(self, count, self._workers(workers))

    def checked(self, sample: Sequence[npt.ArrayLike]) -> list[Array]:
        """A sample's arrays.  Raises DataError if they do not fit."""
        return self._takes.checked(sample)

    def run_all(self, samples: Sequence[list[Array]]) -> list[list[Array]]:
        """The outputs for each of at most `capacity` samples that fit, in one call if the code can do so.

        Raises DataError if one has no defined result.
        """
        whole = [sample + self._initial for sample in samples] if self._initial else samples
        with self._worker() as worker:
            return [results[: len(self.outputs)] for results in worker.run_all(whole)]

    def run_rows(self, arrays: Sequence[Array], out: Sequence[Array]) -> None:
        """Results for at most `capacity` samples of a model without state: arrays of their bytes, a row for each.

        Raises DataError if they have no defined result.
        """
        with self._worker() as worker:
            if worker.many is None:
                run_each(worker.run, self.inputs, arrays, out)
            else:
                worker.many.run_rows(arrays, out)

    def threads_of(self, workers: int) -> ThreadPoolExecutor:
        """Threads for so many workers, which are kept: TVM makes much anew in a thread that is new to it."""
        key = os.getpid(), workers  # a forked process has none of its parent's threads
        with self._making:
            if key not in self._pools:
                self._pools[key] = ThreadPoolExecutor(workers)
            return self._pools[key]

    def _workers(self, given: int | None) -> int:
        from tflite2q.lower.machine import processors

        count = max(1, processors() // self.threads) if given is None else given
        if count < 1:
            raise UsageError(f"workers must be at least 1, got {given}")
        return count

    def stream(self) -> Stream:
        """A new stream, in the initial state.  Models without state have streams, too: their steps are runs."""
        return Stream(self)

    @property
    def initial_states(self) -> list[Array]:
        """What the model's variables hold before the first run, in the manifest's order."""
        return list(self._initial)

    def advance(self, arrays: Sequence[npt.ArrayLike], states: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """The outputs for inputs `arrays` from `states`, and the states after that; raises as `run`."""
        results = self._call([*self._takes.checked(arrays), *states])
        return results[: len(self.outputs)], results[len(self.outputs) :]

    def _call(self, checked: Sequence[Array], out: Sequence[Array] = ()) -> list[Array]:
        """All results of the code: the first ones in `out`, the others as copies."""
        worker = self._take()  # as `_worker` does, which takes as long as a small layer
        try:
            return worker.run(checked, out)
        except RuntimeError as error:
            raise_refusal(error)
        finally:
            self._idle.append(worker)

    @contextmanager
    def _worker(self) -> Iterator[Worker]:
        """A worker for one call of the calling thread.  Raises DataError where compiled code refuses the data."""
        worker = self._take()
        try:
            yield worker
        except RuntimeError as error:
            raise_refusal(error)
        finally:
            self._idle.append(worker)

    def _take(self) -> Worker:
        """A worker for one call of the calling thread, which puts it back."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._new_worker()

    def times(self, runs: int) -> list[float]:
        """Milliseconds of each of `runs` runs on the inputs of the last run (initially random codes)."""
        if runs < 0:
            raise UsageError(f"runs must be at least 0, got {runs}")
        return self._times(runs)

    def _times(self, runs: int) -> list[float]:
        with self._worker() as worker:
            return worker.times(runs)

    def benchmark(self, repeat: int = 50, warmup: int = 5) -> Stats:
        """Time `repeat` runs after `warmup` ones that do not count."""
        if repeat < 1 or warmup < 0:
            raise UsageError(f"repeat must be at least 1 and warmup at least 0, got {repeat} and {warmup}")
        self.times(warmup)
        return Stats(tuple(self.times(repeat)))

    def profile(self, *arrays: npt.ArrayLike, repeat: int = 20) -> list[OpTime]:
        """Median time of each op over `repeat` runs, in execution order; inputs are random unless given.

        Raises UsageError for a loaded library, which does not know its ops' calls: profile the model instead.
        """
        source = self._origin.source
        if source is None:
            raise UsageError("a loaded library cannot be profiled; profile the model it was compiled from")
        from tflite2q.lower.profile import profile

        checked = self._takes.checked(arrays) if arrays else self._random_inputs()
        from tflite2q.lower.machine import launched

        self.require_runnable()
        arguments = [*checked, *self.initial_states]
        try:
            found = launched(self.threads, lambda: profile(source.lowered.module, source.target, arguments, repeat))
        except RuntimeError as error:
            raise_refusal(error)
        total = sum(found.values()) or 1.0
        choices = [choice for choice in source.lowered.choices if not choice.inner]
        return [
            OpTime(c.op, c.mnemonic, c.kernel, ms, c.macs / ms / 1e6 if c.macs and ms else None, ms / total)
            for index, c in enumerate(choices)
            for ms in [found.get(index, 0.0)]
        ]

    def save(self, path: str | os.PathLike[str], force: bool = False) -> None:
        """Write a shared library that `load_library` and TVM's own runtime load; it holds the manifest.

        A path ending in .tar gets the object files instead, for another linker.
        Raises UsageError if `path` exists and `force` is not given, or has an ending that is not in ENDINGS;
        TargetError if there is no linker for the target.
        """
        if self._origin.source is None:
            raise UsageError("a loaded library cannot be saved again; copy the file instead")
        save(self._origin.source, path, force)

    def _new_worker(self) -> Worker:
        from tflite2q.lower.machine import Worker

        with self._making:
            if self._code is None:
                self.require_runnable()
                self._code = self._origin.load()
            arguments = [*self._random_inputs(), *self.initial_states]
            return Worker(self._code, arguments, self._results, self.threads, self.capacity)

    def _random_inputs(self) -> list[Array]:
        generator = np.random.default_rng(0)
        arrays = []
        for value in self.inputs:
            dtype = np.dtype(STORAGE[value.type.dtype])
            if value.constant is not None:
                arrays.append(np.array(value.data))
            elif dtype.kind in "iu" and dtype.itemsize <= 2:
                info = np.iinfo(dtype)
                arrays.append(generator.integers(info.min, info.max, value.type.shape, dtype, endpoint=True))
            else:
                arrays.append(np.asarray(generator.random(value.type.shape)).astype(dtype))
        return arrays
