"""A file's number is that of its bytes, and a file that has not changed is not read again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from scmd.data.digests import file_numbers
from scmd.data.folder import DomainImages, load_domains
from scmd.errors import BadImageError
from scmd.store import cache_root


@pytest.fixture
def data(image_folder) -> DomainImages:
    return load_domains(image_folder(("art", "photo"), count=4))


@pytest.fixture
def read(monkeypatch) -> list[Path]:
    """The images that are opened."""
    opened: list[Path] = []
    open_file = Path.open

    def opening(self: Path, *args, **kwargs):
        if self.suffix == ".png":
            opened.append(self)
        return open_file(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opening)
    return opened


def every(data: DomainImages) -> np.ndarray:
    return np.arange(len(data))


def test_numbers_tell_contents_apart_and_nothing_else(data, tmp_path):
    numbers = file_numbers(data, every(data))
    assert numbers.dtype == np.int64
    assert (numbers >= 0).all()
    assert len(set(numbers.tolist())) == len(data)
    shutil.copytree(data.root, tmp_path / "elsewhere" / "images")
    moved = load_domains(tmp_path / "elsewhere" / "images")
    (moved.root / "art" / "cat" / "000.png").rename(moved.root / "art" / "cat" / "999.png")
    moved = load_domains(moved.root)
    assert set(file_numbers(moved, every(moved)).tolist()) == set(numbers.tolist())
    assert np.array_equal(file_numbers(data, every(data)[::-1].copy()), numbers[::-1])


def test_a_file_is_read_again_where_it_has_changed(data, read):
    numbers = file_numbers(data, every(data))
    assert len(read) == len(data)
    read.clear()
    assert np.array_equal(file_numbers(data, every(data)), numbers)
    assert read == []
    path = data.root / data.paths[3]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # of the same length
    os.utime(path, ns=(0, 12345))
    read.clear()
    changed = file_numbers(data, every(data))
    assert read == [path]
    assert np.flatnonzero(changed != numbers).tolist() == [3]


def test_an_interrupted_pass_goes_on(data, read):
    def stop(done: int, of: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        file_numbers(data, every(data), stop)
    read.clear()
    file_numbers(data, every(data))
    assert len(read) <= len(data) - 5


def test_a_memory_that_is_damaged_or_cannot_be_written_costs_time_only(data, monkeypatch, tmp_path):
    numbers = file_numbers(data, every(data))
    (memory,) = (cache_root() / "digests").iterdir()
    for damage in (b"", b"no parquet", memory.read_bytes()[:-20]):
        memory.write_bytes(damage)
        assert np.array_equal(file_numbers(data, every(data)), numbers)
    (tmp_path / "file").touch()
    monkeypatch.setenv("SCMD_CACHE", str(tmp_path / "file" / "cache"))
    assert np.array_equal(file_numbers(data, every(data)), numbers)


def test_a_file_that_cannot_be_read_is_named(data):
    path = data.root / data.paths[2]
    path.unlink()
    with pytest.raises(BadImageError, match=rf"{path} cannot be read: No such file.*--skip-bad"):
        file_numbers(data, every(data))
