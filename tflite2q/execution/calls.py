"""Ways to call a compiled model: step by step, without copies, and many samples at once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from math import prod
from operator import length_hint
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from tflite2q.dialect.types import Value
from tflite2q.errors import DataError, UsageError, refusal
from tflite2q.execution.checks import Inputs, Outputs, check_prescribed, kinds

if TYPE_CHECKING:
    from tflite2q.execution.runtime import Executable
    from tflite2q.lower.machine import Worker

Array = npt.NDArray[Any]
Sample = npt.ArrayLike | tuple[npt.ArrayLike, ...]

# Samples that a call of the code computes at most: these many bytes of what goes in and out, or one sample, and no more
# than so many.
CALL_BYTES = 1 << 18
CALL_SAMPLES = 256
# Samples that a thread takes at once, in one call or several: as many as take it so long, and no more than so many.
# To hand them over takes a twentieth of that.
PIECE_SECONDS = 2e-3
PIECE_SAMPLES = 1024


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
        self._gives = Outputs(executable.outputs)
        self._states = tuple(zip(worker.places[count:], executable.initial_states, strict=True))
        # What an input prescribes is checked for those that prescribe something, which few do.
        self._checked = [
            (value, place)
            for value, place in zip(executable.inputs, self.inputs, strict=True)
            if value.constant is not None
        ]

    def run(self, out: Sequence[Array] | None = None) -> list[Array]:
        """The outputs for what `inputs` hold, from the initial state; written to `out` if it is given, as
        `Executable.run` does.  Raises DataError as that."""
        places = None if out is None else self._gives.checked(out)
        for value, place in self._checked:
            check_prescribed(value, place)
        for place, initial in self._states:
            place[...] = initial
        try:
            if out is not None and places is not None:
                self._worker.results_in(places)
                return list(out)
            return self._worker.results()[: len(self.executable.outputs)]
        except RuntimeError as error:
            raise_refusal(error)


class Batch:
    """A compiled model on so many samples at once: inputs and outputs hold them one after the other, along the first
    axis.

    The samples do not wait for each other: each thread takes the next few, which keeps more of a small model's data in
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
        self._workers = min(workers, count)
        # The last thread to finish has the others wait for at most one piece, so there are several for each.
        self._piece = max(1, min(executable.capacity, count // (4 * self._workers)))

    def __repr__(self) -> str:
        return f"<Batch of {self.count} by {self._workers} threads of {self.executable!r}>"

    def run(self, *arrays: npt.ArrayLike, out: Sequence[Array] | None = None) -> list[Array]:
        """The outputs for `arrays`, one for each of `inputs`, of its shape and dtype; written to `out` if it is given.

        Raises DataError as `Executable.run`.
        """
        given = [_rows(array, self.count) for array in self._inputs.checked(arrays)]
        found = self._outputs.made() if out is None else self._outputs.checked(out)
        rows = [_rows(array, self.count) for array in found]
        if out is not None:  # a sample may be read after the results of others were written
            given = [a.copy() if any(np.may_share_memory(a, row) for row in rows) else a for a in given]
        todo = iter(range(0, self.count, self._piece))  # each number is taken by one thread

        def work() -> None:
            for first in todo:
                part = slice(first, first + self._piece)
                self.executable.run_rows([side[part] for side in given], [side[part] for side in rows])

        threads = self.executable.threads_of(self._workers)
        others = [threads.submit(work) for _ in range(self._workers - 1)]
        try:
            work()
        finally:
            for done in others:
                done.result()
        for array, made in zip(found, rows, strict=True):
            if not np.shares_memory(array, made):
                array[...] = made.view(array.dtype).reshape(array.shape)
        return found if out is None else list(out)


def _rows(array: Array, count: int) -> Array:
    """The bytes of `count` samples, one row for each; a copy if they do not lie one after the other."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(count, array.nbytes // count)


def run_each(
    run: Callable[[Sequence[Array]], list[Array]],
    inputs: Iterable[Value],
    arrays: Sequence[Array],
    out: Sequence[Array],
) -> None:
    """`run` for each sample by itself; `arrays` and `out` hold the bytes of samples, one row for each."""
    takes = kinds(inputs)
    for index in range(len(arrays[0])):
        found = run(
            [rows[index].view(dtype).reshape(shape) for rows, (shape, dtype) in zip(arrays, takes, strict=True)]
        )
        for rows, result in zip(out, found, strict=True):
            rows[index] = np.ascontiguousarray(result).reshape(-1).view(np.uint8)


def _repeated(value: Value, count: int) -> Value:
    """What a value is for so many samples.  Raises UsageError for a scalar, and for what decides shapes."""
    shape = value.type.shape
    if not shape or value.constant is not None:
        what = "has no axis to put samples one after the other" if not shape else "decides shapes"
        raise UsageError(f"{value.name!r} {what}; run the samples of this model one by one")
    return replace(value, type=replace(value.type, shape=(shape[0] * count, *shape[1:])))


def capacity(values: Iterable[Value]) -> int:
    """How many samples of a model, which takes and gives `values`, one call computes at most: many small ones, which
    take less time than a call."""
    size = sum(prod(shape) * dtype.itemsize for shape, dtype in kinds(values))
    return max(1, min(CALL_SAMPLES, CALL_BYTES // max(1, size)))


class _Pieces:
    """Samples in pieces, which grow until one takes a thread long enough.

    They are copied when they come, for what makes samples may have one array for all of them, and a piece ends if they
    come slowly.  Those of a list are all there; its last pieces are smaller, so that threads end together.  Where one
    does not fit, or cannot be had, the pieces end, and `error` is why.
    """

    def __init__(self, executable: Executable, samples: Iterable[Sample], workers: int) -> None:
        self._executable, self._workers = executable, workers
        self._made = not isinstance(samples, list | tuple)
        self._parts = tuple if len(executable.inputs) == 1 else (tuple, list)  # a list may be an array, but not several
        self._samples = iter(samples)
        self._size = min(8, executable.capacity)
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[list[list[Array]]]:
        while piece := self._next():
            yield piece

    def _next(self) -> list[list[Array]]:
        piece: list[list[Array]] = []
        if self.error is not None:
            return piece
        latest, size = time.perf_counter() + PIECE_SECONDS, self._size
        if not self._made:
            size = max(1, size // 8, min(size, length_hint(self._samples) // (2 * self._workers)))
        try:
            for sample in islice(self._samples, size):
                arrays = self._executable.checked(sample if isinstance(sample, self._parts) else (sample,))
                piece.append([array.copy() for array in arrays] if self._made else arrays)
                if self._made and time.perf_counter() > latest:
                    break
        except Exception as error:  # of any kind: the samples are the caller's
            self.error = error
        return piece

    def run(self, piece: Sequence[list[Array]]) -> list[list[Array]]:
        """The results of a piece."""
        started, most = time.perf_counter(), self._executable.capacity
        calls = [self._executable.run_all(piece[first : first + most]) for first in range(0, len(piece), most)]
        if len(piece) == self._size and time.perf_counter() - started < PIECE_SECONDS / 2:
            self._size = min(2 * len(piece), PIECE_SAMPLES)
        return list(chain.from_iterable(calls))


def mapped(executable: Executable, samples: Iterable[Sample], workers: int) -> Iterator[list[Array]]:
    """The results for each sample, in order, by threads that are kept busy with pieces of the samples."""
    cut = _Pieces(executable, samples, workers)
    yield from _in_order(executable, cut, workers)
    if cut.error is not None:
        raise cut.error


def _in_order(executable: Executable, cut: _Pieces, workers: int) -> Iterator[list[Array]]:
    pieces = iter(cut)
    if workers == 1:
        for piece in pieces:
            yield from _results(executable, piece, partial(cut.run, piece))
        return
    threads = executable.threads_of(workers)
    ahead: deque[tuple[list[list[Array]], Future[list[list[Array]]]]] = deque()
    try:
        while True:
            for piece in islice(pieces, 2 * workers - len(ahead)):
                ahead.append((piece, threads.submit(cut.run, piece)))
            if not ahead:
                return
            piece, done = ahead.popleft()
            yield from _results(executable, piece, done.result)
    finally:
        for _, left in ahead:
            left.cancel()


def _results(
    executable: Executable, piece: list[list[Array]], result: Callable[[], list[list[Array]]]
) -> Iterable[list[Array]]:
    """The results of a piece; where a sample has none, those before it, and then its error."""
    try:
        return result()
    except DataError:
        return (executable.run(*sample) for sample in piece)


def raise_refusal(error: RuntimeError) -> NoReturn:
    """Raise DataError if compiled code refuses the data, else the error itself."""
    message = refusal(error)
    if message is None:
        raise error
    raise DataError(message) from error
