"""Finding the mix of schemes, layer by layer, that costs least for a given loss."""

from tflite2q.mixing.evidence import Loss
from tflite2q.mixing.run import Found, Point, Settings, search

__all__ = ["Found", "Loss", "Point", "Settings", "search"]
