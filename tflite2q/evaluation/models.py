"""The forms of a model (a graph, a conversion, or a path), and how each is read, named and written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tflite2q import limits
from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.ops.opaque import check_runnable
from tflite2q.dialect.text import TEXT_SUFFIX, parse_graph
from tflite2q.errors import InvalidGraph, ModelError, Tflite2qError, UnsupportedError, UsageError
from tflite2q.flatbuffer import reader, writer
from tflite2q.rewrites import Conversion

FilePath = str | os.PathLike[str]

LONGEST_TEXT = 1 << 32  # bytes


@dataclass(frozen=True)
class Loaded:
    """A model read from the file at `path`."""

    graph: Graph
    path: str

    def content(self) -> bytes:
        """The bytes of the .tflite file: those of the file itself, or of the graph that a text describes."""
        return content_of(self) if is_text(self.path) else Path(self.path).read_bytes()


Model = Graph | Conversion | Loaded | FilePath


def load(
    path: FilePath,
    allow_unsupported: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    signature: str | None = None,
) -> Graph:
    """Read and verify a .tflite file, or a graph in the dialect's text form from a file named *.q.txt.

    `shapes` chooses the sizes of inputs by name, {"image": (8, 224, 224, 3)}; by default they are as stored, and 1
    where the file leaves them open.  All other shapes are computed from these.  `signature` is the key of the signature
    whose subgraph is the model, by default the first subgraph.  `graph.notes` holds remarks.
    Raises ModelError (damaged), UnsupportedError (what tflite2q lacks, all named), InvalidGraph, or UsageError for
    what is no path and shapes that do not fit.  With `allow_unsupported` unsupported parts are carried; such a graph
    can be converted but not run.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise UsageError(
            f"a model is the path of a file, a graph or a conversion, not {type(path).__name__}; give one of these, "
            "and write bytes to a file first"
        )
    if not is_text(path):
        return reader.load(path, allow_unsupported, shapes, signature)
    if signature is not None:
        raise UsageError(f"{os.fspath(path)}: a graph in text form has no signatures; choose one in a .tflite file")
    return _from_text(path, shapes)


def is_text(path: FilePath) -> bool:
    """Whether a file holds the dialect's text, judged by its name."""
    return os.fspath(path).endswith(TEXT_SUFFIX)


def _from_text(path: FilePath, shapes: Mapping[str, Sequence[int]] | None) -> Graph:
    if shapes:
        raise UsageError(f"{os.fspath(path)}: shapes can be chosen only for .tflite files; this text states its own")
    try:
        text = limits.head(path, LONGEST_TEXT, text=True).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelError(f"{os.fspath(path)}: is not UTF-8 text; a .tflite file needs another name") from error
    except ValueError as error:
        raise ModelError(f"{os.fspath(path)}: {error}; a .tflite file needs another name") from error
    try:
        return verify(parse_graph(text))
    except InvalidGraph as error:
        raise error.at(os.fspath(path)) from error


def opened(
    path: FilePath,
    allow_unsupported: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    signature: str | None = None,
) -> Loaded:
    """As `load`, keeping the path for names and sizes in reports."""
    return Loaded(load(path, allow_unsupported, shapes, signature), os.fspath(path))


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
    """The name of a model in reports: its file's name, or its graph's."""
    if isinstance(model, str | os.PathLike):
        return Path(model).name
    if isinstance(model, Loaded):
        return Path(model.path).name
    return graph_of(model).name or "model"


def stem_of(path: FilePath) -> str:
    """The file's name without its ending."""
    name = Path(path).name
    return name.removesuffix(TEXT_SUFFIX) if is_text(path) else Path(path).stem


def content_of(model: Model) -> bytes:
    """The bytes of the model's .tflite file.  Raises UnsupportedError where the format cannot express it."""
    return writer.write(graph_of(model))


def buffer_of(model: Model, path: FilePath) -> bytes | memoryview:
    """As `content_of`, without a copy; the text form for a path that ends as those do."""
    return writer.content(graph_of(model), path)


def size_of(model: Model) -> int | None:
    """Bytes of the model's .tflite file; None where its graph cannot be expressed as one."""
    path = model.path if isinstance(model, Loaded) else model
    if isinstance(path, str | os.PathLike) and not is_text(path):
        return os.path.getsize(path)
    try:
        return len(content_of(model))
    except Tflite2qError:
        return None
