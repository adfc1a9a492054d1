"""A parent for the command line, so that whatever ends it is one line: native code can end a process without a word.

Compiled libraries, LLVM, image decoders and the system (too little memory) may do so, by a signal or by `exit`.  The
parent also ends a command that does not react to an interrupt in time, because native code runs.  It does nothing else.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # prctl(2)
GRACE = 0.6  # seconds after an interrupt in which a command must show that it ends; native code does not
REACTING = b"\xff"
PARTING = 5.0  # seconds for cleaning up, and for what native code does as the process ends, which may hang
ENDINGS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
DIED = 3
ENDLESS = 1e6  # seconds; then the wait begins again


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, raised where the command is; `exit_code` is the command's."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.exit_code = 128 + number


def main(command: Callable[[], int]) -> int:
    """Run a command in a child process and return its exit code; without a child where the system cannot do that."""
    if not sys.platform.startswith("linux"):
        return command()
    reading, writing = os.pipe()
    watched = {*ENDINGS, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    parent = os.getpid()
    child = os.fork()
    if child:
        os.close(writing)
        return _watch(child, reading, watched)
    os.close(reading)
    die_with(parent)

    def stop(number: int, frame: object) -> None:
        """Interrupts the command, once: what comes after that must not interrupt its cleaning up."""
        for each in ENDINGS:
            signal.signal(each, signal.SIG_IGN)
        os.write(writing, REACTING)
        os.kill(parent, signal.SIGCHLD)  # it looks at the pipe
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Terminated(number)

    for number in ENDINGS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    code = DIED
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        code = command()
    except KeyboardInterrupt as ended:
        code = getattr(ended, "exit_code", 128 + signal.SIGINT)
    except BaseException:
        code = 1
        raise
    finally:
        os.write(writing, bytes([min(code, 254)]))
        os.kill(parent, signal.SIGCHLD)
    return code


def die_with(parent: int) -> None:
    """Let the system (Linux) end this process with its parent, and end it now if that parent is gone already."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(DIED)


def _watch(child: int, reading: int, watched: set[signal.Signals]) -> int:
    """The exit code of the child, when it has ended."""
    os.set_blocking(reading, False)
    number, deadline, told = 0, None, b""
    while True:
        left = ENDLESS if deadline is None else max(deadline - time.monotonic(), 0.0)
        found = signal.sigtimedwait(watched, left)
        if found is None:
            if deadline is not None:
                os.kill(child, signal.SIGKILL)
            deadline = None
        elif found.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            news = _news(reading)
            told = told or news.replace(REACTING, b"")
            if ended:
                return _code(status, told, number)
            if news:
                deadline = time.monotonic() + PARTING
        elif not number:
            number, deadline = found.si_signo, time.monotonic() + GRACE
            if found.si_code <= 0:  # sent to this process, and not by a terminal to both
                os.kill(child, number)


def _news(reading: int) -> bytes:
    """What the child wrote since: REACTING if it is interrupted, its exit code as a byte if it has ended."""
    try:
        return os.read(reading, 16)
    except BlockingIOError:
        return b""


def _code(status: int, told: bytes, number: int) -> int:
    """The exit code for a child that ended with `status` after it told its code, or did not."""
    if told:
        return told[0]
    if number:
        os.write(2, f"tflite2q: {ENDINGS[signal.Signals(number)]}\n".encode())
        return 128 + number
    os.write(2, f"tflite2q: {why(status)}\n".encode())
    return DIED


def why(status: int) -> str:
    """What ended a process, by its status: native code, or the system."""
    if not os.WIFSIGNALED(status):
        code = os.waitstatus_to_exitcode(status)
        return (
            f"native code ended the process (exit code {code}) without a reason; most often the disk is full: "
            "check the free space of the output's folder and of TMPDIR"
        )
    name = signal.Signals(os.WTERMSIG(status)).name
    if name == "SIGKILL":
        return "the process was killed (SIGKILL), most likely for lack of memory; choose smaller inputs or --max-memory"
    return (
        f"native code ended the process ({name}): a library that was changed while it ran, damaged data, too little "
        "memory, or a defect of tflite2q or TVM; please report it with the files"
    )
