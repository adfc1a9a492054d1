"""`tflite2q targets`"""

from __future__ import annotations

import click

from tflite2q.cli.options import json_option


@click.command(short_help="List the targets a model can be compiled for.")
@json_option
def targets(json_path: str | None) -> None:
    """List the targets a model can be compiled for, with a sentence each; TVM's own target JSON works too."""
    from tflite2q.cli import output
    from tflite2q.report import json, text
    from tflite2q.targets import TARGETS

    rows = [(each.name, each.sentence) for each in TARGETS]
    output.emit(json.names("targets", rows), json_path, lambda console: text.names(console, rows))
