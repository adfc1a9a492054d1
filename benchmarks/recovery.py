"""What each way of recovering accuracy does for the schemes that lose some, alone and together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from benchmarks import accuracy, environment
from benchmarks.accuracy import Report, Variant
from benchmarks.models import Labelled
from tflite2q.rewrites import scheme
from tflite2q.rewrites.scheme import Scheme

SCHEMES = ("int8-per-tensor", "int8-w4", "mixed-depthwise", "power-of-two")

Settings = Mapping[str, Mapping[str, Any]]

NONE: Settings = {
    "weights": {"range": "max", "rounding": "nearest"},
    "recover": {"bias_correction": False, "equalize": False, "reconstruct": "none"},
}
WAYS: Mapping[str, Settings] = {
    'weights.rounding = "sum-preserving"': {"weights": {"rounding": "sum-preserving"}},
    'weights.range = "least-squares"': {"weights": {"range": "least-squares"}},
    "recover.bias_correction = true": {"recover": {"bias_correction": True}},
    "recover.equalize = true": {"recover": {"equalize": True}},
}
CALIBRATED: Settings = {"activations": {"range": "least-squares"}}


def measure(models: Sequence[Labelled], schemes: Sequence[str], limit: int | None, report: Report) -> dict[str, Any]:
    """Everything there is to know, ready for JSON; `limit` caps the samples of each model."""
    where = environment.here()
    variants = [variant for name in schemes for variant in variants_of(scheme.find(name))]
    measured = accuracy.each(models, variants, limit, report)
    rows = [{**asdict(row), "option": variant.option} for variant, row in measured]
    return {"schema_version": 1, "environment": asdict(where), "rows": rows}


def variants_of(base: Scheme) -> list[Variant]:
    """`base` with nothing recovered, with each way alone, with all but one, with all, and with all after a look at some
    samples."""
    plain = _with(base, NONE)
    everything = _with(plain, *WAYS.values())
    return [
        Variant(plain, option="none"),
        *(Variant(_with(plain, way), option=name) for name, way in WAYS.items()),
        *(
            Variant(
                _with(plain, *(way for other, way in WAYS.items() if other != name)), option=f"all but {_key(name)}"
            )
            for name in WAYS
        ),
        Variant(everything, option="all"),
        Variant(_with(everything, CALIBRATED), calibrated=True, option="all, with --data"),
    ]


def _with(base: Scheme, *ways: Settings) -> Scheme:
    """`base` with other settings for all layers; its rules stay as they are."""
    layer = base.layer
    for settings in ways:
        changed = {role: replace(getattr(layer, role), **keys) for role, keys in settings.items()}
        layer = replace(layer, **changed)
    return replace(base, layer=layer)


def _key(setting: str) -> str:
    """The key's name of "role.key = value"."""
    return setting.partition(" ")[0]
