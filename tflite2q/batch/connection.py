"""The connection to a Dask cluster: it calls functions there and returns their results here.

Dask schedules the calls and gives those of a lost worker to another one.  Workers that would give other results get
none: they may come at any time, so each call looks where it is, before it is unpacked.
"""

from __future__ import annotations

import logging
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from tflite2q.batch import cache
from tflite2q.errors import UsageError, hint

PATIENCE = 10.0  # seconds for a scheduler to answer
AHEAD = 2  # calls for each thread of the workers, so that none waits for this program
REFRESH = 5.0  # seconds after which workers are looked at again
VACANCY = 30.0  # seconds without a usable worker, after which those that are there are what there is
RETRIES = 3

Told = Callable[[str], None]


class WorkersLostError(UsageError):
    """Several workers were lost, one after another, while they did the same call."""


def facts() -> dict[str, str]:
    """What must be equal on all machines for equal results."""
    return {"version": cache.version(True), "processor": " ".join(cache.machine())}


def unlike(worker: str, theirs: str, ours: str) -> str:
    """A line about a worker whose version differs, with what differs."""
    if not theirs:
        return f"Dask worker {worker} has no tflite2q, or not all that it needs; install the same version there"
    differing = sorted(set(theirs.split("; ")) ^ set(ours.split("; ")))
    return f"Dask worker {worker} would give other results ({'; '.join(differing)}); install the same versions there"


