"""`tflite2q targets`"""

from __future__ import annotations

from tflite2q.cli.options import command, json_option


@command(short_help="List the targets a model can be compiled for.")
@json_option
def targets(json_path: str | None) -> None:
    """List the targets that a model can be compiled for, the processor features they assume, and the kernels that
    convolutions, depthwise convolutions and dense layers get.

    Microcontrollers come last: `convert --lib NAME.a` and `NAME.c` write code for them.
    TVM's own targets work too: its JSON, `llvm -mtriple=... -mcpu=...`, and its names such as raspberry-pi/4b-aarch64.
    """
    from tflite2q.cli import output
    from tflite2q.lower.capabilities import capabilities
    from tflite2q.report import json, text

    found = capabilities()
    output.emit(json.targets(found), json_path, lambda console: text.targets(console, found))
