"""Libraries that are not what was written, and manifests that say nonsense, are refused with one line, unloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import Net

from tflite2q.dialect.types import Constant, TensorType, Value
from tflite2q.errors import DataError
from tflite2q.execution import manifest, runtime


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    net = Net(seed=1)
    path = tmp_path_factory.mktemp("library") / "small.so"
    runtime.compile(net.graph(net.conv(net.input("x", (1, 4, 4, 3), (0.02, 120)), "c", 4, (0.3, 128)))).save(path)
    return path.read_bytes()


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        runtime.load_library(path)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message


def test_a_library_that_is_cut_short(library: bytes, tmp_path: Path) -> None:
    """Mapping such a file and reading what is not there ends a process (SIGBUS)."""
    for size in np.linspace(1, len(library) - 1, 25).astype(int).tolist():
        refused(tmp_path / "cut.so", library[:size])
    assert "cut short" in refused(tmp_path / "cut.so", library[:-1])


def test_a_library_of_which_a_byte_was_changed(library: bytes, tmp_path: Path) -> None:
    for place in np.linspace(0, len(library) - 1, 25).astype(int).tolist():
        changed = bytearray(library)
        changed[place] ^= 0x10
        refused(tmp_path / "changed.so", bytes(changed))


def test_more_behind_the_end(library: bytes, tmp_path: Path) -> None:
    assert "cut short" in refused(tmp_path / "longer.so", library + b"more")


def content(library: bytes) -> dict[str, Any]:
    start = library.index(manifest.MARK) + len(manifest.MARK)
    size = int(library[start : start + 8])
    found: dict[str, Any] = json.loads(library[start + 8 : start + 8 + size])
    return found


def encoded(found: Any) -> bytes:
    text = json.dumps(found).encode()
    return manifest.MARK + b"%08d" % len(text) + text


NONSENSE = (None, 3, -1, 1.5, True, "text", [], [None], [[]], {}, {"name": 3}, [3], ["x"], 10**30, "x" * 1000)


def places(found: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to everything in a document, but for the target's own settings, which are TVM's."""
    if path[:1] == ("spec",):
        return [path]
    below = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    return [path, *(way for key, each in below for way in places(each, (*path, key)))]


def put(found: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(found) if isinstance(found, dict) else list(found)
    copy[path[0]] = put(copy[path[0]], path[1:], value)
    return copy


def test_nonsense_in_any_place_is_refused_or_harmless(library: bytes) -> None:
    """What is taken has the types that a manifest promises, whatever is written in any one place."""
    whole = content(library)
    taken = 0
    for path in places(whole):
        for value in NONSENSE:
            try:
                found = manifest.decode(encoded(put(whole, path, value)))
            except DataError as error:
                assert "\n" not in str(error)
                continue
            taken += 1
            assert isinstance(found.target, str)
            assert isinstance(found.spec, dict)
            assert all(isinstance(feature, str) for feature in found.features)
            for tensor in (*found.inputs, *found.outputs, *found.states):
                assert isinstance(tensor.name, str)
                assert all(type(dimension) is int and dimension >= 0 for dimension in tensor.type.shape)
    assert taken < len(places(whole)) * len(NONSENSE) / 4


def test_a_manifest_as_deep_as_a_stack(library: bytes) -> None:
    text = b"[" * 100_000
    with pytest.raises(DataError, match="its manifest cannot be read"):
        manifest.decode(manifest.MARK + b"%08d" % len(text) + text)


def test_data_of_every_type_is_read_again() -> None:
    for dtype, array in (("bool", [True, False]), ("int64", [3, -(2**40)]), ("float32", [0.5, 2.0])):
        kind = TensorType((2,), dtype)
        value = Value("x", kind, Constant(np.array(array, dtype)))
        made = manifest.Manifest("1", "model", "native", {}, (), (value,), (Value("y", kind),))
        assert manifest.decode(made.encode()) == made


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        (("spec", "mtriple"), 5, "spec.mtriple is int"),
        (("spec", "mcpu"), ["a"], "spec.mcpu is list"),
        (("schema_version",), True, "version True"),
        (("inputs", 0, "quantization", "axis"), 10**30, "axis"),
        (("inputs", 0, "quantization", "zero_point"), [2**70], "zero point"),
    ],
)
def test_values_that_contradict_themselves(library: bytes, place: tuple[Any, ...], value: Any, why: str) -> None:
    found = content(library)
    inner = found
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(DataError, match=why):
        manifest.decode(encoded(found))
