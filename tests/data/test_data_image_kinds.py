"""What is made of each kind of image file: the table in docs/guarantees.md, row by row.

In training, in ``scmd data check`` and in ``scmd predict``.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from deployed import SIZE, method_of, save, student
from PIL import Image

from scmd.data.augment import Augmentation
from scmd.data.check import check_images
from scmd.data.folder import load_domains
from scmd.data.images import read_image
from scmd.data.reading import EvaluationImages, TrainingImages
from scmd.deploy.predict import predict_files
from scmd.errors import BadImageError

SIDE = 24
RED, WHITE, GREY = (255, 0, 0), (255, 255, 255), (128, 128, 128)


class Kind(NamedTuple):
    """A row of the table."""

    name: str
    write: Callable[[Path], Any]
    colour: tuple[int, int, int] | None = None
    """Of all pixels, where it is a picture."""
    reason: str = ""
    """Part of the message, where it is none."""
    found: str = ""
    """What the check says of it."""


def red(mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), RED).convert(mode)


def animated(kind: str) -> Callable[[Path], None]:
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "lime", "blue")]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    return lambda path: frames[0].save(
        path, kind, save_all=True, append_images=frames[1:], **options
    )


def grey(values: np.ndarray, kind: str, **options: Any) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(values).save(path, kind, **options)


def clear_palette(path: Path) -> None:
    image = Image.new("P", (SIDE, SIDE), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save(path, "PNG", transparency=bytes([255, 0]))


def turned(path: Path) -> None:
    """Half of it red, and stored on its side; upright, the red is on the left."""
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = np.zeros((SIDE, SIDE, 3), np.uint8)
    upright[:, : SIDE // 2] = RED
    Image.fromarray(np.ascontiguousarray(np.rot90(upright, 1))).save(path, "PNG", exif=exif)


def damaged_exif(place: int) -> Callable[[Path], None]:
    """An EXIF that says: turn it, with a zero in its header (6) or in another tag's number (17)."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a red square"
    content = bytearray(exif.tobytes())
    content[place] = 0
    return lambda path: red().save(path, "PNG", exif=bytes(content))


def announcing(width: int, height: int) -> Callable[[Path], None]:
    """A PNG whose header says so, with hardly a byte behind it."""

    def write(path: Path) -> None:
        def chunk(name: bytes, data: bytes) -> bytes:
            return (
                struct.pack(">I", len(data))
                + name
                + data
                + struct.pack(">I", zlib.crc32(name + data))
            )

        header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""))

    return write


def cut(share: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path, "PNG")
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return write


HALF = np.full((SIDE, SIDE), 0x8000, np.uint16)
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
KINDS = [
    Kind("rgb.png", red().save, RED),
    Kind("one-bit.png", Image.new("1", (SIDE, SIDE), 1).save, WHITE),
    Kind("grey.png", Image.new("L", (SIDE, SIDE), 128).save, GREY),
    Kind("palette.png", red("P").save, RED),
    Kind("palette-with-transparency.png", clear_palette, WHITE),
    Kind("alpha.png", Image.new("RGBA", (SIDE, SIDE), (9, 9, 9, 0)).save, WHITE),
    Kind("grey-with-alpha.png", Image.new("LA", (SIDE, SIDE), (9, 0)).save, WHITE),
    Kind("cmyk.tif", Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)).save, RED),
    Kind("sixteen-bits.png", grey(HALF, "PNG"), GREY),
    Kind("sixteen-bits.tif", grey(HALF, "TIFF"), GREY),
    Kind("sixteen-bits-with-transparency.png", grey(HALF, "PNG", transparency=0x8000), WHITE),
    Kind("thirty-two-bits.tif", grey(HALF.astype(np.int32), "TIFF"), GREY),
    Kind("beyond-sixteen-bits.tif", grey(HALF.astype(np.int32) * 4, "TIFF"), None,
         "go from 131072 to 131072", "unreadable"),
    Kind("floating-point.tif", grey(HALF.astype(np.float32), "TIFF"), None,
         "floating-point numbers, and which of them is white", "unreadable"),
    Kind("moving.gif", animated("GIF"), RED),
    Kind("moving.webp", animated("WEBP"), RED),
    Kind("moving.png", animated("PNG"), RED),
    Kind("pages.tif", animated("TIFF"), RED),
    Kind("exif-without-header.png", damaged_exif(6), RED),
    Kind("exif-with-a-damaged-tag.png", damaged_exif(17), RED),
    Kind("png-named.jpg", lambda path: red().save(path, "PNG"), RED, found="wrong extension"),
    Kind("text-named.jpg", lambda path: path.write_text("<html>404</html>"), None,
         "not an image that Pillow knows", "unreadable"),
    Kind("postscript-named.jpg", lambda path: path.write_bytes(POSTSCRIPT), None,
         "not an image that Pillow knows", "unreadable"),
    Kind("zero-bytes.jpg", Path.touch, None, "not an image that Pillow knows", "zero-byte"),
    Kind("truncated.png", cut(0.6), None, "truncated", "truncated"),
    Kind("no-width.png", announcing(0, SIDE), None, "", "unreadable"),
    Kind("enormous.png", announcing(100_000, 100_000), None, "exceeds limit", "unreadable"),
]  # fmt: skip
ALL = pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("run"), method_of(student()), student(), temperature=1.0)