def _quiet() -> None:
    """Dask's loggers have handlers of their own; what goes wrong is said in a line, not by their tracebacks."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("distributed", "tornado", "asyncio"):
            log = logging.getLogger(name)
            log.handlers, log.propagate = [logging.NullHandler()], False


def connected(address: str) -> Any:
    """A client of the scheduler at `address`.  Raises UsageError if there is none."""
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError(hint("--dask") + " needs Dask; pip install 'tflite2q[cluster]'") from error
    _quiet()
    try:
        return Client(address, timeout=PATIENCE, set_as_default=False)
    except Exception as error:  # Dask has no kind of its own for settings, such as those of TLS, that are missing
        why = "" if isinstance(error, (OSError, ValueError)) else f" ({error})"
        raise UsageError(f"{hint('--dask')} {address}: no scheduler answers there{why}; check the address") from error


def gone(address: str, error: BaseException | None = None) -> UsageError:
    """The error for a cluster that does not answer any more."""
    why = f" ({type(error).__name__}: {error})" if error is not None and str(error) else ""
    return UsageError(
        f"{hint('--dask')} {address}: the cluster went away{why}; finished work is kept; "
        "run the same command again to continue"
    )


def _travelling() -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """What is done on a worker: `probe`, `call` and `share`.

    They travel as code, because functions are defined in one, and use nothing of this module but by importing it: the
    scheduler and workers may lack the program.
    """

    def probe() -> dict[str, str]:
        try:
            import importlib

            importlib.import_module("tvm")
            from tflite2q.batch.connection import facts

            return facts()
        except Exception:
            return {}

    def unfit(ours: dict[str, str]) -> Any:
        """What to answer on a worker that would give other results; else None."""
        from distributed import get_worker

        theirs = probe()
        if theirs and all(theirs[what] == ours[what] for what in ours):
            return None
        return "unfit", get_worker().address, theirs

    def call(ours: dict[str, str], work: bytes, *shared: Any) -> Any:
        for each in shared:
            if each[0] == "unfit":
                return each
        found = unfit(ours)
        if found is not None:
            return found
        from tflite2q.batch.connection import answered

        return answered(work, [value for _, value in shared])

    def share(ours: dict[str, str], content: bytes) -> Any:
        import pickle

        return unfit(ours) or ("value", pickle.loads(content))

    return probe, call, share


_probe, _call, _share = _travelling()


@dataclass(frozen=True)
class Slot:
    """Stands in the arguments of a call for the shared value of this number."""

    number: int


def answered(work: bytes, shared: list[Any]) -> tuple[str, Any]:
    """Do a call on a worker: "done" and what it returned, or "raised" and what it raised."""
    function, arguments = pickle.loads(work)
    try:
        return "done", function(*(shared[each.number] if isinstance(each, Slot) else each for each in arguments))
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return "raised", RuntimeError(f"{type(error).__name__}: {error}")
        return "raised", error


@dataclass(eq=False)
class Shared:
    """A value for many calls, a task of its own: a worker gets it once, and Dask makes it again if that worker is
    lost."""

    content: bytes
    asked: Any = None
    among: frozenset[str] | None = None


@dataclass(eq=False)
class _Asked:
    """A call that has no answer yet: `asked` is Dask's future, None while no worker can do it; `among` are the workers
    that may, None: any."""

    work: bytes
    shared: list[Shared]
    answer: Future[Any]
    asked: Any = None
    among: frozenset[str] | None = None
    failed: int = 0


class Connection:
    """The cluster whose scheduler has this address, as what does calls: of a batch, or of a search (its crew).

    `running`: calls also run code that is compiled for the processor of this machine.  `told` is called, from any
    thread, with a line about each worker that gets no work.
    Raises UsageError if there is no cluster, or if each worker would give other results.
    """

    def __init__(self, address: str, running: bool = True, told: Told = warnings.warn) -> None:
        self._address, self._told = address, told
        self._ours = {what: fact for what, fact in facts().items() if running or what == "version"}
        self._fit: set[str] = set()
        self._refused: dict[str, str] = {}  # lines about workers
        self._calls: set[_Asked] = set()
        self._lock = threading.RLock()
        self._look, self._over = threading.Event(), False
        self._window = 1
        self._vacant: float | None = None  # since when there is no usable worker
        self._lost: UsageError | None = None
        self._client = connected(address)
        try:
            self._refresh()
            if not self._fit:
                none = f"{hint('--dask')} {address}: the cluster has no workers; start some"
                raise UsageError(next(iter(self._refused.values()), none))
        except BaseException:
            self._client.close(timeout=PATIENCE)
            raise
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    @property
    def window(self) -> int:
        """How many calls the workers should have: enough that none waits for this program."""
        if self._lost is not None:
            raise self._lost
        return self._window

    def share(self, value: Any) -> Shared:
        """Something to give to calls in place of `value`, so that it is sent to each worker once."""
        return Shared(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call a function on a worker.  The future raises what the function raised, WorkersLostError, or UsageError if
        the cluster went away."""
        shared = [each for each in arguments if isinstance(each, Shared)]
        slots = iter(range(len(shared)))
        packed = tuple(Slot(next(slots)) if isinstance(each, Shared) else each for each in arguments)
        call = _Asked(pickle.dumps((function, packed), pickle.HIGHEST_PROTOCOL), shared, Future())
        with self._lock:
            self._calls.add(call)
            self._send(call)
        return call.answer

    def _send(self, call: _Asked) -> None:
        """Let Dask do a call: while workers are there that must not, only where it may."""
        if self._lost is not None:
            self._end(call, self._lost)
            return
        call.among = frozenset(self._fit) if self._refused else None
        if call.among is not None and not call.among:
            call.asked = None  # until one comes
            return
        try:
            shared = [self._task(each, call.among) for each in call.shared]
            call.asked = self._given(call.among, _call, self._ours, call.work, *shared)
            call.asked.add_done_callback(lambda done: self._settle(done, call))
        except Exception as error:  # Dask's own, of a client that has lost its scheduler
            self._end(call, gone(self._address, error))

    def _task(self, shared: Shared, among: frozenset[str] | None) -> Any:
        """The task that holds a shared value, where calls can have it from."""
        if shared.asked is None or (among is not None and not among & (shared.among or frozenset())):
            shared.asked, shared.among = self._given(among, _share, self._ours, shared.content), among
        return shared.asked

    def _given(self, among: frozenset[str] | None, function: Callable[..., Any], *arguments: Any) -> Any:
        where = None if among is None else sorted(among)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sending large graph")
            return self._client.submit(function, *arguments, pure=False, workers=where, retries=RETRIES)

    def _settle(self, done: Any, call: _Asked) -> None:
        """Hand on what Dask says of a call."""
        from distributed import KilledWorker

        with self._lock:
            if call.asked is not done or call not in self._calls:  # it was asked for again, or is not wanted any more
                return
        answer: tuple[Any, ...] = ()
        error: BaseException | None = None
        try:
            answer = done.result(timeout=PATIENCE)
        except KilledWorker:
            error = WorkersLostError("several Dask workers were lost while they did it; see their logs")
        except Exception as failure:
            if self._again(call):
                return
            error = gone(self._address, failure)
        except BaseException as failure:  # cancelled, as the scheduler is lost
            error = gone(self._address, failure)
        if answer and answer[0] == "unfit":
            _, worker, theirs = answer
            with self._lock:
                self._judge({worker: theirs})
                call.asked = None
            self._look.set()  # there may be more of them; then it is sent
            return
        if answer and answer[0] == "raised":
            error = answer[1]
        self._end(call, error, None if error is not None else answer[1])

    def _again(self, call: _Asked) -> bool:
        """Whether a call that ended in an error of Dask's is asked for again: a worker was lost with its result, or
        could not unpack what is shared."""
        with self._lock:
            call.failed += 1
            if call.failed > RETRIES or self._client.status != "running":
                return False
            call.asked = None
        self._look.set()  # at the workers; then it is sent
        return True

    def _end(self, call: _Asked, error: BaseException | None, value: Any = None) -> None:
        with self._lock:
            if call not in self._calls:
                return
            self._calls.discard(call)
            asked, call.asked = call.asked, None
        if call.answer.set_running_or_notify_cancel():
            if error is None:
                call.answer.set_result(value)
            else:
                call.answer.set_exception(error)
        if asked is not None:
            asked.release()

    def _watch(self) -> None:
        """Look at the workers now and then."""
        while True:
            self._look.wait(REFRESH)
            self._look.clear()
            if self._over:
                return
            try:
                self._refresh()
            except Exception as error:  # of Dask's, whose scheduler does not answer
                self._lost = self._lost or gone(self._address, error)
            if self._lost is not None:
                self._fail(self._lost)
                return

    def _fail(self, error: UsageError) -> None:
        """End all calls."""
        for call in list(self._calls):
            self._end(call, error)

    def _refresh(self) -> None:
        """Find out which workers are there now, and send the calls on that none of them can do."""
        threads: Mapping[str, int] = self._client.nthreads()
        new = [worker for worker in threads if worker not in self._fit and worker not in self._refused]
        found = self._client.run(_probe, workers=new, on_error="return") if new else {}
        with self._lock:
            self._fit &= threads.keys()
            self._refused = {worker: line for worker, line in self._refused.items() if worker in threads}
            self._judge({worker: each for worker, each in found.items() if isinstance(each, dict)})
            self._window = max(AHEAD * sum(threads.get(worker, 0) for worker in self._fit), 1)
            for call in list(self._calls):
                if call.answer.cancelled():
                    self._end(call, None)
                elif call.asked is None or (call.among is not None and not call.among & self._fit):
                    self._send(call)
            self._mind_vacancy()

    def _judge(self, found: Mapping[str, dict[str, str]]) -> None:
        """Take in what workers say of themselves; empty: that the program cannot be imported there."""
        wrong = {worker: self._wrong(worker, theirs) for worker, theirs in sorted(found.items())}
        self._fit |= {worker for worker, line in wrong.items() if line is None}
        new = {worker: line for worker, line in wrong.items() if line is not None and worker not in self._refused}
        self._refused |= new
        self._fit -= self._refused.keys()
        for line in new.values() if self._fit else ():  # else it is an error, soon
            self._told(f"{line}; its work goes to the others")

    def _wrong(self, worker: str, theirs: Mapping[str, str]) -> str | None:
        """What is wrong with a worker.  Libraries and comparisons depend on the processor too."""
        if theirs.get("version", "") != self._ours["version"]:
            return unlike(worker, theirs.get("version", ""), self._ours["version"])
        if theirs["processor"] != self._ours.get("processor", theirs["processor"]):
            return (
                f"Dask worker {worker} has another processor, on which comparisons and native libraries differ; "
                "use workers like this machine, or start the command on one like them"
            )
        return None

    def _mind_vacancy(self) -> None:
        """Say that work waits for workers; give up where only those are left that must not do it."""
        if self._fit:
            self._vacant = None
            return
        if self._vacant is None:
            self._vacant = time.monotonic()
            if not self._refused and self._calls:
                self._told("no Dask worker is left; the work waits for one")
        if self._refused and time.monotonic() - self._vacant > VACANCY:
            line = next(iter(self._refused.values()))
            self._lost = UsageError(f"no usable Dask worker is left: {line}; run the same command to continue")

    def close(self) -> None:
        """Leave the cluster, which goes on without this program's calls."""
        self._over = True
        self._look.set()
        self._client.close(timeout=PATIENCE)
        self._watcher.join(PATIENCE)
