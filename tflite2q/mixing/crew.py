"""Who does the measuring: this process, processes of this machine, or (tflite2q.batch.connection) a Dask cluster.

A measurement is a pure function of its arguments, so all of them give the same results.
"""

from __future__ import annotations

import math
import os
import pickle
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

from tflite2q.errors import DataError, Tflite2qError, UsageError, hint

CHILD = "tflite2q.mixing.child"

K = TypeVar("K", bound=Hashable)
Function = Callable[..., Any]


class Crew(Protocol):
    """Does calls of functions that can be imported; `window` of them may wait or run at once."""

    @property
    def window(self) -> int: ...

    def share(self, value: Any) -> Any:
        """Something to give to calls in place of `value`, so that it is sent to each worker once."""

    def submit(self, function: Function, *arguments: Any) -> Future[Any]: ...

    def close(self) -> None:
        """Stop; calls that run are given up."""


class Inline:
    """This process."""

    window = 1

    def share(self, value: Any) -> Any:
        return value

    def submit(self, function: Function, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Tflite2qError as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """There is nothing to end."""


@dataclass(frozen=True)
class Shared:
    """Stands for a shared value in a call."""

    number: int


class Processes:
    """Processes of this machine, each of which does one call at a time."""

    def __init__(self, jobs: int) -> None:
        self._pool = ThreadPoolExecutor(jobs)
        self._idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        self._children = [_Child() for _ in range(jobs)]
        for child in self._children:
            self._idle.put(child)
        self._shared: list[bytes] = []
        self.window = jobs

    def share(self, value: Any) -> Shared:
        self._shared.append(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
        return Shared(len(self._shared) - 1)

    def submit(self, function: Function, *arguments: Any) -> Future[Any]:
        return self._pool.submit(self._call, function, arguments)

    def _call(self, function: Function, arguments: tuple[Any, ...]) -> Any:
        child = self._idle.get()
        try:
            for each in arguments:
                if isinstance(each, Shared):
                    child.know(each.number, self._shared[each.number])
            return child.call(function, arguments)
        finally:
            self._idle.put(child)

    def close(self) -> None:
        for child in self._children:
            child.close()
        self._pool.shutdown(wait=True, cancel_futures=True)


class _Child:
    """A process that answers calls."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", CHILD, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())
        self._known: set[int] = set()
        self._closing = threading.Lock()

    def know(self, number: int, content: bytes) -> None:
        if number not in self._known:
            self._ask(("know", number, content))
            self._known.add(number)

    def call(self, function: Function, arguments: tuple[Any, ...]) -> Any:
        return self._ask(("call", function, arguments))

    def _ask(self, request: tuple[Any, ...]) -> Any:
        try:
            self._connection.send(request)
            done, value = self._connection.recv()
        except (EOFError, OSError) as error:
            raise DataError(
                "a process of the search was ended, perhaps for lack of memory; "
                + hint("give fewer --jobs, or continue by the same command")
            ) from error
        if not done:
            raise value
        return value

    def close(self) -> None:
        with self._closing:
            self._process.kill()
            self._process.wait()


class Budget:
    """The time that a search may take: `minutes` (None: any) from now."""

    def __init__(self, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.now = clock
        self.began = clock()
        self.seconds = math.inf if minutes is None else 60 * minutes

    @property
    def spent(self) -> float:
        return self.now() - self.began

    @property
    def left(self) -> float:
        return self.seconds - self.spent

    def ended(self, before: str) -> UsageError:
        """The error for a budget that ended before what a search cannot do without."""
        return UsageError(
            f"the budget of {self.seconds / 60:g} minutes ended before {before}; "
            + hint("allow more with --budget, or measure fewer samples with --limit")
        )

    def part(self, share: float, kept: float = 0.0) -> Callable[[], float]:
        """How much is left of a `share` of the time there is now, of which `kept` seconds are for later."""
        end = self.now() + max(0.0, share * (self.left - kept))
        return lambda: end - self.now()


def done(
    crew: Crew, calls: Iterable[tuple[K, Function, tuple[Any, ...]]], budget: Budget, left: Callable[[], float]
) -> Iterator[tuple[K, Any]]:
    """The results of calls (key, function, arguments) as they come.  No call begins that would likely end after the
    time that is `left`, and none is waited for that does."""
    running: dict[Future[Any], tuple[K, float]] = {}
    longest, more = 0.0, True
    waiting = iter(calls)
    while more or running:
        while more and len(running) < crew.window:
            following = next(waiting, None)
            if following is None or left() <= longest:
                more = False
                break
            key, function, arguments = following
            began = budget.now()
            running[crew.submit(function, *arguments)] = key, began
        if not running:
            return
        patience = left()
        finished, _ = wait(running, None if patience > threading.TIMEOUT_MAX else max(patience, 0), FIRST_COMPLETED)
        if not finished:
            for future in running:
                future.cancel()
            return
        for future in finished:
            key, began = running.pop(future)
            longest = max(longest, budget.now() - began)
            yield key, future.result()
