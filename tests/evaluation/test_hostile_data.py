"""Pictures, arrays and labels as they come: deep, turned, animated, damaged, enormous, half there."""

from __future__ import annotations

import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tflite2q import limits
from tflite2q.dialect.types import Quantization, TensorType, Value
from tflite2q.errors import DataError
from tflite2q.evaluation import arrays, data, images, labels

SIDE = 16
Array = np.ndarray


def value(channels: int = 3, dtype: str = "uint8", shape: tuple[int, ...] | None = None) -> Value:
    q = None if dtype == "float32" else Quantization.per_tensor(1 / 128, 128 if dtype == "uint8" else 0)
    return Value("image", TensorType(shape or (1, SIDE, SIDE, channels), dtype, q))


def seen(path: Path, channels: int = 3) -> Array:
    """The whole picture as the model gets it."""
    return next(iter(data.load(path, [value(channels)], fit="stretch")))[0].reshape(SIDE, SIDE, channels)


def greys() -> Array:
    return np.random.default_rng(1).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)


def colours() -> Array:
    return np.random.default_rng(2).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


# ---------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("factor", [1 / 255, 1.0])
def test_real_pixels_by_their_range(tmp_path: Path, factor: float) -> None:
    Image.fromarray((greys() * factor).astype(np.float32)).save(tmp_path / "f.tif")
    assert np.array_equal(seen(tmp_path / "f.tif", 1)[..., 0], greys())


@pytest.mark.parametrize(
    ("pixel", "message"),
    [(np.nan, "1 of its 256 pixels are NaN"), (np.inf, "1 of its 256 pixels"), (-3, "from -3"), (900, "to 900")],
)
def test_real_pixels_of_no_range(tmp_path: Path, pixel: float, message: str) -> None:
    reals = greys().astype(np.float32)
    reals[0, 0] = pixel
    Image.fromarray(reals).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match=message):
        seen(tmp_path / "f.tif")


def test_16_bit_colours_are_the_8_bit_picture(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in colours())

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0))
    whole = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "c16.png").write_bytes(whole)
    assert np.array_equal(seen(tmp_path / "c16.png"), colours())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_pictures_stand_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    # The standard's table, by hand: what a viewer does to the stored pixels.
    shown = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90,
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(colours()).save(tmp_path / f"a.{suffix}", exif=exif)
    assert np.array_equal(seen(tmp_path / f"a.{suffix}"), shown(colours()))


def test_the_frame_of_a_turned_picture_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    place = data.load(tmp_path / "a.jpg", [value()], fit="pad").frame(0, (1, SIDE, SIDE, 3))
    assert (place.width, place.height) == (20, 40)


def test_16_bit_pictures_stand_upright_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(greys().astype(np.uint16) * 257).save(tmp_path / "g.tif", exif=exif)
    assert np.array_equal(seen(tmp_path / "g.tif", 1)[..., 0], np.rot90(greys(), 2))


def test_palettes_alpha_and_one_bit(tmp_path: Path) -> None:
    few = (greys() // 64).astype(np.uint8)
    palette = Image.fromarray(few)
    palette.putpalette([*range(0, 120, 10)])
    palette.save(tmp_path / "palette.png", transparency=0)
    expected = np.array(range(0, 120, 10)).reshape(4, 3)[few]
    assert np.array_equal(seen(tmp_path / "palette.png"), expected)
    Image.fromarray(np.dstack([colours(), greys()])).save(tmp_path / "alpha.png")
    assert np.array_equal(seen(tmp_path / "alpha.png"), colours())
    Image.fromarray(np.dstack([greys(), greys()])).save(tmp_path / "grey_alpha.png")
    assert np.array_equal(seen(tmp_path / "grey_alpha.png", 1)[..., 0], greys())
    Image.fromarray(greys() > 127).save(tmp_path / "one_bit.png")
    assert np.array_equal(seen(tmp_path / "one_bit.png", 1)[..., 0], np.where(greys() > 127, 255, 0))


def test_cmyk_pictures_have_their_colours(tmp_path: Path) -> None:
    Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=100)
    red = seen(tmp_path / "red.jpg").reshape(-1, 3).mean(axis=0)
    assert red[0] > 240
    assert max(red[1:]) < 15


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (SIDE, SIDE), (shade, shade, shade)) for shade in (200, 10, 90)]
    more = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **more)
    assert seen(tmp_path / f"a.{suffix}").tolist() == np.full((SIDE, SIDE, 3), 200).tolist()


