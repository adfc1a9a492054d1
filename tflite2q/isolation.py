"""A function in a process of its own, for programs that must outlive whatever ends it.

Native code (compiled libraries, TVM, LLVM, image decoders) can end a process without a word.  The command line has a
parent for that (`guard`); a Python program has none, so it can run what may die in a child.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NoReturn, TypeVar, cast

from tflite2q import guard
from tflite2q.errors import NativeError, Tflite2qError, UsageError

T = TypeVar("T")

DYING = 10.0  # seconds that a system may take to end a process, which may write its memory to a file
BLOCK = 1 << 20


def isolated(function: Callable[..., T], *arguments: Any, seconds: float | None = None, **keywords: Any) -> T:
    """The result of `function(*arguments, **keywords)`, which must be picklable, from a child process that is ended
    after `seconds`.

    What it raises is raised here.  The child is a fork: it has all that this process has loaded and compiled, and what
    it changes is changed for itself alone.  Needs a system that can fork (Linux, macOS).
    Raises NativeError if the child ended without a result or took too long, UsageError for a result that cannot be
    sent back or a system without fork.
    """
    if not hasattr(os, "fork"):
        raise UsageError("this system cannot fork; call the function itself, or run it in a process of your own")
    if seconds is not None and not seconds > 0:
        raise UsageError(f"seconds must be above 0, got {seconds}")
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _answer(parent, writing, lambda: function(*arguments, **keywords))
    os.close(writing)
    answer, patience = None, 0.0
    try:
        answer = _received(reading, None if seconds is None else time.monotonic() + seconds)
        if answer is not None and not _whole(answer):
            patience = DYING  # it has closed its files, and why it dies is to be known
    finally:
        os.close(reading)
        status = _ended(child, patience)
    if answer is None:
        raise NativeError(f"the function took more than {seconds:g} s and was ended; give it more seconds")
    return cast(T, _result(answer, status))


def _ended(child: int, patience: float) -> int:
    """How a child ended: by itself within so many seconds, or killed, for whatever it still does is not wanted."""
    latest = time.monotonic() + patience
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        if time.monotonic() >= latest:
            break
        time.sleep(0.001)
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _answer(parent: int, writing: int, work: Callable[[], Any]) -> NoReturn:
    """The child: sends what the work gives or raises, and ends."""
    code = 1
    try:
        guard.die_with(parent)
        # In a thread of its own: where native code calls exit, C++ ends what the calling thread holds, and what the
        # one that was forked holds may wait for TVM's threads, which were not.
        with ThreadPoolExecutor(1) as fresh:
            found = fresh.submit(_outcome, work).result()
        message = _packed(found)
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(len(message).to_bytes(8, "little") + message)
        code = 0
    finally:
        os._exit(code)


def _outcome(work: Callable[[], Any]) -> tuple[bool, Any]:
    """True and the result, or False and the error."""
    try:
        found = work()
        sys.stdout.flush()  # before the answer, after which this process is ended
        sys.stderr.flush()
    except BaseException as error:
        return False, error
    return True, found


def _packed(found: tuple[bool, Any]) -> bytes:
    """A result or an error as it is sent; one that cannot be as an error that says so."""
    try:
        message = pickle.dumps(found)
        if not found[0]:
            pickle.loads(message)  # errors of some classes cannot be made again
    except Exception as error:
        what = f"its result, {type(found[1]).__name__}," if found[0] else f"{type(found[1]).__name__}: {found[1]}"
        message = pickle.dumps((False, UsageError(f"{what} cannot be sent back from a child process: {error}")))
    return message


def _received(reading: int, deadline: float | None) -> bytes | None:
    """All that the child sends until it ends or has sent everything; None if that takes too long."""
    found = bytearray()
    while not _whole(found):
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and (left <= 0 or not select.select([reading], [], [], left)[0]):
            return None
        block = os.read(reading, BLOCK)
        if not block:
            break
        found += block
    return bytes(found)


def _whole(answer: bytes | bytearray) -> bool:
    """Whether it is all that a child sends: the length, and then so much."""
    return len(answer) >= 8 and len(answer) >= 8 + int.from_bytes(answer[:8], "little")


def _result(answer: bytes, status: int) -> Any:
    if not _whole(answer):
        raise NativeError(guard.why(status))
    returned, found = pickle.loads(answer[8:])  # from a fork of this process, through its own pipe
    if returned:
        return found
    if isinstance(found, Tflite2qError):
        raise found from None
    raise found
