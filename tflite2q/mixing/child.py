"""A process that measures for a search: it answers function calls until the other side is gone."""

from __future__ import annotations

import pickle
import sys
from multiprocessing.connection import Connection
from typing import Any

from tflite2q import guard
from tflite2q.mixing.crew import Shared


def serve(connection: Connection) -> None:
    """Answer calls until the other side is gone."""
    known: dict[int, Any] = {}
    while True:
        try:
            what, first, second = connection.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        try:
            if what == "know":
                known[first] = pickle.loads(second)
                answer = None
            else:
                answer = first(*[known[each.number] if isinstance(each, Shared) else each for each in second])
        except KeyboardInterrupt:
            return
        except Exception as error:
            connection.send((False, error))
        else:
            connection.send((True, answer))


if __name__ == "__main__":
    guard.die_with(int(sys.argv[2]))  # it may measure for long, and nobody would wait for it
    serve(Connection(int(sys.argv[1])))
