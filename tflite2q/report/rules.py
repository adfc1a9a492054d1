"""The verdict of a runtime's rules as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from tflite2q.dialect.names import short
from tflite2q.runtimes.check import Check, Trial
from tflite2q.runtimes.rules import Breach

if TYPE_CHECKING:
    from tflite2q.micro.library import Verdict  # which loads TVM

SHOWN = 5  # layers of a rule that are named


def check(console: Console, result: Check, inputs: str) -> None:
    """The rules that are broken with their layers, the verdict, and what would mend it.

    `inputs` are the words of a command line that stand for the model and its samples.
    """
    _breaches(console, result)
    for sentence in mending(result, inputs):
        _line(console, sentence)


def _breaches(console: Console, result: Check) -> None:
    for breaches in grouped(result.breaches):
        rule = breaches[0].rule
        _line(console, f"{rule.id}: {rule.says}")
        _line(console, f"  source: {rule.source}")
        for breach in breaches[:SHOWN]:
            _line(console, f"  {breach.index} {breach.operator} {short(breach.layer)}: {breach.what}")
        if len(breaches) > SHOWN:
            _line(console, f"  and {len(breaches) - SHOWN} more layers (all: --json FILE)")
    _line(console, verdict(result))


def fits(console: Console, result: Verdict, inputs: str) -> None:
    """Layers without a kernel, what is too much, and whether a model fits a microcontroller.

    `inputs` are as for `check`.
    """
    for each in result.refused[:SHOWN]:
        _line(console, f"{each.operator} {short(each.layer)}: {each.why}")
    if len(result.refused) > SHOWN:
        _line(console, f"and {len(result.refused) - SHOWN} more layers (all: --json FILE)")
    for sentence in result.excess:
        _line(console, sentence)
    _line(console, fit_verdict(result))
    if result.mended is not None:
        would = f"fits: tflite2q convert {inputs} --scheme int8" if result.mended else "does not fit either"
        _line(console, f"converted to int8 it {would}")


def fit_verdict(result: Verdict) -> str:
    """One sentence: whether it fits, and what it needs."""
    needs = result.needs
    if needs is None:
        return f"{result.model}: {len(result.refused)} of {result.layers} layers have no kernel for {result.target}"
    answer = "fits" if result.fits else "does not fit"
    state = f", a state of {needs.state}" if needs.state else ""
    return (
        f"{result.model}: {answer} {result.target}, with an arena of {needs.arena} bytes{state} and {needs.constants} "
        "bytes of constants beside the code"
    )


def fitted(console: Console, result: Check, suits: str) -> None:
    """What was chosen for a runtime, and what its rules say of the file that was written."""
    if suits:
        _line(console, suits)
    _breaches(console, result)


def grouped(breaches: Sequence[Breach]) -> list[list[Breach]]:
    """The breaches of each rule, the rule that most layers break first."""
    found: dict[str, list[Breach]] = {}
    for breach in breaches:
        found.setdefault(breach.rule.id, []).append(breach)
    return sorted(found.values(), key=lambda group: -len(group))


def verdict(result: Check) -> str:
    """One sentence: how many layers break rules."""
    runtime = f"{result.runtime.name} ({result.runtime.version})"
    if not result.breaches:
        return f"{result.model}: none of {result.layers} layers breaks a rule of {runtime}"
    rules = len({breach.rule.id for breach in result.breaches})
    plural = "" if rules == 1 else "s"
    return f"{result.model}: {result.broken} of {result.layers} layers break {rules} rule{plural} of {runtime}"


def mending(result: Check, inputs: str) -> list[str]:
    """What the schemes that were tried would leave, and the command that converts by the best of them."""
    if not result.trials:
        return []
    lines = [f"tried {tried(trial)}" for trial in result.trials]
    best = result.best
    if best is None:
        return [*lines, "none of these schemes mends it; what is left needs another model or runs on the processor"]
    mended = "would mend it" if best.layers == 0 else f"would leave {best.layers}"
    command = f"tflite2q convert {inputs} --scheme {best.scheme} --interface {best.interface}"
    return [*lines, f"{best.scheme} {mended}: {command}"]


def tried(trial: Trial) -> str:
    """What a conversion that was tried leaves, or why it is impossible."""
    if trial.layers is None:
        return f"{trial.scheme}: {trial.refused}"
    return f"{trial.scheme}, {kept(trial)}: {trial.layers or 'no'} layers break a rule"


def kept(trial: Trial) -> str:
    """What becomes of the model's own inputs and outputs."""
    return f"inputs and outputs {'as they are' if trial.interface == 'keep' else 'of the scheme'}"


def _line(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)
