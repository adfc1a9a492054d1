"""Compiled models on remote devices, through TVM's RPC servers and trackers.

A session lives in a child process (`tflite2q.lower.device`).  Every request has a deadline, after which the child
is ended, so that no failure of a device or the network makes the program hang.
"""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, NoReturn

import numpy.typing as npt

from tflite2q import files
from tflite2q.errors import DataError, TargetError, UsageError, hint, refusal
from tflite2q.execution import manifest
from tflite2q.execution.calls import Array, run_each
from tflite2q.execution.manifest import Manifest
from tflite2q.execution.origin import Elsewhere, check_loaded
from tflite2q.execution.runtime import Executable
from tflite2q.execution.times import OpTime
from tflite2q.lower import targets

MODULE = "tflite2q.lower.device"
LONGEST = 1e6  # seconds to wait: the system takes no number that is much larger
STARTUP_SECONDS = 60.0  # importing TVM, on a busy machine


@dataclass(frozen=True)
class Device:
    """The address of a device: a server at `host`:`port`, or with `key` a tracker there that lends devices of that
    name.

    `timeout`: seconds that any one step (connecting, waiting for a free device, uploading, running) may take.
    """

    host: str
    port: int
    key: str | None = None
    timeout: float = 60.0

    @property
    def name(self) -> str:
        place = f"{self.host}:{self.port}"
        return f"device {place}" if self.key is None else f"device {self.key} of tracker {place}"


def device(rpc: str | None, tracker: str | None = None, key: str | None = None, timeout: float = 60.0) -> Device | None:
    """The device that the options --rpc, --tracker and --key name; None if they name none.  Raises UsageError."""
    if rpc is not None and (tracker is not None or key is not None):
        raise UsageError(hint("give either --rpc HOST:PORT or --tracker HOST:PORT with --key NAME"))
    if (tracker is None) != (key is None):
        raise UsageError(hint("--tracker HOST:PORT and --key NAME go together"))
    address = rpc if rpc is not None else tracker
    if address is None:
        return None
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or len(port) > 5 or not 0 < int(port) < 65536:
        raise UsageError(f"{address!r} is not of the form HOST:PORT")
    if not timeout > 0:
        raise UsageError(f"a timeout must be above 0 seconds, got {timeout:g}")
    return Device(host.strip("[]"), int(port), key, min(timeout, LONGEST))


