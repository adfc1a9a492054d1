"""Calls that write where they are told to, copy nothing, or take many samples: always the outputs of `run`."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import FAMILIES, cases
from networks import everything
from streaming import streaming

import tflite2q
from tflite2q.dialect.text import parse_graph
from tflite2q.dialect.types import Quantization, TensorType, Value
from tflite2q.errors import DataError, UsageError
from tflite2q.evaluation.models import load
from tflite2q.execution import calls, reference, runtime
from tflite2q.execution.runtime import Executable
from tflite2q.lower import machine

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def images(digits_data: tuple[Path, Path]) -> list[Array]:
    with np.load(digits_data[0]) as arrays:
        return [image[None] for image in arrays["input"][:100]]


@pytest.fixture(scope="module")
def expected(digits: Path, images: list[Array]) -> list[Array]:
    graph = load(digits)
    return [reference.run(graph, image)[0] for image in images]


@pytest.fixture(scope="module")
def executable(digits: Path) -> Executable:
    return runtime.compile(load(digits))


def test_out_is_written(executable: Executable, images: list[Array], expected: list[Array]) -> None:
    whole = np.full((len(images), 1, 10), 77, np.uint8)
    for image, place, wanted in zip(images, whole, expected, strict=True):
        [found] = executable.run(image, out=[place])
        assert found is place
        np.testing.assert_array_equal(place, wanted)


class Sealed(np.ndarray[Any, Any]):
    """Memory to which no copy is made: only code that was given its address can write there."""

    def __setitem__(self, *what: Any) -> None:
        raise AssertionError("a copy was made")


def placed(like: Array, start: int, width: int = 1) -> Array:
    """An array that starts so many bytes behind a multiple of 64, with so many elements from one to the next."""
    memory = np.zeros(like.nbytes * width + 128, np.uint8)
    first = -memory.ctypes.data % 64 + start
    return memory[first : first + like.nbytes * width].view(like.dtype).reshape(*like.shape, width)[..., 0]


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small arrays are lent to the code, as large ones are."""
    monkeypatch.setattr(machine, "LARGE", 1)


@pytest.mark.usefixtures("lent")
def test_code_writes_to_arrays_that_lie_as_it_needs(digits: Path, images: list[Array], expected: list[Array]) -> None:
    executable = runtime.compile(load(digits))
    bound = executable.bind()
    for image, wanted in zip(images[:9], expected, strict=False):
        places = [each.view(Sealed) for each in executable.empty_outputs()]
        assert [place.ctypes.data % 64 for place in places] == [0]
        assert executable.run(image, out=places)[0] is places[0]
        np.testing.assert_array_equal(places[0], wanted)
        places[0].view(np.ndarray).fill(77)
        bound.inputs[0][...] = image
        assert bound.run(out=places)[0] is places[0]
        np.testing.assert_array_equal(places[0], wanted)
    for other in (placed(expected[0], 1), placed(expected[0], 16), placed(expected[0], 0, 2)):
        with pytest.raises(AssertionError, match="a copy was made"):
            executable.run(images[0], out=[other.view(Sealed)])
        for found in (executable.run(images[0], out=[other]), bound.run(out=[other])):
            assert found[0] is other
        np.testing.assert_array_equal(other, wanted)  # the last one of the bound inputs


