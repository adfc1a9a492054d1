"""Reconstruction: the weights of a converted graph rounded so that each layer's results change least."""

from tflite2q.reconstruction.run import reconstruct, wanted

__all__ = ["reconstruct", "wanted"]
