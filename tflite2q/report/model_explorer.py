"""A comparison as node data of Google's Model Explorer, which colours the layers of a graph by a number.

The form is that of one graph's data, `{"results": {tensor name: {"value": ...}}, "gradient": [...]}`; Model Explorer
gives the values to the nodes whose output tensors have these names, in the graph that is open
(github.com/google-ai-edge/model-explorer, wiki "API Guide").
"""

from __future__ import annotations

import json

from tflite2q.evaluation.results import Comparison

WORST, MIDDLE, BEST = "#d7191c", "#ffffbf", "#1a9641"


def comparison(result: Comparison) -> str:
    """JSON with the signal-to-noise ratio of each layer that has noise, in dB; red is the worst layer, green the best.

    Layers that are equal in both models, or were not measured, get no value and keep their colour.
    """
    results = {layer.name: {"value": round(layer.sqnr_db, 2)} for layer in result.layers if layer.sqnr_db is not None}
    gradient = [
        {"stop": stop, "bgColor": colour, "textColor": text}
        for stop, colour, text in ((0, WORST, "#ffffff"), (0.5, MIDDLE, "#000000"), (1, BEST, "#ffffff"))
    ]
    name = f"signal to noise (dB), {result.other}"
    return json.dumps({"name": name, "results": results, "gradient": gradient}, indent=2, allow_nan=False) + "\n"
