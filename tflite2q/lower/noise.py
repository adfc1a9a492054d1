"""What native code writes to stderr and no user can use."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_lines(noise: bytes) -> Iterator[None]:
    """Keeps lines with `noise`, which native code writes, off stderr; other lines come out at the end of the block."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught:
                if noise not in line:
                    os.write(2, line)
