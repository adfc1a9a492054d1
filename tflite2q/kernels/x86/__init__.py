"""Kernels for x86 by level of vector instructions."""
