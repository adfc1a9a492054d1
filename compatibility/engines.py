"""LiteRT and TensorFlow Lite Micro as judges: asked with a model and inputs, they answer or it is said why not."""

from __future__ import annotations

import json
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compatibility.records import one_line

Array = npt.NDArray[Any]
RAN, ENGINE_REFUSED, ENGINE_DIED, ABSENT, LATE = "ran", "refused", "died", "absent", "late"
_SERVER = Path(__file__).with_name("engine_server.py")


@dataclass(frozen=True)
class Answer:
    """What an engine made of a model: its outputs in order, each with the steps on its first axis, and, where asked
    for, tensors of the last step by name (those named once)."""

    state: str
    why: str = ""
    outputs: tuple[Array, ...] = ()
    tensors: dict[str, Array] = field(default_factory=dict)


class Engine:
    """A server process that lives for many models; started when first asked, again after one that took too long."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._process: subprocess.Popen[str] | None = None
        self._absent = ""

    def run(
        self,
        model: Path,
        steps: Sequence[Sequence[Array]] | None,
        until: float,
        *,
        outputs: int = 0,
        reference: bool = True,
        every: bool = False,
    ) -> Answer:
        """The model's answer to the inputs of each of `steps`, between which it keeps its state, or why there is none.

        None stands for one step of zeros in the types that LiteRT names.
        LATE if there is none by `until` (of time.monotonic).
        """
        with tempfile.TemporaryDirectory() as folder:
            given, taken = Path(folder, "in.npz"), Path(folder, "out.npz")
            if steps is not None:
                np.savez(given, *(np.stack(column) for column in zip(*steps, strict=True)))
            request = {
                "model": str(model),
                "given": "" if steps is None else str(given),
                "steps": 1 if steps is None else len(steps),
                "taken": str(taken),
                "outputs": outputs,
                "reference": reference,
                "every": every,
            }
            said = self._ask(request, until)
            if said["state"] != RAN:
                return Answer(said["state"], reason(said.get("why", ""), said.get("said", "")))
            with np.load(taken) as arrays:
                return _answer({name: arrays[name] for name in arrays.files})

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ask(self, request: dict[str, Any], until: float) -> dict[str, str]:
        if self._process is None and not self._absent:
            self._process = subprocess.Popen(
                [sys.executable, str(_SERVER), self.kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            ready = self._line(until)
            if ready["state"] == ABSENT:
                self._absent = ready["why"]
            elif ready["state"] != "ready":
                return ready
        if self._absent or self._process is None:
            return {"state": ABSENT, "why": self._absent}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._line(until)

    def _line(self, until: float) -> dict[str, str]:
        assert self._process is not None and self._process.stdout is not None
        waiting, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
        line = self._process.stdout.readline() if waiting else ""
        if line:
            return dict(json.loads(line))
        self.close()
        return {"state": ENGINE_DIED, "why": "the server died"} if waiting else {"state": LATE, "why": "time"}


def reason(why: str, said: str = "") -> str:
    """The line of an engine's message that says why: the first that tells of a failure, without paths of its source."""
    lines = [line.strip() for line in why.splitlines() if line.strip() and not line.startswith("INFO")]
    if why.startswith("died"):
        told = [
            line for line in said.splitlines() if re.search(r"Aborted|CHECK|assert|corrupt|invalid|error", line, re.I)
        ]
        lines = [why + (f" ({told[0].strip()})" if told else "")]
    telling = [line for line in lines if re.search(r"fail|error|not |!=|didn't|unsupported|unresolved", line, re.I)]
    chosen = next(iter(telling or lines[-1:]), "no message")
    return one_line(re.sub(r"(?:[\w.-]*/)+([\w.-]+\.(?:cc|h|py):?)", r"\1", chosen))


def _answer(found: dict[str, Array]) -> Answer:
    names = [str(name) for name in found["names"]]
    outputs = tuple(found[f"o{index}"] for index in range(sum(key.startswith("o") for key in found)))
    tensors = {name: found[f"t{i}"] for i, name in enumerate(names) if name and names.count(name) == 1}
    return Answer(RAN, outputs=outputs, tensors=tensors)
