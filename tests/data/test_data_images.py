from __future__ import annotations

import os
import pickle
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scmd.data.images import IMAGE_EXTENSIONS, read_image
from scmd.errors import BadImageError


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def read(path) -> np.ndarray:
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "ppm", "tga", "webp"])
def test_lossless_formats_keep_every_pixel(tmp_path, extension):
    pixels = noise(5, 7, 3)
    path = tmp_path / f"image.{extension}"
    options: dict[str, Any] = {"lossless": True} if extension == "webp" else {}
    Image.fromarray(pixels).save(path, **options)
    np.testing.assert_array_equal(read(path), pixels)


def test_grey_becomes_three_equal_channels(tmp_path):
    grey = noise(5, 7)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read(tmp_path / "grey.png"), np.stack([grey] * 3, axis=-1))


def test_palette(tmp_path):
    colours = noise(4, 3)
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) % 4)
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "palette.png")
    assert Image.open(tmp_path / "palette.png").mode == "P"
    np.testing.assert_array_equal(
        read(tmp_path / "palette.png"), colours[np.arange(12).reshape(3, 4) % 4]
    )


def test_cmyk(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=100)
    red, green, blue = read(tmp_path / "red.jpg").astype(int).reshape(-1, 3).mean(axis=0)
    assert red > 245
    assert max(green, blue) < 10


@pytest.mark.parametrize(("extension", "dtype"), [("png", "<u2"), ("tif", "<u2"), ("tif", ">u2")])
def test_sixteen_bits_are_scaled(tmp_path, extension, dtype):
    deep = noise(5, 7, dtype=np.uint16)
    path = tmp_path / f"deep.{extension}"
    Image.fromarray(deep.astype(dtype)).save(path)
    np.testing.assert_array_equal(read(path)[..., 0], deep // 256)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path, mode):
    path = tmp_path / "clear.png"
    if mode == "P":
        image = Image.new("P", (2, 1), 1)
        image.putpalette([255, 0, 0, 0, 0, 255])
        image.putpixel((0, 0), 0)
        image.save(path, transparency=0)
        expected = [[[255, 255, 255], [0, 0, 255]]]
    else:
        image = Image.new("RGBA", (2, 1), (10, 10, 10, 255))
        image.putpixel((0, 0), (10, 10, 10, 0))
        image.convert(mode).save(path)
        expected = [[[255, 255, 255], [10, 10, 10]]]
    assert read(path).tolist() == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, orientation):
    upright = noise(4, 6, 3)
    # How a camera stores a picture whose EXIF says: flipped, turned, or both.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    np.testing.assert_array_equal(read(path), upright)


@pytest.mark.parametrize("extension", ["gif", "webp", "png", "tif"])
def test_first_frame_of_an_animation(tmp_path, extension):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    path = tmp_path / f"moving.{extension}"
    options: dict[str, Any] = {"lossless": True} if extension == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert (read(path) == [255, 0, 0]).all()


@pytest.mark.parametrize("extension", ["jpg", "png", "gif", "bmp", "tif", "webp"])
@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.filterwarnings("ignore:Truncated File Read:UserWarning")
def test_truncated(tmp_path, extension, share):
    path = tmp_path / f"cut.{extension}"
    Image.fromarray(noise(32, 32, 3)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert_bad(path)


def test_empty_file(tmp_path):
    path = tmp_path / "empty.png"
    path.touch()
    assert_bad(path, "not an image")


def test_text_file_named_jpg(tmp_path):
    path = tmp_path / "page.jpg"
    path.write_text("<html>404 Not Found</html>")
    assert_bad(path, "not an image")


def test_missing_file(tmp_path):
    assert_bad(tmp_path / "nowhere.png", "No such file")


def test_picture_larger_than_pillow_dares(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.fromarray(noise(32, 32, 3)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert_bad(path, "exceeds limit")


def assert_bad(path, reason: str = "") -> None:
    """One line that names the file once, and the reason."""
    with pytest.raises(BadImageError) as error:
        read_image(path)
    message = str(error.value)
    assert message.startswith(f"{path} cannot be decoded: ")
    assert message.count(str(path)) == 1
    assert reason in message
    assert "\n" not in message


def test_bad_image_survives_a_process_boundary(tmp_path):
    path = tmp_path / "empty.png"
    path.touch()
    with pytest.raises(BadImageError) as error:
        read_image(path)
    copy = pickle.loads(pickle.dumps(error.value))
    assert type(copy) is BadImageError
    assert str(copy) == str(error.value)


def test_extensions():
    assert {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".webp", ".ppm"} <= IMAGE_EXTENSIONS
    assert not IMAGE_EXTENSIONS & {".txt", ".csv", ".pdf", ".h5", ".mpg", ".eps", ""}
    assert all(e == e.lower() == os.path.splitext("x" + e)[1] for e in IMAGE_EXTENSIONS)
