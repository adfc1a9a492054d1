"""A Dask cluster as the crew of a search: it measures layers and mixes, with the results that this machine gives."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tflite2q.batch.cluster import PATIENCE, RETRIES, Window, connected, gone, itself
from tflite2q.errors import Tflite2qError


class ClusterCrew:
    """The cluster whose scheduler has this address.  A call of a lost worker is done by another one.

    Raises UsageError if there is none, or if a worker would give other results.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = connected(address, running=True)
        self._window = Window(self._client, address)

    @property
    def window(self) -> int:
        return self._window()

    def share(self, value: Any) -> Any:
        """A task of its own: a worker gets its result once, and Dask makes it again if that worker is lost."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sending large graph")
            return self._client.submit(itself, value, pure=False)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        answer: Future[Any] = Future()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sending large graph")
            asked = self._client.submit(function, *arguments, pure=False, retries=RETRIES)
        asked.add_done_callback(lambda done: self._answer(done, answer))
        return answer

    def _answer(self, done: Any, answer: Future[Any]) -> None:
        if answer.cancelled():
            return
        try:
            answer.set_result(done.result(timeout=PATIENCE))
        except Tflite2qError as error:
            answer.set_exception(error)
        except BaseException as error:  # cancelled or lost: whatever Dask calls it, it has no result
            answer.set_exception(gone(self._address, error))
        finally:
            done.release()

    def close(self) -> None:
        """Leave the cluster, which goes on without this program's calls."""
        self._client.close(timeout=PATIENCE)
