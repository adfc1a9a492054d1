"""Damaged files: whatever bytes a file has, reading it ends soon, with a graph or a Tflite2qError."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest
from handmade import model, with_external_buffers
from reliability.mutators import damaged

from tflite2q.errors import Tflite2qError
from tflite2q.flatbuffer import flexbuffer
from tflite2q.flatbuffer.reader import read
from tflite2q.flatbuffer.schema import encode

SHARED = Path(__file__).parents[3] / "shared" / "models"
SMALL = ("kws_ref_model", "split_concat", "unknown_custom_op", "ad01_int8")
LARGE = (
    "vww_96_int8",
    "pretrainedResnet_quant",
    "mobilenet_v1_0.25_128_quant",
    "keras_lstm_mnist_ptq",
    "movenet_single_pose_lightning_ptq",
)


def fuzz(data: bytes, seed: str, count: int) -> None:
    numbers = random.Random(seed)
    outcomes = {"read": 0, "refused": 0}
    for index in range(count):
        try:
            read(damaged(data, numbers), allow_unsupported=index % 2 == 0)
            outcomes["read"] += 1
        except Tflite2qError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
    assert outcomes["refused"] > count // 20, "the damage does not reach what matters"


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", SMALL)
def test_damaged_models(name: str, shared: Path) -> None:
    fuzz((SHARED / f"{name}.tflite").read_bytes(), name, 300)


@pytest.mark.slow  # a minute of damaged models is part of .ci/run
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", LARGE)
def test_damaged_large_models(name: str, shared: Path) -> None:
    fuzz((SHARED / f"{name}.tflite").read_bytes(), name, 60)


@pytest.mark.slow
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_many_damaged_models(name: str, shared: Path) -> None:
    fuzz((SHARED / f"{name}.tflite").read_bytes(), f"{name} again", 1500)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("kind", ["plain", "external buffers", "associated files"])
def test_damaged_handmade_models(kind: str, tmp_path: Path) -> None:
    data = with_external_buffers(model()) if kind == "external buffers" else encode(model())
    if kind == "associated files":
        path = tmp_path / "model.tflite"
        path.write_bytes(data)
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("labels.txt", "cat\ndog\n" * 20)
        data = path.read_bytes()
    fuzz(data, kind, 1500)


@pytest.mark.usefixtures("little_memory")
def test_every_truncation_of_a_model() -> None:
    data = encode(model())
    for size in range(len(data)):
        try:
            read(data[:size])
        except Tflite2qError as error:
            assert str(error)


@pytest.mark.usefixtures("little_memory")
def test_every_single_byte_set_to_an_extreme() -> None:
    data = encode(model())
    for place in range(len(data)):
        for byte in (0, 0x7F, 0x80, 0xFF):
            try:
                read(data[:place] + bytes([byte]) + data[place + 1 :])
            except Tflite2qError as error:
                assert str(error)


def test_damaged_custom_options() -> None:
    options = {"scale": 0.1, "fast": True, "name": "abc", "count": -5, "large": 2**40}
    data = flexbuffer.encode(options)
    assert flexbuffer.decode(data) == options
    numbers = random.Random(0)
    for _ in range(5000):
        found = bytearray(data)
        for _ in range(numbers.choice([1, 2, 4])):
            found[numbers.randrange(len(found))] = numbers.choice([0, 1, 127, 255, numbers.randrange(256)])
        try:
            flexbuffer.decode(bytes(found[: numbers.choice([len(found), numbers.randrange(len(found))])]))
        except Tflite2qError as error:
            assert str(error)


def test_custom_options_that_share_their_parts_do_not_multiply() -> None:
    """Forty vectors, each of two references to the one before: 2**40 elements, were they unpacked."""
    vector, integer, byte = 10 << 2, 1 << 2, 1
    data = bytearray(b"a\0" + bytes([1, 1]) + bytes([1, 7, integer]))  # the key "a", then [key offset], then [7]
    data[3] = 3  # from the one offset of the keys back to "a"
    keys, inner = 3, 5
    for level in range(40):
        start = len(data) + 1
        kind = integer if level == 0 else vector
        values = [7, 7] if level == 0 else [start - inner, start + 1 - inner]
        data += bytes([2, *values, kind, kind])
        inner = start
    start = len(data) + 3
    data += bytes([len(data) - keys, byte, 1, start - inner, vector])
    data += bytes([len(data) - start, 9 << 2, byte])  # the root: a map
    assert flexbuffer.decode(bytes(data)) == {}
