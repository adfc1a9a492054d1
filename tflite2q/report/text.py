"""Results as text for people: tables on a terminal, aligned columns elsewhere."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from tflite2q.dialect.names import short
from tflite2q.evaluation.inspection import Inspection, SchemeEffect, TensorInfo
from tflite2q.evaluation.prediction import Prediction
from tflite2q.evaluation.results import Comparison, Layer, Size, worst_layers
from tflite2q.kernels.refusals import Because
from tflite2q.report import markdown, tables, words
from tflite2q.report.fitted import FittedTable
from tflite2q.report.tables import Rows

if TYPE_CHECKING:
    from tflite2q.execution.times import OpTime
    from tflite2q.lower.capabilities import Capability
    from tflite2q.lower.graph import Choice
    from tflite2q.micro.library import Fit

SHOWN_LAYERS = 5


def comparisons(console: Console, results: Sequence[Comparison], every_layer: bool = False) -> None:
    """Each comparison in turn; of several, a summary first."""
    if len(results) > 1:
        drawn(console, tables.summary(results))
        _line(console, "")
    for number, result in enumerate(results):
        if number:
            _line(console, "")
        comparison(console, result, every_layer)


def comparison(console: Console, result: Comparison, every_layer: bool = False) -> None:
    """Headline, engines, accuracy, and the layers with the largest error (or all of them); gates last."""
    _line(console, f"{result.model} -> {result.other}")
    if result.accuracy is not None:
        for part in (words.samples(result.accuracy), words.task(result.accuracy)):
            if part:
                _line(console, part)
    for number, rows in enumerate(tables.of_comparison(result)):
        if number:
            _line(console, f"\n{rows.title}:")
        drawn(console, rows)
        if not number:
            _sized(console, result)
            for line in markdown.evidence(result):
                _line(console, line)
    measured = [layer for layer in result.layers if layer.max_step_error is not None or layer.sqnr_db is not None]
    if measured:
        exact = sum(layer.sqnr_db is None for layer in measured)
        shown = measured if every_layer else worst_layers(measured)
        follows = "; errors inside the whole model:" if shown else ""
        _line(console, f"\n{exact} of {len(measured)} layers give equal results in both{follows}")
        if shown:
            layers(console, shown)
    for note in result.notes:
        _line(console, f"note: {note}")
    if result.environment is not None:
        _line(console, f"measured on {words.machine(result)}")
    for gate in result.gates:
        _line(console, words.gate(gate))


def _sized(console: Console, result: Comparison) -> None:
    if result.size is not None:
        _line(console, size(result.size))


def drawn(console: Console, rows: Rows) -> None:
    """One table."""
    table = FittedTable(*rows.columns)
    for row in rows.rows:
        table.add_row(*map(Text, row))
    console.print(table)


def conversion(console: Console, result: Comparison, written: Sequence[str]) -> None:
    """The effect of a conversion on layers and size, and the files it wrote."""
    _line(console, f"{result.model} -> {result.other}")
    changed = [line for line in result.layers if line.loss not in (None, "exact")]
    shown = sorted(changed, key=lambda line: -math.inf if line.bound is None else -line.bound)[:SHOWN_LAYERS]
    if shown:
        _line(console, f"{len(shown)} of {len(changed)} changed layers, largest error bound first (all: --json FILE):")
        layers(console, shown)
    left = [line.op for line in result.layers if line.loss is None]
    if left:
        _line(console, f"left unchanged: {', '.join(f'{n} {op}' for op, n in sorted(Counter(left).items()))}")
    for reason, named in staying(result.layers).items():
        _line(console, f"not converted, {reason}: {', '.join(named)}")
    _line(console, summary(result.layers))
    if result.size is not None:
        _line(console, size(result.size))
    for note in result.notes:
        _line(console, f"note: {note}")
    for path in written:
        _line(console, f"wrote {path}")


def unchanged(console: Console, reason: str, written: Sequence[str]) -> None:
    """Why a conversion had nothing to do, and the files that were written nevertheless."""
    _line(console, f"{reason}; " + ("nothing was converted" if written else "nothing was written"))
    for path in written:
        _line(console, f"wrote {path}")


def staying(lines: Sequence[Layer]) -> dict[str, list[str]]:
    """The layers that could not follow the scheme, by reason."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if line.stays is not None:
            found.setdefault(line.stays, []).append(line.name)
    return found


