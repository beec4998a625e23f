"""Images of every mode, and damaged ones."""

import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from fbnet_mobile.data.data import load_data
from fbnet_mobile.data.decode import read_image, read_pixels
from fbnet_mobile.data.sources.folder import Files
from fbnet_mobile.errors import UserError

MakeFolder = Callable[..., Path]


def pixels(path: Path, resolution: int = 4) -> NDArray[np.uint8]:
    return read_pixels(Files([str(path)], [0]), 0, resolution)


def tiff(path: Path, greys: NDArray[np.generic], order: str = "<") -> Path:
    """An uncompressed TIFF of one strip, as instruments write it."""
    kind = {"u": 1, "i": 2, "f": 3}[greys.dtype.kind]
    height, width = greys.shape
    strip = greys.astype(greys.dtype.newbyteorder(order)).tobytes()
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8 * greys.dtype.itemsize),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(strip)),
        (339, 3, kind),
    ]
    content = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(strip)) + strip
    content += struct.pack(f"{order}H", len(tags))
    for tag, size, value in tags:
        content += struct.pack(f"{order}HHI", tag, size, 1)
        content += struct.pack(f"{order}HH", value, 0) if size == 3 else struct.pack(f"{order}I", value)
    path.write_bytes(content + bytes(4))
    return path


@pytest.mark.parametrize(
    ("greys", "order", "seen"),
    [
        (np.uint16([0, 256 * 128, 65535]), "<", [0, 128, 255]),
        (np.uint16([0, 256 * 128, 65535]), ">", [0, 128, 255]),
        (np.float32([0, 0.5, 1]), "<", [0, 127, 255]),
        (np.float32([0, 0.5, 1]), ">", [0, 127, 255]),
        (np.float32([-1, 128, 255]), "<", [0, 128, 255]),
        (np.int32([0, 128, 255]), "<", [0, 128, 255]),
        (np.int32([-5, 256 * 128, 65535]), ">", [0, 128, 255]),
    ],
)
def test_greys_of_many_bits_keep_their_brightness(
    tmp_path: Path, greys: NDArray[np.generic], order: str, seen: list[int]
) -> None:
    path = tiff(tmp_path / "grey.tif", greys.reshape(3, 1).repeat(3, 1), order)
    assert pixels(path, 3)[:, 1].tolist() == [[value] * 3 for value in seen]


@pytest.mark.parametrize(
    ("greys", "reason"),
    [(np.float32([[0, np.nan]]), "not finite"), (np.int32([[0, 70000]]), "go up to 70000, and only")],
)
def test_greys_of_an_unknown_range_are_refused(tmp_path: Path, greys: NDArray[np.generic], reason: str) -> None:
    with pytest.raises(UserError, match=rf"grey\.tif: its? .*{reason}"):
        pixels(tiff(tmp_path / "grey.tif", greys))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.tif"
    Image.new("L", (8, 8), 255).convert(mode).save(path)
    assert pixels(path).tolist() == [[[255] * 3] * 4] * 4


def test_tags_of_unusual_types_do_not_matter(tmp_path: Path) -> None:
    black_over_white = Image.fromarray(np.uint8([[0] * 16] * 8 + [[255] * 16] * 8))
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[282], tags[282] = 2, "72 dpi"  # a resolution as text
    tags.tagtype[256], tags[256] = 5, TiffImagePlugin.IFDRational(33, 2)  # a width as a fraction
    tags[0x0112] = 6  # the camera was turned, so that the top of the file is the right of the scene
    path = tmp_path / "odd.jpg"
    head = b"Exif\0\0II*\0\x08\0\0\0"
    black_over_white.save(path, exif=head + tags.tobytes(8), quality=100)
    assert b"72 dpi" in path.read_bytes()

    seen = pixels(path, 16)

    assert seen[:, :6].min() > 235
    assert seen[:, 10:].max() < 20


def test_a_tiff_whose_width_is_a_fraction_is_named(tmp_path: Path) -> None:
    path = tiff(tmp_path / "odd.tif", np.zeros((4, 4), np.uint8))
    content = bytearray(path.read_bytes())
    place = content.index(struct.pack("<HHI", 256, 4, 1))
    content[place : place + 12] = struct.pack("<HHII", 256, 5, 1, 8)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^cannot decode \S*odd\.tif: [^\n]+; replace or remove it$"):
        pixels(path)


def test_a_very_large_image_is_refused_with_the_limit_and_without_a_warning(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder({"a": 5, "b": 5})
    Image.new("RGB", (60, 60)).save(folder / "a" / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for memory_limit in (0, 10**9):
        with pytest.raises(UserError, match=r"large\.png: it has more than 2,000 pixels, the most that are read;"):
            load_data(str(folder), resolution=8, memory_limit=memory_limit, workers=0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow warns from half the limit on
        data = load_data(str(folder), resolution=8, memory_limit=0, workers=0)
        assert len(list(data.train.batches(20))) == 1


def test_whatever_a_decoder_raises_is_one_line(tmp_path: Path) -> None:
    class Broken:
        def read(self, number: int) -> Image.Image:
            raise struct.error("unpack requires\na buffer of 4 bytes")

        def name(self, number: int) -> str:
            return "image 3"

    with pytest.raises(UserError, match=r"^cannot decode image 3: damaged \(error: unpack requires a buffer of 4 byte"):
        read_image(Broken(), 3, 8)  # type: ignore[arg-type]
