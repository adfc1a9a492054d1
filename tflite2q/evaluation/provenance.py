"""The inputs of a comparison, so that it can be repeated: names, sizes and SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from tflite2q.errors import Tflite2qError
from tflite2q.evaluation.data import Dataset
from tflite2q.evaluation.models import Loaded, Model, content_of, name_of
from tflite2q.evaluation.results import Provenance, Source
from tflite2q.rewrites import Conversion
from tflite2q.rewrites.scheme import dump


def provenance(original: Model, converted: Model, samples: Dataset | None, read: Mapping[str, Any]) -> Provenance:
    """Both models, the samples, and what else was `read`, by role: paths are followed, arrays are hashed as they are
    (None: not given)."""
    found = [*_model("original", original), *_model("converted", converted)]
    for role, given in read.items():
        found += _source(role, given, samples)
    scheme = dump(converted.scheme) if isinstance(converted, Conversion) else None
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Provenance(date, None, scheme, tuple(found))


def _model(role: str, model: Model) -> Iterator[Source]:
    """A file as it is; a graph as the file that it would be, if the format can hold it."""
    try:
        content = model.content() if isinstance(model, Loaded) else content_of(model)
    except (Tflite2qError, OSError):
        return
    name = f"the original by scheme {model.scheme.name}" if isinstance(model, Conversion) else name_of(model)
    yield Source(role, name, len(content), hashlib.sha256(content).hexdigest())


def _source(role: str, given: Any, samples: Dataset | None) -> Iterator[Source]:
    if isinstance(given, str | os.PathLike):
        where = Path(given)
        if where.is_file():
            yield Source(role, str(where), where.stat().st_size, _digest(where))
        if role == "data" and samples is not None and samples.pictures is not None:
            yield _pictures(role, f"{len(samples.pictures.files)} pictures of {where}", samples.pictures.files)
        elif where.is_dir():
            inside = sorted(file for file in where.iterdir() if file.is_file())
            yield _pictures(role, f"{len(inside)} files of {where}", inside)
    elif isinstance(given, Mapping) and all(isinstance(each, np.ndarray) for each in given.values()):
        for name, array in given.items():
            yield _array(role, str(name), array)
    elif isinstance(given, np.ndarray):
        yield _array(role, "an array", given)


def _array(role: str, name: str, array: np.ndarray[Any, Any]) -> Source:
    shape = f"{name}, {array.dtype.name}{list(array.shape)}, in memory"
    return Source(role, shape, array.nbytes, hashlib.sha256(array.tobytes()).hexdigest())


def _pictures(role: str, name: str, files: Any) -> Source:
    lines = "".join(f"{_digest(file)}  {file.name}\n" for file in files)
    size = sum(file.stat().st_size for file in files)
    return Source(role, name, size, hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest())


def _digest(file: Path) -> str:
    found = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(1 << 20):
            found.update(part)
    return found.hexdigest()