@pytest.mark.parametrize("large", [1, machine.LARGE])
def test_outputs_may_lie_anywhere(monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    """Some as the code needs them and some not, one in the other, and in the memory of bound inputs and results."""
    graph = parse_graph(
        """graph "main" {
          inputs (%x)
          outputs (%y, %z)
          values { %x : int8[1, 64] <0.5:0> %y : int8[1, 64] <1.0:0> %z : int8[1, 64] <0.25:0> }
          ops { %y = q.add(%x, %x) version 2 %z = q.requantize(%x) }
        }"""
    )
    monkeypatch.setattr(machine, "LARGE", large)
    executable = runtime.compile(graph)
    given = np.arange(-32, 32, dtype=np.int8).reshape(1, 64)
    y, z = reference.run(graph, given)
    for starts in ((0, 0), (0, 1), (16, 0), (1, 63)):
        places = [placed(each, start) for each, start in zip((y, z), starts, strict=True)]
        executable.run(given, out=places)
        np.testing.assert_array_equal(places, [y, z])
    whole = placed(np.zeros(192, np.int8), 0)[None]
    first, second, beside = whole[:, :64], whole[:, 32:96], whole[:, 128:]
    executable.run(given, out=[first, second])
    np.testing.assert_array_equal(second, z)  # as if one were copied after the other
    np.testing.assert_array_equal(first[:, :32], y[:, :32])
    second[...] = given
    executable.run(second, out=[first, beside])  # an input is read before outputs are written
    np.testing.assert_array_equal([first, beside], [y, z])

    bound = executable.bind()
    bound.inputs[0][...] = given
    results = bound.run()
    bound.run(out=results[::-1])  # each in the other's memory
    np.testing.assert_array_equal(results[::-1], [y, z])
    bound.run(out=[second, bound.inputs[0]])
    np.testing.assert_array_equal([second, bound.inputs[0]], [y, z])
    np.testing.assert_array_equal(bound.run(), reference.run(graph, z))


def test_threads_write_to_arrays_of_their_own(
    executable: Executable, images: list[Array], expected: list[Array]
) -> None:
    def work(number: int) -> int:
        [place] = executable.empty_outputs()
        wrong = 0
        for image, wanted in zip(images[number:], expected[number:], strict=True):
            executable.run(image, out=[place])
            wrong += not np.array_equal(place, wanted)
        return wrong

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(8))) == [0] * 8


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ([], "for each output of the model, 1; got 0"),
        ([np.zeros((10,), np.uint8)], r"must be uint8\[1, 10\]"),
        ([np.zeros((1, 10), np.int8)], r"must be uint8\[1, 10\]"),
        ([[0] * 10], r"must be uint8\[1, 10\]"),
        ([np.zeros((1, 10), ">i2")], r"must be uint8\[1, 10\], got int16\[1, 10\] of another byte order"),
        (np.zeros((1, 10), np.uint8), "must be a list of arrays, one for each output of the model; got ndarray"),
        ((place for place in [np.zeros((1, 10), np.uint8)]), "must be a list of arrays"),
        ([np.broadcast_to(np.uint8(0), (1, 10))], "is read-only"),
    ],
)
def test_out_that_does_not_fit_is_refused(executable: Executable, images: list[Array], out: Any, why: str) -> None:
    with pytest.raises(DataError, match=why):
        executable.run(images[0], out=out)


