"""Movement against NumPy and against its own inverse: no judge but array indexing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from draw import Draw
from hypothesis import given
from hypothesis import strategies as st

from tflite2q.dialect import ops
from tflite2q.dialect.op import Op
from tflite2q.dialect.types import Quantization, TensorType
from tflite2q.errors import InvalidGraph
from tflite2q.execution import reference

Q = Quantization.per_tensor(0.5, 3)


def run(cls: type[Op], x: np.ndarray, *rest: Any, results: int = 1, **attributes: Any) -> list[np.ndarray]:
    """Results of an op on codes x and constant integer operands."""
    draw = Draw(np.random.default_rng(0))
    kind = TensorType(x.shape, x.dtype.name, Q)
    names = [draw.input(kind, x), *(draw.constant(np.asarray(entry, np.int32)) for entry in rest)]
    return reference.run(draw.case(cls, names, *[kind.with_(shape=())] * results, **attributes).graph, x)


def codes(*shape: int) -> np.ndarray:
    return (np.arange(np.prod(shape)) % 251).astype(np.uint8).reshape(shape)


@given(st.data())
def test_strided_slice_is_python_slicing(data: st.DataObject) -> None:
    extent = data.draw(st.integers(1, 8))
    bound = st.integers(-extent - 2, extent + 2)
    begin, end = data.draw(bound), data.draw(bound)
    stride = data.draw(st.integers(-3, 3).filter(bool))
    x = codes(extent, 2)
    expected = x[begin:end:stride]
    (got,) = run(ops.StridedSlice, x, [begin, 0], [end, 2], [stride, 1])
    np.testing.assert_array_equal(got, expected)


def test_strided_slice_masks() -> None:
    x = codes(3, 4, 5)
    (open_ends,) = run(ops.StridedSlice, x, [1, 1, 1], [2, 2, 2], [1, 1, 1], begin_mask=1, end_mask=4)
    np.testing.assert_array_equal(open_ends, x[:2, 1:2, 1:])
    (shrunk,) = run(ops.StridedSlice, x, [-1, 0, 2], [0, 4, 3], [1, 1, 1], shrink_axis_mask=5)
    np.testing.assert_array_equal(shrunk, x[-1, :, 2])
    (dots,) = run(ops.StridedSlice, x, [0, 2], [0, 3], [1, 1], ellipsis_mask=1)
    np.testing.assert_array_equal(dots, x[..., 2:3])
    (added,) = run(ops.StridedSlice, x, [0, 1], [0, 2], [1, 1], new_axis_mask=1)
    np.testing.assert_array_equal(added, x[None, 1:2])
    (offset,) = run(ops.StridedSlice, x, [1, 1, 1], [2, 2, 2], [1, 1, 1], offset=True)
    np.testing.assert_array_equal(offset, x[1:3, 1:3, 1:3])


@pytest.mark.parametrize(("axis", "batch"), [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (2, 2)])
def test_gather_with_batch_axes(axis: int, batch: int) -> None:
    x = codes(2, 3, 4)
    shape = (*x.shape[:batch], 5)
    indices = np.random.default_rng(axis).integers(0, x.shape[axis], shape).astype(np.int32)
    (got,) = run(ops.Gather, x, indices, axis=axis, batch_axes=batch)
    expected = np.empty(got.shape, x.dtype)
    for place in np.ndindex(*got.shape):
        source = list(place)
        source[axis] = indices[(*place[:batch], place[axis])]
        expected[place] = x[tuple(source)]
    np.testing.assert_array_equal(got, expected)


def test_gather_nd_takes_elements_and_slices() -> None:
    x = codes(3, 4, 2)
    (elements,) = run(ops.GatherNd, x, [[2, 1, 0], [0, 3, 1]])
    np.testing.assert_array_equal(elements, [x[2, 1, 0], x[0, 3, 1]])
    (slices,) = run(ops.GatherNd, x, [[2, 1], [0, 3]])
    np.testing.assert_array_equal(slices, [x[2, 1], x[0, 3]])


@pytest.mark.parametrize("block", [1, 2, 3])
def test_space_and_depth_are_inverse(block: int) -> None:
    x = codes(2, 2 * block, 3 * block, 4)
    (deep,) = run(ops.SpaceDepth, x, block=block)
    assert deep.shape == (2, 2, 3, 4 * block * block)
    np.testing.assert_array_equal(deep[0, 1, 2, :4], x[0, block, 2 * block])
    np.testing.assert_array_equal(run(ops.SpaceDepth, deep, block=block, to_depth=False)[0], x)


def test_space_and_batch_are_inverse_and_padding_is_the_zero_point() -> None:
    x = codes(1, 3, 5, 2)
    margins = [[1, 0], [0, 1]]
    (batches,) = run(ops.SpaceBatch, x, [2, 3], margins)
    assert batches.shape == (6, 2, 2, 2)
    np.testing.assert_array_equal(batches[0, 0], 3)  # the padded row: zero point 3
    np.testing.assert_array_equal(run(ops.SpaceBatch, batches, [2, 3], margins, to_batch=False)[0], x)


@pytest.mark.parametrize(("mode", "numpy_mode"), [("REFLECT", "reflect"), ("SYMMETRIC", "symmetric")])
def test_mirror_pad_is_numpys(mode: str, numpy_mode: Any) -> None:
    x, margins = codes(3, 4), [[2, 1], [0, 3]]
    np.testing.assert_array_equal(run(ops.MirrorPad, x, margins, mode=mode)[0], np.pad(x, margins, mode=numpy_mode))


def test_split_parts_make_up_the_whole() -> None:
    x = codes(2, 7, 3)
    parts = run(ops.Split, x, [2, -1, 1], 1, results=3, kind="split_v", count=3)
    assert [part.shape[1] for part in parts] == [2, 4, 1]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), x)


def test_unpack_undoes_pack() -> None:
    x = codes(2, 3, 4)
    parts = run(ops.Unpack, x, results=3, axis=-2, count=3)
    for index, part in enumerate(parts):
        np.testing.assert_array_equal(part, x[:, index])


def test_tile_reverse_and_broadcast_are_numpys() -> None:
    x = codes(2, 3)
    np.testing.assert_array_equal(run(ops.Tile, x, [2, 3])[0], np.tile(x, (2, 3)))
    np.testing.assert_array_equal(run(ops.Reverse, x, [1])[0], x[:, ::-1])
    np.testing.assert_array_equal(run(ops.BroadcastTo, x[:1], [4, 2, 3])[0], np.broadcast_to(x[:1], (4, 2, 3)))


@pytest.mark.parametrize("options", [{}, {"align_corners": True}, {"half_pixel_centers": True}])
@pytest.mark.parametrize("cls", [ops.ResizeBilinear, ops.ResizeNearest])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_resizing_to_the_same_size_and_of_a_flat_image_changes_nothing(
    cls: type[Op], dtype: str, options: dict[str, bool]
) -> None:
    x = codes(1, 4, 5, 2).astype(dtype)
    np.testing.assert_array_equal(run(cls, x, [4, 5], **options)[0], x)
    np.testing.assert_array_equal(run(cls, np.full((1, 3, 2, 1), 77, dtype), [7, 9], **options)[0], 77)


def test_bilinear_halfway_rounds_away_from_zero_in_integers_and_up_in_float32() -> None:
    row = np.array([[-3, -2, 2, 3]]).reshape(1, 1, 4, 1)
    (signed,) = run(ops.ResizeBilinear, row.astype(np.int8), [1, 7], align_corners=True)
    np.testing.assert_array_equal(signed.reshape(-1), [-3, -3, -2, 0, 2, 3, 3])  # -2.5 -> -3, 2.5 -> 3
    (unsigned,) = run(ops.ResizeBilinear, (row + 3).astype(np.uint8), [1, 7], align_corners=True)
    np.testing.assert_array_equal(unsigned.reshape(-1), [0, 1, 1, 3, 5, 6, 6])  # 0.5 -> 1, 5.5 -> 6


@pytest.mark.parametrize(
    ("cls", "rest", "attributes", "why"),
    [
        (ops.Transpose, ([0, 0],), {}, "not a permutation"),
        (ops.Slice, ([1, 0], [2, 3]), {}, "do not fit"),
        (ops.StridedSlice, ([0], [1], [0]), {}, "stride is 0"),
        (ops.StridedSlice, ([5], [6], [1]), {"shrink_axis_mask": 1}, "index 5 on an axis of 2"),
        (ops.Tile, ([1],), {}, "multiples"),
        (ops.MirrorPad, ([[2, 0], [0, 0]],), {}, "padding 2, 0 of 2 elements"),
        (ops.Gather, ([0],), {"axis": 3}, "axis 3 does not fit 2 axes"),
        (ops.Split, ([1, 1], 1), {"kind": "split_v"}, "do not make up 3"),
        (ops.BroadcastTo, ([3, 3],), {}, "does not broadcast"),
    ],
)
def test_what_does_not_fit_is_refused(
    cls: type[Op], rest: tuple[Any, ...], attributes: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidGraph, match=why):
        run(cls, codes(2, 3), *rest, **attributes)
