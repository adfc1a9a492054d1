"""LiteRT in a process of its own: outputs and times of a model.

LiteRT aborts its process on some malformed or extreme models, and its threads must not compete with ours, so it runs in
a child process.  A request is a line of JSON, followed by the arrays' bytes; so is the answer.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from tflite2q import guard
from tflite2q.errors import TargetError

if TYPE_CHECKING:
    import numpy.typing as npt

MODULE = "tflite2q.execution.litert"
DEFAULT, REFERENCE = "default", "reference"  # kernels


def available() -> bool:
    """Whether ai-edge-litert is installed; it is not imported."""
    return importlib.util.find_spec("ai_edge_litert") is not None


class Child:
    """A LiteRT interpreter of the model at `path` with `threads` threads, in a child process.

    `kernels`: "default" (with its delegate) or "reference" (`BUILTIN_REF`).  `time(runs)` gives the milliseconds of
    each run, or an empty list once the child has died; `close` ends it.
    """

    def __init__(self, path: str, threads: int, kernels: str = DEFAULT) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 -- as long as the child
        self._child = subprocess.Popen(
            [sys.executable, "-m", MODULE, path, str(threads), kernels, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
        )

    def time(self, runs: int) -> list[float]:
        """Milliseconds of each of `runs` runs, on the last inputs (initially random ones)."""
        try:
            _send(self._stdin, {"time": runs}, ())
            return [float(ms) for ms in _receive(self._stdout)[0]["times"]]
        except (BrokenPipeError, EOFError):
            return []

    def start(self, arrays: Sequence[npt.NDArray[Any]]) -> None:
        """Begin a run on `arrays`; `finish` waits for its outputs."""
        try:
            _send(self._stdin, {}, arrays)
        except BrokenPipeError:
            raise self._died() from None

    def finish(self) -> list[npt.NDArray[Any]]:
        """The outputs of the run that was begun.  Raises TargetError, with LiteRT's reason, if it cannot run."""
        try:
            return _receive(self._stdout)[1]
        except EOFError:
            raise self._died() from None

    def close(self) -> None:
        self._child.kill()
        self._child.communicate()
        self._complaints.close()

    @property
    def _stdin(self) -> Any:
        return self._child.stdin

    @property
    def _stdout(self) -> Any:
        return self._child.stdout

    def _died(self) -> TargetError:
        code = self._child.wait()
        self._complaints.seek(0)
        said = [line.strip() for line in self._complaints.read().decode(errors="replace").splitlines() if line.strip()]
        if code < 0:
            return TargetError(f"LiteRT ended with {signal.Signals(-code).name}")
        reason = said[-1].partition("Error: ")[2] or said[-1] if said else ""
        return TargetError(f"LiteRT refuses it: {reason}" if said else f"LiteRT ended with exit code {code}")


def _send(stream: Any, head: dict[str, Any], arrays: Sequence[npt.NDArray[Any]]) -> None:
    import numpy as np

    arrays = [np.ascontiguousarray(array).reshape(np.shape(array)) for array in arrays]
    head = {**head, "arrays": [[array.dtype.str, array.shape] for array in arrays]}
    stream.write(json.dumps(head).encode() + b"\n")
    for array in arrays:
        stream.write(array.tobytes())
    stream.flush()


def _receive(stream: BinaryIO) -> tuple[dict[str, Any], list[npt.NDArray[Any]]]:
    """A head and its arrays.  Raises EOFError at the end of the stream."""
    import numpy as np

    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    head = json.loads(line)
    arrays = []
    for dtype, shape in head["arrays"]:
        kind = np.dtype(dtype)
        content = stream.read(int(np.prod(shape, dtype=np.int64)) * kind.itemsize)
        arrays.append(np.frombuffer(content, kind).reshape(shape))
    return head, arrays


def _serve(path: str, threads: int, kernels: str, parent: int) -> None:
    """The child: run or time the model on request until stdin ends."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    guard.die_with(parent)  # a model may run long, and nobody would wait for it
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what LiteRT prints must not come between the answers
    resolver = OpResolverType.BUILTIN_REF if kernels == REFERENCE else OpResolverType.AUTO
    interpreter = Interpreter(model_path=path, num_threads=threads, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    generator = np.random.default_rng(0)
    details = interpreter.get_input_details()
    for detail in details:
        codes = generator.integers(0, 256, detail["shape"], dtype=np.uint8)
        value = codes.view(np.int8) if detail["dtype"] == np.int8 else (codes > 127).astype(detail["dtype"])
        interpreter.set_tensor(detail["index"], codes if detail["dtype"] == np.uint8 else value)
    while True:
        try:
            head, arrays = _receive(sys.stdin.buffer)
        except EOFError:
            return
        times: list[float] = []
        for detail, array in zip(details, arrays, strict=False):
            interpreter.set_tensor(detail["index"], array)
        for _ in range(head.get("time", 1)):
            start = time.perf_counter()
            interpreter.invoke()
            times.append((time.perf_counter() - start) * 1e3)
        outputs = (
            [] if "time" in head else [interpreter.get_tensor(o["index"]) for o in interpreter.get_output_details()]
        )
        _send(answers, {"times": times}, outputs)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
