"""What may stand for a model: a graph, a conversion, or a path; and how one of them is read, named and written."""

from __future__ import annotations

import os
from pathlib import Path

from tflite2q.dialect.graph import Graph, verify
from tflite2q.dialect.text import parse_graph
from tflite2q.errors import InvalidGraph, ModelError, Tflite2qError
from tflite2q.flatbuffer import reader, writer
from tflite2q.rewrites import Conversion

FilePath = str | os.PathLike[str]
Model = Graph | Conversion | FilePath

TEXT_SUFFIX = ".q.txt"  # of files that hold the dialect's text instead of a flatbuffer


def load(path: FilePath, allow_unsupported: bool = False) -> Graph:
    """Read and verify a .tflite file, or a graph in the dialect's text form from a file named *.q.txt.

    Raises ModelError (damaged), UnsupportedError (operators tflite2q lacks, all named) or InvalidGraph.  With
    `allow_unsupported` such operators are carried through; that graph can be converted but not run.
    """
    if not os.fspath(path).endswith(TEXT_SUFFIX):
        return reader.load(path, allow_unsupported)
    try:
        return verify(parse_graph(Path(path).read_text(encoding="utf-8")))
    except UnicodeDecodeError as error:
        raise ModelError(f"{os.fspath(path)}: is not UTF-8 text; a .tflite file needs another name") from error
    except InvalidGraph as error:
        raise InvalidGraph(f"{os.fspath(path)}: {error}") from error


def graph_of(model: Model) -> Graph:
    """The graph that a model stands for, read if it is a path."""
    if isinstance(model, Graph):
        return model
    return model.graph if isinstance(model, Conversion) else load(model)


def name_of(model: Model) -> str:
    """How reports call a model: its file's name, or its graph's."""
    if isinstance(model, str | os.PathLike):
        return Path(model).name
    return graph_of(model).name or "model"


def stem_of(path: FilePath) -> str:
    """The file's name without its ending."""
    name = Path(path).name
    return name.removesuffix(TEXT_SUFFIX) if name.endswith(TEXT_SUFFIX) else Path(path).stem


def content_of(model: Model) -> bytes:
    """The bytes of the model's .tflite file.  Raises UnsupportedError where the format cannot express it."""
    return writer.write(graph_of(model))


def size_of(model: Model) -> int | None:
    """Bytes of the model's .tflite file; None where its graph cannot be expressed as one."""
    if isinstance(model, str | os.PathLike) and not os.fspath(model).endswith(TEXT_SUFFIX):
        return os.path.getsize(model)
    try:
        return len(content_of(model))
    except Tflite2qError:
        return None
