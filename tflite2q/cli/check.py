"""`tflite2q check`"""

from __future__ import annotations

import click

from tflite2q.cli.options import ANY_PATH, MODEL, command, json_option, runtime_option, signature_option

BROKEN = 1


@command(short_help="Show which rules of a runtime each layer of a model breaks.")
@click.argument("model", type=MODEL)
@runtime_option(required=True)
@click.option(
    "--data",
    type=ANY_PATH,
    help="Samples (as for convert) for the schemes that are tried; only float models need them.",
)
@click.option("--mend/--no-mend", default=True, help="Try which scheme would mend what is broken.  [default: mend]")
@signature_option
@json_option
def check(model: str, runtime: str, data: str | None, mend: bool, signature: str | None, json_path: str | None) -> int:
    """Show which rules of a runtime or accelerator each layer of a model breaks, with the source of each rule.

    Exits with 1 if a layer breaks a rule.  What would mend it is tried: the model is converted in memory to the
    schemes that suit the runtime, and checked again.  docs/runtimes.md lists the rules.
    """
    from tflite2q import pipeline
    from tflite2q.cli import models, output
    from tflite2q.cli.progress import Progress
    from tflite2q.report import json, rules

    output.check_json(json_path, model, data)
    with Progress() as progress:
        progress(f"checking for {runtime}")
        found = models.opened(model, {}, True, signature)
        result = pipeline.check(found, runtime, mend, data, signature)
    output.emit(json.check(result), json_path, lambda console: rules.check(console, result))
    return BROKEN if result.breaches else 0
