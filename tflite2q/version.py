"""The version of the package, and what tells apart two of the same number."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

__version__ = "0.1.0"


@functools.cache
def fingerprint() -> str:
    """The version with the SHA-256 of all sources: results that are kept between runs must not outlive an edit."""
    root = Path(__file__).parent
    sources = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        sources.update(f"{path.relative_to(root)}\0".encode())
        sources.update(path.read_bytes())
    return f"tflite2q {__version__} {sources.hexdigest()}"
