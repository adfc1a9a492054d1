"""Bytes of a .tflite file to a verified graph.

What the dialect cannot represent is carried: a tensor with its fields in the file, an operator as `q.opaque`, further
subgraphs as graphs of such ops.  Without `allow_unsupported` the reader raises one error that names all of them.
"""

from __future__ import annotations

import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence

from tflite2q import limits
from tflite2q.dialect.graph import Graph, used, verify
from tflite2q.dialect.infer import Inferred, inferred, with_input_shapes
from tflite2q.dialect.op import Shape
from tflite2q.dialect.ops.others import REFUSED
from tflite2q.errors import ModelError, Tflite2qError, UnsupportedError, UsageError, hint
from tflite2q.flatbuffer import schema
from tflite2q.flatbuffer.constants import Constants
from tflite2q.flatbuffer.inline import inlined, region_bodies, regions
from tflite2q.flatbuffer.lists import listed
from tflite2q.flatbuffer.misnamed import renamed
from tflite2q.flatbuffer.records import ModelRecord
from tflite2q.flatbuffer.scaleless import scaled
from tflite2q.flatbuffer.sparse import densified
from tflite2q.flatbuffer.subgraph import SubgraphReader, UnknownOperator
from tflite2q.flatbuffer.variables import widened

Shapes = Mapping[str, Sequence[int]]

FILES_LIMIT = 1 << 28  # bytes that associated files may unpack to
NAMELESS = "(a file without a name)"
HEAD = 1 << 12  # bytes that tell a model from another file
MOST_REASONS = 8  # that one line gives
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, OSError, EOFError, RuntimeError)


def load(
    path: str | os.PathLike[str],
    allow_unsupported: bool = False,
    shapes: Shapes | None = None,
    signature: str | None = None,
) -> Graph:
    """Read a .tflite file.

    `shapes` chooses the sizes of inputs, by name, which are else as stored, and 1 where the file leaves them open.
    `signature` chooses the subgraph by the key of its signature; it is else the first.  The others stay as they are.
    With `allow_unsupported`, what tflite2q does not implement is carried: the graph can be written again but not run.
    Raises ModelError if the file cannot be read or is damaged, UnsupportedError (naming everything) if tflite2q
    lacks something it uses, InvalidGraph if it contradicts itself, UsageError for shapes that do not fit.  Messages
    start with the path.
    """
    try:
        return read(_content(path), allow_unsupported, shapes, signature)
    except OSError as error:
        raise ModelError(f"{os.fspath(path) or NAMELESS}: cannot be read: {error.strerror}") from error
    except Tflite2qError as error:
        raise error.at(os.fspath(path)) from error


