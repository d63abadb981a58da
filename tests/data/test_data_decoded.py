"""Images that are decoded once give the same batches, and are there whole or not at all."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import scmd.data.decode_once as module
from scmd.data.augment import Augmentation
from scmd.data.decode_once import decode_once
from scmd.data.decoded import INDEX, PIXELS, DecodedImages
from scmd.data.folder import DomainImages, load_domains
from scmd.data.images import read_image, reduced_size
from scmd.data.loader import Batch, DomainBatches, evaluation_batches, training_batches
from scmd.errors import BadImageError
from scmd.store import cache_root, exclusive

SIZE = 16
SIDE = Augmentation(SIZE).shorter_side
assert SIDE == 23
QUIET = Console(quiet=True)


@pytest.fixture
def data(tmp_path: Path) -> DomainImages:
    """Images of many sizes and kinds: smaller than training needs, as large, and larger."""
    draw = np.random.default_rng(0)
    sizes = [(20, 20), (23, 40), (23, 23), (24, 30), (200, 150), (97, 301), (12, 200), (1, 3)]
    for domain in ("art", "photo"):
        for number, size in enumerate(sizes):
            small = draw.integers(0, 256, (5, 4, 3), dtype=np.uint8)
            picture = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
            folder = tmp_path / "images" / domain / ("cat", "dog")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            exif = picture.getexif()
            exif[0x0112] = (1, 6, 3, 8)[number % 4]  # orientation
            picture.save(folder / f"{number}.jpg", exif=exif)
            picture.convert("P" if number % 3 else "L").save(folder / f"{number}.png")
    return load_domains(tmp_path / "images")


def decoded(data: DomainImages, side: int | None = SIDE, size: int = SIZE) -> DomainImages:
    found = decode_once(data, side, size, QUIET)
    assert found is not None
    return replace(data, decoded=found)


def heard() -> Console:
    return Console(record=True, width=1000, force_terminal=False, file=open(os.devnull, "w"))


def trained_on(data: DomainImages, workers: int = 0, **given) -> list[Batch]:
    rows = [data.rows(domain) for domain in data.domains]
    batches = DomainBatches(data, rows, 16, 0, 0, 3)
    return list(
        training_batches(batches, data, given.pop("size", SIZE), 0, workers, False, **given)
    )


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(
        torch.equal(x, y)
        for a, b in zip(one, other, strict=True)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augmentation", ["tensor", "torchvision"])
def test_batches_are_the_same_to_the_bit(data, augmentation, workers):
    expected = trained_on(data, augmentation=augmentation)
    # Reduced as the augmentation wants it, to something else, and not at all.
    for side in (SIDE, 40, None):
        fast = decoded(data, side)
        assert same(trained_on(fast, workers, augmentation=augmentation), expected)
    assert same(trained_on(fast, size=32), trained_on(data, size=32))


@pytest.mark.parametrize("workers", [0, 2])
def test_scored_images_are_the_same_to_the_bit(data, workers):
    rows = np.arange(len(data))[::-1].copy()

    def half(image: Image.Image) -> torch.Tensor:
        return torch.tensor(np.asarray(image.resize((9, 9)))) / 2

    for kind in (None, Augmentation(SIZE), Augmentation(SIZE, True, "torchvision"), half):
        expected = list(evaluation_batches(data, rows, SIZE, 5, 0, kind))
        found = list(evaluation_batches(decoded(data), rows, SIZE, 5, workers, kind))
        assert same(found, expected)
    fast = decoded(data)
    for size in (8, 40):  # to another size than they were resized to
        expected = list(evaluation_batches(data, rows, size, 7, 0))
        assert same(list(evaluation_batches(fast, rows, size, 7, workers)), expected)


def test_no_file_is_read_any_more(data):
    fast = decoded(data)
    moved = replace(fast, root=fast.root / "moved")
    assert same(trained_on(moved), trained_on(data))
    rows = np.arange(len(data))
    expected = list(evaluation_batches(data, rows, SIZE, 5, 0))
    assert same(list(evaluation_batches(moved, rows, SIZE, 5, 0)), expected)


def test_pixels_are_the_images_or_the_reduced_ones(data):
    found = decoded(data).decoded
    assert found is not None
    reduced = 0
    for row, path in enumerate(data.paths):
        whole = np.asarray(read_image(data.root / path))
        small = min(whole.shape[:2]) <= SIDE
        expected = whole if small else np.asarray(read_image(data.root / path, SIDE))
        assert min(expected.shape[:2]) <= SIDE
        pixels = found.to_train(row, SIDE)
        assert pixels is not None
        np.testing.assert_array_equal(pixels, expected)
        assert (found.to_train(row, None) is None) == (not small)
        assert (found.to_train(row, 10) is None) == (min(whole.shape[:2]) > 10)
        reduced += not small
    assert 0 < reduced < len(data)


@pytest.mark.parametrize("size", [(1000, 700), (700, 1000), (500, 500), (1001, 999), (3000, 200)])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_reduced_image_keeps_aspect_and_content(tmp_path, size, orientation):
    across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    pixels = np.stack([across, down, 0 * down], -1).round().astype(np.uint8)
    for name in ("a.jpg", "a.png"):
        image = Image.fromarray(pixels)
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(tmp_path / name, exif=exif)
        whole = read_image(tmp_path / name)
        small = read_image(tmp_path / name, 100)
        assert min(small.size) == 100
        assert small.size == reduced_size(whole.size, 100)
        assert small.width / small.height == pytest.approx(whole.width / whole.height, rel=0.01)
        difference = np.asarray(small, int) - np.asarray(whole.resize(small.size), int)
        assert abs(difference).max() <= 8
        same_size = read_image(tmp_path / name, min(size))
        np.testing.assert_array_equal(np.asarray(same_size), np.asarray(whole))


def test_it_is_as_large_as_was_said_before(data, monkeypatch):
    plan = module._plan(data, SIDE, SIZE, 10**9)
    found = decoded(data).decoded
    assert found is not None
    assert (found.folder / PIXELS).stat().st_size == plan.length
    monkeypatch.setattr(module, "_room", lambda _: plan.length)
    other = load_domains(data.source)
    assert decode_once(other, SIDE, SIZE, QUIET) is not None
    monkeypatch.setattr(module, "_room", lambda _: plan.length - 1)
    assert decode_once(other, SIDE, SIZE + 1, QUIET) is None


Usage = namedtuple("Usage", "total used free")


def test_what_does_not_fit_is_said_and_nothing_is_written(data, monkeypatch):
    console = heard()
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage(10**9, 0, 20_000))
    assert decode_once(data, SIDE, SIZE, console) is None
    said = console.export_text()
    assert "decoded in every step" in said
    assert len(said.splitlines()) == 1
    assert not (cache_root() / "decoded").exists()


def test_full_disk_leaves_nothing_behind(data, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    console = heard()
    with monkeypatch.context() as patched:
        patched.setattr(module.os, "pwrite", full)
        assert decode_once(data, SIDE, SIZE, console) is None
        patched.setattr(module.os, "pwrite", lambda *_: 7)
        assert decode_once(data, SIDE, SIZE, console) is None
    assert console.export_text().count("No space left on device") == 2
    assert not list((cache_root() / "decoded").rglob(f"*{PIXELS}"))
    decoded(data)


def test_a_place_that_cannot_be_written_is_said(data, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SCMD_CACHE", str(tmp_path / "file"))
    console = heard()
    assert decode_once(data, SIDE, SIZE, console) is None
    assert re.search(r"in every step: .*file.* cannot be written", console.export_text())


def test_a_place_that_cannot_be_looked_into_is_said(data, monkeypatch):
    def refused(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    console = heard()
    monkeypatch.setattr(module.Path, "exists", refused)
    assert decode_once(data, SIDE, SIZE, console) is None
    said = console.export_text()
    assert re.search(r"in every step: .* cannot be written \(Permission denied\)", said)
    assert len(said.splitlines()) == 1


def counting(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    read: list[Path] = []

    def reading(path: Path, *given: int | None) -> Image.Image:
        read.append(path)
        return read_image(path, *given)

    monkeypatch.setattr(module, "read_image", reading)
    return read


def test_the_next_run_finds_it(data, monkeypatch):
    read = counting(monkeypatch)
    decoded(data)
    assert set(read) == {data.root / path for path in data.paths}
    read.clear()
    decoded(load_domains(data.source))
    assert not read
    decoded(data, size=SIZE + 1)
    assert read


@pytest.mark.parametrize("change", ["content", "time", "pixels", "index", "no index", "no pixels"])
def test_what_is_stale_or_damaged_is_made_anew(data, change):
    before = decoded(data).decoded
    assert before is not None
    folder, path = before.folder, data.root / data.paths[0]
    if change in ("content", "time"):
        if change == "content":
            Image.new("RGB", (20, 20), "red").save(path)
        os.utime(path, (1, 1))
    elif change == "pixels":
        with (folder / PIXELS).open("r+b") as file:
            file.truncate(100)
    elif change == "index":
        (folder / INDEX).write_bytes((folder / INDEX).read_bytes()[:-40])
    else:
        (folder / (INDEX if change == "no index" else PIXELS)).unlink()
    fast = decoded(data)
    assert fast.decoded is not None
    assert fast.decoded.folder == folder  # in the place of what it was
    assert same(trained_on(fast), trained_on(data))


def test_a_run_keeps_what_it_has_opened(data):
    fast = decoded(data)
    expected = trained_on(fast)
    os.utime(data.root / data.paths[0], (1, 1))
    Image.new("RGB", (20, 20)).save(data.root / data.paths[0])
    decoded(data)
    assert same(trained_on(fast), expected)


def test_undecodable_images_are_met_when_they_are_wanted(data):
    bad = [data.root / data.paths[row] for row in (1, 4)]
    bad[0].write_bytes(bad[0].read_bytes()[:300])
    bad[1].write_text("no image")
    fast = decoded(data)
    for row in range(len(data)):
        rows = np.array([row])
        if data.root / data.paths[row] in bad:
            for one in (fast, data):
                with pytest.raises(BadImageError, match=r"cannot be decoded: .*Repair or remove"):
                    list(evaluation_batches(one, rows, SIZE, 1, 0))
                with pytest.raises(BadImageError, match="--skip-bad"):
                    list(training_batches([[(0, 0, row, 0)]], one, SIZE, 0, 0, False))
        else:
            expected = list(evaluation_batches(data, rows, SIZE, 1, 0))
            assert same(list(evaluation_batches(fast, rows, SIZE, 1, 0)), expected)
    for path in bad:
        path.write_text("no image")
    for path in data.paths:
        (data.root / path).write_text("no image")
    assert decode_once(data, SIDE, SIZE, QUIET) is None


def test_other_processes_are_sent_where_it_is_and_not_what_it_holds(data):
    fast = decoded(data)
    assert fast.decoded is not None
    sent = pickle.dumps(fast.decoded)
    assert len(sent) < 1000
    other = replace(data, decoded=pickle.loads(sent))
    assert same(trained_on(other), trained_on(data))


DECODE = """
import os, sys, time
import scmd.data.decode_once as module
from rich.console import Console
from scmd.data.folder import load_domains
read = module.read_image
def slow(path, *given):
    os.write(1, b"reading\\n")  # a line at once: threads read
    time.sleep(float(sys.argv[2]))
    return read(path, *given)
