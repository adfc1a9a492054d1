"""Finding the mix of schemes that costs least for a given loss, layer by layer."""

from tflite2q.search.run import Found, Settings, search

__all__ = ["Found", "Settings", "search"]
