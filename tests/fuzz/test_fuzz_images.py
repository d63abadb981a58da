"""Whatever bytes an image file holds, it is a picture or one line that says why it is none."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bounds import no_longer_than, settings_for
from hypothesis import given
from hypothesis import strategies as st
from mutations import Edit, edits, spoil
from PIL import Image
from soaking import cases

from scmd.data.images import read_image
from scmd.errors import ScmdError

LONGEST = 10.0
"""Seconds of the processor that a file of a few kilobytes may take."""


@pytest.fixture(autouse=True)
def _small_pictures_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage makes sizes large, and a gigabyte for each takes its time; the limit is tested so."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)


def picture_or_one_line(file: Path, shorter_side: int | None) -> None:
    """The promise."""
    with warnings.catch_warnings(record=True) as said, no_longer_than(LONGEST):
        warnings.simplefilter("always")
        try:
            image = read_image(file, shorter_side)
        except ScmdError as error:
            lines = str(error).splitlines()
            assert len(lines) == 1
            assert lines[0].startswith(f"{file} cannot be decoded: ")
            assert len(lines[0]) > len(f"{file} cannot be decoded: ")
        else:
            pixels = np.asarray(image)
            assert image.mode == "RGB"
            assert pixels.dtype == np.uint8
            assert pixels.shape == (image.height, image.width, 3)
            assert pixels.size
    assert [str(warning.message) for warning in said] == []


def fuzz(files: list[bytes], count: int, folder: Path) -> None:
    file = folder / "fuzzed.jpg"  # what it is called must not matter

    @settings_for(count)
    @given(
        st.integers(0, len(files) - 1),
        st.integers(0, len(files) - 1),
        edits(),
        st.sampled_from([None, 8]),
    )
    def try_one(which: int, donor: int, changes: list[Edit], shorter_side: int | None) -> None:
        file.write_bytes(spoil(files[which], changes, files[donor]))
        picture_or_one_line(file, shorter_side)

    try_one()


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def of_every_kind() -> list[bytes]:
    """A small picture in each format that Pillow writes, and in many of their variants."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    rgb = Image.fromarray(pixels)
    deep = Image.fromarray((pixels[..., 0].astype(np.uint16) << 8) | pixels[..., 1])
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "turned", 72.0
    moving = {"save_all": True, "append_images": [rgb.transpose(Image.Transpose.ROTATE_180)]}
    files = [
        written(rgb, kind)
        for kind in ["AVIF", "BMP", "DDS", "DIB", "ICO", "IM", "JPEG2000", "PCX", "PPM", "SGI"]
    ]
    files += [
        written(rgb.convert(mode), kind)
        for mode in ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F"]
        for kind in ["PNG", "TIFF", "TGA", "WEBP", "JPEG"]
        if mode in _MODES[kind]
    ]
    files += [
        written(rgb, "TIFF", compression=how)
        for how in ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"]
    ]
    files += [written(deep, kind) for kind in ["PNG", "TIFF", "PPM"]]
    files += [written(rgb, kind, exif=exif) for kind in ["JPEG", "PNG", "WEBP", "TIFF"]]
    files += [
        written(rgb, kind, **moving) for kind in ["GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"]
    ]
    files += [
        written(rgb, "JPEG", progressive=True),
        written(rgb.quantize(4), "PNG", transparency=bytes([0, 128, 255, 255])),
        written(rgb.quantize(4), "GIF", transparency=0),
        written(rgb.convert("1"), "XBM"),
        written(rgb.convert("1"), "MSP"),
        written(rgb.resize((32, 32)), "ICNS"),
    ]
    return files


_MODES = {
    "PNG": {"1", "L", "LA", "P", "RGB", "RGBA"},
    "TIFF": {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F"},
    "TGA": {"1", "L", "LA", "P", "RGB", "RGBA"},
    "WEBP": {"RGB", "RGBA"},
    "JPEG": {"1", "L", "RGB", "CMYK"},
}


def test_spoilt_files_of_every_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    fuzz(of_every_kind(), cases(400, 4_000), tmp_path)
    assert capsys.readouterr() == ("", "")  # not capfd: libtiff, in C, prints on its own


def test_spoilt_photographs_and_sketches(
    test_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    files = sorted((test_data / "data" / "PACS").glob("*/*/*.*"))[::250]
    assert {file.suffix for file in files} == {".jpg", ".png"}
    fuzz([file.read_bytes() for file in files], cases(150, 3_000), tmp_path)
    assert capfd.readouterr() == ("", "")  # nor did a library in C print anything


def test_bytes_that_were_never_a_picture(tmp_path: Path):
    starts = st.sampled_from(
        [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"BM"]
    )

    @settings_for(cases(100, 1_000))
    @given(starts, st.binary(max_size=300))
    def try_one(start: bytes, rest: bytes) -> None:
        (tmp_path / "noise.png").write_bytes(start + rest)
        picture_or_one_line(tmp_path / "noise.png", None)

    try_one()


def test_whole_files_of_every_kind_are_pictures(tmp_path: Path):
    """So that what is spoilt above was something; of floating-point pixels alone there is none."""
    refused = []
    for content in of_every_kind():
        (tmp_path / "whole.jpg").write_bytes(content)
        try:
            smallest = min(read_image(tmp_path / "whole.jpg").size)
        except ScmdError as error:
            refused.append(str(error))
            continue
        assert smallest >= 12
    assert len(refused) == 1
    assert "floating-point" in refused[0]


def test_a_case_that_hangs_is_noticed():
    def hang() -> None:
        with no_longer_than(0.05):
            while True:
                pass

    with pytest.raises(TimeoutError):
        hang()
