"""A forecast beside the conversion that it foretells."""

from __future__ import annotations

import pytest

from tflite2q import rewrites
from tflite2q.dialect.graph import Graph
from tflite2q.errors import Tflite2qError
from tflite2q.rewrites import LayerChange, scheme

Layers = tuple[LayerChange, ...]


def told(layers: Layers) -> list[tuple[str, str | None, int | None]]:
    return [(layer.name, layer.loss, layer.channels) for layer in layers]


def agreeing(graph: Graph, name: str) -> tuple[Layers, Layers]:
    """The layers of the forecast and of the conversion, which tell the same; none where both raise the same error."""
    chosen = scheme.find(name)
    try:
        truth = rewrites.convert(graph, chosen).layers
    except Tflite2qError as error:
        with pytest.raises(type(error)):
            rewrites.Forecast(graph).layers(chosen)
        return (), ()
    forecast = rewrites.Forecast(graph).layers(chosen)
    assert told(forecast) == told(truth)
    return forecast, truth
