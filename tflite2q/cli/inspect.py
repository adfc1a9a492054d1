"""`tflite2q inspect`"""

from __future__ import annotations

import click

from tflite2q.cli.options import MODEL, json_option


@click.command(short_help="Show a model's layers, types and work, and what schemes would do.")
@click.argument("model", type=MODEL)
@json_option
def inspect(model: str, json_path: str | None) -> None:
    """Show a model's layers, types, parameters and work, and what each scheme would do to it.

    A weight's line says whether it has one scale or one a channel; MACs are multiply-accumulate operations of one run.
    """
    from tflite2q import pipeline
    from tflite2q.cli import output
    from tflite2q.report import json, text

    output.check_json(json_path)
    result = pipeline.inspect(model)
    output.emit(json.inspection(result), json_path, lambda console: text.inspection(console, result))
