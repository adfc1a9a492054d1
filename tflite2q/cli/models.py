"""Reading the models given to commands, and printing the reader's notes on stderr."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from tflite2q.cli.kinds import HEAD, STDIN, Piped, shown
from tflite2q.cli.verbosity import remark

if TYPE_CHECKING:
    from tflite2q.evaluation.inspection import Inspection
    from tflite2q.evaluation.models import Loaded
    from tflite2q.evaluation.results import Comparison

R = TypeVar("R", "Comparison", "Inspection")


def opened(
    path: str,
    shapes: Mapping[str, tuple[int, ...]],
    allow_unsupported: bool | None = None,
    signature: str | None = None,
) -> Loaded:
    """The model at `path`; `allow_unsupported` is None where a command does not have that option."""
    from tflite2q.errors import CARRY_HINT, UnsupportedError
    from tflite2q.evaluation import models

    if isinstance(path, Piped):
        _require_model(path)
    try:
        found = models.opened(path, bool(allow_unsupported), shapes, signature)
    except UnsupportedError as error:
        if error.carriable and allow_unsupported is False:
            raise UnsupportedError(f"{error}; {CARRY_HINT}") from error
        raise
    for note in found.graph.notes:
        remark(f"{shown(path)}: {note}")
    return found


def _require_model(path: Piped) -> None:
    """Raise ModelError for what came from stdin, which has no name to judge it by, and is neither form of a model."""
    from tflite2q.errors import ModelError
    from tflite2q.evaluation.models import is_text

    with open(path, "rb") as file:
        head = file.read(HEAD)
    if not head:
        raise ModelError(f"{STDIN}: is empty; give a .tflite model, or the name of its file")
    if is_text(path) and not head.decode("utf-8-sig", "replace").lstrip().startswith(("graph", "//")):
        text = "graph as `convert --until load --constants full` prints it"
        raise ModelError(f"{STDIN}: is neither a .tflite model nor a {text}")


def watched(path: str, shapes: Mapping[str, tuple[int, ...]], allow_unsupported: bool, signature: str | None) -> Loaded:
    """As `opened`, with progress, for commands that read large models."""
    from tflite2q.cli.progress import Progress

    with Progress() as progress:
        progress("reading")
        return opened(path, shapes, allow_unsupported, signature)


def unsaid(result: R, *models: Loaded) -> R:
    """The result without the notes that `opened` has printed."""
    from dataclasses import replace

    said = {note for model in models for note in model.graph.notes}
    return replace(result, notes=tuple(note for note in result.notes if note not in said))
