"""What happened to a layer, in plain words."""

from __future__ import annotations

from tflite2q.dialect.names import short
from tflite2q.evaluation.results import Diagnosis, Layer
from tflite2q.report import words

WORTH_SAYING = 1.0  # bits of range that are not used
COARSER = 1.25  # times as wide as the original's step
LOSSES = {
    "exact": "the same integers on the same grid",
    "rescaled": "weights lost precision",
    "corrected": "the same weights; its bias makes up for errors of earlier layers",
    "requantized": "the result has another grid",
    "quantized": "real numbers became codes",
    "dequantized": "codes became real numbers",
}


def done(layer: Layer) -> str:
    """What the conversion did to a layer."""
    parts = []
    if layer.loss is not None:
        parts.append(f"{layer.loss}: {LOSSES.get(layer.loss, '')}".rstrip(": "))
    if layer.channels_rescaled:
        parts.append(f"{layer.channels_rescaled} of {layer.channels} channels rescaled")
    if layer.clamp is not None:
        parts.append(f"clamp added: {layer.clamp}")
    if layer.stays is not None:
        parts.append(f"stays as it was: {layer.stays}")
    return "; ".join(parts)


def reasons(layer: Layer) -> list[str]:
    """Why a layer's result differs, the weightiest reason first; a line each."""
    found = layer.diagnosis or Diagnosis()
    lines = [*_source(layer, found), *_range(found)]
    if layer.channels_rescaled:
        every = layer.channels_rescaled == layer.channels
        which = f"all {layer.channels}" if every else f"{layer.channels_rescaled} of {layer.channels}"
        lines.append(f"The weights of {which} channels were rescaled and rounded again.")
    if layer.bound is not None and layer.bound > 0 and layer.loss != "exact":
        lines.append(f"For equal inputs its result differs by at most {words.amount(layer.bound, 'steps')}.")
    return lines


def _source(layer: Layer, found: Diagnosis) -> list[str]:
    """Whether the noise is the layer's own or accumulated."""
    if found.own_share is None:
        return []
    share = words.percent(found.own_share)
    if found.origin is not None:
        part = f"only {share}" if found.own_share > 0 else "none"
        return [f"Accumulated from layer {short(found.origin)}: {part} of the noise is made here."]
    if layer.loss == "exact" and found.own_share > 0:
        return [f"{share} of the noise is made here, by kernels that round otherwise for the new type."]
    return [f"{share} of the noise is made here."]


def _range(found: Diagnosis) -> list[str]:
    """How the new range and step fit the values."""
    lines = []
    if found.clipped:
        lines.append(f"Saturates at the clamp: {words.percent(found.clipped)} of its results lie beyond the new range.")
    if found.unused_bits is not None and found.unused_bits.converted >= WORTH_SAYING:
        now, before = found.unused_bits.converted, found.unused_bits.original
        lines.append(f"Wastes {now:.1f} bits of range: no sample uses them (in the original: {before:.1f} bits).")
    if found.step_ratio is not None and found.step_ratio >= COARSER:
        lines.append(f"Its step is {found.step_ratio:.2f} times as wide as the original's.")
    return lines