def _content(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file; of one that is no model only the first, since it may be huge or never end."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
        if head[4:8] != schema.IDENTIFIER:
            return head
        limits.require_memory(2 * os.fstat(file.fileno()).st_size, "reading the model", UnsupportedError)
        if file.seekable():  # in one piece: joining two would take the memory of both
            file.seek(0)
            return file.read()
        return head + file.read()


def read(
    data: bytes, allow_unsupported: bool = False, shapes: Shapes | None = None, signature: str | None = None
) -> Graph:
    """A verified graph of the bytes of a .tflite file; parameters and errors as for `load`."""
    model = scaled(renamed(densified(schema.decode(data))))
    if not model.subgraphs:
        raise ModelError("the model has no subgraph; the file is damaged")
    try:
        return _read(model, _place(model, signature), _associated_files(data), allow_unsupported, shapes or {})
    except (IndexError, ValueError, TypeError, KeyError, ArithmeticError, AssertionError) as error:
        raise ModelError(f"the file is damaged: {error}") from error


def operators(path: str | os.PathLike[str], signature: str | None = None) -> Graph:
    """The subgraph that `load` reads, with every operator as the file has it: as `q.opaque`.  Errors as for `load`."""
    try:
        model = renamed(densified(schema.decode(_content(path))))
        if not model.subgraphs:
            raise ModelError("the model has no subgraph; the file is damaged")
        places = {place: place for place in range(len(model.subgraphs))}
        return SubgraphReader(model, _place(model, signature), Constants(model), places).carried()
    except OSError as error:
        raise ModelError(f"{os.fspath(path) or NAMELESS}: cannot be read: {error.strerror}") from error
    except Tflite2qError as error:
        raise error.at(os.fspath(path)) from error
    except (IndexError, ValueError, TypeError, KeyError, ArithmeticError, AssertionError) as error:
        raise ModelError(f"{os.fspath(path)}: the file is damaged: {error}") from error


def _place(model: ModelRecord, key: str | None) -> int:
    """The subgraph that the signature `key` is for, the first for None.  Raises UsageError if there is none."""
    for signature in model.signatures:
        if not 0 <= signature.subgraph < len(model.subgraphs):
            raise ModelError(f"signature {signature.key!r} refers to subgraph {signature.subgraph}, which is absent")
    if key is None:
        return 0
    found = next((signature.subgraph for signature in model.signatures if signature.key == key), None)
    if found is None:
        known = ", ".join(repr(signature.key) for signature in model.signatures) or "none"
        raise UsageError(f"the model has no signature {key!r}; its signatures: {known}")
    return found


def _read(model: ModelRecord, index: int, files: tuple[tuple[str, bytes], ...], allow: bool, shapes: Shapes) -> Graph:
    model = widened(model)
    try:
        model, index = inlined(model, index)
    except UnsupportedError:
        if not allow:
            raise
    try:
        return _as_graph(model, index, files, allow, shapes, carried=False)
    except _CarriedRegions:
        return _as_graph(model, index, files, allow, shapes, carried=True)


class _CarriedRegions(Exception):
    """Operators with regions are to be carried, with their subgraphs, because others are."""


def _as_graph(
    model: ModelRecord,
    index: int,
    files: tuple[tuple[str, bytes], ...],
    allow: bool,
    shapes: Shapes,
    carried: bool,
    lists: bool = True,
) -> Graph:
    """The graph of subgraph `index`, in which operators with regions are `carried`; raises _CarriedRegions where they
    have to be.  Without `lists` all operators stay that set items in lists."""
    constants = Constants(model)
    main = SubgraphReader(model, index, constants, inside=None if carried else ())
    bodies = frozenset[int]() if carried else region_bodies(model, index)
    initial = main.find_variables()
    kept = [place for place in range(len(model.subgraphs)) if place not in initial | bodies]
    main.places = places = {old: new for new, old in enumerate(kept)}
    others = [SubgraphReader(model, place, constants, places) for place in kept if place != index]
    for reader in (main, *others):
        reader.check_calls(index)
    graph = main.graph()
    if lists:
        found_lists = listed(graph)
        graph = found_lists.graph
        main.kept = [main.kept[place] for place in found_lists.places]
    graph = used(graph.with_(files=files, metadata=constants.metadata(), description=model.description))
    for name, error in main.damaged.items():
        if name in graph.by_name and not allow:
            raise error
    graph = with_input_shapes(graph, _checked_shapes(graph, shapes))
    found = inferred(graph, main.carry)
    # What is carried stays as the file has it, and so does what took another shape for an item.
    if lists and found_lists.items and ((allow and main.refused) or not found_lists.fit(found.graph)):
        return _as_graph(model, index, files, allow, shapes, carried, lists=False)
    graph = used(found.graph)
    refused = list(main.refused)
    refused += [] if refused else _tensors(graph)
    try:
        verify(graph)
    except Tflite2qError as error:
        raise _summary(refused, False) if refused and not allow else error from error
    if refused and not allow:
        raise _summary(refused, True)
    if refused and not carried and regions(model, index):
        raise _CarriedRegions
    further = tuple(reader.carried() for reader in others)
    notes = (*_shape_notes(found, shapes), *_subgraph_notes(further), *_carried_notes(refused))
    return graph.with_(others=further, place=places[index], notes=notes)


def _checked_shapes(graph: Graph, shapes: Shapes) -> dict[str, Shape]:
    """The shapes chosen, each of an input and only where the file leaves room.  Raises UsageError."""
    found = {}
    for name, told in shapes.items():
        if name not in graph.inputs:
            raise UsageError(
                f"the model has no input {name!r} to give a shape; its inputs are {', '.join(graph.inputs)}"
            )
        shape, stored = tuple(int(size) for size in told), graph[name].type.shape
        fixed = graph[name].shape_signature or ()
        fits = min(shape, default=1) > 0 and (stored == () or len(shape) == len(stored))
        if not fits or any(n not in (-1, m) for n, m in zip(fixed, shape, strict=False)):
            raise UsageError(
                f"input {name!r} cannot have shape {list(shape)}: it is {list(fixed or stored)} in the file"
            )
        found[name] = shape
    return found


def _tensors(graph: Graph) -> list[Tflite2qError]:
    """Tensors that the dialect cannot represent and that belong to no op, such as inputs that are outputs."""
    found = [(value.name, value.carried) for value in graph.values if value.carried is not None]
    return [UnsupportedError(f"tensor {name!r} {carried.reason}, which is not supported") for name, carried in found]


def _summary(refused: Sequence[Tflite2qError], carriable: bool) -> Tflite2qError:
    """One error for everything that is refused; if the first reason is a contradiction, that error alone."""
    first = refused[0]
    if not isinstance(first, UnsupportedError):
        return first
    error = UnsupportedError(_listed([error for error in refused if isinstance(error, UnsupportedError)]))
    error.carriable = carriable
    return error


def _listed(refused: Sequence[Tflite2qError]) -> str:
    """All reasons in one line: unknown operators by name, and why those are refused whose reason is known."""
    places: dict[str, list[str]] = {}
    for error in refused:
        if isinstance(error, UnknownOperator):
            index, _, name = str(error).partition(" ")
            places.setdefault(name, []).append(index)
    unknown = [
        f"{' and '.join(indices) if len(indices) < 4 else f'{indices[0]} and {len(indices) - 1} others'} {name}"
        + (f" ({REFUSED[name]})" if name in REFUSED else "")
        for name, indices in places.items()
    ]
    others = list(dict.fromkeys(str(error) for error in refused if not isinstance(error, UnknownOperator)))
    reasons = [f"unsupported operators: {', '.join(unknown)}"] if unknown else []
    reasons += others[:MOST_REASONS]
    if len(others) > MOST_REASONS:
        reasons.append(f"and {len(others) - MOST_REASONS} more reasons")
    return "; ".join(reasons)


def _shape_notes(found: Inferred, shapes: Shapes) -> list[str]:
    """Notes about stored shapes that were ignored, and about inputs with prescribed data."""
    notes = []
    if found.stale and not shapes:
        first, count = found.stale[0], len(found.stale)
        many = f"{count} tensors have" if count > 1 else "a tensor has"
        notes.append(
            f"{many} a stored shape that does not follow from the inputs and is ignored: {first.name!r} is "
            f"{list(first.computed)}, not {list(first.stored)}"
        )
    for name, numbers in found.prescribed.items():
        notes.append(f"input {name!r} sets a shape and must be {list(numbers)}, as the file declares the result")
    return notes


def _subgraph_notes(others: Sequence[Graph]) -> list[str]:
    many = f"{len(others)} further subgraphs are" if len(others) > 1 else "a further subgraph is"
    keys = ", ".join(repr(signature.key) for other in others for signature in other.signatures)
    choice = f"; {hint('--signature')} chooses {keys}" if keys else ""
    return [f"{many} kept unchanged{choice}"] if others else []


def _carried_notes(refused: Sequence[Tflite2qError]) -> list[str]:
    return [f"carried through unchanged: {_listed(refused)}"] if refused else []


def _associated_files(data: bytes) -> tuple[tuple[str, bytes], ...]:
    """Files (labels, vocabularies) that the metadata tools append to a model as a zip archive."""
    archived = io.BytesIO(data)
    if not zipfile.is_zipfile(archived):
        return ()
    try:
        with zipfile.ZipFile(archived) as archive:
            members = archive.infolist()
            size = sum(info.file_size for info in members)
            if size > FILES_LIMIT:
                raise ModelError(f"the files appended to the model unpack to {size} bytes, more than {FILES_LIMIT}")
            return tuple((info.filename, archive.read(info)) for info in members)
    except _ZIP_ERRORS as error:
        raise ModelError(f"the files appended to the model cannot be read ({error}); get an intact copy") from error