def prediction(console: Console, results: Sequence[Prediction]) -> None:
    """One row per sample: the answer, and the outputs that are no part of it."""
    table = FittedTable(("sample", False), ("output", False), ("result", False))
    for result in results:
        for output in result.outputs:
            table.add_row(Text(result.sample), Text(short(output.name)), Text(output.says))
    console.print(table)


def profile(console: Console, ops: Sequence[OpTime]) -> None:
    """The time of each op of a run, in execution order."""
    _line(console, f"profile ({sum(op.ms for op in ops):.3f} ms in ops):")
    table = FittedTable(("op", False), ("kernel", False), ("time", True), ("share", True), ("G MAC/s", True))
    for op in ops:
        rate = "" if op.gmacs is None else f"{op.gmacs:.1f}"
        row = (f"{op.mnemonic} {short(op.op)}", op.kernel, f"{op.ms * 1e3:.1f} us", words.percent(op.share), rate)
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def layers(console: Console, lines: Sequence[Layer]) -> None:
    """One row per layer, without the columns that would be empty."""
    rows = [
        (
            short(line.name),
            line.op,
            loss(line),
            "" if line.bound is None else f"{line.bound:.3g}",
            line.clamp or "",
            "" if line.sqnr_db is None else f"{line.sqnr_db:.1f} dB",
            "" if line.max_step_error is None else f"{line.max_step_error:g}",
        )
        for line in lines
    ]
    columns = (
        ("layer", False),
        ("op", False),
        ("loss", False),
        ("bound, steps", True),
        ("clamp added", False),
        ("signal/noise", True),
        ("largest error, steps", True),
    )
    kept = [k for k in range(len(columns)) if k < 2 or any(row[k] for row in rows)]
    table = FittedTable(*(columns[k] for k in kept))
    for row in rows:
        table.add_row(*(Text(row[k]) for k in kept))
    console.print(table)


def loss(line: Layer) -> str:
    """A layer's loss class, with its channels where some were rescaled."""
    if line.loss is None:
        return ""
    if line.channels_rescaled:
        return f"{line.loss}: {line.channels_rescaled} of {line.channels} channels"
    return line.loss


def summary(lines: Sequence[Layer]) -> str:
    """The number of layers in each loss class, and of rescaled channels."""
    counts = Counter(line.loss for line in lines if line.loss is not None)
    text = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    channels = sum(line.channels or 0 for line in lines)
    rescaled = sum(line.channels_rescaled or 0 for line in lines)
    if not channels:
        return f"layers: {text or 'none changed'}"
    return f"layers: {text}; {rescaled} of {channels} weight channels rescaled"


def size(result: Size) -> str:
    """Both sizes and their difference."""
    if result.original is None or result.converted is None:
        return "size: unknown"
    change = words.relative(result.original, result.converted)
    return f"size: {words.size_in_bytes(result.original)} -> {words.size_in_bytes(result.converted)} ({change})"


def inspection(console: Console, result: Inspection) -> None:
    """The model's summary, its layers, and the effect of each scheme."""
    layers = f"{len(result.layers)} layer" + "s" * (len(result.layers) != 1)
    _line(
        console,
        f"{result.model}: {words.size_in_bytes(result.size)}, {layers}, "
        f"{_count(result.parameters)} parameters, {_count(result.macs)} multiply-accumulates",
    )
    for kind, tensors in (("input", result.inputs), ("output", result.outputs)):
        for tensor in tensors:
            _line(console, f"{kind} {tensor.name}: {_type(tensor)}")
    table = FittedTable(
        ("#", True), ("layer", False), ("op", False), ("weights", False), ("result", False), ("MACs", True)
    )
    for layer in result.layers:
        weights = "" if layer.weights is None else _type(layer.weights)
        cells = (
            str(layer.index),
            short(layer.name),
            layer.op,
            weights,
            "" if layer.output is None else _type(layer.output),
            _count(layer.macs) if layer.macs else "",
        )
        table.add_row(*map(Text, cells))
    console.print(table)
    if result.schemes:
        effects(console, result.schemes)
    if result.runtimes:
        _line(console, runtimes(result.runtimes, len(result.layers)))
    for note in result.notes:
        _line(console, f"note: {note}")


