"""`tflite2q schemes`"""

from __future__ import annotations

from tflite2q.cli.options import command, json_option


@command(short_help="List the schemes that come with tflite2q.")
@json_option
def schemes(json_path: str | None) -> None:
    """List the schemes that come with tflite2q, with a sentence each."""
    from tflite2q.cli import output
    from tflite2q.report import json, text
    from tflite2q.rewrites import scheme

    found = [scheme.find(name) for name in scheme.shipped()]
    rows = [(each.name, f"{each.summary} {each.when}".strip()) for each in found]
    output.emit(json.names("schemes", rows), json_path, lambda console: text.names(console, rows))