@pytest.fixture
def root(image_folder: Callable[..., Path]) -> Path:
    """A data set with room for one more image: photo/cat/zzz."""
    return image_folder(count=1, size=SIDE)


def placed(root: Path, kind: Kind) -> Path:
    path = root / "photo" / "cat" / f"zzz-{kind.name}"
    kind.write(path)
    return path


@ALL
def test_read(tmp_path: Path, kind: Kind, recwarn: pytest.WarningsRecorder):
    path = tmp_path / kind.name
    kind.write(path)
    if kind.colour is None:
        with pytest.raises(BadImageError) as error:
            read_image(path)
        assert kind.reason in str(error.value)
        assert str(error.value).startswith(f"{path} cannot be decoded: ")
        assert "\n" not in str(error.value)
    else:
        image = read_image(path)
        assert image.mode == "RGB"
        assert image.size == (SIDE, SIDE)
        assert (np.asarray(image) == kind.colour).all()
    assert not recwarn.list


@ALL
def test_in_training(root: Path, kind: Kind):
    """A batch has the picture, augmented to train on and plain to score; or training stops."""
    path = placed(root, kind)
    data = load_domains(root)
    row = data.paths.index(path.relative_to(root).as_posix())
    to_train = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
    to_score = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
    training = TrainingImages(data, Augmentation(SIZE), seed=0, colours_later=True)
    scoring = EvaluationImages(data, SIZE)
    if kind.colour is None:
        with pytest.raises(BadImageError, match="cannot be decoded"):
            training.fill([(0, 0, row, 0)], to_train)
        with pytest.raises(BadImageError, match="cannot be decoded"):
            scoring.fill([row], to_score)
    else:
        training.fill([(0, 0, row, 0)], to_train)
        scoring.fill([row], to_score)
        expected = torch.tensor(kind.colour, dtype=torch.uint8).view(3, 1, 1)
        assert torch.equal(to_train[0], expected.expand_as(to_train[0]))
        assert torch.equal(to_score[0], expected.expand_as(to_score[0]))


@ALL
def test_in_the_check(root: Path, kind: Kind):
    path = placed(root, kind)
    report = check_images(load_domains(root))
    findings = [(finding.kind, finding.message) for finding in report.findings]
    assert [found for found, _ in findings] == ([kind.found] if kind.found else [])
    assert all(path.name in message for _, message in findings)
    assert len(report.bad_rows) == (kind.colour is None)


@ALL
def test_in_predictions(run: Path, root: Path, kind: Kind):
    path = placed(root, kind)
    beside = root / "photo" / "cat" / "000.png"
    bad, good = predict_files(run, [path, beside], workers=0)
    assert good.error is None
    if kind.colour is None:
        assert bad.ranked == ()
        assert bad.error is not None
        assert kind.reason in bad.error
        assert "\n" not in bad.error
    else:
        assert bad.error is None
        assert bad.ranked[0][1] > 0


def test_turned_pictures_are_put_upright(tmp_path: Path, run: Path):
    turned(tmp_path / "turned.png")
    upright = np.asarray(read_image(tmp_path / "turned.png"))
    assert (upright[:, : SIDE // 2] == RED).all()
    assert not upright[:, SIDE // 2 :].any()


# Pillow's limit, from which it warns, and twice of it, from which it refuses.


@pytest.mark.parametrize(("side", "read"), [(9, True), (11, True), (14, True), (15, False)])
def test_pictures_up_to_twice_pillows_limit_are_read_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder,
    side: int, read: bool,
):  # fmt: skip
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = tmp_path / "large.png"
    Image.new("RGB", (side, side)).save(path)
    if read:
        assert read_image(path).size == (side, side)
    else:
        with pytest.raises(BadImageError, match="exceeds limit of 200 pixels"):
            read_image(path)
    assert not recwarn.list


def test_a_bomb_is_refused_before_it_takes_memory(tmp_path: Path):
    """A header that announces 10¹⁰ pixels, in a process that may take 200 MB more than it has."""
    announcing(100_000, 100_000)(tmp_path / "bomb.png")
    code = """
import resource, sys
from pathlib import Path
from scmd.data.images import read_image
from scmd.errors import BadImageError
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000,) * 2)
try:
    read_image(Path(sys.argv[1]))
except BadImageError as error:
    print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "bomb.png")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "exceeds limit" in said.stdout
    assert said.stderr == ""


# What is no file.


def test_a_pipe_is_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.png")
    # Where it is opened after all, it is waited for: somebody comes then, with nothing.
    writer = Timer(5, lambda: os.close(os.open(tmp_path / "pipe.png", os.O_RDWR)))
    writer.daemon = True
    writer.start()
    with pytest.raises(BadImageError, match="not a regular file"):
        read_image(tmp_path / "pipe.png")
    writer.cancel()


def test_reading_in_threads_leaves_the_filters_of_warnings_as_they_were(tmp_path: Path):
    path = tmp_path / "exif.png"
    damaged_exif(17)(path)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_image, [path] * 400))
    assert list(warnings.filters) == before


def test_no_program_is_started_for_what_is_called_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Pillow has Ghostscript decode PostScript, whatever its name is."""

    def refuse(*args: Any, **named: Any) -> Any:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    (tmp_path / "page.png").write_bytes(POSTSCRIPT)
    with pytest.raises(BadImageError, match="not an image that Pillow knows"):
        read_image(tmp_path / "page.png")
