"""`tflite2q check`"""

from __future__ import annotations

import click

from tflite2q.cli.kinds import ANY_PATH, MODEL, words
from tflite2q.cli.options import MICROS, command, json_option, limit_options, runtime_option, signature_option

BROKEN = 1


@command(short_help="Show which rules of a runtime each layer of a model breaks.")
@click.argument("model", type=MODEL)
@runtime_option(
    required=True,
    help="The runtime or accelerator whose rules to check, or the microcontroller that the model must fit.",
    more=MICROS,
)
@limit_options("For a microcontroller: the model does not fit if it")
@click.option(
    "--data",
    type=ANY_PATH,
    help="Samples (as for convert) for the schemes to try; only float models need them.",
)
@click.option(
    "--mend/--no-mend", default=True, help="Find out which scheme would fix the broken rules.  [default: mend]"
)
@signature_option
@json_option
def check(
    model: str, runtime: str, max_arena: int | None, max_flash: int | None, data: str | None, mend: bool,
    signature: str | None, json_path: str | None,
) -> int:  # fmt: skip
    """Show which rules of a runtime or accelerator each layer of a model breaks, with the source of each rule.

    The exit code is 1 if a layer breaks a rule.  To find a fix, the model is converted in memory to schemes that suit
    the runtime and checked again.  docs/runtimes.md lists the rules.

    For a microcontroller, it checks that every layer has a kernel, that tensors fit --max-arena and that constants fit
    --max-flash (the code adds a few kB).  If not, it names the layer, and the exit code is 1.
    """
    from tflite2q import pipeline
    from tflite2q.cli import models, output
    from tflite2q.cli.progress import Progress
    from tflite2q.report import json, rules

    output.check_json(json_path, model, data)
    inputs = words(model, data=data, signature=signature)
    if runtime in MICROS:
        with Progress() as progress:
            progress(f"checking for {runtime}")
            found = models.opened(model, {}, False, signature)
            fit = pipeline.fits(found, runtime, max_arena, max_flash, mend, data)
        output.emit(json.fits(fit), json_path, lambda console: rules.fits(console, fit, inputs))
        return 0 if fit.fits else BROKEN
    if (max_arena, max_flash) != (None, None):
        raise click.UsageError("--max-arena and --max-flash are for microcontrollers, such as --for cortex-m4")
    with Progress() as progress:
        progress(f"checking for {runtime}")
        found = models.opened(model, {}, True, signature)
        result = pipeline.check(found, runtime, mend, data, signature)
    output.emit(json.check(result), json_path, lambda console: rules.check(console, result, inputs))
    return BROKEN if result.breaches else 0
