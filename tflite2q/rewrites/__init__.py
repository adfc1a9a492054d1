"""Rewriting a graph to a scheme: small steps from graph to graph, put in order by `convert`."""

from tflite2q.rewrites.conversion import Conversion, LayerChange, convert

__all__ = ["Conversion", "LayerChange", "convert"]
