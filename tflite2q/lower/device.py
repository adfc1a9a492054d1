"""A remote device, as a process of its own holds it: TVM's calls to one may block for ever, and a process can be ended.

    python -m tflite2q.lower.device DESCRIPTOR

serves requests (name, arguments) that come as pickles through the socket DESCRIPTOR, each answered by ("ok", result) or
("error", message); one more ("ok", None) says that it is ready.  `tflite2q.execution.remote` is the other side.
"""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax, rpc

from tflite2q.lower.machine import FASTEST_CORES

Array = npt.NDArray[Any]


class Session:
    """One session on a device, and the models it runs, numbered as they were loaded."""

    def __init__(self) -> None:
        self._remote: Any = None
        self._machines: list[Any] = []
        self._inputs: dict[int, list[Any]] = {}

    def connect(self, host: str, port: int, session_seconds: int) -> str:
        """Open a session on a server; the LLVM triple of its machine, or "" if it does not say."""
        self._remote = rpc.connect(host, port, session_timeout=session_seconds)
        return self._triple()

    def request(self, host: str, port: int, key: str, session_seconds: int) -> str:
        """Ask a tracker for a device called `key`, waiting until one is free; its triple as of `connect`."""
        tracker = rpc.connect_tracker(host, port)
        servers = {str(each["key"]).removeprefix("server:") for each in tracker.summary()["server_info"]}
        if key not in servers:
            known = ", ".join(sorted(servers)) or "none"
            raise LookupError(f"has no device called {key!r}; it has: {known}")
        self._remote = tracker.request(key, session_timeout=session_seconds)
        return self._triple()

    def load(self, path: str, threads: int) -> int:
        """Upload the library at `path` and prepare to run it; its number."""
        name = f"tflite2q-{len(self._machines)}{os.path.splitext(path)[1]}"
        self._remote.upload(path, name)
        module = self._remote.load_module(name)
        self._remote.get_function("runtime.config_threadpool")(FASTEST_CORES, threads)
        self._machines.append(relax.VirtualMachine(module, self._remote.cpu()))
        return len(self._machines) - 1

    def run(self, model: int, arrays: list[Array]) -> list[Array]:
        """The outputs of a model for `arrays`, which stay its inputs."""
        machine = self._machines[model]
        self._inputs[model] = [tvm.runtime.tensor(array, self._remote.cpu()) for array in arrays]
        machine.set_input("main", *self._inputs[model])
        machine.invoke_stateful("main")
        return [np.array(output.numpy()) for output in machine.get_outputs("main")]

    def times(self, model: int, runs: int) -> list[float]:
        """Milliseconds of each of `runs` runs of a model, by the device's clock."""
        machine = self._machines[model]
        evaluator = machine.time_evaluator("invoke_stateful", self._remote.cpu(), number=1, repeat=runs)
        return [seconds * 1e3 for seconds in evaluator("main").results]

    def _triple(self) -> str:
        try:
            return str(self._remote.get_function("target.llvm_get_system_triple")())
        except (AttributeError, RuntimeError, ValueError):
            return ""  # a device with TVM's runtime only


def serve(descriptor: int) -> None:
    """Answer requests until the other side goes away."""
    connection, session = Connection(descriptor), Session()
    connection.send(("ok", None))
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send(("ok", getattr(session, name)(*arguments)))
        except Exception as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            connection.send(("error", lines[-1] if lines else type(error).__name__))


if __name__ == "__main__":
    serve(int(sys.argv[1]))
    os._exit(0)  # closing a session waits for the device, which may be gone
