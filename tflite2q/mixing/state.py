"""The measurements of a search on disk, so that an interrupted search can be continued."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tflite2q import files, limits
from tflite2q.dialect.graph import Graph
from tflite2q.flatbuffer import writer

FORMAT = 3
PAUSE = 2.0  # seconds between two times of saving


class State:
    """Measurements by key, saved as they come.  A file for another model, data or set of schemes is discarded.

    `path` None keeps them in memory only.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self.path, self.identity = path, {"format": FORMAT, **identity}
        self.known: dict[str, Any] = {}
        self._saved = 0.0
        if path is not None and path.is_file():
            self.known = self._read(path)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            found = json.loads(limits.text(path))
        except (OSError, ValueError, RecursionError):  # unreadable or cut off: measured again
            return {}
        same = isinstance(found, dict) and found.get("identity") == self.identity
        measured = found.get("measured") if same else None
        return measured if isinstance(measured, dict) else {}

    def get(self, key: str) -> Any:
        return self.known.get(key)

    def put(self, key: str, value: Any) -> None:
        self.known[key] = value
        if time.monotonic() - self._saved > PAUSE:
            self.save()

    def save(self) -> None:
        """Write everything; also to be called at the end."""
        if self.path is not None and self.known:
            text = json.dumps({"identity": self.identity, "measured": self.known}, indent=1, sort_keys=True)
            files.write(self.path, text.encode(), force=True)
        self._saved = time.monotonic()


def fingerprint(graph: Graph) -> str:
    """sha256 of the model as a file."""
    return hashlib.sha256(writer.write(graph)).hexdigest()
