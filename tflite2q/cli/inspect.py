"""`tflite2q inspect`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tflite2q.cli.kinds import MODEL
from tflite2q.cli.options import (
    allow_unsupported_option,
    command,
    json_option,
    memory_option,
    shape_option,
    signature_option,
)

if TYPE_CHECKING:
    from rich.console import Console


@command(short_help="Show a model's layers, types and work, and what schemes would do.")
@click.argument("model", type=MODEL)
@click.option(
    "--target",
    help="Also show which kernel computes each layer on this target, and why faster ones do not; for a "
    "microcontroller, how much arena and flash the model needs.",
)
@signature_option
@shape_option
@allow_unsupported_option
@memory_option
@json_option
def inspect(
    model: str,
    target: str | None,
    signature: str | None,
    shapes: dict[str, tuple[int, ...]],
    allow_unsupported: bool,
    json_path: str | None,
) -> None:
    """Show a model's layers, types, parameters and work, and what each scheme would do to it.

    Each weight is shown with one scale or one per channel.  MACs are multiply-accumulates per run.
    """
    from tflite2q.cli import models, output
    from tflite2q.evaluation import inspection
    from tflite2q.execution import runtime
    from tflite2q.lower.targets import micro
    from tflite2q.report import json, text

    output.check_json(json_path, model)
    found = models.opened(model, shapes, allow_unsupported, signature)
    result = inspection.inspect(found)
    document, result = json.inspection(result), models.unsaid(result, found)
    if target is None:
        output.emit(document, json_path, lambda console: text.inspection(console, result))
        return
    if (small := micro(target)) is not None:
        from tflite2q.micro import library

        needs = library.fit(library.make(found.graph, "model", small))

        def show_needs(console: Console) -> None:
            text.inspection(console, result)
            text.micro(console, needs)

        output.emit({**document, "target": target, "micro": json.micro(needs)}, json_path, show_needs)
        return
    choices = runtime.choices(found.graph, target)

    def show(console: Console) -> None:
        text.inspection(console, result)
        text.kernels(console, target, choices)

    output.emit({**document, "target": target, "kernels": json.kernels(choices)}, json_path, show)