class Session:
    """A session on a device, for any number of models; `close` (or a `with` block) gives the device back.

    Raises TargetError, saying what happened, if the device cannot be reached, is too slow, cannot run the code or is
    lost; the session is over then.
    """

    def __init__(self, where: Device) -> None:
        self.device = where
        self.triple = ""
        self._advice = hint(_NOT_CONNECTED["server" if where.key is None else "tracker"])
        _check_reachable(where)
        ours, theirs = socket.socketpair()
        with theirs:
            self._child: subprocess.Popen[bytes] | None = subprocess.Popen(
                [sys.executable, "-m", MODULE, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())
        self._asking = threading.Lock()  # an answer says nothing of its request
        self._open()

    def load(self, path: str | os.PathLike[str], threads: int = 1) -> RemoteExecutable:
        """The library at `path`, uploaded and ready."""
        description = manifest.read(path)
        check_loaded(path)
        triple = str(description.spec.get("mtriple", ""))
        code = targets.architecture(triple or platform.machine()), targets.system(triple)
        machine = targets.architecture(self.triple), targets.system(self.triple)
        for there, needed in zip(machine, code, strict=True):
            if "" not in (there, needed) and there != needed:
                self.close()
                raise TargetError(
                    f"{self.device.name} is {there}, and the library was compiled for {description.target} ({needed}); "
                    f"{hint('compile it with --target')} for {there}"
                )
        model = self.ask("uploading and loading the library", "load", os.path.abspath(path), threads)
        return RemoteExecutable(description, threads, self, model)

    def upload(self, executable: Executable) -> RemoteExecutable:
        """A model compiled here, linked, uploaded and ready."""
        with files.temporary_folder() as folder:
            path = folder / "model.so"
            executable.save(path)
            return self.load(path, executable.threads)

    def close(self) -> None:
        """End the session.  Safe to call twice."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._connection.close()
            self._child = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        where, session_seconds = self.device, 0  # for as long as this process lives
        self._receive("starting", STARTUP_SECONDS)
        if where.key is None:
            waiting = "connecting (is another session on it?)"
            self.triple = self.ask(waiting, "connect", where.host, where.port, session_seconds)
        else:
            waiting = "waiting for a free device"
            self.triple = self.ask(waiting, "request", where.host, where.port, where.key, session_seconds)
        self._advice = _LOST

    def ask(self, doing: str, name: str, *arguments: Any) -> Any:
        """The child's answer to a request (see `lower.device`).  Threads that ask at once wait for each other."""
        with self._asking:
            if self._child is None:
                raise TargetError(f"{self.device.name}: the session has ended; open a new one")
            try:
                self._connection.send((name, arguments))
            except OSError as error:
                self.close()
                raise TargetError(f"{self.device.name}: lost while {doing}; {self._advice}") from error
            return self._receive(doing, self.device.timeout)

    def _receive(self, doing: str, seconds: float) -> Any:
        """The child's next answer.  It is ended if that takes longer, or is an error."""
        try:
            if not self._connection.poll(seconds):
                self.close()
                raise TargetError(
                    f"{self.device.name}: no answer within {seconds:g} s while {doing}; "
                    + hint("see that it is up and free, or allow more with --timeout")
                )
            status, value = self._connection.recv()
        except (EOFError, OSError) as error:
            self.close()
            raise TargetError(f"{self.device.name}: lost while {doing}; {self._advice}") from error
        except KeyboardInterrupt:
            self.close()
            raise
        if status == "ok":
            return value
        if refusal(value):
            raise DataError(f"{self.device.name}: {refusal(value)}")
        self.close()
        raise TargetError(f"{self.device.name}: {_explained(doing, str(value), self._advice)}")


class RemoteExecutable(Executable):
    """A library on a device; it runs and is timed there."""

    def __init__(self, description: Manifest, threads: int, session: Session, model: int) -> None:
        super().__init__(description, threads, Elsewhere())
        self._session = session
        self._model = model
        self._ran = False

    def close(self) -> None:
        """End the session, with all its models."""
        self._session.close()

    def require_runnable(self) -> None:
        """The device has accepted the code already."""

    def _call(self, checked: Sequence[Array], out: Sequence[Array] = ()) -> list[Array]:
        found: list[Array] = self._session.ask("running", "run", self._model, list(checked))
        self._ran = True
        for place, result in zip(out, found, strict=False):
            place[...] = result
        return [*out, *found[len(out) :]]

    def run_all(self, samples: Sequence[list[Array]]) -> list[list[Array]]:
        """The outputs for each sample, one after the other; raises as `run`."""
        return [self.run(*sample) for sample in samples]

    def run_rows(self, arrays: Sequence[Array], out: Sequence[Array]) -> None:
        """Results for samples, given as arrays of their bytes, one after the other; raises as `run`."""
        run_each(lambda inputs: self.run(*inputs), self.inputs, arrays, out)

    def bind(self) -> NoReturn:
        raise UsageError("the memory of a remote device cannot be bound; use `run`")

    def _times(self, runs: int) -> list[float]:
        """By the device's clock."""
        if not self._ran:
            self.run(*self._random_inputs())
        found: list[float] = self._session.ask("running", "times", self._model, runs) if runs else []
        return found

    def profile(self, *arrays: npt.ArrayLike, repeat: int = 20) -> list[OpTime]:
        raise UsageError("ops cannot be timed on a remote device; profile the model on this machine")


_NOT_CONNECTED = {
    "server": "check that a TVM RPC server listens there; for a tracker, use --tracker",
    "tracker": "check that a TVM RPC tracker listens there; for a server, use --rpc",
}
_LOST = "its server ended, or the code needs processor features that the device lacks; check the server's output"
_NOT_LOADED = ("ELF", "Exec format", "mach-o", "Mach-O", "wrong architecture")
_RESERVED = "cannot find server that matches key"
_DISCONNECTED = ("RPCCode", "sock", "Socket", "EOF", "closed", "kShutdown", "onnection", "recv")


def _explained(doing: str, message: str, advice: str) -> str:
    """TVM's message in the user's terms."""
    if any(sign in message for sign in _NOT_LOADED):
        return hint("it cannot load a library for another architecture; compile with --target for this device")
    if _RESERVED in message:
        return hint("it accepts sessions from its tracker only; give --tracker HOST:PORT and --key NAME")
    if any(sign in message for sign in _DISCONNECTED):
        return f"lost while {doing}; {advice} ({message[:120]})"
    return f"failed while {doing}: {message[:300]}"


def _check_reachable(where: Device) -> None:
    """Raise TargetError unless something listens at the address."""
    try:
        socket.create_connection((where.host, where.port), timeout=min(where.timeout, 10.0)).close()
    except OSError as error:
        kind = "server" if where.key is None else "tracker"
        command = f"python -m tvm.exec.rpc_{kind}"
        why = error.strerror or str(error) or type(error).__name__
        raise TargetError(
            f"no RPC {kind} at {where.host}:{where.port} ({why}); start one there: {command} --port {where.port}"
        ) from error
