"""Finding the mix of schemes, layer by layer, that costs least for a given loss."""

from tflite2q.mixing.evidence import Loss
from tflite2q.mixing.records import Found, Point, Settings
from tflite2q.mixing.run import search

__all__ = ["Found", "Loss", "Point", "Settings", "search"]
