"""Gates: bounds on the figures of a comparison, for pull requests and releases.

A gate whose figure was not measured is an error, never a pass.
"""

from __future__ import annotations

import difflib
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tflite2q import limits
from tflite2q.errors import UsageError, hint
from tflite2q.evaluation.results import Comparison, Gate

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Bounds = Mapping[str, float]


@dataclass(frozen=True)
class Kind:
    """A gate: its figure (None: not measured), what is missing then, and whether the bound is a lower one.

    `of_outputs`: the figure is of both models' outputs in the engine that the comparison names.
    """

    name: str
    label: str
    unit: str
    at_least: bool
    figure: Callable[[Comparison], float | None]
    missing: str
    of_outputs: bool = True

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")


def _drop(name: str) -> Callable[[Comparison], float | None]:
    def figure(result: Comparison) -> float | None:
        score = None if result.accuracy is None else result.accuracy.score(name)
        return None if score is None else 100 * (score.original - score.converted)

    return figure


def _figure(name: str) -> Callable[[Comparison], float | None]:
    def figure(result: Comparison) -> float | None:
        found = None if result.accuracy is None else result.accuracy.figure(name)
        return None if found is None else found.value

    return figure


def _agreement(result: Comparison) -> float | None:
    return None if result.accuracy is None else result.accuracy.agreement


def _mean_iou(result: Comparison) -> float | None:
    score = None if result.accuracy is None else result.accuracy.score("mean_iou")
    return _figure("mean_iou_original")(result) if score is None else score.converted


def _size_ratio(result: Comparison) -> float | None:
    size = result.size
    if size is None or not size.original or size.converted is None:
        return None
    return size.converted / size.original


def _speedup(before: str, after: str) -> Callable[[Comparison], float | None]:
    """Time of the original in one engine over that of the converted model in another."""

    def figure(result: Comparison) -> float | None:
        times = {(run.engine, run.model): run.timing.median_ms for run in result.engines if run.timing is not None}
        first, second = times.get((before, "original")), times.get((after, "converted"))
        return first / second if first and second else None

    return figure


NO_LITERT = "LiteRT was not timed; see the notes of the report"
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("max_top1_drop", "drop of top-1", "points", False, _drop("top1"),
             "top-1 needs a classifier and --labels"),
        Kind("min_agreement", "equal answers", "share", True, _agreement,
             "this task has no equal answers, or there was nothing to compare; see --min-sqnr"),
        Kind("min_sqnr", "signal to noise of the outputs", "dB", True, _figure("sqnr_db"),
             "the outputs are class numbers or boxes, not numbers to subtract; see --min-agreement"),
        Kind("max_step_error", "largest difference of the outputs", "steps", False, _figure("max_step_error"),
             "the outputs have no steps; see --min-sqnr and --min-agreement"),
        Kind("min_speedup", "original in LiteRT to converted, compiled by tflite2q", "times", True,
             _speedup("litert", "compiled"), NO_LITERT, False),
        Kind("min_litert_speedup", "original in LiteRT to converted in LiteRT", "times", True,
             _speedup("litert", "litert"), NO_LITERT, False),
        Kind("min_compiled_speedup", "original to converted, both compiled by tflite2q", "times", True,
             _speedup("compiled", "compiled"), "compiled models were not timed; see the notes of the report", False),
        Kind("max_size_ratio", "size of the converted file to that of the original", "ratio", False, _size_ratio,
             "a model cannot be written as a file", False),
        Kind("min_miou", "mean IoU", "share", True, _mean_iou, "mean IoU needs a segmentation model"),
        Kind("max_map_drop", "drop of mAP", "points", False, _drop("map"),
             "mean average precision needs a detector and --labels FILE.json in COCO's format"),
        Kind("min_cosine", "cosine of the outputs", "", True, _figure("cosine"),
             "cosines are measured for regression and embeddings"),
    )
}  # fmt: skip


def read(path: str | os.PathLike[str]) -> dict[str, float]:
    """The bounds in a TOML file: keys like `max_top1_drop = 0.5`, at the top or in a table `[gates]`.

    Raises UsageError for a file that cannot be read or bounds nothing, an unknown key, or a bound that is no number.
    """
    where = os.fspath(path)
    try:
        found: dict[str, Any] = tomllib.loads(limits.text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{where}: is not TOML: {error}") from error
    except OSError as error:
        raise limits.unreadable(path, error, UsageError) from error
    except ValueError as error:
        raise UsageError(f"{where}: cannot be read; gates are a TOML file of lines like max_top1_drop = 0.5") from error
    table = found.pop("gates", {})
    if not isinstance(table, dict):
        raise UsageError(f"{where}: gates is a table of bounds, such as [gates] and max_top1_drop = 0.5")
    if not found and not table:
        raise UsageError(f"{where}: holds no gates; write lines like max_top1_drop = 0.5")
    bounds: dict[str, float] = {}
    for place, some in ((where, found), (f"{where}: gates", table)):
        try:
            new = checked(some)
            if twice := sorted(bounds.keys() & new.keys()):
                raise UsageError(f"{twice[0]} is given above [gates], too; remove one")
        except UsageError as error:
            raise error.at(place) from error
        bounds |= new
    return bounds


def checked(bounds: Mapping[str, Any]) -> dict[str, float]:
    """The bounds by the gates' names.  Raises UsageError for an unknown gate or a bound that makes no sense."""
    found: dict[str, float] = {}
    for key, bound in bounds.items():
        name = key.replace("-", "_")
        if name not in KINDS:
            near = difflib.get_close_matches(name, KINDS, 1, 0.4)
            raise UsageError(f"there is no gate {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        kind = KINDS[name]
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            raise UsageError(f"the bound of {name} is {bound!r}, not a number")
        if kind.unit == "share" and not 0 <= bound <= 1:
            raise UsageError(f"the bound of {name} is a share between 0 and 1, not {bound:g}; 0.99 is 99 %")
        if name in found:
            raise UsageError(f"{name} is given twice, with - and with _; remove one")
        found[name] = float(bound)
    return found


def foresee(bounds: Bounds, task: str, truth: bool, timed: bool) -> None:
    """Raise UsageError, before any work, for gates whose figures this comparison will not measure."""
    cannot = {
        "max_top1_drop": task != "classification" or not truth,
        "max_map_drop": task != "detection" or not truth,
        "min_miou": task != "segmentation",
        "min_agreement": task in ("regression", "embedding"),
        "min_cosine": task not in ("regression", "embedding"),
    }
    for name in bounds:
        if cannot.get(name, False):
            raise _unmeasured(KINDS[name], f" (the task is {task}{'' if truth else ', there is no ground truth'})")
        if "speedup" in name and not timed:
            raise UsageError(hint(f"{KINDS[name].option}: times are not measured with --no-speed"))


def evaluate(result: Comparison, bounds: Bounds) -> tuple[Gate, ...]:
    """Each gate with its figure.  Raises UsageError for one that was not measured."""
    found = []
    for name, bound in bounds.items():
        kind = KINDS[name]
        figure = kind.figure(result)
        if figure is None or math.isnan(figure):
            raise _unmeasured(kind)
        where = f" ({result.accuracy.engine})" if kind.of_outputs and result.accuracy is not None else ""
        found.append(Gate(name, f"{kind.label}{where}", figure, bound, kind.at_least, kind.unit))
    return tuple(found)


def _unmeasured(kind: Kind, because: str = "") -> UsageError:
    return UsageError(f"{hint(kind.option)} was not measured: {hint(kind.missing)}{because}")
