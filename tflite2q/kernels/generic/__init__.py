"""Kernels in plain vector TIR, for any processor LLVM knows.  They never refuse."""
