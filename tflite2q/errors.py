"""The errors tflite2q raises on purpose.

Every message says where (file, op or value), why, and what to do next, in one line; the command line prints it as is
and exits with `exit_code`.  Anything else that escapes is a bug.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import math
import numbers
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

E = TypeVar("E", bound="Tflite2qError")


_OPTION = re.compile(r"--([a-z][a-z0-9-]*)")
# Options that are no keyword of the same name in Python.
_IN_PYTHON = {
    "allow-unsupported": "allow_unsupported=True", "force": "force=True", "skip-bad": "skip_bad=True",
    "speed": "speed=True", "no-speed": "speed=False", "max-pixels": "TFLITE2Q_MAX_PIXELS",
    "max-memory": "TFLITE2Q_MAX_MEMORY",
}  # fmt: skip
_on_command_line = False

LONGEST_NAME = 400  # characters of a quoted name in a message; fused layers are called by the names of all their parts
_QUOTED = re.compile(r"""(?<!\w)(['"])(?:\\.|(?!\1).)*\1""")  # as repr quotes


def ends(text: str, most: int, gap: str) -> str:
    """The beginning and the end of a text that is longer than `most` characters, with `gap` between them."""
    return text if len(text) <= most else f"{text[: most // 2]}{gap}{text[-(most // 2) :]}"


@contextmanager
def command_line() -> Iterator[None]:
    """Within it, hints name options as the command line has them."""
    global _on_command_line
    before, _on_command_line = _on_command_line, True
    try:
        yield
    finally:
        _on_command_line = before


def hint(text: str) -> str:
    """`text` with its options as the reader can give them: `--label-offset` on the command line, `label_offset` in
    Python.  It must be the program's own words: a file may be called `--so`."""
    if _on_command_line:
        return text
    return _OPTION.sub(lambda found: _IN_PYTHON.get(found[1], found[1].replace("-", "_")), text)


def either(option: str, keyword: str) -> str:
    """What the reader can give: `option` on the command line, `keyword` in Python, where it has another name."""
    return option if _on_command_line else keyword


class Tflite2qError(Exception):
    """Base of all errors that a user can cause or act on.  The message is one line, whatever names it holds; of names
    that are very long it has the beginning and the end."""

    exit_code = 3

    def __str__(self) -> str:
        text = super().__str__().replace("\r", "\\r").replace("\n", "\\n")
        return (
            _QUOTED.sub(lambda quoted: ends(quoted[0], LONGEST_NAME, "..."), text)
            if len(text) > 2 * LONGEST_NAME
            else text
        )

    def at(self: E, place: str) -> E:
        """The same error, prefixed with the place where it occurred."""
        return self.saying(f"{place}: {self}")

    def saying(self: E, message: str) -> E:
        """The same error with another message."""
        found = copy.copy(self)
        found.args = (message,)
        return found


class ModelError(Tflite2qError):
    """The model file is malformed: truncated, inconsistent, or not a .tflite at all."""


class UnsupportedError(Tflite2qError):
    """The model is well formed but uses something tflite2q does not implement.

    `carriable`: with `allow_unsupported` the reader carries that part unchanged.
    """

    carriable = False


# What is said after an error that is carriable, where the option can be given.
CARRY_HINT = "--allow-unsupported carries that through and converts the rest; docs/ops.md lists what is supported"


class InvalidGraph(Tflite2qError):
    """A graph breaks a rule of the dialect (shapes, dtypes, quantization parameters, order)."""


class SchemeError(Tflite2qError):
    """A scheme does not exist or its file is wrong."""

    exit_code = 2


class Unchanged(Tflite2qError):
    """The model already follows the scheme."""


class DataError(Tflite2qError):
    """Input data (images, arrays, labels) does not fit the model or cannot be read."""


class TargetError(Tflite2qError):
    """A target is unknown or this machine cannot compile or link for it."""

    exit_code = 2


class UsageError(Tflite2qError):
    """Arguments that contradict each other or an output that must not be overwritten."""

    exit_code = 2


class OutputError(UsageError):
    """The system refuses to write an output: the disk is full, say, or the folder is read-only."""


class NativeError(Tflite2qError):
    """Native code, or the system, ended the process that something ran in."""


class LimitError(Tflite2qError):
    """A bound that was asked for, on accuracy or memory, cannot be kept."""

    exit_code = 1


def refuse_unknown(name: str, unknown: Iterable[str], function: Callable[..., Any]) -> None:
    """Raise UsageError for keywords that `function` lacks, naming the nearest one that it has."""
    known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    for keyword in unknown:
        near = difflib.get_close_matches(keyword, known, 1, 0.4)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it takes {', '.join(known)}"
        raise UsageError(f"{name} has no keyword {keyword!r}{hint}")


def require_one_of(name: str, given: object, known: Iterable[str]) -> None:
    """Raise UsageError for a value of the argument `name` that is not among the `known` ones, naming the nearest."""
    choices = list(known)
    if isinstance(given, str) and given in choices:
        return
    near = difflib.get_close_matches(given.lower(), choices, 1, 0.6) if isinstance(given, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else "; choose one of them"
    raise UsageError(f"{name} = {given!r} is not one of {', '.join(choices)}{hint}")


def require_count(name: str, given: object, least: int) -> None:
    """Raise UsageError for a value of the argument `name` that is not a whole number of at least `least`."""
    if isinstance(given, bool) or not isinstance(given, numbers.Integral) or given < least:
        raise UsageError(f"{name} = {given!r} is not a whole number of at least {least}")


def require_number(name: str, given: object) -> None:
    """Raise UsageError for a value of the argument `name` that is not a finite number."""
    if not isinstance(given, numbers.Real) or not math.isfinite(given):
        raise UsageError(f"{name} = {given!r} is not a finite number; give one such as 0.5")


REFUSED = "the data are refused: "  # prefix of the message when a check in compiled code fails


def refusal(error: object) -> str | None:
    """The message of the failed check in `error` (a TVM exception or its text), or None if it is another error."""
    found = [line.partition(REFUSED)[2] for line in str(error).splitlines() if REFUSED in line]
    return found[-1] if found else None