module.read_image = slow
found = module.decode_once(load_domains(sys.argv[1]), 23, 16, Console(width=1000))
print("found" if found else "none", flush=True)
"""


def start(data: DomainImages, seconds: float) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", DECODE, str(data.source), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_process_leaves_nothing_that_is_used(data):
    process = start(data, 0.2)
    assert process.stdout is not None
    for _ in range(8):
        assert process.stdout.readline() == "reading\n"
    process.kill()
    process.wait()
    (folder,) = (cache_root() / "decoded").iterdir()
    with pytest.raises(OSError, match=INDEX):
        DecodedImages(folder)
    assert same(trained_on(decoded(data)), trained_on(data))
    assert {path.name for path in folder.iterdir()} == {PIXELS, INDEX, ".lock"}


def test_of_two_processes_one_decodes(data, monkeypatch):
    read = counting(monkeypatch)
    decoded(data)
    os.utime(data.root / data.paths[0], (1, 1))
    both = [start(data, 0.02) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert all(text.endswith("found\n") for text in said)
    assert sum(text.count("reading") for text in said) == len(read)


def test_who_waits_is_told_so_and_looks_again(data, monkeypatch):
    found = decoded(data).decoded
    assert found is not None
    console, opened = heard(), module._open
    looked: list[float] = []

    def first_nothing(folder: Path, state: str) -> DecodedImages | None:
        looked.append(time.monotonic())
        return opened(folder, state) if len(looked) > 1 else None

    monkeypatch.setattr(module, "_open", first_nothing)
    monkeypatch.setattr(module, "exclusive", _held)
    read = counting(monkeypatch)
    assert decode_once(data, SIDE, SIZE, console) is not None
    assert not read
    assert "another process decodes; waiting" in console.export_text()


def _held(folder: Path, waiting: Callable[[], None]):
    waiting()
    return exclusive(folder)
