"""LiteRT's time for a model, measured in a separate process.

LiteRT aborts its process on some malformed or extreme models, and its threads must not compete with ours, so it runs in
a child process that times runs on request: it reads a line with their number and writes a JSON line of milliseconds.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time

MODULE = "tflite2q.execution.litert"


def available() -> bool:
    """Whether ai-edge-litert is installed; it is not imported."""
    return importlib.util.find_spec("ai_edge_litert") is not None


class Timer:
    """A LiteRT interpreter of `path` with `threads` threads and the default delegate, in a child process.

    `time(runs)` gives the milliseconds of each run, or an empty list once the child has died; `close` ends it.
    """

    def __init__(self, path: str, threads: int) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", MODULE, path, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def time(self, runs: int) -> list[float]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(f"{runs}\n")
            self._child.stdin.flush()
            return [float(ms) for ms in json.loads(self._child.stdout.readline() or "[]")]
        except BrokenPipeError:
            return []

    def close(self) -> None:
        self._child.kill()
        self._child.communicate()


def _serve(path: str, threads: int) -> None:
    """The child: time runs of the model on random input until stdin ends."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    generator = np.random.default_rng(0)
    for detail in interpreter.get_input_details():
        codes = generator.integers(0, 256, detail["shape"], dtype=np.uint8)
        value = codes.view(np.int8) if detail["dtype"] == np.int8 else (codes > 127).astype(detail["dtype"])
        interpreter.set_tensor(detail["index"], codes if detail["dtype"] == np.uint8 else value)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            interpreter.invoke()
            times.append((time.perf_counter() - start) * 1e3)
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
