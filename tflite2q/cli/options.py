"""Options that several commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import click

from tflite2q.cli.kinds import FINITE, LONGEST, PIPED, POSITIVE, REPORT, STDIN, Bytes, PathName
from tflite2q.cli.verbosity import Verbosity, choose

MOST_JOBS = 1024  # processes, of a hundred MB each: more is a slip
PROGRAM = 1 << 30  # bytes that the program takes itself, with TVM and its threads

F = TypeVar("F", bound=Callable[..., Any])


def _set_verbosity(context: click.Context, parameter: click.Parameter, given: bool) -> None:
    if given:
        choose(context, Verbosity[str(parameter.name).upper()])


class _Command(click.Command):
    """What all commands share: how much they say, no option that is given twice, and errors about stdin.

    click would take the last value of an option that takes one, without a word.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for letter, name, text in (
            ("q", "quiet", "Print only errors, and the output that '-' asks for."),
            ("v", "verbose", "Report progress on stderr, with the time that each step takes."),
        ):
            option = click.Option(
                [f"-{letter}", f"--{name}"], is_flag=True, expose_value=False, callback=_set_verbosity, help=text
            )
            self.params.append(option)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = [
            parameter
            for parameter in self.make_parser(ctx).parse_args(list(args))[2]
            if isinstance(parameter, click.Option) and not (parameter.multiple or parameter.is_flag or parameter.count)
        ]
        for parameter in given:
            if given.count(parameter) > 1:
                raise click.UsageError(f"{parameter.opts[0]} is given more than once", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Errors name stdin where the stages, which are given its temporary file, name that."""
        from tflite2q.errors import Tflite2qError

        try:
            return super().invoke(ctx)
        except Tflite2qError as error:
            if (path := ctx.meta.get(PIPED)) is None:
                raise
            raise error.saying(str(error).replace(path, STDIN)) from error


command = partial(click.command, cls=_Command)


def together(options: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    """One decorator that adds all `options`, shown in that order."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def report_options(kinds: Sequence[tuple[str, str]]) -> Callable[[F], F]:
    """`--KIND FILE`, with its help, for each kind of report, as the keyword KIND_path."""
    return together(
        [
            click.option(
                f"--{kind}",
                f"{kind.replace('-', '_')}_path",
                type=REPORT,
                metavar="FILE",
                help=text,
            )
            for kind, text in kinds
        ]
    )


def at_most_one_to_stdout(paths: Iterable[str | None]) -> None:
    """Raise UsageError if several reports are to be printed."""
    if sum(path == "-" for path in paths) > 1:
        raise click.UsageError("only one report can go to stdout; give the others a file")


json_option = click.option(
    "--json",
    "json_path",
    metavar="FILE",
    type=REPORT,
    help="Also write the result as JSON to FILE; '-' prints it instead of the text.",
)
allow_unsupported_option = click.option(
    "--allow-unsupported",
    is_flag=True,
    help="Keep operators, types and subgraphs that tflite2q does not support, unchanged.",
)


def _is_size(text: str) -> bool:
    return text.isdecimal() and len(text) <= LONGEST and int(text) > 0


def _shapes(context: click.Context, parameter: click.Parameter, given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """NAME=1x224x224x3, several times, to shapes by name."""
    found = {}
    for text in given:
        name, equals, sizes = text.rpartition("=")
        if not equals or not name or not all(map(_is_size, sizes.split("x"))):
            raise click.BadParameter(f"{text!r} is not NAME=SIZExSIZE..., such as image=1x224x224x3")
        if name in found:
            raise click.BadParameter(f"{name!r} is given two shapes")
        found[name] = tuple(int(size) for size in sizes.split("x"))
    return found


shape_option = click.option(
    "--shape",
    "shapes",
    multiple=True,
    callback=_shapes,
    metavar="NAME=1x224x224x3",
    help="Shape of an input whose batch or size the file leaves open; repeatable.  [default: as stored, else 1]",
)
signature_option = click.option(
    "--signature",
    metavar="KEY",
    help="For a file with several signatures: the one to use as the model.  The others stay unchanged.  "
    "[default: the first subgraph]",
)
stream_option = click.option(
    "--stream",
    is_flag=True,
    help="Treat the samples as the steps of one stream, in order (the first axis of a .npy or .npz is time), for "
    "models that keep state.",
)
force_option = click.option("--force", is_flag=True, help="Overwrite output files that exist.")
scheme_option = click.option(
    "--scheme", metavar="NAME|FILE", help="Scheme to convert to: a name that `tflite2q schemes` lists, or a .toml file."
)
RUNTIMES = (
    "tflite-micro",
    "cmsis-nn",
    "ethos-u55",
    "ethos-u65",
    "ethos-u85",
    "edgetpu",
    "xnnpack",
    "nnapi",
    "shift-only",
)  # spelled out, so that --help imports nothing; a test compares them with the table


MICROS = ("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55", "cortex-m85",
          "riscv32imac", "esp32c3", "esp32s3")  # fmt: skip


def runtime_option(
    required: bool = False,
    help: str = "The runtime or accelerator whose rules to check.",
    more: Sequence[str] = (),
) -> Callable[[F], F]:
    """`--for RUNTIME`, or one of `more`."""
    return click.option("--for", "runtime", type=click.Choice((*RUNTIMES, *more)), required=required, help=help)


def limit_options(about: str) -> Callable[[F], F]:
    """`--max-arena` and `--max-flash`."""
    return together(
        [
            click.option(
                "--max-arena",
                type=Bytes(min=0),
                metavar="BYTES",
                help=f"{about} needs more RAM for its tensors and its state; 64kB and 1MB are understood.",
            ),
            click.option(
                "--max-flash", type=Bytes(min=0), metavar="BYTES", help=f"{about} needs more flash for constants."
            ),
        ]
    )


interface_option = click.option(
    "--interface",
    type=click.Choice(["keep", "scheme"]),
    help="Types of the model's inputs and outputs: keep them, or let the scheme decide.  [default: the scheme's]",
)


def _known_target(context: click.Context, parameter: click.Parameter, given: str) -> str:
    """Raises TargetError for a target that does not exist, also where nothing is compiled."""
    if given != NATIVE:  # which needs no look at the table, or at what TVM knows
        from tflite2q.lower.target import resolve
        from tflite2q.lower.targets import micro

        if micro(given) is None:
            resolve(given)
    return given


NATIVE = "native"
target_option = click.option(
    "--target",
    default=NATIVE,
    show_default=True,
    callback=_known_target,
    help="Processor to compile for: a name that `tflite2q targets` lists, or TVM's JSON.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of threads of the compiled model.",
)
TASKS = ("auto", "classification", "segmentation", "detection", "keypoints", "regression", "embedding")
FITS = ("auto", "crop", "pad", "stretch")
task_options = together(
    [
        click.option(
            "--task",
            type=click.Choice(TASKS),
            default=TASKS[0],
            show_default=True,
            help="What the outputs are; auto infers it from their shapes and ops, and the report says why.",
        ),
        click.option(
            "--label-names",
            type=PathName(dir_okay=False),
            metavar="FILE",
            help="Names of the classes, one per line.  [default: the label file appended to the model, if any]",
        ),
        click.option(
            "--fit",
            type=click.Choice(FITS),
            default=FITS[0],
            show_default=True,
            help="How pictures are fitted to the input: crop the central 87.5 %, pad the whole picture, or stretch "
            "it; auto pads for segmentation and keypoints, stretches for detection and else crops.",
        ),
    ]
)


def _environment(variable: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Sets a variable for the time of the command, for this process and those that it starts."""

    def set_variable(context: click.Context, parameter: click.Parameter, given: Any) -> None:
        if given is None:
            return
        before = os.environ.get(variable)
        os.environ[variable] = str(given)

        def restore() -> None:
            os.environ.pop(variable, None)
            if before is not None:
                os.environ[variable] = before

        context.call_on_close(restore)

    return set_variable


def _confined(context: click.Context, parameter: click.Parameter, given: float | None) -> None:
    """Sets the limit that stages ask before they begin, and one at which the system refuses memory."""
    _environment("TFLITE2Q_MAX_MEMORY")(context, parameter, given)
    if given is not None and sys.platform.startswith("linux"):
        import resource

        before = resource.getrlimit(resource.RLIMIT_DATA)
        most = int(min(given * (1 << 30) + PROGRAM, sys.maxsize // 2))
        if before[0] in (-1, resource.RLIM_INFINITY) or most < before[0]:
            resource.setrlimit(resource.RLIMIT_DATA, (most, before[1]))
            context.call_on_close(lambda: resource.setrlimit(resource.RLIMIT_DATA, before))


memory_option = click.option(
    "--max-memory",
    type=POSITIVE,
    metavar="GB",
    expose_value=False,
    callback=_confined,
    help="Stop with an error instead of using more memory than this.  [default: the machine's]",
)
skip_bad_option = click.option(
    "--skip-bad",
    is_flag=True,
    help="Skip samples whose file is missing or unreadable, or that have no usable label, and report them.",
)
max_pixels_option = click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    metavar="N",
    expose_value=False,
    callback=_environment("TFLITE2Q_MAX_PIXELS"),
    help="Refuse to decode pictures with more pixels than this.  [default: 100,000,000]",
)
pixel_options = together(
    [
        max_pixels_option,
        click.option(
            "--mean", type=FINITE, help="With --std: the model gets (pixel - mean) / std instead of pixel codes."
        ),
        click.option(
            "--std", type=FINITE, help="See --mean.  [default for inputs that are not 8 bits wide: 127.5, 127.5]"
        ),
    ]
)
remote_options = together(
    [
        click.option("--rpc", metavar="HOST:PORT", help="Run on the device whose TVM RPC server has this address."),
        click.option("--tracker", metavar="HOST:PORT", help="Run on a device from this RPC tracker; needs --key."),
        click.option("--key", metavar="NAME", help="Name of the device at the tracker."),
        click.option(
            "--timeout",
            type=POSITIVE,
            default=60.0,
            show_default=True,
            metavar="SECONDS",
            help="Time limit of each step on a remote device.",
        ),
    ]
)
