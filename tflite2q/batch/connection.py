"""The connection to a Dask cluster: it calls functions there and returns their results here.

Dask schedules the calls and gives those of a lost worker to another one.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tflite2q.batch import cache
from tflite2q.errors import Tflite2qError, UsageError, hint

PATIENCE = 10.0  # seconds for a scheduler to answer
AHEAD = 2  # calls for each thread of the workers, so that none waits for this program
REFRESH = 5.0  # seconds after which workers are counted again
RETRIES = 3


class WorkersLostError(UsageError):
    """Several workers were lost, one after another, while they did the same call."""


def facts() -> dict[str, str]:
    """What must be equal on all machines for equal results."""
    return {"version": cache.version(True), "processor": " ".join(cache.machine())}


def itself(value: Any) -> Any:
    """A task that holds a value on the cluster, for the tasks that take it."""
    return value


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


def connected(address: str, running: bool) -> Any:
    """A client of the scheduler at `address`, whose workers give the results of this machine; `running`: also of code
    that is compiled for its processor.

    Raises UsageError if there is no scheduler, or if a worker would give other results.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError(hint("--dask") + " needs Dask; pip install 'tflite2q[cluster]'") from error
    _quiet()
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except Exception as error:  # Dask has no kind of its own for settings, such as those of TLS, that are missing
        why = "" if isinstance(error, (OSError, ValueError)) else f" ({error})"
        raise UsageError(f"{hint('--dask')} {address}: no scheduler answers there{why}; check the address") from error
    try:
        _check(client, address, running)
    except BaseException:
        client.close(timeout=PATIENCE)
        raise
    return client


def _check(client: Any, address: str, running: bool) -> None:
    """Refuse workers that would give other results; libraries and comparisons depend on the processor too."""

    def probe() -> dict[str, str]:  # travels as code: a worker may lack the program
        try:
            import importlib

            importlib.import_module("tvm")
            from tflite2q.batch.connection import facts

            return facts()
        except Exception:
            return {}

    found = client.run(probe)
    if not found:
        raise UsageError(f"{hint('--dask')} {address}: the cluster has no workers; start some")
    ours = facts()
    for worker, theirs in sorted(found.items()):
        if theirs.get("version", "") != ours["version"]:
            raise UsageError(unlike(worker, theirs.get("version", ""), ours["version"]))
        if running and theirs["processor"] != ours["processor"]:
            raise UsageError(
                f"Dask worker {worker} has another processor, on which comparisons and native libraries differ; "
                "use workers like this machine, or start the command on one like them"
            )


def gone(address: str, error: BaseException | None = None) -> UsageError:
    """The error for a cluster that does not answer any more."""
    why = f" ({type(error).__name__}: {error})" if error is not None and str(error) else ""
    return UsageError(
        f"{hint('--dask')} {address}: the cluster went away{why}; finished work is kept; "
        "run the same command again to continue"
    )


class Connection:
    """The cluster whose scheduler has this address, as what does calls: of a batch, or of a search (its crew).

    `running`: calls also run code that is compiled for the processor of this machine.
    Raises UsageError if there is no cluster, or if a worker would give other results.
    """

    def __init__(self, address: str, running: bool = True) -> None:
        self._address = address
        self._client = connected(address, running)
        self._counted, self._window = 0.0, 1

    @property
    def window(self) -> int:
        """How many calls the workers should have: enough that none waits for this program."""
        if time.monotonic() - self._counted > REFRESH:
            self._counted = time.monotonic()
            try:
                self._window = max(AHEAD * sum(self._client.nthreads().values()), 1)
            except (OSError, RuntimeError, AttributeError) as error:
                raise gone(self._address) from error
        return self._window

    def share(self, value: Any) -> Any:
        """A task of its own: a worker gets its result once, and Dask makes it again if that worker is lost."""
        return self._sent(itself, value)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call a function on a worker.  The future raises what the function raised of this program's errors,
        WorkersLostError, or UsageError if the cluster went away."""
        answer: Future[Any] = Future()
        asked = self._sent(function, *arguments, retries=RETRIES)
        asked.add_done_callback(lambda done: self._settle(done, answer))
        return answer

    def _sent(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sending large graph")
            return self._client.submit(function, *arguments, pure=False, **options)

    def _settle(self, done: Any, answer: Future[Any]) -> None:
        from distributed import KilledWorker

        if not answer.set_running_or_notify_cancel():
            done.release()
            return
        try:
            answer.set_result(done.result(timeout=PATIENCE))
        except KilledWorker:
            answer.set_exception(WorkersLostError("several Dask workers were lost while they did it; see their logs"))
        except Tflite2qError as error:
            answer.set_exception(error)
        except ImportError:  # of a worker that came later
            answer.set_exception(UsageError(unlike("that came later", "", "")))
        except BaseException as error:  # cancelled or lost: whatever Dask calls it, it has no result
            answer.set_exception(gone(self._address, error))
        finally:
            done.release()

    def close(self) -> None:
        """Leave the cluster, which goes on without this program's calls."""
        self._client.close(timeout=PATIENCE)
