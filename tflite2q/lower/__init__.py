"""Lowering: a dialect graph to a Relax module, by core operations and by kernels."""
