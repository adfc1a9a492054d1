"""What compiled code offers to those who call it, by name, and how their memory must lie.

MAIN takes inputs and states as tensors and returns a tuple of new ones.  Code without branches and loops has two more
functions, for calls without the virtual machine.  REST returns the bytes of each input and result of a sample, and then
what MANY takes besides them: a workspace, new each time, and the constants.  MANY takes inputs and results as tensors
of bytes, those of one sample behind those of another, each at a multiple of ALIGNMENT; the rest; and how many samples.
"""

from __future__ import annotations

MAIN = "main"
MANY, REST = f"{MAIN}_many", f"{MAIN}_rest"

ALIGNMENT = 64  # of every tensor, in bytes


def aligned(size: int) -> int:
    """The bytes from the start of a tensor of `size` bytes to where another one can start."""
    return -(-size // ALIGNMENT) * ALIGNMENT