def test_pixels_are_counted_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (SIDE, SIDE)).save(tmp_path / "a.png")
    cut = (tmp_path / "a.png").read_bytes()[:45]  # the header alone
    (tmp_path / "a.png").write_bytes(cut)
    monkeypatch.setenv(limits.MAX_PIXELS, "255")
    with pytest.raises(DataError, match=r"a\.png: 16x16 pixels are more than the 255 allowed.*TFLITE2Q_MAX_PIXELS"):
        seen(tmp_path / "a.png")
    monkeypatch.setenv(limits.MAX_PIXELS, "256")
    with pytest.raises(DataError, match="not a readable image"):
        seen(tmp_path / "a.png")


def test_palettes_whose_colours_are_partly_transparent(tmp_path: Path) -> None:
    picture = Image.fromarray(colours()).quantize(16)
    picture.save(tmp_path / "a.png", transparency=bytes(range(16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(seen(tmp_path / "a.png"), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("suffix", ["jpg", "tif", "png", "webp"])
@pytest.mark.parametrize("orientation", [0, 1, 3, 5, 6, 7, 8, 9, 200])
def test_boxes_are_drawn_on_the_picture_that_the_model_saw(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    frame = images.Pictures((path,), (1, SIDE, SIDE, 3), "pad").frame(0)
    assert (frame.width, frame.height) == images.decoded(path, "RGB").size


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    Image.fromarray(colours()).save(tmp_path / "a.png")
    make(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b\.png: is not a file; .* skip_bad=True"):
        list(data.load(tmp_path, [value()]))
    found = data.load(tmp_path, [value()], skip_bad=True)
    assert found.names == ("a.png",)
    assert "b.png: is not a file" in found.notes[0]


def test_no_file_is_taken_for_a_program(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(DataError, match="not a readable image"):
        seen(tmp_path / "a.png")


def test_bad_pictures_are_left_out_when_asked(tmp_path: Path) -> None:
    for name in ("a.png", "c.png", "d.png"):
        Image.fromarray(colours()).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"no picture")
    (tmp_path / "d.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    with pytest.raises(DataError, match=r"b\.png: not a readable image"):
        list(data.load(tmp_path, [value()]))
    found = data.load(tmp_path, [value()], labels=[0, 1, 2, 3][:2], skip_bad=True)
    assert found.names == ("a.png", "c.png")
    assert len(list(found)) == 2
    assert "2 of 4 pictures are left out" in found.notes[0]
    (tmp_path / "labels.csv").write_text("a.png,5\nb.png,6\nc.png,7\nd.png,8\n")
    labelled = data.load(tmp_path, [value()], labels=tmp_path / "labels.csv", skip_bad=True)
    assert labelled.labels is not None
    assert labelled.labels.tolist() == [5, 7]


# ------------------------------------------------------------------------------------------------------------ arrays


def test_numbers_that_no_code_stands_for(tmp_path: Path) -> None:
    reals = np.zeros((4, SIDE, SIDE, 3), np.float32)
    reals[1, 0, 0, :2], reals[3, 1, 1, 1] = np.nan, -np.inf
    np.save(tmp_path / "x.npy", reals)
    for kind in ("uint8", "int8", "float32"):
        with pytest.raises(DataError, match=r"2 NaN and 1 infinite numbers in 2 samples, the first in x\.npy\[1\]"):
            data.load(tmp_path / "x.npy", [value(dtype=kind)])
    assert len(data.load(tmp_path / "x.npy", [value()], limit=1)) == 1


def _member(dtype: str, shape: tuple[int, ...], content: bytes) -> bytes:
    head = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + content


def test_archives_that_unpack_to_more_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 1 << 26
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", _member("|u1", (size,), bytes(size)))
    assert (tmp_path / "bomb.npz").stat().st_size < 1 << 20
    monkeypatch.setenv(limits.MAX_MEMORY, "0.05")
    with pytest.raises(DataError, match=r"needs 64\.0 MB of memory, more than the 51\.2 MB .* see TFLITE2Q_MAX_MEMORY"):
        data.load(tmp_path / "bomb.npz", [value()])


def test_members_that_are_no_arrays_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("notes.bin", bytes(1 << 26))
        archive.writestr("x.npy", _member("|u1", (1, 3), b"abc"))
    opened = []
    right = zipfile.ZipFile.open
    monkeypatch.setattr(
        zipfile.ZipFile, "open", lambda self, info, *more: opened.append(info.filename) or right(self, info, *more)
    )
    assert list(arrays.load(tmp_path / "x.npz")) == ["x"]
    assert set(opened) == {"x.npy"}


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_arrays_that_never_end(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(DataError, match="is not a file"):
        data.load(tmp_path / name, [value()])


def test_numbers_beyond_the_range_of_an_input(tmp_path: Path) -> None:
    kind = Quantization.per_tensor(0.5, 3)
    numbers = np.array([[1e300, -1e300, 1.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [found] = data.load(numbers, [Value("x", TensorType((1, 3), "int8", kind))]).make(0)
        assert found.tolist() == [[127, -128, 5]]
        with pytest.raises(DataError, match="takes float32, and the data has numbers beyond it"):
            data.load(numbers, [Value("x", TensorType((1, 3), "float32"))]).make(0)


def test_names_that_no_file_can_have() -> None:
    for name in ("x" * 300 + ".png", "a\0.png"):
        with pytest.raises(DataError, match="no such file or folder"):
            data.load(name, [value()])


def test_an_archive_of_no_arrays(tmp_path: Path) -> None:
    zipfile.ZipFile(tmp_path / "x.npz", "w").close()
    with pytest.raises(DataError, match="holds no array; the model needs"):
        data.load(tmp_path / "x.npz", [value()])


@pytest.mark.parametrize("dtype", [">i2", ">u2", ">f4", ">f8"])
def test_arrays_of_another_order_of_bytes(tmp_path: Path, dtype: str) -> None:
    numbers = np.array([[1, 2, 300]], dtype)
    np.save(tmp_path / "x.npy", numbers)
    np.savez(tmp_path / "x.npz", x=numbers)
    for name in ("x.npy", "x.npz"):
        [found] = arrays.load(tmp_path / name).values()
        assert found.dtype == numbers.dtype.newbyteorder("=") and found.dtype.isnative
        assert found.tolist() == numbers.tolist()


@pytest.mark.parametrize("shape", [(1 << 40,), (-5, 2), (1 << 20, 1 << 20)])
def test_headers_that_claim_what_is_not_there(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (tmp_path / "x.npy").write_bytes(_member("<f4", shape, bytes(64)))
    with pytest.raises(DataError, match="cannot hold; it is cut short"):
        data.load(tmp_path / "x.npy", [value()])


def test_two_members_of_one_name(tmp_path: Path) -> None:
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(tmp_path / "x.npz", "w") as archive,
    ):
        for shade in (b"\0", b"\1"):
            archive.writestr("x.npy", _member("|u1", (4,), shade * 4))
    with pytest.raises(DataError, match=r"holds 'x\.npy' 2 times"):
        data.load(tmp_path / "x.npz", [value()])


def test_python_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="holds Python objects, which could run code"):
        data.load(tmp_path / "x.npz", [value()])


@pytest.mark.parametrize("given", [[[1, 2], [3]], ["cat"], [[None]], {"image": [[1], [2, 3]]}])
def test_lists_that_are_no_arrays(given: Any) -> None:
    with pytest.raises(DataError, match=r"lists of unequal lengths|, not numbers") as caught:
        data.load(given, [value()])
    assert "\n" not in str(caught.value)


def test_lists_are_arrays() -> None:
    assert len(data.load([[0, 1, 2], [3, 4, 5]], [value(shape=(1, 3))], labels=[1.0, 2.0])) == 2
    with pytest.raises(DataError, match="row of integers"):
        data.load([[0, 1, 2]], [value(shape=(1, 3))], labels=[1.5])
    with pytest.raises(DataError, match="unequal lengths"):
        arrays.as_array([[1], [1, 2]], "labels")


# ------------------------------------------------------------------------------------------------------------ labels

NAMES = ["a.png", "b.png", "c.png"]


def read(content: bytes, folder: Path, skip_bad: bool = False) -> list[int]:
    (folder / "labels.csv").write_bytes(content)
    return labels.read(folder / "labels.csv", NAMES, False, skip_bad)[0].tolist()


@pytest.mark.parametrize(
    "content",
    [
        b"a.png,1\nb.png,2\nc.png,3\n",
        b"\xef\xbb\xbfa.png,1\r\nb.png,2\r\nc.png,3\r\n",
        b"file,label\ra.png,1\rb.png,2\rc.png,3",
        "file,label\r\na.png,1\r\nb.png,2\r\nc.png,3".encode("utf-16"),
        b"file;label\na.png;1\nb.png;2\nc.png;3\n",
        b"a.png\t1\nb.png\t2\nc.png\t3\n",
        b"a.png 1\nb.png 2\nc.png 3\n",
        b"'a.png','1'\n\"b.png\",\"2\"\n c.png , 3 \n",
        b"c.png,3.0\nb.png,+2\na.png,001\n",
        b"c.png,3.\n\n\nb.png,2.00\na.png,1\n   \n",
        b"1\n2\n3\n",
        b"label\n1.0\n2.0\n3.0\n",
        b"\xef\xbb\xbf1\r\n2\r\n3\r\n",
    ],
)
def test_every_text_of_an_integer(content: bytes, tmp_path: Path) -> None:
    assert read(content, tmp_path) == [1, 2, 3]


@pytest.mark.parametrize(
    "bad", [b"cat", b"", b"2.5", b"nan", b"--2", b"0x2", b"99999999999999999999", b"1e400", b"1_0"]
)
def test_one_bad_label_does_not_drop_the_others(bad: bytes, tmp_path: Path) -> None:
    content = b"file,label\na.png,1\nb.png," + bad + b"\nc.png,3\n"
    with pytest.raises(DataError, match=r"label 2 is .*not a whole number.*with skip_bad=True"):
        read(content, tmp_path)
    assert read(content, tmp_path, skip_bad=True) == [1, labels.UNKNOWN, 3]


@pytest.mark.parametrize("bad", [b"nan", b"1e0", b"2.5", b"9" * 40, b"inf"])
def test_a_first_label_that_is_no_label_is_no_heading(bad: bytes, tmp_path: Path) -> None:
    # As a heading it would be gone, and all labels would be those of the samples before.
    (tmp_path / "labels.txt").write_bytes(bad + b"\n1\n2\n3\n")
    with pytest.raises(DataError, match="label 1 is"):
        labels.read(tmp_path / "labels.txt", NAMES, True, False)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("first", ["a.png", "sub/a.png", "x.jp2"])
def test_a_first_line_that_names_a_file_is_no_heading(first: str, mark: str, tmp_path: Path) -> None:
    rows = (first, "cat"), ("b.png", "2"), ("c.png", "3")
    with pytest.raises(DataError, match="label 1 is 'cat', not a whole number"):
        read("\n".join(map(mark.join, rows)).encode(), tmp_path)


def test_a_sample_without_a_suffix_is_no_heading_either(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("first,cat\nsecond,2\n")
    with pytest.raises(DataError, match="label 1 is 'cat'"):
        labels.read(tmp_path / "labels.csv", ["first", "second"], False, False)


@pytest.mark.parametrize("name", ["none.csv", "none.txt", "none.npy", "none.npz"])
def test_lists_that_do_not_exist(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{name}: cannot be read: No such file or directory; check the path"):
        labels.read(tmp_path / name, NAMES, False, False)


def test_a_first_file_of_another_kind_is_no_heading(tmp_path: Path) -> None:
    Image.fromarray(colours()).save(tmp_path / "b.png")
    (tmp_path / "list.csv").write_text("a.jp2,1\nb.png,2\n")
    with pytest.raises(DataError, match=r"a\.jp2 does not exist"):
        data.load(tmp_path / "list.csv", [value()])
    (tmp_path / "list.csv").write_text("file,label\nb.png,2\n")
    assert len(data.load(tmp_path / "list.csv", [value()])) == 1


def test_a_quote_that_is_not_closed_harms_its_own_line_alone(tmp_path: Path) -> None:
    assert read(b'a.png,1\n"b.png,2\nc.png,3\n', tmp_path, skip_bad=True) == [1, labels.UNKNOWN, 3]


def test_a_list_of_files_keeps_its_good_labels(tmp_path: Path) -> None:
    for name in NAMES:
        Image.fromarray(colours()).save(tmp_path / name)
    (tmp_path / "list.csv").write_text("a.png,1\nb.png,cat\nc.png,3\nd.png,4\n")
    with pytest.raises(DataError, match=r"d\.png does not exist; .*with skip_bad=True"):
        data.load(tmp_path / "list.csv", [value()])
    found = data.load(tmp_path / "list.csv", [value()], skip_bad=True)
    assert (found.names, found.labels is not None and found.labels.tolist()) == (("a.png", "c.png"), [1, 3])
    assert "1 of 4 files do not exist, the first d.png" in found.notes[0]
    assert "1 of 3 samples have no usable label and are left out: b.png" in found.notes[1]
    (tmp_path / "list.csv").write_text("a.png,1\nb.png,cat\nc.png,3\n")
    with pytest.raises(DataError, match=r"the label of b\.png is 'cat'; .*with skip_bad=True"):
        data.load(tmp_path / "list.csv", [value()])


def test_labels_of_other_files_are_named_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("a.png,1\nb.png,2\nc.png,3\nx.png,4\ny.png,5\n")
    found, notes = labels.read(path, NAMES, False, False)
    assert found.tolist() == [1, 2, 3]
    assert notes == [f"{path} has labels of files that are not in the data: x.png (and 1 more)"]


def test_a_file_of_two_labels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png has label 1 and label 2"):
        read(b"a.png,1\nx/a.png,2\nb.png,2\nc.png,3", tmp_path)


def test_lists_that_never_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TEXT", 1 << 16)
    with pytest.raises(DataError, match=r"/dev/zero: cannot be read as lines"):
        labels.read("/dev/zero", NAMES, False, False)


def test_labels_that_lie_in_the_folder_are_mentioned(tmp_path: Path) -> None:
    assert data.unused_labels(tmp_path) is None
    (tmp_path / "labels.csv").write_text("a.png,1\n")
    assert data.unused_labels(tmp_path) == str(tmp_path / "labels.csv")
