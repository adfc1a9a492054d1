"""Kernels for 64-bit Arm: plain NEON, dot products (v8.2) and 8-bit matrix products (v8.6)."""
