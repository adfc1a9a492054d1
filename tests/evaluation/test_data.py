"""Samples from every kind of file, in the model's own types."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tflite2q.dialect.types import Quantization, TensorType, Value
from tflite2q.errors import DataError
from tflite2q.evaluation import coding, data, labels
from tflite2q.evaluation.coding import Normalization


def read_labels(path: Path, names: list[str], may_be_more: bool = False) -> np.ndarray:
    return labels.read(path, names, may_be_more, skip_bad=False)[0]


def value(
    dtype: str = "uint8",
    shape: tuple[int, ...] = (1, 4, 4, 3),
    scale: float | None = 1 / 128,
    zero_point: int = 128,
    name: str = "image",
) -> Value:
    q = None if scale is None else Quantization.per_tensor(scale, zero_point)
    return Value(name, TensorType(shape, dtype, q))


def picture(path: Path, width: int, height: int, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_uint8_inputs_take_pixels_as_they_are_and_int8_inputs_shifted() -> None:
    pixels = np.arange(256, dtype=np.uint8)
    assert coding.encode(pixels, value()).tolist() == list(range(256))
    assert coding.encode(pixels, value("int8", zero_point=0)).tolist() == list(range(-128, 128))


def test_float_inputs_take_pixels_between_minus_one_and_one() -> None:
    real = coding.encode(np.array([0, 255], np.uint8), value("float32", scale=None))
    assert real.dtype == np.float32
    assert real.tolist() == [-1.0, 1.0]


def test_a_given_mean_or_std_goes_through_the_scale() -> None:
    pixels = np.array([0, 10, 255], np.uint8)
    codes = coding.encode(pixels, value("uint8", scale=0.5, zero_point=3), Normalization.of(10, None))
    # (pixel - 10) / 127.5 in steps of 0.5, by hand: -0.157 -> 3, 0 -> 3, 3.84 -> 3 + 4
    assert codes.tolist() == [3, 3, 7]


def test_int16_inputs_take_pixels_as_reals() -> None:
    codes = coding.encode(np.array([0, 255], np.uint8), value("int16", scale=1 / 32768, zero_point=0))
    assert codes.tolist() == [-32768, 32767]


def test_integers_of_another_width_are_codes_and_must_fit() -> None:
    assert coding.encode(np.array([0, 255]), value()).dtype == np.uint8
    with pytest.raises(DataError, match="takes uint8 codes, the data has 0 to 256"):
        coding.encode(np.array([0, 256]), value())


@pytest.mark.parametrize(
    ("dtype", "given", "message"),
    [
        ("int8", np.array([1, 255]), "sample 0: input 'image' takes int8 codes, the data has 1 to 255; "
         "give int8 codes from -128 to 127 or real numbers as float32 or pixels as uint8"),
        ("int8", np.array([True, False]), "sample 0: input 'image' takes int8, the data is bool; give int8 codes"),
        ("float32", np.array([1, 2]), "takes float32, the data is int64; give float32 or pixels as uint8"),
    ],
)  # fmt: skip
def test_numbers_that_no_input_takes_name_the_file_and_what_to_give(
    tmp_path: Path, dtype: str, given: np.ndarray, message: str
) -> None:
    np.save(tmp_path / "x.npy", given.reshape(1, 2))
    scale = None if dtype == "float32" else 1.0
    found = data.load(tmp_path / "x.npy", [value(dtype, (1, 2), scale=scale, zero_point=0)])
    with pytest.raises(DataError, match=message) as error:
        list(found)
    assert str(error.value).startswith(f"{tmp_path / 'x.npy'}: sample 0: ")


@pytest.mark.parametrize(
    ("given", "dtype", "scale", "expected"),
    [
        (np.array([3], np.int8), "int8", 0.5, 3),
        (np.array([3], np.float64), "int8", 0.5, 6),
        (np.array([3], np.float64), "float32", None, 3),
        (np.array([3], np.uint8), "int8", 0.5, -125),
        (np.array([255], np.uint8), "int16", 0.5, 2),
        (np.array([255], np.uint8), "float32", None, 1),
        (np.array([3], np.uint8), "int32", None, 3),
        (np.array([3], np.int64), "int8", 0.5, 3),
        (np.array([3], np.int64), "int32", None, 3),
    ],
)
def test_the_table_of_the_guide(given: np.ndarray, dtype: str, scale: float | None, expected: float) -> None:
    assert coding.encode(given, value(dtype, (1,), scale, 0)).tolist() == [expected]


@pytest.mark.parametrize("given", [np.array([3]), np.array([True])])
def test_other_integers_are_no_real_numbers(given: np.ndarray) -> None:
    with pytest.raises(DataError, match="takes float32, the data is"):
        coding.encode(given, value("float32", (1,), None, 0))


def test_reals_without_parameters_are_refused() -> None:
    with pytest.raises(DataError, match="without quantization parameters"):
        coding.encode(np.array([0.5]), value("int32", scale=None))


@given(st.floats(1e-4, 10), st.integers(-128, 127), st.integers(-128, 127))
def test_transfer_keeps_real_numbers_when_only_the_sign_changes(scale: float, zero_point: int, code: int) -> None:
    signed = value("int8", (1,), scale, zero_point)
    unsigned = value("uint8", (1,), scale, zero_point + 128)
    moved = coding.transfer([np.array([code], np.int8)], [signed], [unsigned])[0]
    assert moved.dtype == np.uint8
    assert int(moved[0]) == code + 128
    assert coding.transfer([moved], [unsigned], [signed])[0].tolist() == [code]


def test_transfer_refuses_other_shapes() -> None:
    with pytest.raises(DataError, match=r"\[1, 4, 4, 3\] in one model and \[1, 2\]"):
        coding.transfer([np.zeros((1, 4, 4, 3), np.uint8)], [value()], [value(shape=(1, 2))])


def test_real_numbers_per_channel() -> None:
    q = Quantization((0.5, 2.0), (0, 0), 1)
    v = Value("w", TensorType((1, 2), "int8", q))
    assert coding.real(np.array([[3, -1]], np.int8), v).tolist() == [[1.5, -2.0]]


def test_folder_of_images_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, seed in (("b.png", 1), ("a.png", 2)):
        picture(tmp_path / name, 9, 6, seed)
    (tmp_path / "notes.txt").write_text("no image")
    found = data.load(tmp_path, [value()])
    assert found.names == ("a.png", "b.png")
    arrays = [sample[0] for sample in found]
    assert [a.shape for a in arrays] == [(1, 4, 4, 3)] * 2
    assert not np.array_equal(*arrays)


def test_images_are_cropped_centrally_to_seven_eighths(tmp_path: Path) -> None:
    # 16 x 12 with the shorter side 12 covering 14/0.875 = 16: a factor of 4/3, then a crop of 14 x 14.
    picture(tmp_path / "a.png", 16, 12)
    sample = next(iter(data.load(tmp_path / "a.png", [value(shape=(1, 14, 14, 3))])))[0][0]
    with Image.open(tmp_path / "a.png") as opened:
        resized = np.asarray(opened.resize((21, 16), Image.Resampling.BILINEAR))
    assert np.array_equal(sample, resized[1:15, 3:17])


def test_an_image_of_the_right_size_is_not_resampled(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png", 16, 16)
    sample = next(iter(data.load(tmp_path / "a.png", [value(shape=(1, 14, 14, 3))])))[0][0]
    assert np.array_equal(sample, pixels[1:15, 1:15])


def test_grey_images_for_one_channel(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 4, 4)
    assert next(iter(data.load(tmp_path, [value(shape=(1, 4, 4, 1))])))[0].shape == (1, 4, 4, 1)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_greys_are_the_8_bit_picture(tmp_path: Path, suffix: str, channels: int) -> None:
    greys = np.random.default_rng(3).integers(0, 256, (16, 16), dtype=np.uint8)
    Image.fromarray(greys).save(tmp_path / "g8.png")
    Image.fromarray(greys.astype(np.uint16) * 257).save(tmp_path / f"g16.{suffix}")
    a, b = (
        next(iter(data.load(tmp_path / name, [value(shape=(1, 9, 9, channels))])))[0]
        for name in ("g8.png", f"g16.{suffix}")
    )
    assert np.array_equal(a, b)
    assert len(np.unique(a)) > 9


def test_a_picture_that_claims_to_be_enormous_is_one_line(tmp_path: Path) -> None:
    Image.new("L", (1, 1)).save(tmp_path / "one.png")
    whole = bytearray((tmp_path / "one.png").read_bytes())
    whole[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height in the header
    whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(whole)
    (tmp_path / "one.png").unlink()
    with pytest.raises(DataError, match=r"bomb\.png: its pixels are more than the 100,000,000 allowed"):
        list(data.load(tmp_path, [value()]))


def test_a_ribbon_is_refused_before_it_is_made_larger(tmp_path: Path) -> None:
    Image.new("L", (20_000, 1)).save(tmp_path / "ribbon.png")
    with pytest.raises(DataError, match="20000x1 is too long and narrow for an input of 4x4"):
        list(data.load(tmp_path, [value()]))


def test_pixels_without_a_stated_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 70_000, np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(DataError, match="no stated range"):
        list(data.load(tmp_path, [value()]))


def test_csv_names_images_and_their_labels(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("x.png", "y.png", "z.png"):
        picture(tmp_path / "photos" / name, 4, 4)
    listing = tmp_path / "list.csv"
    listing.write_text("file,label\nphotos/z.png,7\nphotos/x.png,3\n")
    found = data.load(listing, [value()])
    assert found.names == ("z.png", "x.png")
    assert found.labels is not None
    assert found.labels.tolist() == [7, 3]
    assert data.load(listing, [value()], limit=1).names == ("z.png",)


def test_labels_are_matched_by_file_name(tmp_path: Path) -> None:
    listed = tmp_path / "labels.csv"
    listed.write_text("file,label\nb.png,1\nother.png,9\na.png,0\n")
    assert read_labels(listed, ["a.png", "b.png"]).tolist() == [0, 1]
    with pytest.raises(DataError, match=r"no label for c\.png \(and 1 more\)"):
        read_labels(listed, ["a.png", "c.png", "d.png"])


def test_labels_in_order(tmp_path: Path) -> None:
    text, array = tmp_path / "labels.csv", tmp_path / "labels.npy"
    text.write_text("index,label\n0,5\n1,6\n")
    np.save(array, np.array([5, 6]))
    for path in (text, array):
        assert read_labels(path, ["x[0]", "x[1]"]).tolist() == [5, 6]
        with pytest.raises(DataError, match="2 labels for 1 samples"):
            read_labels(path, ["x[0]"])
        assert read_labels(path, ["x[0]"], may_be_more=True).tolist() == [5]
        with pytest.raises(DataError, match="2 labels for 3 samples"):
            read_labels(path, ["a", "b", "c"], may_be_more=True)


def test_a_label_that_is_no_number_is_named(tmp_path: Path) -> None:
    listed = tmp_path / "labels.csv"
    listed.write_text("file,label\na.png,0\nb.png,cat\n")
    with pytest.raises(DataError, match="label 2 is 'cat'"):
        read_labels(listed, ["a.png", "b.png"])


@pytest.mark.parametrize(
    ("classes", "given", "offset", "expected"),
    [
        (1001, [0, 999], None, [1, 1000]),  # background first, as in the MobileNets
        (1001, [1, 1000], None, [1, 1000]),
        (1000, [0, 999], None, [0, 999]),
        (10, [0, 9], None, [0, 9]),
        (1001, [0, 999], 0, [0, 999]),
        (10, [1, 10], -1, [0, 9]),
    ],
)
def test_label_offset(classes: int, given: list[int], offset: int | None, expected: list[int]) -> None:
    assert labels.align(np.array(given), classes, offset).tolist() == expected


def test_a_label_the_model_does_not_have() -> None:
    with pytest.raises(DataError, match="label 10 is not one of the model's 10 classes"):
        labels.align(np.array([0, 10]), 10)


def test_a_label_the_model_does_not_have_names_its_list_and_its_sample(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("1\n5000\n2\n7000\n")
    pixels = np.zeros((4, 4, 4, 3), np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    found = data.load(tmp_path / "x.npy", [value()], labels=tmp_path / "labels.csv")
    said = rf"^{tmp_path}/labels\.csv: x\.npy\[1\]: label 5000 is not one of the model's 1001 classes \(and 1 more\); "
    with pytest.raises(DataError, match=said):
        found.classes(1001, None)
    np.savez(tmp_path / "x.npz", x=pixels, labels=[1, 2, 3, 10])
    with pytest.raises(DataError, match=rf"^{tmp_path}/x\.npz: x\.npz\[3\]: label 10 is not"):
        data.load(tmp_path / "x.npz", [value()]).classes(10, None)
    with pytest.raises(DataError, match=r"^the given data: labels: the given data\[0\]: label -1 is not"):
        data.load(pixels, [value()], labels=[-1, 0, 0, 0]).classes(10, None)


@pytest.mark.parametrize("classes", [10, 1001])
def test_a_label_below_0_is_no_class_even_where_1_is_added_to_others(classes: int) -> None:
    with pytest.raises(DataError, match=f"label -1 is not one of the model's {classes} classes"):
        labels.align(np.array([-1, 5]), classes)


@pytest.mark.parametrize("shape", [(5, 4, 4, 3), (5, 1, 4, 4, 3)])
def test_array_samples_with_and_without_the_batch_axis(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    np.save(tmp_path / "x.npy", array)
    found = list(data.load(tmp_path / "x.npy", [value()]))
    assert len(found) == 5
    assert np.array_equal(found[3][0][0], array.reshape(5, 4, 4, 3)[3])


@pytest.mark.parametrize("shape", [(4, 4, 3), (1, 4, 4, 3)])
def test_array_of_one_sample(shape: tuple[int, ...]) -> None:
    assert len(data.load(np.zeros(shape, np.uint8), [value()])) == 1


def test_npz_with_several_inputs_by_name(tmp_path: Path) -> None:
    inputs = [value(shape=(1, 2), name="a"), value(shape=(1, 3), name="b")]
    np.savez(tmp_path / "x.npz", b=np.ones((4, 3), np.uint8), a=np.zeros((4, 2), np.uint8))
    samples = list(data.load(tmp_path / "x.npz", inputs))
    assert len(samples) == 4
    assert [array.shape for array in samples[0]] == [(1, 2), (1, 3)]
    np.savez(tmp_path / "y.npz", b=np.ones((4, 3), np.uint8))
    with pytest.raises(DataError, match="an array named for each input: 'a', 'b'"):
        data.load(tmp_path / "y.npz", inputs)


def test_npz_that_brings_its_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 4, 4, 3), np.uint8), labels=np.array([4, 5, 6]))
    found = data.load(tmp_path / "x.npz", [value()], limit=2)
    assert found.labels is not None
    assert found.labels.tolist() == [4, 5]


def test_synthetic_samples_repeat_and_differ() -> None:
    first, second = ([s[0] for s in data.synthetic([value()], 3)] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[0], first[1])
    assert first[0].dtype == np.uint8


def test_unusable_data_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not really")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "missing.csv").write_text("file,label\nnone.png,1\n")
    (tmp_path / "model.txt").write_text("x")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "wrong.npy", np.zeros((5, 7), np.uint8))
    for name in (
        "empty",
        "broken.npz",
        "broken.png",
        "missing.csv",
        "model.txt",
        "objects.npy",
        "wrong.npy",
        "nowhere",
    ):
        with pytest.raises(DataError) as caught:
            list(data.load(tmp_path / name, [value()]))
        assert "\n" not in str(caught.value)
        assert name.split(".")[0] in str(caught.value)


def test_images_for_an_input_that_is_no_image(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 4, 4)
    with pytest.raises(DataError, match=r"images need an input of \[1, height, width, 1 or 3\]"):
        data.load(tmp_path, [value(shape=(1, 640))])
