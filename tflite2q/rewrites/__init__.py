"""Rewriting a graph to a scheme: small steps from graph to graph, which `convert` runs in order."""

from tflite2q.rewrites.conversion import Conversion, convert, needs_observations, real_kinds
from tflite2q.rewrites.forecast import Forecast
from tflite2q.rewrites.losses import LayerChange

__all__ = ["Conversion", "Forecast", "LayerChange", "convert", "needs_observations", "real_kinds"]