class Foreign:
    """An array of another library, which shares its memory by DLPack alone."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


class Elsewhere(Foreign):
    """One whose memory this processor cannot reach."""

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("it is on another device")


def test_arrays_of_other_libraries_are_read_and_written(
    executable: Executable, images: list[Array], expected: list[Array]
) -> None:
    place = np.zeros((1, 10), np.uint8)
    foreign = Foreign(place)
    assert executable.run(Foreign(images[0]), out=[foreign])[0] is foreign
    np.testing.assert_array_equal(place, expected[0])
    assert [found[0].tolist() for found in executable.map(map(Foreign, images[:9]))] == [
        wanted.tolist() for wanted in expected[:9]
    ]
    whole = np.zeros((3, 10), np.uint8)
    executable.batch(3).run(Foreign(np.concatenate(images[:3])), out=[Foreign(whole)])
    np.testing.assert_array_equal(whole, np.concatenate(expected[:3]))
    for given, out in ((Elsewhere(images[0]), None), (images[0], [Elsewhere(place)])):
        with pytest.raises(DataError, match="it is on another device"):
            executable.run(given, out=out)


def test_inputs_may_have_another_byte_order() -> None:
    graph = parse_graph(
        """graph "main" {
          inputs (%a, %b)
          outputs (%y)
          values { %a : int16[2, 3] <0.5:0> %b : int16[2, 3] <0.5:0> %y : int16[2, 3] <1.0:0> }
          ops { %y = q.add(%a, %b) version 2 }
        }"""
    )
    a, b = 2 * np.arange(6, dtype=np.int16).reshape(2, 3), np.full((2, 3), 300, np.int16)
    for swapped in ((a.astype(a.dtype.newbyteorder()), b), (a, b.astype(b.dtype.newbyteorder()))):
        for found in (runtime.compile(graph).run(*swapped), reference.run(graph, *swapped)):
            np.testing.assert_array_equal(found[0], (a + b) // 2)


@pytest.mark.parametrize(
    ("given", "why"),
    [([[1], [2, 3]], "of type list"), ({"x": 1}, "got dict"), ("photo.jpg", "got str"), (None, "got None")],
)
def test_inputs_that_are_no_arrays_are_called_what_they_are(executable: Executable, given: Any, why: str) -> None:
    with pytest.raises(DataError, match=why):
        executable.run(given)


def test_bound_inputs_stay_in_place(executable: Executable, images: list[Array], expected: list[Array]) -> None:
    bound, other = executable.bind(), executable.bind()
    [place], [elsewhere] = bound.inputs, other.inputs
    for image, wanted, second in zip(images, expected, reversed(images), strict=True):
        place[...] = image
        elsewhere[...] = second
        other.run()
        [found] = bound.run()
        np.testing.assert_array_equal(found, wanted)
        assert np.shares_memory(place, bound.inputs[0])
        assert not np.shares_memory(place, elsewhere)


def test_graphs_with_several_inputs_and_outputs_are_bound() -> None:
    graph = everything(3)
    executable = runtime.compile(graph)
    bound = executable.bind()
    generator = np.random.default_rng(0)
    for _ in range(2):
        for place in bound.inputs:
            info = np.iinfo(place.dtype)
            place[...] = generator.integers(info.min, info.max, place.shape, place.dtype, endpoint=True)
        inputs = [place.copy() for place in bound.inputs]
        wanted = reference.run(graph, *inputs)
        for found, want in zip(bound.run(), wanted, strict=True):
            np.testing.assert_array_equal(found, want)
        for place, given in zip(bound.inputs, inputs, strict=True):
            np.testing.assert_array_equal(place, given)


@pytest.mark.parametrize("workers", [None, 1, 2, 5])
def test_many_samples_keep_their_order(
    executable: Executable, images: list[Array], expected: list[Array], workers: int | None
) -> None:
    found = [outputs[0] for outputs in executable.map(images, workers)]
    np.testing.assert_array_equal(found, expected)
    assert [outputs[0].tolist() for outputs in executable.map([(image,) for image in images[:3]])] == [
        wanted.tolist() for wanted in expected[:3]
    ]
    assert list(executable.map([])) == []


def test_samples_may_be_endless(executable: Executable, images: list[Array], expected: list[Array]) -> None:
    taken = 0

    def endless() -> Iterator[Array]:
        nonlocal taken
        for image in itertools.cycle(images):
            taken += 1
            yield image

    found = [outputs[0] for outputs in itertools.islice(executable.map(endless(), 2), 150)]
    np.testing.assert_array_equal(found, [*expected, *expected[:50]])
    assert taken < 150 + 5 * calls.PIECE_SAMPLES  # four pieces ahead, for two workers


def test_samples_that_come_slowly_are_not_waited_for(executable: Executable, images: list[Array]) -> None:
    taken = 0

    def camera() -> Iterator[Array]:
        nonlocal taken
        for image in itertools.cycle(images):
            time.sleep(2 * calls.PIECE_SECONDS)
            taken += 1
            yield image

    next(executable.map(camera(), 2))
    assert taken <= 5  # four pieces ahead, of a sample each


def test_a_call_computes_few_samples_of_what_takes_or_gives_much() -> None:
    """A worker keeps memory for all samples of a call."""
    small = Value("x", TensorType((1, 4), "int8", Quantization.per_tensor(1.0, 0)))
    large = Value("y", TensorType((1, 1 << 17), "int8", Quantization.per_tensor(1.0, 0)))
    assert calls.capacity([small]) == calls.CALL_SAMPLES
    assert calls.capacity([small, large]) == calls.capacity([large, small]) == 1
    assert calls.capacity([]) == calls.CALL_SAMPLES


def test_a_sample_that_does_not_fit_is_an_error(executable: Executable, images: list[Array]) -> None:
    for workers in (1, 2):
        results = executable.map([*images[:40], images[0][0], *images], workers)
        assert len(list(itertools.islice(results, 40))) == 40
        with pytest.raises(DataError, match=r"must be uint8\[1, 8, 8, 1\]"):
            next(results)
    with pytest.raises(UsageError, match="at least 1"):
        executable.map(images, 0)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("good", [0, 1, 20, 99])
def test_samples_that_end_in_an_error_have_their_outputs_first(
    executable: Executable, images: list[Array], expected: list[Array], good: int, workers: int
) -> None:
    def broken() -> Iterator[Array]:
        yield from images[:good]
        raise OSError("the camera is gone")

    found = []
    with pytest.raises(OSError, match="camera"):
        for outputs in executable.map(broken(), workers):
            found.append(outputs[0].tolist())
    assert found == [wanted.tolist() for wanted in expected[:good]]


@pytest.mark.parametrize("workers", [1, 2])
def test_samples_may_come_in_one_array(
    executable: Executable, images: list[Array], expected: list[Array], workers: int
) -> None:
    """As a camera fills the same buffer with picture after picture."""
    buffer = np.empty_like(images[0])

    def camera() -> Iterator[Array]:
        for image in images:
            buffer[...] = image
            yield buffer

    np.testing.assert_array_equal([outputs[0] for outputs in executable.map(camera(), workers)], expected)


def test_a_batch_may_write_where_it_reads() -> None:
    graph = parse_graph(
        """graph "main" {
          inputs (%x)
          outputs (%y)
          values { %x : int8[1, 64] <0.5:0> %y : int8[1, 64] <1.0:0> }
          ops { %y = q.add(%x, %x) version 2 }
        }"""
    )
    count = 300
    memory = np.random.default_rng(0).integers(-128, 128, (count + 1, 64), np.int8)
    wanted = np.concatenate([reference.run(graph, row[None])[0] for row in memory[:-1]])
    found = tflite2q.compile(graph, batch=count).run(memory[:-1], out=[memory[1:]])
    np.testing.assert_array_equal(found[0], wanted)


def test_the_example_of_the_document(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (root / "docs" / "deploy.md").read_text("utf-8")
    block = next(block for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.M) if "exe.bind" in block)
    monkeypatch.chdir(root)
    names: dict[str, Any] = {}
    exec(compile(block, "deploy.md", "exec"), names)
    wanted = reference.run(load("models/digits_uint8.tflite"), names["photo"])
    for name in ("scores", "view"):
        np.testing.assert_array_equal(names[name], wanted[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_mapped_samples_may_be_numbers(workers: int) -> None:
    """Inputs and results without axes, and with odd sizes, are arrays in their own memory's order."""
    graph = parse_graph(
        """graph "main" {
          inputs (%a, %b, %c)
          outputs (%y, %z)
          values {
            %a : float32[] %b : float32[] %c : int16[1, 3] <0.5:0>
            %y : float32[] %z : float32[1, 3]
          }
          ops {
            %y = q.add(%a, %b)
            %z = q.dequantize(%c) version 3
          }
        }"""
    )
    executable = tflite2q.compile(graph)
    random = np.random.default_rng(0)
    samples = [
        (np.float32(random.normal()), np.array(random.normal(), np.float32), random.integers(-9, 9, (3, 1), np.int16).T)
        for _ in range(70)
    ]
    assert executable.capacity > 1
    found = list(executable.map(samples, workers))
    assert len(found) == len(samples)
    for (a, b, c), results in zip(samples, found, strict=True):
        assert all(type(each) is np.ndarray for each in results)
        for got, want in zip(results, reference.run(graph, np.asarray(a), b, c), strict=True):
            assert (got.dtype, got.shape) == (want.dtype, want.shape)
            np.testing.assert_array_equal(got, want)
    as_lists = executable.map([[*sample] for sample in samples], workers)
    assert [[each.tolist() for each in results] for results in as_lists] == [
        [each.tolist() for each in results] for results in found
    ]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_batch_is_its_samples(
    executable: Executable, images: list[Array], expected: list[Array], workers: int
) -> None:
    batch = executable.batch(20, workers)
    whole = np.concatenate(images[:20])
    [found] = batch.run(whole)
    np.testing.assert_array_equal(found, np.concatenate(expected[:20]))
    place = np.zeros_like(found)
    assert batch.run(np.ascontiguousarray(whole[::-1]), out=[place])[0] is place
    np.testing.assert_array_equal(place, np.concatenate(expected[:20][::-1]))
    assert [value.type.shape for value in (*batch.inputs, *batch.outputs)] == [(20, 8, 8, 1), (20, 10)]


