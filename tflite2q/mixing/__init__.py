"""Finding the mix of schemes, layer by layer, that costs least for a given loss."""

from tflite2q.mixing.run import Found, Settings, search

__all__ = ["Found", "Settings", "search"]
