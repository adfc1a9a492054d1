"""The command line: parses, calls the library, prints.  Commands import what they need when they run, so that
`--help` costs nothing but click."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

import click

from tflite2q.cli.batch import batch
from tflite2q.cli.check import check
from tflite2q.cli.compare import compare
from tflite2q.cli.convert import convert
from tflite2q.cli.inspect import inspect
from tflite2q.cli.output import Closed
from tflite2q.cli.printable import printable
from tflite2q.cli.run import run_command
from tflite2q.cli.schemes import schemes
from tflite2q.cli.search import search
from tflite2q.cli.targets import targets
from tflite2q.errors import Tflite2qError, command_line, ends
from tflite2q.guard import Terminated
from tflite2q.version import __version__

COMMANDS: tuple[click.Command, ...] = (inspect, convert, run_command, compare, check, search, batch, schemes, targets)

WRONG_USAGE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141
LONGEST = 2000  # characters of a message

NO_MEMORY = "not enough memory for this model; choose smaller inputs with --shape if the file leaves their size open"
NO_MEMORY_IN_TVM = "bad_alloc"


class _InOrder(click.Group):
    """Lists the commands in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="tflite2q %(version)s")
def tflite2q() -> None:
    """Convert quantized TensorFlow Lite models to other quantization schemes, compile them, and measure the difference.

    MODEL is a .tflite file, a graph in text form (*.q.txt, as `convert --until load --constants full` prints), or '-'
    for stdin.

    Exit codes: 0 success; 1 a gate failed, a limit was exceeded, or `check` found a broken rule; 2 wrong usage; 3 an
    input cannot be used.
    """


for command in COMMANDS:
    tflite2q.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code; errors become one line on stderr."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the process
            setattr(sys, name, Closed())
    try:
        line = shlex.join(["tflite2q", *arguments])  # for reports
        with command_line():
            result = tflite2q.main(args=list(arguments), prog_name="tflite2q", standalone_mode=False, obj=line)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return WRONG_USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "tflite2q"
        return _fail(f"{_plain(error.format_message()).rstrip('.')}; see `{path} --help`", WRONG_USAGE)
    except click.ClickException as error:
        return _fail(error.format_message(), WRONG_USAGE)
    except (click.Abort, KeyboardInterrupt) as ended:
        cause = ended.__cause__ if isinstance(ended, click.Abort) else ended
        if isinstance(cause, EOFError):  # click takes it for the end of what a user types, which nobody is asked for
            raise cause from None
        if isinstance(cause, Terminated):
            return _fail("terminated", cause.exit_code)
        return _fail("interrupted", INTERRUPTED)
    except Tflite2qError as error:
        return _fail(str(error), error.exit_code)
    except MemoryError:
        return _fail(NO_MEMORY, 3)
    except RuntimeError as error:
        if NO_MEMORY_IN_TVM not in str(error):
            raise
        return _fail(NO_MEMORY, 3)
    except BrokenPipeError:
        # The reader closed the pipe; what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}; check the path, its permissions and free space", WRONG_USAGE)


def _plain(message: str) -> str:
    """What click says of a value, without the names of its types."""
    for kind, meant in (("float", "a number"), ("integer", "a whole number")):
        for name in (f"{kind} range", kind):
            message = message.replace(f"is not a valid {name}.", f"is not {meant}.")
    return message


def _fail(message: str, code: int) -> int:
    # If a value of many pages was given, what was wrong stands before and behind it.
    line = ends(printable(" ".join(message.split())), LONGEST, " ... ")
    click.echo(f"tflite2q: {line}", err=True)
    return code
