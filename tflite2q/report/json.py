"""Results as JSON documents: plain dicts with stable keys.

`schema_version` increases when a key changes its meaning or disappears; new keys do not change it.  Ratios lie between
0 and 1, times are milliseconds, sizes bytes; null means that a figure was not measured, or that a layer has no noise
and therefore no signal-to-noise ratio.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from tflite2q.evaluation.inspection import Inspection
from tflite2q.evaluation.prediction import Prediction
from tflite2q.evaluation.results import Comparison, Layer
from tflite2q.runtimes.check import Check

if TYPE_CHECKING:
    from tflite2q.execution.times import OpTime
    from tflite2q.lower.capabilities import Capability
    from tflite2q.lower.graph import Choice
    from tflite2q.micro.library import Fit, Verdict

SCHEMA_VERSION = 1

Document = dict[str, Any]


def comparison(result: Comparison) -> Document:
    """Keys: model, other, scheme, target, layers, accuracy, speed, size, notes, headline, engines, gates, environment,
    provenance.

    Of a gate also `passed`; versions are an object.
    """
    document: Document = _plain(result)
    document["layers"] = layers(result.layers)
    document["gates"] = [{**_plain(gate), "passed": gate.passed} for gate in result.gates]
    if result.environment is not None:
        document["environment"]["versions"] = dict(result.environment.versions)
    return {"schema_version": SCHEMA_VERSION, **document}


def comparisons(results: Sequence[Comparison]) -> Document:
    """One comparison as it is; several as the list `comparisons`."""
    if len(results) == 1:
        return comparison(results[0])
    return {"schema_version": SCHEMA_VERSION, "comparisons": [comparison(result) for result in results]}


def _plain(value: Any) -> Any:
    """Records as dicts, without what is not for JSON; infinite numbers, which JSON lacks, as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value):
        kept = (field.name for field in fields(value) if field.metadata.get("json", True))
        return {name: _plain(getattr(value, name)) for name in kept}
    return [_plain(held) for held in value] if isinstance(value, list | tuple) else value


def inspection(result: Inspection) -> Document:
    """Keys: model, size, description, inputs, outputs, layers, parameters, macs, schemes, runtimes, notes; of
    runtimes, how many layers break a rule of each, by name."""
    return {"schema_version": SCHEMA_VERSION, **asdict(result), "runtimes": dict(result.runtimes)}


def layers(lines: Sequence[Layer]) -> list[Document]:
    return [{**_plain(line), "sqnr_db": None if line.sqnr_db is None else round(line.sqnr_db, 3)} for line in lines]


def check(result: Check) -> Document:
    """Keys: model, runtime, version, layers, broken, breaches: {index, name, operator, rule, says, source, what},
    trials: {scheme, interface, layers, refused}, best: {scheme, interface, layers, refused}."""
    breaches = [
        {
            "index": breach.index,
            "name": breach.layer,
            "operator": breach.operator,
            "rule": breach.rule.id,
            "says": breach.rule.says,
            "source": breach.rule.source,
            "what": breach.what,
        }
        for breach in result.breaches
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "model": result.model,
        "runtime": result.runtime.name,
        "version": result.runtime.version,
        "layers": result.layers,
        "broken": result.broken,
        "breaches": breaches,
        "trials": [asdict(trial) for trial in result.trials],
        "best": None if result.best is None else asdict(result.best),
    }


def names(key: str, rows: Sequence[tuple[str, str]]) -> Document:
    """Keys: `key`, a list of {name, sentence}."""
    return {"schema_version": SCHEMA_VERSION, key: [{"name": name, "sentence": sentence} for name, sentence in rows]}


def kernels(choices: Sequence[Choice]) -> list[Document]:
    """A list of {name, op, kernel, macs, refusals: {kernel, reason}}, in execution order."""
    return [
        {
            "name": choice.op,
            "op": choice.mnemonic,
            "kernel": choice.kernel,
            "macs": choice.macs,
            "refusals": [{"kernel": kernel, "reason": refusal.reason} for kernel, refusal in choice.refusals],
        }
        for choice in choices
    ]


def targets(found: Sequence[Capability]) -> Document:
    """Keys: targets, a list of {name, sentence, features, kernels: {layer: kernel}}."""
    rows = [{**asdict(each), "kernels": dict(each.kernels)} for each in found]
    return {"schema_version": SCHEMA_VERSION, "targets": rows}


def micro(found: Fit) -> Document:
    """Keys: target, arena, bound, state, constants, tables (bytes), macs, steps: {layer, op, kernel, arena, constants,
    macs}."""
    return asdict(found)


def fits(found: Verdict) -> Document:
    """Keys: model, target, fits, layers, refused: {layer, mnemonic, operator, why}, excess (sentences), needs (as
    `micro`), max_arena, max_flash, mended."""
    return {"schema_version": SCHEMA_VERSION, "fits": found.fits, **asdict(found)}


def profile(ops: Sequence[OpTime]) -> list[Document]:
    """Keys of each op: op (its name), mnemonic, kernel, ms, gmacs (10^9 multiply-accumulates a second), share."""
    return [asdict(op) for op in ops]


def prediction(model: str, results: Sequence[Prediction], task: str | None = None) -> Document:
    """Keys: model, task, predictions: {sample, outputs: {name, classes: {class, name, score}, low, high, says}}, and by
    task boxes, keypoints or mask."""
    found = [
        {
            "sample": result.sample,
            "outputs": [
                {
                    **asdict(o),
                    "classes": [{"class": c.number, "name": c.name, "score": c.score} for c in o.classes],
                }
                for o in result.outputs
            ],
            **{key: held for key, held in result.document.items() if key != "classes"},
        }
        for result in results
    ]
    return {"schema_version": SCHEMA_VERSION, "model": model, "task": task, "predictions": found}
