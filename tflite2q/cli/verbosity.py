"""How much a command says: errors only, results, or each step as well."""

from __future__ import annotations

import enum
from collections.abc import Callable

import click

from tflite2q.cli.printable import printable

_KEY = "tflite2q.verbosity"


class Verbosity(enum.Enum):
    """`--quiet`, neither, or `--verbose`."""

    QUIET = enum.auto()
    NORMAL = enum.auto()
    VERBOSE = enum.auto()


def choose(context: click.Context, verbosity: Verbosity) -> None:
    """Set what `current` returns.  Raises UsageError where both options are given."""
    if context.meta.setdefault(_KEY, verbosity) is not verbosity:
        raise click.UsageError("--quiet and --verbose are opposites; give one of them", context)


def current() -> Verbosity:
    """What the command that runs was given; NORMAL outside of a command."""
    context = click.get_current_context(silent=True)
    return Verbosity.NORMAL if context is None else context.meta.get(_KEY, Verbosity.NORMAL)


def from_threads() -> Callable[[str], None]:
    """`remark` for threads of their own, which do not know what the command was given."""
    quiet = current() is Verbosity.QUIET
    return lambda text: None if quiet else remark(text)


def remark(text: str) -> None:
    """Print a line on stderr that is no error, unless --quiet is given."""
    if current() is not Verbosity.QUIET:
        click.echo(f"tflite2q: {printable(text)}", err=True)