@pytest.mark.parametrize("seed", range(3))
def test_a_batch_of_a_drawn_graph_is_its_samples(seed: int) -> None:
    graph = everything(seed)
    count = 70
    batch = tflite2q.compile(graph, threads=2, batch=count)
    generator = np.random.default_rng(seed)
    inputs = [generator.integers(0, 256, value.type.shape, np.uint8) for value in batch.inputs]
    found = batch.run(*inputs)
    strided = [np.zeros((len(array), 2, *array.shape[1:]), array.dtype)[:, 0] for array in found]
    assert all(x is y for x, y in zip(batch.run(*inputs, out=strided), strided, strict=True))
    for sample in range(0, count, 9):
        wanted = reference.run(graph, *(np.split(array, count)[sample] for array in inputs))
        for whole, part in zip((*found, *strided), (*wanted, *wanted), strict=True):
            np.testing.assert_array_equal(np.split(whole, count)[sample], part)


def test_a_batch_of_a_model_with_branches_is_its_samples() -> None:
    """The virtual machine runs such models, one sample at a time."""
    name = next(name for name in FAMILIES if name.startswith("WHILE-"))
    case = next(case for case in cases(name, 20) if all(array.ndim for array in case.inputs))
    count = 40
    batch = tflite2q.compile(case.graph, threads=1, batch=count)
    found = batch.run(*[np.concatenate([array] * count) for array in case.inputs])
    for whole, wanted in zip(found, reference.run(case.graph, *case.inputs), strict=True):
        np.testing.assert_array_equal(whole, np.concatenate([wanted] * count))


def test_what_does_not_fit_a_batch_is_refused(executable: Executable, images: list[Array]) -> None:
    batch = executable.batch(2, 2)
    with pytest.raises(DataError, match=r"must be uint8\[2, 8, 8, 1\], got uint8\[1, 8, 8, 1\]"):
        batch.run(images[0])
    with pytest.raises(DataError, match="the model takes 1 input, got 0"):
        batch.run()
    with pytest.raises(DataError, match="is read-only"):
        batch.run(np.concatenate(images[:2]), out=[np.broadcast_to(np.uint8(0), (2, 10))])
    with pytest.raises(UsageError, match="batch must be at least 1, got 0"):
        executable.batch(0)
    with pytest.raises(UsageError, match="a model with state takes its inputs in order"):
        runtime.compile(streaming()).batch(2)