def runtimes(counts: Sequence[tuple[str, int]], layers: int) -> str:
    """Which runtimes take every layer of a model, and how many layers break a rule of the others."""
    taken = [name for name, count in counts if not count]
    broken = [f"{name} ({count} of {layers} layers)" for name, count in counts if count]
    parts = [f"{', '.join(taken)} take every layer"] if taken else []
    parts += [f"rules broken of {', '.join(broken)}: `tflite2q check` says which"] if broken else []
    return f"runtimes: {'; '.join(parts)}"


def effects(console: Console, schemes: Sequence[SchemeEffect]) -> None:
    """What each scheme would do to a model, one row per scheme."""
    table = FittedTable(("scheme", False), ("effect", False))
    for effect in schemes:
        counts = ", ".join(f"{count} {name}" for name, count in effect.losses)
        rescaled = (
            f"; {effect.channels_rescaled} of {effect.channels} weight channels rescaled" if effect.channels else ""
        )
        clamped = f"; {effect.clamped} clamps made explicit" if effect.clamped else ""
        table.add_row(Text(effect.scheme), Text(effect.refused or f"layers: {counts}{rescaled}{clamped}"))
    console.print(table)


def names(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Names, each with a sentence."""
    table = FittedTable(("name", False), ("", False))
    for name, sentence in rows:
        table.add_row(Text(name), Text(sentence))
    console.print(table)


def kernels(console: Console, target: str, choices: Sequence[Choice]) -> None:
    """Which kernel computes each layer on a target, and why better ones refused."""
    _line(console, f"kernels on {target}:")
    table = FittedTable(("layer", False), ("op", False), ("kernel", False), ("reason", False))
    for choice in choices:
        table.add_row(Text(short(choice.op)), Text(choice.mnemonic), Text(choice.kernel), Text(because(choice)))
    console.print(table)


def because(choice: Choice) -> str:
    """The refusals in one line, without those of kernels for other processor families."""
    reasons: dict[str, list[str]] = {}
    for kernel, refusal in choice.refusals:
        if refusal.kind is not Because.PROCESSOR:
            reasons.setdefault(refusal.reason, []).append(kernel)
    return "; ".join(f"{', '.join(kernels)}: {reason}" for reason, kernels in reasons.items())


def micro(console: Console, found: Fit) -> None:
    """What a model needs on a microcontroller: in all, and while each step runs."""
    table = FittedTable(("layer", False), ("kernel", False), ("arena", True), ("constants", True), ("MACs", True))
    for each in found.steps:
        numbers = (Text(str(each.arena)), Text(str(each.constants)), Text(_count(each.macs)))
        table.add_row(Text(each.layer), Text(each.kernel), *numbers)
    console.print(table)
    _line(
        console,
        f"on {found.target}: an arena of {found.arena} bytes (no plan needs fewer than {found.bound}), "
        f"{f'a state of {found.state} bytes, ' if found.state else ''}"
        f"{found.constants} bytes of constants in flash beside the code ({found.constants - found.tables} of weights "
        f"and biases, {found.tables} of tables), {_count(found.macs)} multiply-accumulates",
    )


def targets(console: Console, found: Sequence[Capability]) -> None:
    """Each target's sentence, features and kernels."""
    table = FittedTable(("name", False), ("", False), ("features", False), ("kernels", False))
    for each in found:
        kernels = dict.fromkeys(kernel for _, kernel in each.kernels)
        table.add_row(Text(each.name), Text(each.sentence), Text(" ".join(each.features)), Text(", ".join(kernels)))
    console.print(table)


def _line(console: Console, text: str) -> None:
    console.print(Text(text))


def _type(tensor: TensorInfo) -> str:
    text = f"{tensor.dtype}[{'x'.join(map(str, tensor.shape))}]"
    if not tensor.scale:
        return text
    if len(tensor.scale) > 1:
        return f"{text} {len(tensor.scale)} scales" + ("" if not any(tensor.zero_point) else ", zero points")
    return f"{text} scale {tensor.scale[0]:.6g} zero point {tensor.zero_point[0]}"


def _count(number: int) -> str:
    for size_of, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size_of:
            return f"{number / size_of:.3g} {unit}"
    return str(number)
