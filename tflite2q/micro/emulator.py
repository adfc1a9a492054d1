"""Models on emulated microcontrollers: programs that run samples and watch memory, and what they say."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite2q import files
from tflite2q.dialect.graph import Graph
from tflite2q.errors import TargetError
from tflite2q.lower import targets
from tflite2q.micro import boards, library, memory
from tflite2q.micro.program import Port

Array = npt.NDArray[Any]

TIMEOUT = 600.0  # seconds that a sample may take
POLL = 0.5
TOOK = np.dtype([("failed", "<u4"), ("ticks", "<u4"), ("stack", "<u4")])  # as main.c writes it
GO = b"\1"  # before each sample, of which there may be no bytes


@dataclass(frozen=True)
class Ran:
    """Outputs of each sample; instructions and bytes of stack of the longest and deepest run; bytes of code and of
    constants in the image, without the board's own.  None: not counted."""

    outputs: tuple[tuple[Array, ...], ...]
    instructions: int | None
    stack: int
    code: int | None
    constants: int | None


class Session:
    """A model on an emulated microcontroller, for any number of samples; `close` (or a `with` block) ends it.

    With `stream`, samples are steps of one, else each starts from the initial state.  Raises what `boards.image` and
    `library.make` raise.  `instructions` is of the longest run so far (None: nothing counts them), `stack` the bytes
    that the deepest one took.
    """

    def __init__(self, graph: Graph, target: str, stream: bool = False, by: str = "a") -> None:
        found = targets.micro(target)
        if found is None:
            raise TargetError(f"{target!r} is not a microcontroller; emulated ones are {', '.join(boards.EMULATED)}")
        if not hasattr(os, "mkfifo"):
            raise TargetError("emulated microcontrollers need a system with named pipes, such as Linux")
        self.target, self.made = target, library.make(graph, "model", found)
        self.instructions: int | None = None
        self.stack = 0
        with ExitStack() as held:
            folder = held.enter_context(files.temporary_folder())
            self.image = boards.image(self.made, folder, by, stream)
            self._in, self._out = (self._pipe(held, folder / name) for name in ("in.bin", "out.bin"))
            self._child = subprocess.Popen(
                self.image.command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            held.callback(self._end)
            self._held = held.pop_all()

    @property
    def memory(self) -> memory.Layout:
        """Where tensors lie in the model's arena."""
        return memory.layout(self.made.program, self.made.plan, self.target)

    @staticmethod
    def _pipe(held: ExitStack, path: Any) -> int:
        """A named pipe, open at both ends, so that neither the program nor this process waits for the other to."""
        os.mkfifo(path)
        found = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        held.callback(os.close, found)
        return found

    def start(self, arrays: Sequence[Array]) -> None:
        """Begin a run."""
        content = memoryview(GO + b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))
        deadline = time.monotonic() + TIMEOUT
        while content:
            self._wait(deadline, writing=True)
            content = content[os.write(self._in, content[: 1 << 16]) :]

    def finish(self) -> list[Array]:
        """The outputs of the run that `start` began.  Raises TargetError where the program fails, writes outside its
        memory or does not end."""
        ports = self.made.program.outputs
        size = sum(port.bytes for port in ports)
        content = bytearray()
        deadline = time.monotonic() + TIMEOUT
        while len(content) < size + TOOK.itemsize:
            self._wait(deadline, writing=False)
            content += os.read(self._out, size + TOOK.itemsize - len(content))
        (took,) = np.frombuffer(bytes(content[size:]), TOOK)
        if took["failed"]:
            why = "failed" if took["failed"] & 1 else "wrote outside its memory"
            raise TargetError(f"on the emulated {self.target} the model {why}")
        if self.image.tick:
            self.instructions = max(self.instructions or 0, round(int(took["ticks"]) * self.image.tick))
        self.stack = max(self.stack, int(took["stack"]))
        return list(outputs(ports, bytes(content[:size]), 1)[0])

    def close(self) -> None:
        """End the program.  Safe to call twice."""
        self._held.close()

    def _wait(self, deadline: float, writing: bool) -> None:
        """Return when the pipe is ready.  Raises TargetError if the program has ended, or takes too long."""
        while time.monotonic() < deadline:
            ready = select.select([] if writing else [self._out], [self._in] if writing else [], [], POLL)
            if ready[0] or ready[1]:
                return
            if self._child.poll() is not None:
                said = "" if self._child.stdout is None else self._child.stdout.read().strip()[-300:]
                raise TargetError(f"the program on the emulated {self.target} ended: {said or self._child.returncode}")
        raise TargetError(f"the emulated {self.target} did not end within {TIMEOUT:g} s")

    def _end(self) -> None:
        self._child.kill()
        self._child.communicate()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run(graph: Graph, target: str, samples: Sequence[Sequence[Array]], by: str = "a", stream: bool = False) -> Ran:
    """`graph` on the board of `target` for each sample (an array for each input), as a `Session` runs it."""
    found = []
    with Session(graph, target, stream, by) as session:
        for sample in samples:
            session.start(sample)
            found.append(tuple(session.finish()))
        image = session.image
        return Ran(tuple(found), session.instructions, session.stack, image.code, image.constants)


def outputs(ports: Sequence[Port], content: bytes, samples: int) -> tuple[tuple[Array, ...], ...]:
    """What a program wrote, by samples and outputs."""
    step = sum(port.bytes for port in ports)
    if len(content) != step * samples:
        raise TargetError(f"the emulated program wrote {len(content)} bytes, not {step * samples}")
    found = []
    for number in range(samples):
        at, arrays = number * step, []
        for port in ports:
            part = content[at : at + port.bytes]
            arrays.append(np.frombuffer(part, port.dtype).reshape(port.shape))
            at += port.bytes
        found.append(tuple(arrays))
    return tuple(found)
