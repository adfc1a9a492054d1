"""Ways to call a compiled model: step by step, without copies, and many samples at once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NoReturn

import numpy.typing as npt

from tflite2q.dialect.types import Value
from tflite2q.errors import DataError, UsageError, refusal
from tflite2q.execution.checks import Inputs, Outputs, check_prescribed

if TYPE_CHECKING:
    from tflite2q.execution.runtime import Executable
    from tflite2q.lower.machine import Worker

Array = npt.NDArray[Any]
Sample = npt.ArrayLike | tuple[npt.ArrayLike, ...]

# A call that takes less than so many seconds is not worth another thread; so many calls show it.
HANDING_OVER = 1.2e-4
TRIED = 3
# Samples that a thread of `Executable.map` takes at once.
PIECE_BYTES = 1 << 15
PIECE_SAMPLES = 32


class Stream:
    """A compiled model that is run step by step: each step starts from the state that the last one left.

    An executable may have any number of streams; they share nothing but its code.
    """

    def __init__(self, executable: Executable) -> None:
        self.executable = executable
        self._states: list[Array] = []
        self.reset()

    def step(self, *arrays: npt.ArrayLike) -> list[Array]:
        """The outputs of the next step, for `arrays` as `Executable.run` takes them; it raises what that raises, and
        the state is then what it was."""
        outputs, self._states = self.executable.advance(arrays, self._states)
        return outputs

    def reset(self) -> None:
        """Back to the state before the first step."""
        self._states = self.executable.initial_states


class Bound:
    """A compiled model whose inputs and outputs stay in place, so that a run copies nothing.

    Write into the arrays of `inputs`, call `run`, and read what it returns before the next run: that may reuse the
    memory.  The arrays can be shared with other libraries by DLPack (`torch.from_dlpack`).  One thread at a time may
    use it; bind an executable once for each thread.
    """

    def __init__(self, executable: Executable, worker: Worker) -> None:
        self.executable = executable
        self._worker = worker
        count = len(executable.inputs)
        self.inputs = tuple(worker.places[:count])
        self._states = tuple(zip(worker.places[count:], executable.initial_states, strict=True))
        # What an input prescribes is checked for those that prescribe something, which few do.
        self._checked = [
            (value, place)
            for value, place in zip(executable.inputs, self.inputs, strict=True)
            if value.constant is not None
        ]

    def run(self) -> list[Array]:
        """The outputs for what `inputs` hold, from the initial state; raises DataError as `Executable.run`."""
        for value, place in self._checked:
            check_prescribed(value, place)
        for place, initial in self._states:
            place[...] = initial
        try:
            return self._worker.results()[: len(self.executable.outputs)]
        except RuntimeError as error:
            raise_refusal(error)


class Batch:
    """A compiled model on so many samples at once: inputs and outputs hold them one after the other, along the first
    axis.

    The samples do not wait for each other: each thread takes the next one, which keeps more of a small model's data in
    its own cache than if threads shared each sample.  Any number of threads may use a batch at once.
    """

    def __init__(self, executable: Executable, count: int, workers: int) -> None:
        if count < 1:
            raise UsageError(f"batch must be at least 1, got {count}")
        if executable.manifest.states:
            raise UsageError("a model with state takes its inputs in order; run each stream by itself")
        self.executable, self.count = executable, count
        self.inputs = tuple(_repeated(value, count) for value in executable.inputs)
        self.outputs = tuple(_repeated(value, count) for value in executable.outputs)
        self._inputs, self._outputs = Inputs(self.inputs), Outputs(self.outputs)
        self._pool = ThreadPoolExecutor(min(workers, count))
        self._workers = min(workers, count)
        self._shortest: float | None = None  # seconds of a call

    def __repr__(self) -> str:
        return f"<Batch of {self.count} by {self._workers} threads of {self.executable!r}>"

    def run(self, *arrays: npt.ArrayLike, out: Sequence[Array] | None = None) -> list[Array]:
        """The outputs for `arrays`, one for each of `inputs`, of its shape and dtype; written to `out` if it is given.

        Raises DataError as `Executable.run`.
        """
        given = self._inputs.checked(arrays)
        found = self._outputs.made() if out is None else list(self._outputs.checked(out))

        def work(samples: Iterable[int]) -> None:
            for sample in samples:
                ins, outs = ([_part(array, sample, self.count) for array in side] for side in (given, found))
                self.executable.run(*ins, out=outs)

        todo = iter(range(self.count))  # each number is taken by one thread
        if self._shortest is None:
            self._shortest = float("inf")
            for sample in islice(todo, TRIED):
                started = time.perf_counter()
                work([sample])
                self._shortest = min(self._shortest, time.perf_counter() - started)
        if self._workers == 1 or self._shortest < HANDING_OVER:
            work(todo)
            return found
        for done in [self._pool.submit(work, todo) for _ in range(self._workers)]:
            done.result()
        return found


def _repeated(value: Value, count: int) -> Value:
    """What a value is for so many samples.  Raises UsageError for a scalar, and for what decides shapes."""
    shape = value.type.shape
    if not shape or value.constant is not None:
        what = "has no axis to put samples one after the other" if not shape else "decides shapes"
        raise UsageError(f"{value.name!r} {what}; run the samples of this model one by one")
    return replace(value, type=replace(value.type, shape=(shape[0] * count, *shape[1:])))


def _part(array: Array, sample: int, count: int) -> Array:
    rows = len(array) // count
    return array[sample * rows : (sample + 1) * rows]


def mapped(run: Callable[..., list[Array]], samples: Iterable[Sample], workers: int) -> Iterator[list[Array]]:
    """The results of `run` for each sample, in order, by threads that are kept busy with pieces of the samples.

    A call of a small model is over before another thread has woken up.  So a few calls come first, in the caller's own
    thread; if they are that short, the others follow there.
    """

    def call(sample: Sample) -> list[Array]:
        return run(*sample) if isinstance(sample, tuple) else run(sample)

    rest, shortest = iter(samples), float("inf")
    for sample in islice(rest, TRIED):
        if _bytes(sample) > PIECE_BYTES:  # no small model
            rest = chain([sample], rest)
            break
        started = time.perf_counter()
        result = call(sample)
        shortest = min(shortest, time.perf_counter() - started)
        yield result
    if shortest < HANDING_OVER:
        yield from map(call, rest)
        return
    pieces = iter(partial(_piece, rest), [])
    with ThreadPoolExecutor(workers) as pool:
        ahead = deque(pool.submit(list, map(call, piece)) for piece in islice(pieces, 2 * workers))
        while ahead:
            yield from ahead.popleft().result()
            ahead.extend(pool.submit(list, map(call, piece)) for piece in islice(pieces, 1))


def _piece(samples: Iterator[Sample]) -> list[Sample]:
    """The next samples, at least one if there are any: handing one over costs as much as running a small model."""
    found: list[Sample] = []
    size = 0
    for sample in samples:
        found.append(sample)
        size += _bytes(sample)
        if size > PIECE_BYTES or len(found) == PIECE_SAMPLES:
            break
    return found


def _bytes(sample: Sample) -> int:
    return sum(getattr(array, "nbytes", 0) for array in (sample if isinstance(sample, tuple) else (sample,)))


def raise_refusal(error: RuntimeError) -> NoReturn:
    """Raise DataError if compiled code refuses the data, else the error itself."""
    message = refusal(error)
    if message is None:
        raise error
    raise DataError(message) from error
