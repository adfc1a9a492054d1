"""Every way to run a graph: with NumPy (the reference), compiled with TVM, by LiteRT, on another machine."""
