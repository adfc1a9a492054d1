"""Models as the public functions take them: a graph, a conversion, or the path of a .tflite file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.ops.opaque import check_runnable
from tflite2q.errors import Tflite2qError, UnsupportedError
from tflite2q.flatbuffer import reader, writer
from tflite2q.rewrites import Conversion

FilePath = str | os.PathLike[str]


@dataclass(frozen=True)
class Loaded:
    """A model read from the file at `path`."""

    graph: Graph
    path: str


Model = Graph | Conversion | Loaded | FilePath


def load(path: FilePath, allow_unsupported: bool = False, shapes: Mapping[str, Sequence[int]] | None = None) -> Graph:
    """Read and verify a .tflite file.

    `shapes` chooses the sizes of inputs by name, {"image": (8, 224, 224, 3)}; without it they are as stored, and 1
    where the file leaves them open.  All other shapes are computed from these.  `graph.notes` says what is special.
    Raises ModelError (damaged), UnsupportedError (what tflite2q lacks, all named), InvalidGraph, or UsageError for
    shapes that do not fit.  With `allow_unsupported` what it lacks is carried through; that graph can be converted but
    not run.
    """
    return reader.load(path, allow_unsupported, shapes)


def opened(
    path: FilePath, allow_unsupported: bool = False, shapes: Mapping[str, Sequence[int]] | None = None
) -> Loaded:
    """As `load`, keeping the path for names and sizes in reports."""
    return Loaded(load(path, allow_unsupported, shapes), os.fspath(path))


def graph_of(model: Model) -> Graph:
    """The graph that a model stands for, read if it is a path."""
    if isinstance(model, Graph):
        return model
    return model.graph if isinstance(model, Conversion | Loaded) else load(model)


def read_once(model: Model) -> Model:
    """A model that is not read again whenever its graph is asked for."""
    return opened(model) if isinstance(model, str | os.PathLike) else model


def why_not_run(graph: Graph) -> str | None:
    """Why a graph can only be converted; None if it can be run."""
    try:
        check_runnable(graph)
    except UnsupportedError as error:
        return str(error)
    return None


def name_of(model: Model) -> str:
    """How reports call a model: its file's name, or its graph's."""
    if isinstance(model, str | os.PathLike):
        return Path(model).name
    if isinstance(model, Loaded):
        return Path(model.path).name
    return graph_of(model).name or "model"


def content_of(model: Model) -> bytes:
    """The bytes of the model's .tflite file.  Raises UnsupportedError where the format cannot express it."""
    return writer.write(graph_of(model))


def size_of(model: Model) -> int | None:
    """Bytes of the model's .tflite file; None where its graph cannot be expressed as one."""
    if isinstance(model, str | os.PathLike | Loaded):
        return os.path.getsize(model.path if isinstance(model, Loaded) else model)
    try:
        return len(content_of(model))
    except Tflite2qError:
        return None
